"""Checkpoints: seal them with checksums, rotate them, and choose the latest whole one to resume."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from data_prep.dataset.files import write_whole
from ocrkit.errors import ConfigError

SEAL = "complete.json"


def seal(folder: str | Path) -> None:
    """Write a checkpoint's seal: size and checksum of every file, once all are written."""
    folder = Path(folder)
    files = {
        path.relative_to(folder).as_posix(): {
            "size": path.stat().st_size,
            "sha256": _checksum(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (SEAL, f"{SEAL}.part")
    }
    write_whole(folder / SEAL, _seal_text(files))


def unseal(folder: str | Path) -> None:
    """Delete the seal, before a checkpoint is written again or deleted."""
    (Path(folder) / SEAL).unlink(missing_ok=True)


def damage(folder: str | Path, checksums: bool = True) -> str | None:
    """Damage of a checkpoint, as a clause that names the file; None: it is whole.

    Args:
        checksums: read every file and compare its checksum; False compares sizes alone, which
            takes no time with files of many gigabytes.
    """
    folder = Path(folder)
    try:
        files = _read_seal(folder)
    except ValueError as error:
        return str(error)
    for name, saved in files.items():
        path = folder / name
        try:
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != saved["size"]:
                return f"{name} has {path.stat().st_size} bytes instead of {saved['size']}"
            if checksums and saved.get("sha256") not in (None, _checksum(path)):
                return f"{name} does not match its checksum"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return None


def has_checksums(folder: str | Path) -> bool:
    """Whether the seal of a whole checkpoint holds checksums; ocrkit 0.1.0 wrote sizes alone."""
    return all("sha256" in saved for saved in _read_seal(Path(folder)).values())


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal_text(files: dict[str, dict[str, Any]]) -> str:
    """A seal's text, which holds a checksum of itself."""
    own = hashlib.sha256(json.dumps(files).encode()).hexdigest()
    return json.dumps({"files": files, "sha256": own}, indent=1)


def _read_seal(folder: Path) -> dict[str, dict[str, Any]]:
    """Each file's {size, sha256}, or {size} where ocrkit 0.1.0 wrote the seal.

    Raises:
        ValueError: the seal is missing or damaged.
    """
    try:
        text = (folder / SEAL).read_bytes().decode("utf-8")
        content = json.loads(text)
    except FileNotFoundError:
        raise ValueError(f"{SEAL}, which marks it as written to its end, is missing") from None
    except (OSError, ValueError):
        raise ValueError(f"{SEAL} cannot be read") from None
    if isinstance(content, dict) and content:
        if all(type(size) is int for size in content.values()):
            return {name: {"size": size} for name, size in content.items()}
        files = content.get("files")
        # Compared byte for byte, so that any change of the seal itself is noticed.
        if isinstance(files, dict) and files and text == _seal_text(files):
            return files
    raise ValueError(f"{SEAL} is damaged")


def step_of(checkpoint: str | Path) -> int:
    """The optimizer step that a checkpoint was saved after."""
    state = json.loads((Path(checkpoint) / "trainer_state.json").read_text(encoding="utf-8"))
    return state["global_step"]


def _checkpoints(output_dir: str | Path) -> list[Path]:
    """Folders of checkpoints, whole or not, in the order of their steps."""
    folders = [
        path
        for path in Path(output_dir).glob("checkpoint-*")
        if path.name.rpartition("-")[2].isdigit()
    ]
    return sorted(folders, key=lambda path: int(path.name.rpartition("-")[2]))


def whole_checkpoints(output_dir: str | Path) -> list[Path]:
    """Checkpoints of a run that were written to their end, by their files' sizes, in order."""
    return [path for path in _checkpoints(output_dir) if damage(path, checksums=False) is None]


def rotate(output_dir: str | Path, limit: int, best: str | Path | None = None) -> None:
    """Delete the oldest whole checkpoints beyond `limit`; the best checkpoint stays, and counts."""
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


def set_aside_later(output_dir: str | Path, step: int) -> None:
    """Move an earlier run's checkpoints past `step` into the folder `replaced`.

    There they are neither resumed nor mistaken for newer than the checkpoints of this run.
    """
    whole = whole_checkpoints(output_dir)
    later = [path for path in whole if int(path.name.rpartition("-")[2]) > step]
    replaced = Path(output_dir) / "replaced"
    for path in later:
        replaced.mkdir(exist_ok=True)
        path.rename(replaced / f"{sum(1 for _ in replaced.iterdir()) + 1}-{path.name}")
    if later:
        print(
            f"{len(later)} checkpoints that this run does not resume are now in {replaced}; "
            "delete it when nobody needs them."
        )


def checkpoint_to_resume(output_dir: str | Path, requested: str | None) -> Path | None:
    """The whole checkpoint that `resume_from_checkpoint` names; None: training begins anew.

    Args:
        requested: a checkpoint folder; "auto" takes the latest whole checkpoint, if any, and prints
            the damage of those that it passes over; None begins anew.

    Raises:
        ConfigError: the folder does not exist, was not written to its end or is damaged.
    """
    if not requested:
        return None
    if requested == "auto":
        chosen = _latest_whole(output_dir)
    elif not Path(requested).is_dir():
        raise ConfigError(
            f"resume_from_checkpoint={requested!r} is no folder; give a checkpoint folder or auto."
        )
    elif problem := damage(requested):
        raise ConfigError(
            f"resume_from_checkpoint={requested!r} is damaged: {problem}; give another checkpoint, "
            "or auto for the latest that is whole."
        )
    else:
        chosen = Path(requested)
    if chosen and not has_checksums(chosen):
        print(
            f"{chosen.name} was saved by ocrkit 0.1.0 without checksums: its files have the right "
            "sizes, and nothing more can be checked."
        )
    return chosen


def _latest_whole(output_dir: str | Path) -> Path | None:
    checkpoints = _checkpoints(output_dir)
    for path in reversed(checkpoints):
        problem = damage(path)
        if problem is None:
            return path
        print(f"{path} is passed over: {problem}.")
    if checkpoints:
        print(f"{output_dir} holds no whole checkpoint, so training begins anew.")
    return None
