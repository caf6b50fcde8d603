"""Which checkpoints can be trusted: a run that is killed while it saves leaves half of one."""

import json
import shutil
from pathlib import Path

from ocrkit.config import ConfigError

SEAL = "complete.json"


def seal(folder: str | Path) -> None:
    """Mark a checkpoint as written to its end, with the size of every file in it."""
    folder = Path(folder)
    sizes = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != SEAL
    }
    part = folder / f"{SEAL}.part"
    part.write_text(json.dumps(sizes, indent=1), encoding="utf-8")
    part.replace(folder / SEAL)


def unseal(folder: str | Path) -> None:
    """Take the mark away, before a checkpoint is written again or deleted."""
    (Path(folder) / SEAL).unlink(missing_ok=True)


def missing_part(folder: str | Path) -> str | None:
    """What a checkpoint lacks, or None where all its files are there in full."""
    folder = Path(folder)
    try:
        sizes = json.loads((folder / SEAL).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"{SEAL}, the mark that it was written to its end"
    for name, size in sizes.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            return f"{name} in full ({size} bytes)"
    return None


def whole_checkpoints(output_dir: str | Path) -> list[Path]:
    """The checkpoints of a run that are whole, in the order of their steps."""
    found = [
        path
        for path in Path(output_dir).glob("checkpoint-*")
        if path.name.rpartition("-")[2].isdigit() and missing_part(path) is None
    ]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def rotate(output_dir: str | Path, limit: int, best: str | Path | None = None) -> None:
    """Delete the oldest whole checkpoints beyond `limit`; the best one stays, and counts."""
    whole = whole_checkpoints(output_dir)
    keep = {whole[-1]} if whole else set()
    keep |= {Path(best)} & set(whole) if best else set()
    for path in reversed(whole):
        if len(keep) < limit:
            keep.add(path)
    for path in whole:
        if path not in keep:
            unseal(path)
            shutil.rmtree(path, ignore_errors=True)


def set_aside(output_dir: str | Path, step: int) -> None:
    """Move checkpoints past `step`, which an earlier run left, into the folder `replaced`.

    There they are neither resumed from nor taken for newer than what this run saves.
    """
    whole = whole_checkpoints(output_dir)
    others = [path for path in whole if int(path.name.rpartition("-")[2]) > step]
    for path in others:
        place = path.parent / "replaced"
        place.mkdir(exist_ok=True)
        path.rename(place / f"{sum(1 for _ in place.iterdir()) + 1}-{path.name}")
    if others:
        print(
            f"{len(others)} checkpoints that this run does not go on from are now in {place}; "
            "delete it when nobody needs them."
        )


def checkpoint_to_resume(output_dir: str | Path, wanted: str | None) -> Path | None:
    """The folder that `resume_from_checkpoint` means.

    Args:
        wanted: a checkpoint folder; "auto" takes the latest whole one, if any; None starts anew.

    Raises:
        ConfigError: the folder is not there or was not written to its end.
    """
    if not wanted:
        return None
    if wanted == "auto":
        return next(reversed(whole_checkpoints(output_dir)), None)
    if not Path(wanted).is_dir():
        raise ConfigError(
            f"resume_from_checkpoint={wanted!r} is no folder; give a checkpoint folder or auto."
        )
    lacks = missing_part(wanted)
    if lacks:
        raise ConfigError(
            f"resume_from_checkpoint={wanted!r} lacks {lacks}; give another checkpoint, or auto "
            "for the latest that is whole."
        )
    return Path(wanted)
