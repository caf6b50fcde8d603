"""Atomic writes of files, and errors of a disk that does not take a file.

A file is written beside its place as `<name>.part` and renamed, so it is never seen half-written.
A disk that is full, read-only or not writable is named in one sentence, with the file.
"""

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

# Ends the name of a file that is committed and has not yet replaced the old one (`write_together`).
_NEW = ".new"

# --- errors of the disk


class DiskError(OSError):
    """A file that could not be written: its name, its disk, the cause and the way out."""


def _explanation(number: int, path: Path) -> str | None:
    """The cause and the way out of a failed write, by its errno; None for another errno."""
    folder, free = existing_folder(path), ""
    with contextlib.suppress(OSError):
        free = f" ({shutil.disk_usage(folder).free / 1e9:.1f} GB free)"
    full = f"while writing {path}; free some and run the same command again."
    denied = (
        f"{path} cannot be written, as this user has no permission to; change the permissions, or "
        "give another place."
    )
    return {
        errno.ENOSPC: f"No space left on the disk of {folder}{free} {full}",
        errno.EDQUOT: f"The disk quota at {folder} is used up {full}",
        errno.EROFS: f"{path} cannot be written, as the disk of {folder} is read-only; give a "
        "place on another disk.",
        errno.EACCES: denied,
        errno.EPERM: denied,
    }.get(number)


def _disk_errno(error: BaseException, path: Path) -> int | None:
    """Return the errno of a failed write to `path`, which libraries wrap in errors of their own."""
    for cause in error_chain(error):
        if isinstance(cause, OSError) and cause.errno:
            name = os.fsdecode(cause.filename) if isinstance(cause.filename, str | bytes) else None
            # Writes to an open file name no file. An input that cannot be read is not blamed on
            # the output.
            if name is None or name.startswith(str(path)) or str(path).startswith(name):
                return cause.errno
        # safetensors and tokenizers pass on messages of Rust.
        if match := re.search(r"\(os error (\d+)\)", str(cause)):
            return int(match[1])
        # torch.save states no errno.
        if "inline_container.cc" in str(cause):
            free = shutil.disk_usage(existing_folder(path)).free
            return errno.ENOSPC if free < 2**20 else None
    return None


def existing_folder(path: Path) -> Path:
    """The path itself where it is a folder, else the nearest folder above it that exists."""
    folder = path.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return folder


def error_chain(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes, also those that torch's compiler wraps; the root cause last."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = getattr(link, "inner_exception", None) or link.__cause__ or link.__context__


@contextlib.contextmanager
def naming(path: str | Path) -> Generator[None]:
    """Turn a failure to write `path`, a file or a folder, into a DiskError that names it.

    Raises:
        DiskError: the disk is full, over its quota or read-only, or this user may not write on it.
    """
    try:
        yield
    except DiskError:
        raise
    except Exception as error:  # libraries wrap errors of the disk in errors of their own
        number = _disk_errno(error, Path(path))
        text = _explanation(number, Path(path)) if number else None
        if not text:
            raise
        disk_error = DiskError(text)
        disk_error.errno = number
        raise disk_error from None


def sentence(error: OSError) -> str:
    """Describe an error of the system by its file and cause, without its number."""
    if not (error.errno and error.strerror):
        return str(error)
    if error.filename is None:
        return error.strerror
    path = Path(os.fsdecode(error.filename))
    for parent in path.parents if isinstance(error, NotADirectoryError) else ():
        if parent.is_file():
            return f"{path} cannot be written or read: {parent} is a file; name another folder."
    return f"{path}: {error.strerror}"


# --- atomic writes of files


@contextlib.contextmanager
def writing(path: str | Path) -> Generator[IO[bytes]]:
    """Open a file for an atomic write: it replaces the old one only when all of it is written.

    Args:
        path: the file; its folder must exist.

    Raises:
        DiskError: as `naming`; nothing is left of the new file, and the old one is untouched.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    with naming(path):
        try:
            with part.open("wb") as file:
                yield file
            part.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write a file atomically; text becomes UTF-8, and lone surrogates the escapes of JSON.

    Raises:
        DiskError: as `writing`.
    """
    with writing(path) as file:
        file.write(to_bytes(content))


def to_bytes(content: str | bytes) -> bytes:
    """The bytes that `write_whole` writes."""
    return content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content


def write_together(folder: str | Path, contents: Mapping[str, str | bytes]) -> None:
    """Replace files that belong together atomically, so that new and old ones are never mixed.

    All are written under other names first. The last one is then deleted before the first is
    replaced, and written last; a kill in between is finished by `finish_together`.

    Args:
        folder: of the files; it must exist.
        contents: of each file; readers take the last one as the sign that all of them exist.

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


# --- files of JSON lines


def json_lines(values: Iterable[Mapping[str, Any]]) -> str:
    """The text of a .jsonl file."""
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Read the objects of a .jsonl file; a line that a kill broke off is left out."""
    data = path.read_bytes() if path.is_file() else b""
    for line in data.split(b"\n"):
        with contextlib.suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict):
                yield value


# --- names that come from elsewhere


def is_inner_path(name: object) -> bool:
    """Whether a name from a manifest or an archive is that of a file below its own folder.

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
