"""Atomic writes, and the manifest by which a command knows the files that the kit itself wrote.

A file is written beside its place as `<name>.part` and renamed, so it is never seen half-written.
A disk that is full, read-only or not writable is named in one sentence, with the file.

A folder that a command writes into holds a manifest, `.ocrkit.jsonl`: a line `{"file", "sha256"}`
for every file, appended before the file is written. A later command overwrites only files that
still are what a line says; every other file is somebody else's, and is refused.
"""

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

MANIFEST = ".ocrkit.jsonl"
# A committed file that has not yet taken the place of the old one; see `write_together`.
_NEW = ".new"
# Files above this size are hashed by 64 pieces of a MiB, as 15 GB of weights take minutes.
_LARGE = 64 * 2**20
# How version 0.1.0, which wrote no manifest, is known: a text in a file, and the names of the
# files beside it that are then its own (None: all).
_FIRST_VERSION: dict[str, tuple[bytes, set[str] | None]] = {
    "README.md": (rb"exported as \w+ by ocrkit\.", None),
    "validation.json": (
        rb'\A\{\s*"ok": (true|false),\s*"rows": ',
        {"validation.json", "validation.png"},
    ),
    "index.html": (rb"--page: #f6f5f2; --card: #fff;", {"index.html", "report.md", "report.json"}),
}

# --- a disk that does not take a file


class DiskError(OSError):
    """A file that could not be written: its name, its disk, the cause and the way out."""


def _explanation(number: int, path: Path) -> str | None:
    place = path.absolute()
    while not place.is_dir():
        place = place.parent
    if number == errno.ENOSPC:
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(place).free / 1e9
            return (
                f"No space left on the disk of {place} ({free:.1f} GB free) while writing {path}; "
                "free some and run the same command again."
            )
    return {
        errno.ENOSPC: f"No space left on the disk of {place} while writing {path}; free some and "
        "run the same command again.",
        errno.EDQUOT: f"The disk quota at {place} is used up while writing {path}; free some and "
        "run the same command again.",
        errno.EROFS: f"{path} cannot be written, as the disk of {place} is read-only; give a "
        "place on another disk.",
        errno.EACCES: f"{path} cannot be written, as this user has no permission to; change the "
        "permissions, or give another place.",
        errno.EPERM: f"{path} cannot be written, as this user has no permission to; change the "
        "permissions, or give another place.",
    }.get(number)


def _disk_errno(error: BaseException, path: Path) -> int | None:
    """Return the errno of a failed write to `path`, which libraries wrap in errors of their own."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno:
            name = os.fsdecode(seen.filename) if isinstance(seen.filename, str | bytes) else None
            # The file is not named where an open file is written to. An input that cannot be read
            # is not blamed on the output.
            if name is None or name.startswith(str(path)) or str(path).startswith(name):
                return seen.errno
        # safetensors, and tokenizers, hand on the words of Rust.
        if match := re.search(r"\(os error (\d+)\)", str(seen)):
            return int(match[1])
        # torch.save.
        if "inline_container.cc" in str(seen) and _is_full(path):
            return errno.ENOSPC
        seen = seen.__cause__ or seen.__context__
    return None


def _is_full(path: Path) -> bool:
    place = path.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free < 2**20


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Turn a failure to write `path`, a file or a folder, into a DiskError that names it.

    Raises:
        DiskError: the disk is full, over its quota, read-only, or not this user's to write on.
    """
    try:
        yield
    except DiskError:
        raise
    except Exception as error:
        number = _disk_errno(error, Path(path))
        text = number and _explanation(number, Path(path))
        if not text:
            raise
        named = DiskError(text)
        named.errno = number
        raise named from None


def sentence(error: OSError) -> str:
    """Say what the system refused, with the file and without the number of the error."""
    if not (error.errno and error.strerror):
        return str(error)
    if error.filename is None:
        return error.strerror
    return f"{os.fsdecode(error.filename)}: {error.strerror}"


# --- atomic writes


@contextlib.contextmanager
def writing(path: str | Path, mode: str = "wb", **options: Any) -> Iterator[IO]:
    """Open a file for writing that takes its place only when all of it is written.

    Args:
        path: the file; its folder must exist.
        mode: as that of `open`, as are `options`.

    Raises:
        DiskError: as `naming`; nothing is left of the new file, and the old one is untouched.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    with naming(path):
        try:
            with part.open(mode, **options) as file:
                yield file
            part.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write a file that is never seen half-written; text becomes UTF-8.

    A lone surrogate is no UTF-8; it is written as the escape that JSON has for it.

    Raises:
        DiskError: as `writing`.
    """
    with writing(path) as file:
        file.write(_bytes(content))


def _bytes(content: str | bytes) -> bytes:
    return content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content


def write_together(folder: str | Path, contents: Mapping[str, str | bytes]) -> None:
    """Replace files that belong together, so that new and old ones are never mixed.

    All are written under other names first. The last one is then taken away before the first is
    replaced, and comes back last; a kill in between is finished by `finish_together`.

    Args:
        folder: where they lie; it must exist.
        contents: what each holds; the last file is the one by which readers know that all are
            there.

    Raises:
        DiskError: as `writing`; the old files are as they were.
    """
    folder, names = Path(folder), list(contents)
    finish_together(folder, names)
    try:
        for name, content in contents.items():
            write_whole(folder / (name + _NEW), content)
    except BaseException:
        # The last first: without it nothing of the others is taken.
        for name in reversed(names):
            with contextlib.suppress(OSError):
                (folder / (name + _NEW)).unlink(missing_ok=True)
        raise
    finish_together(folder, names)


def finish_together(folder: str | Path, names: Iterable[str]) -> None:
    """Finish a `write_together` of these files that was killed while it replaced them."""
    folder, names = Path(folder), list(names)
    last = folder / (names[-1] + _NEW)
    if not last.is_file():
        return
    with naming(folder):
        (folder / names[-1]).unlink(missing_ok=True)
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                (folder / (name + _NEW)).replace(folder / name)


# --- names that come from elsewhere


def is_inner_path(name: Any) -> bool:
    """Whether a name from a manifest or an archive is that of a file below the folder it is for.

    Each part between its slashes must be one path element of any system: not empty, `.` or `..`,
    without backslash, NUL or drive letter.
    """
    return isinstance(name, str) and all(map(_is_element, name.split("/")))


def _is_element(part: str) -> bool:
    with contextlib.suppress(UnicodeEncodeError):
        part.encode()
        return not (
            part in ("", ".", "..") or re.search(r"[\\\0]", part) or re.match("[A-Za-z]:", part)
        )
    return False


# --- the manifest


def content_hash(content: Path | bytes) -> str:
    """SHA-256 of a file or of bytes; of more than 64 MiB, of its size and 64 pieces of a MiB."""
    with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if size <= _LARGE:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256(str(size).encode())
        for piece in range(64):
            file.seek(piece * (size - 2**20) // 63)
            digest.update(file.read(2**20))
        return digest.hexdigest()


def read_manifest(folder: str | Path) -> list[dict]:
    """Return the lines of a folder's manifest, in the order they were written.

    A line that a kill broke off is left out.
    """
    try:
        data = (Path(folder) / MANIFEST).read_bytes()
    except OSError:
        return []
    lines = []
    for text in data.split(b"\n"):
        with contextlib.suppress(ValueError):
            line = json.loads(text)
            # A manifest may be a stranger's: no name of it leads out of the folder.
            if isinstance(line, dict) and is_inner_path(line.get("file")) and "sha256" in line:
                lines.append(line)
    return lines


def note_files(folder: str | Path, lines: Iterable[dict]) -> None:
    """Append lines `{"file", "sha256", ...}` to a folder's manifest, before the files are written.

    Raises:
        DiskError: as `naming`.
    """
    path = Path(folder) / MANIFEST
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    # Begins with a line break, in case a kill broke off the line before.
    with naming(path), path.open("ab") as file:
        file.write(("\n" * bool(file.tell()) + text).encode("utf-8", "backslashreplace"))


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
    """Keep the last line of every file that is there."""
    last = {line["file"]: line for line in read_manifest(folder)}
    lines = [line for name, line in last.items() if (folder / name).is_file()]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_whole(folder / MANIFEST, text)


def is_own(folder: str | Path) -> Callable[[str], bool]:
    """Return a function that tells of a file's name in `folder` whether the kit wrote that file.

    It did where the manifest lists it and its content is what was written. A folder without a
    manifest is version 0.1.0's where its model card or its report is.
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
    for name, (text, others) in _FIRST_VERSION.items():
        try:
            with (folder / name).open("rb") as file:
                marked = re.search(text, file.read(2**16))
        except OSError:
            continue
        if marked and others is None:
            return None
        names |= others or set() if marked else set()
    return names


def written_by_kit(folder: str | Path) -> set[str]:
    """Return the names of the files in `folder` that the kit wrote and that still are as it did."""
    folder, own = Path(folder), is_own(folder)
    names = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return {name for name in names if own(name)}


_WAY_OUT = "give another folder, or overwrite it with --overwrite (in Python overwrite=True)"


def check_own(
    folder: str | Path, names: Iterable[str], overwrite: bool = False, way_out: str = _WAY_OUT
) -> None:
    """Refuse to write files over those that the kit did not write.

    Args:
        folder: where they are to be written; it need not exist.
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
        contents: what each file holds; see `write_together`.
        overwrite: replace files that the kit did not write, too.

    Raises:
        FileExistsError: as `check_own`.
        DiskError: as `writing`.
    """
    folder = Path(folder)
    check_own(folder, contents, overwrite)
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
    _note_new(folder, {name: content_hash(_bytes(text)) for name, text in contents.items()})
    write_together(folder, contents)
    _prune(folder)


@contextlib.contextmanager
def staged(folder: str | Path) -> Iterator[Path]:
    """Give an empty folder inside `folder` to write into, for `publish` to take files from.

    It is gone afterwards, as is what a killed command left in it, and `folder` where it is empty.
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

    Files that the manifest lists, and that the kit did not write this time, are deleted: an export
    in one file would otherwise lie beside pieces of an older one.

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
