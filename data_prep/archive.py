"""Reads a folder, a zip or a tar alike, and never writes a member under the name it claims.

Names are relative to the tree's root with "/" between their parts. A zip or tar that lies inside a
folder counts as a folder of that name. Members that are no plain files (links, devices) are left
out, so nothing can point out of an archive.
"""

import contextlib
import fnmatch
import functools
import os
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .pictures import PictureError, read_file
from .schema import DataError
from .split import official_split

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_MEMBER = 512 * 2**20  # bytes that one picture or JSON file in an archive may unpack to
MAX_LINE = 64 * 2**20


class Tree:
    """The files of one input.

    Given a plain file, `files` answers only that file, and its neighbours can still be read: so a
    label file alone is an input too. Raises DataError where the path is missing or no archive.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.only: str | None = None
        self.root = self.path
        if not self.path.exists():
            raise DataError(f"{path}: there is no such file or folder; check the path.")
        if self.path.is_file() and not is_archive(self.path.name):
            self.root, self.only = self.path.parent, self.path.name
        self.mounted = "" if self.root.is_dir() else None

    def files(self, *patterns: str, under: str = "") -> Iterator[str]:
        """Names that match a pattern such as "*.jpg" (case ignored), in a fixed order.

        `under` is a folder whose files alone are wanted.
        """
        for name in [self.only] if self.only else self._walk(under):
            base = name.rsplit("/", 1)[-1].lower()
            if any(fnmatch.fnmatchcase(base, pattern) for pattern in patterns):
                yield name

    def _walk(self, under: str) -> Iterator[str]:
        prefix = f"{under}/" if under else ""
        if self.mounted is None or not (self.root / under).is_dir():
            names = sorted(_members(str(self.root))) if self.mounted is None else self._walk("")
            yield from (name for name in names if name.startswith(prefix))
            return
        yield from _walk_folder(self.root / under, prefix)

    def _place(self, name: str) -> tuple[str, str | None]:
        """The file on disk that holds a name, and the member inside it where it is an archive."""
        if self.mounted is None:
            return str(self.root), name
        parts = name.split("/")
        for end, part in enumerate(parts[:-1], start=1):
            if is_archive(part):
                archive = self.root.joinpath(*parts[:end])
                if archive.is_file():
                    return str(archive), "/".join(parts[end:])
        return str(self.root / name), None

    def __contains__(self, name: str) -> bool:
        """Whether a file of this name can be read."""
        place, member = self._place(name)
        try:
            return Path(place).is_file() if member is None else member in _members(place)
        except (OSError, ValueError):  # a label may hold anything, NUL bytes included
            return False

    def find(self, name: str, folder: str = "") -> str:
        """Where a picture lies that a label names by `name`, seen from `folder`.

        Labels often carry the path of the machine they were written on: leading parts are dropped
        until a file is there. Without any the name as given is returned, to be missed later.
        """
        parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
        for start in range(len(parts)):
            candidate = "/".join(([folder] if folder else []) + parts[start:])
            if candidate in self:
                return candidate
        return "/".join(([folder] if folder else []) + parts) or name

    def loader(self, name: str) -> functools.partial:
        """A picklable function that reads a file's bytes."""
        place, member = self._place(name)
        if member is None:
            return functools.partial(read_file, place)
        return functools.partial(read_member, place, member)

    def image_loader(self, name: str, folder: str = "") -> functools.partial:
        """As `loader`, for a name in a label: an absolute path as it is, others as `find` does."""
        if self.mounted is not None:
            with contextlib.suppress(OSError, ValueError):
                if Path(name).is_absolute() and Path(name).is_file():
                    return functools.partial(read_file, name)
        return self.loader(self.find(name, folder))

    def read(self, name: str) -> bytes:
        """A file's bytes, at most MAX_MEMBER of them from an archive; PictureError if it cannot."""
        return self.loader(name)()

    def open(self, name: str) -> BinaryIO:
        """A file as a stream, however large."""
        place, member = self._place(name)
        return Path(place).open("rb") if member is None else _open_member(place, member)

    def on_disk(self, name: str) -> str | None:
        """The path of a file that lies in no archive."""
        place, member = self._place(name)
        return place if member is None else None

    def size(self, name: str) -> int:
        """A file's size in bytes, as its archive states it."""
        place, member = self._place(name)
        if member is None:
            return Path(place).stat().st_size
        info = _members(place)[member]
        return info.file_size if isinstance(info, zipfile.ZipInfo) else info.size

    def split(self, name: str) -> str | None:
        """The official split that the path of a file states, the input's own name included."""
        return official_split(f"{self.root.resolve().name}/{name}")

    def lines(self, name: str) -> Iterator[tuple[int, str]]:
        """(number from 1, line without its end) of a text file.

        Bytes that are no UTF-8 become surrogates, for `is_unicode` to find: one bad line costs
        itself only. A line of more than MAX_LINE bytes comes in pieces.
        """
        with self.open(name) as stream:
            number = 0
            while line := stream.readline(MAX_LINE):
                number += 1
                if number == 1:
                    if line[:2] in (b"\xff\xfe", b"\xfe\xff"):
                        raise DataError(f"{name} is UTF-16; save it as UTF-8.")
                    line = line.removeprefix(b"\xef\xbb\xbf")
                yield number, line.rstrip(b"\r\n").decode("utf-8", "surrogateescape")


def is_archive(name: str) -> bool:
    """Whether a file name ends as a zip or tar does."""
    return name.lower().endswith(ARCHIVES)


def read_member(archive: str, name: str) -> bytes:
    """One member's bytes; PictureError where it is missing, broken or unpacks to too much."""
    with _open_member(archive, name) as stream:
        try:
            data = stream.read(MAX_MEMBER + 1)
        except Exception as error:  # zlib, lzma and zipfile each have their own
            raise PictureError("unreadable image", f"{name}: {error}") from None
    if len(data) > MAX_MEMBER:
        raise PictureError("image too large", f"{name} unpacks to more than {MAX_MEMBER} bytes")
    return data


def _open_member(archive: str, name: str) -> BinaryIO:
    opened, members = _open_archive(archive)
    if name not in members:
        raise FileNotFoundError(2, "no such member", f"{archive}/{name}")
    try:
        if isinstance(opened, zipfile.ZipFile):
            return opened.open(members[name])
        return opened.extractfile(members[name])
    except Exception as error:
        raise PictureError("unreadable image", f"{name}: {error}") from None


def _members(archive: str) -> dict:
    return _open_archive(archive)[1]


@functools.lru_cache(maxsize=8)
def _open_archive(path: str) -> tuple[zipfile.ZipFile | tarfile.TarFile, dict]:
    """An archive and its plain files by name; kept open, for its index is slow to read."""
    try:
        if path.lower().endswith(".zip"):
            archive = zipfile.ZipFile(path)
            return archive, {
                zip_name(info): info for info in archive.infolist() if not info.is_dir()
            }
        archive = tarfile.open(path)  # noqa: SIM115
        return archive, {
            member.name.removeprefix("./"): member for member in archive if member.isfile()
        }
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{path} cannot be read as an archive ({error}).") from None


def zip_name(info: zipfile.ZipInfo) -> str:
    """A zip member's true name. Without the UTF-8 flag it is UTF-8 or CP949 read as CP437."""
    if not info.flag_bits & 0x800:
        for encoding in ("utf-8", "cp949"):
            with contextlib.suppress(UnicodeError):
                return info.filename.encode("cp437").decode(encoding)
    return info.filename


def _walk_folder(folder: Path, prefix: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        shown = [entry for entry in entries if not entry.name.startswith(".")]
    # Links to folders are not followed: they may lead back up, for ever.
    found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in shown)
    for name, is_folder in found:
        if is_folder:
            yield from _walk_folder(folder / name, f"{prefix}{name}/")
        elif is_archive(name):
            yield from (
                f"{prefix}{name}/{member}" for member in sorted(_members(str(folder / name)))
            )
        else:
            yield f"{prefix}{name}"
