"""Files that the kit wrote, by the manifest of their folder."""

from pathlib import Path

from data_prep.dataset.manifest import is_own


def own_files(folder: Path) -> set[str]:
    """Names of the files in a folder that the kit wrote and nobody has changed since."""
    own = is_own(folder)
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {name for name in names if own(name)}
