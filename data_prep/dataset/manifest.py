"""Manifest of a folder: tells the files that the kit wrote from those of other people.

A folder that a command writes into holds a manifest, `.ocrkit.jsonl`: a line `{"file", "sha256"}`
for every file, appended before the file is written. A later command overwrites only files whose
content still has the checksum of a line; every other file is somebody else's, and is refused.
"""

import contextlib
import hashlib
import re
import shutil
from collections.abc import Callable, Generator, Iterable, Mapping
from pathlib import Path

from data_prep.dataset.files import (
    is_inner_path,
    json_lines,
    naming,
    read_json_lines,
    to_bytes,
    write_together,
    write_whole,
)

MANIFEST = ".ocrkit.jsonl"
# Files by which a folder of version 0.1.0, which wrote no manifest, is recognized: a pattern of
# their content, and the names that are then the kit's own (None: all).
_FIRST_VERSION: dict[str, tuple[bytes, set[str] | None]] = {
    "README.md": (rb"exported as \w+ by ocrkit\.", None),
    "validation.json": (
        rb'\A\{\s*"ok": (true|false),\s*"rows": ',
        {"validation.json", "validation.png"},
    ),
    "lr_finder.json": (rb'\A\{\s*"learning_rates": ', {"lr_finder.json", "lr_finder.png"}),
    "index.html": (rb"--page: #f6f5f2; --card: #fff;", {"index.html", "report.md", "report.json"}),
}


def content_hash(content: Path | bytes) -> str:
    """SHA-256 of a file or of bytes; a progress bar appears after two seconds."""
    digest = hashlib.sha256()
    if isinstance(content, bytes):
        digest.update(content)
        return digest.hexdigest()
    from tqdm.auto import tqdm  # here, so that a command starts without it and says what is missing

    size = content.stat().st_size
    with (
        content.open("rb") as file,
        tqdm(total=size, unit="B", unit_scale=True, desc=content.name, delay=2) as bar,
    ):
        while piece := file.read(2**20):
            digest.update(piece)
            bar.update(len(piece))
    return digest.hexdigest()


def read_manifest(folder: str | Path) -> list[dict]:
    """Return the lines of a folder's manifest, in the order they were written.

    A line that a kill broke off is left out.
    """
    with contextlib.suppress(OSError):
        lines = read_json_lines(Path(folder) / MANIFEST)
        # Somebody else's manifest may hold paths that lead out of the folder.
        return [line for line in lines if is_inner_path(line.get("file")) and "sha256" in line]
    return []


def note_files(folder: str | Path, lines: Iterable[dict]) -> None:
    """Append lines `{"file", "sha256", ...}` to a folder's manifest, before the files are written.

    Raises:
        DiskError: as `naming`.
    """
    path = Path(folder) / MANIFEST
    with naming(path), path.open("ab") as file:
        # A line break first, in case a kill broke off the line before.
        text = ("\n" if file.tell() else "") + json_lines(lines)
        file.write(to_bytes(text))


def _note_new(folder: Path, hashes: Mapping[str, str]) -> None:
    """Note files that are about to be written, and those of version 0.1.0 that they replace.

    Both are the kit's own for as long as a kill may leave either of them.
    """
    own, noted = is_own(folder), {line["file"] for line in read_manifest(folder)}
    replaced = [name for name in hashes if name not in noted and (folder / name).is_file()]
    lines = {name: content_hash(folder / name) for name in replaced if own(name)}
    pairs = [*lines.items(), *hashes.items()]
    note_files(folder, [{"file": name, "sha256": value} for name, value in pairs])


def _prune(folder: Path) -> None:
    """Rewrite the manifest with the last line of every file that exists."""
    last = {line["file"]: line for line in read_manifest(folder)}
    lines = [line for name, line in last.items() if (folder / name).is_file()]
    write_whole(folder / MANIFEST, json_lines(lines))


def is_own(folder: str | Path) -> Callable[[str], bool]:
    """Return a function that tells of a file's name in `folder` whether the kit wrote that file.

    It did where the manifest lists the file and its content has the listed checksum. A folder
    without a manifest is version 0.1.0's where it holds that version's model card or report.
    """
    folder = Path(folder)
    hashes: dict[str, set[str]] = {}
    for line in read_manifest(folder):
        hashes.setdefault(line["file"], set()).add(line["sha256"])
    first = set() if (folder / MANIFEST).is_file() else _first_version(folder)

    def own(name: str) -> bool:
        if name in hashes:
            return (folder / name).is_file() and content_hash(folder / name) in hashes[name]
        return name == MANIFEST or first is None or name in first

    return own


def _first_version(folder: Path) -> set[str] | None:
    """Return the names of the files that version 0.1.0 wrote into a folder; None: all of them."""
    names: set[str] = set()
    for name, (pattern, others) in _FIRST_VERSION.items():
        try:
            with (folder / name).open("rb") as file:
                match = re.search(pattern, file.read(2**16))
        except OSError:
            continue
        if match and others is None:
            return None
        if match and others:
            names |= others
    return names


_WAY_OUT = "give another folder, or overwrite it with --overwrite (in Python overwrite=True)"


def check_own(
    folder: str | Path, names: Iterable[str], overwrite: bool = False, way_out: str = _WAY_OUT
) -> None:
    """Refuse to overwrite files that the kit did not write.

    Args:
        folder: of the files to write; it need not exist.
        names: of the files, relative to it.
        overwrite: allow it.
        way_out: what to do about it, for the error.

    Raises:
        FileExistsError: it names the first such file, and the way out.
    """
    folder = Path(folder)
    if overwrite:
        return
    own = is_own(folder)
    for name in names:
        path = folder / name
        if (path.exists() or path.is_symlink()) and not own(name):
            raise FileExistsError(
                f"{path} exists and was not written by ocrkit, or was changed since: {way_out}."
            )


def write_folder(
    folder: str | Path, contents: Mapping[str, str | bytes], overwrite: bool = False
) -> None:
    """Write files into a folder, all or none of them, and list them in its manifest.

    Args:
        folder: made where it does not exist.
        contents: of each file; see `write_together`.
        overwrite: replace files that the kit did not write, too.

    Raises:
        FileExistsError: as `check_own`.
        DiskError: as `writing`.
    """
    folder = Path(folder)
    check_own(folder, contents, overwrite)
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
    _note_new(folder, {name: content_hash(to_bytes(text)) for name, text in contents.items()})
    write_together(folder, contents)
    _prune(folder)


@contextlib.contextmanager
def staged(folder: str | Path) -> Generator[Path]:
    """Make an empty staging folder inside `folder`, for `publish`; delete it afterwards.

    What a killed command left in it is deleted, too, and `folder` where it is empty.
    """
    folder = Path(folder)
    staging = folder / ".ocrkit.part"
    with naming(folder):
        try:
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            with contextlib.suppress(OSError):
                folder.rmdir()


def publish(staging: Path, folder: Path, overwrite: bool = False) -> None:
    """Move all files of a staging folder into `folder`, and list them in its manifest.

    Files of the manifest that the kit did not write this time are deleted: an export in one file
    would otherwise lie beside pieces of an older one.

    Raises:
        FileExistsError: as `check_own`; nothing was moved.
        DiskError: as `naming`.
    """
    names = sorted(p.relative_to(staging).as_posix() for p in staging.rglob("*") if p.is_file())
    check_own(folder, names, overwrite)
    own = is_own(folder)
    older = {line["file"] for line in read_manifest(folder)} - set(names)
    _note_new(folder, {name: content_hash(staging / name) for name in names})
    with naming(folder):
        for name in older:
            if own(name):
                (folder / name).unlink()
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (staging / name).replace(folder / name)
    _prune(folder)
