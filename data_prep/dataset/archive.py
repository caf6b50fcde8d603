"""Archives and folders: one reader (`Tree`) for the files of a folder, a zip or a tar.

Names are relative to the tree's root with "/" between their parts. A zip or tar inside a folder
counts as a folder of that name. Members that are no plain files (links, devices) are left out, and
nothing is extracted, so no name leads out of an archive. The module is a little above 400 lines, so
that folders, zips and tars answer the same calls beside each other.
"""

import codecs
import contextlib
import fnmatch
import functools
import io
import os
import re
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO, cast

from data_prep.dataset.encoding import NAME_ENCODINGS, as_utf8, encoding_of, name_encoding
from data_prep.dataset.names import fits_split, match_rank, spelling
from data_prep.dataset.pictures import LFS_POINTER, PictureError, check_regular, read_file
from data_prep.dataset.schema import ENDINGS, DataError, FileRefused
from data_prep.dataset.split import file_split, official_split

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_MEMBER = 512 * 2**20  # bytes that one picture or JSON file in an archive may unpack to
MAX_LINE = 64 * 2**20
HEAD = 4096  # bytes by which a format is recognized
MAX_INDEXED = 500_000  # files among which `find` searches for a name in another folder


class Tree:
    """The files of one input: a folder, an archive or a label file with its neighbours.

    Of a label file `files` lists only that file, and its neighbours can be read, too.

    Args:
        path: a folder, an archive or a label file.
        options: of the conversion. `encoding` is that of label files, and of names in archives,
            that are not UTF-8; to `notes` a sentence is added where another one was detected.
        legacy: the only other encoding that files of a format have.

    Raises:
        DataError: the path does not exist.
    """

    def __init__(
        self, path: str | Path, options: SimpleNamespace | None = None, legacy: str | None = None
    ) -> None:
        self.path = Path(path)
        self.encoding = getattr(options, "encoding", None) or legacy
        self.encodings = ("utf-8", self.encoding) if self.encoding else NAME_ENCODINGS
        self.notes = getattr(options, "notes", [])
        self.last_encoding = ("", "utf-8")  # a label file and its encoding
        self.only: str | None = None
        self.root = self.path
        if not self.path.exists():
            raise DataError(f"{path}: there is no such file or folder; check the path.")
        if self.path.is_file() and not is_archive(self.path.name):
            self.root, self.only = self.path.parent, self.path.name
            if is_unread_archive(self.only):
                raise DataError(f"{path} is an archive that is not read; unpack it.")
        self.mounted = "" if self.root.is_dir() else None
        self.unclear: dict[str, str] = {}  # names in labels that fit several files, and these files

    def files(self, *patterns: str, under: str = "", beside: bool = False) -> Iterator[str]:
        """List names that match a pattern such as "*.jpg" (case ignored), in a fixed order.

        Args:
            patterns: of file names, without folders.
            under: a folder, whose files alone are listed.
            beside: whether to list a label file's neighbours, too.
        """
        for name in [self.only] if self.only and not beside else self._walk(under):
            base = name.rsplit("/", 1)[-1].lower()
            if any(fnmatch.fnmatchcase(base, pattern) for pattern in patterns):
                yield name

    def _walk(self, under: str) -> Iterator[str]:
        prefix = f"{under}/" if under else ""
        if self.mounted is None or not (self.root / under).is_dir():
            names = self._names_in(self.root) if self.mounted is None else self._walk("")
            names = (name for name in names if name.startswith(prefix))
        else:
            names = self._walk_folder(self.root / under, prefix)
        for name in names:
            # Archives that are read are walked like folders, so one that comes here lies in one.
            if is_archive(name) or is_unread_archive(name):
                note = "archives of other kinds, or inside archives, were not read; unpack them"
                self._note_once(note, name)
            if not is_hidden(name):
                yield name

    def _walk_folder(self, folder: Path, prefix: str) -> Iterator[str]:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not entry.name.startswith(".")]
        # Links to folders are not followed, as they may form a circle.
        names = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in shown)
        for name, is_folder in names:
            if is_folder:
                yield from self._walk_folder(folder / name, f"{prefix}{name}/")
            elif is_archive(name):
                yield from (f"{prefix}{name}/{inner}" for inner in self._names_in(folder / name))
            else:
                yield f"{prefix}{name}"

    def _names_in(self, archive: Path) -> list[str]:
        """List the names in an archive, sorted; adds a note where their encoding was detected."""
        _, members, encoding = _open_archive(str(archive), self.encodings)
        detected = self.encodings == NAME_ENCODINGS and encoding not in (None, "utf-8")
        note = f"{archive.name}: file names are taken for {encoding}; --encoding takes another."
        if detected and note not in self.notes:
            self.notes.append(note)
        return sorted(members)

    def _members(self, archive: str) -> dict:
        return _open_archive(archive, self.encodings)[1]

    def _place(self, name: str) -> tuple[str, str | None]:
        """The file on disk that holds a name, and the member inside it if it is an archive."""
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
            return Path(place).is_file() if member is None else member in self._members(place)
        except (OSError, ValueError):  # a label may hold anything, NUL bytes included
            return False

    def find(self, name: str, folder: str = "", split: str | None = None) -> str:
        """Find the path of a picture that a label of `split` in `folder` names by `name`.

        If no file has this path, a file is taken whose path differs in the form of its letters
        (NFC, NFD), in the case of its ending, or in folders: labels often leave them out, or name
        those of another machine. Without such a file, or with several, the path is returned as it
        is, and reading it raises an error.
        """
        parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
        path = "/".join([*folder.split("/"), *parts] if folder else parts)
        if not parts or path in self:
            return path or name
        split = official_split(folder) or split
        names = self._index.get(spelling(parts[-1]), [])
        names = [other for other in names if fits_split(split, other)]
        near = [(rank, other) for other in names if (rank := match_rank(other, parts, folder))]
        if not near:
            return path
        nearest = max(near)[0]
        best = [other for rank, other in near if rank == nearest]
        if len(best) > 1:
            self.unclear[path] = " and ".join(best[:3])
            return path
        return best[0]

    def picture_of(self, label: str) -> str | None:
        """Find the picture that has the name of a label file but for its ending, or None.

        `label` is the label's path without its ending. Of several pictures it is the one beside the
        label, or else the one whose folders have most in common with the label's.
        """
        folder, _, base = label.rpartition("/")
        names = [n for ending in ENDINGS for n in self._index.get(spelling(base + ending), [])]
        own = folder.split("/") if folder else []

        def rank(name: str) -> tuple[bool, int]:
            parts = name.split("/")[:-1]
            return parts == own, sum(1 for part in parts if part in own)

        names = [name for name in names if fits_split(official_split(folder), name)]
        best = [name for name in names if rank(name) == max(map(rank, names))]
        return best[0] if best else None

    @functools.cached_property
    def _index(self) -> dict[str, list[str]]:
        """All files by the spelling of their name; empty for more than MAX_INDEXED files."""
        index: dict[str, list[str]] = {}
        for number, name in enumerate(self._walk("")):
            if number == MAX_INDEXED:
                return {}
            index.setdefault(spelling(name.rpartition("/")[2]), []).append(name)
        return index

    def loader(self, name: str) -> functools.partial:
        """Return a picklable function that reads a file's bytes."""
        if name in self.unclear:
            return functools.partial(_refuse_unclear, self.unclear[name])
        place, member = self._place(name)
        if member is None:
            return functools.partial(read_file, place)
        return functools.partial(read_member, place, member, self.encodings)

    def image_loader(
        self, name: str, folder: str = "", split: str | None = None
    ) -> functools.partial:
        """As `loader` for a name in a label: an absolute path, or a name as in `find`."""
        if self.mounted is not None:
            with contextlib.suppress(OSError, ValueError):
                if Path(name).is_absolute() and Path(name).is_file():
                    return functools.partial(read_file, name)
        return self.loader(self.find(name, folder, split))

    def read(self, name: str) -> bytes:
        """Read a file's bytes; PictureError for more than MAX_MEMBER bytes from an archive."""
        data = self.loader(name)()
        _refuse_pointer(name, data)
        return data

    def open(self, name: str) -> io.BufferedReader:
        """Open a file of any size as a stream."""
        place, member = self._place(name)
        if member is None:
            check_regular(place)
            stream = Path(place).open("rb")  # noqa: SIM115
        else:
            stream = _open_member(place, member, self.encodings)
        try:
            _refuse_pointer(name, stream.peek(len(LFS_POINTER)))
        except FileRefused:
            stream.close()
            raise
        except Exception as error:  # zlib, lzma and zipfile each have their own
            stream.close()
            raise PictureError("unreadable image", f"{name}: {error}") from None
        return stream

    def on_disk(self, name: str) -> str | None:
        """The path of a file that lies in no archive."""
        place, member = self._place(name)
        return place if member is None else None

    def size(self, name: str) -> int:
        """A file's size in bytes, as stated by its archive."""
        place, member = self._place(name)
        if member is None:
            return Path(place).stat().st_size
        info = self._members(place)[member]
        return info.file_size if isinstance(info, zipfile.ZipInfo) else info.size

    def split(self, name: str) -> str | None:
        """The official split that a file's folders state, the input's own name included."""
        return official_split(f"{self.root.resolve().name}/{name.rpartition('/')[0]}")

    def label_split(self, name: str) -> str | None:
        """The official split that a file of many labels states by its name, or its folders'."""
        return file_split(name) or official_split(name.rpartition("/")[0])

    def lines(self, name: str, blank: bool = False) -> Iterator[tuple[int, str]]:
        """Read the lines of a text file as (number from 1, line without its end).

        Bytes that are no UTF-8 become surrogates, which `is_unicode` detects, so that a bad line
        is rejected alone. A line of more than MAX_LINE bytes is split. Blank lines are left out
        but for `blank`.
        """
        with self.open_text(name) as stream:
            number = 0
            while data := stream.readline(MAX_LINE):
                number += 1
                line = data.rstrip(b"\r\n").decode("utf-8", "surrogateescape")
                if blank or line.strip():
                    yield number, line

    def open_text(self, name: str) -> BinaryIO:
        """Open a label file of any encoding as a stream of UTF-8 without a byte order mark.

        Raises:
            FileRefused: it is a git-lfs pointer, or several encodings fit it.
        """
        if self.last_encoding[0] != name:
            encoding = encoding_of(lambda: self._raw_lines(name), name, self.encoding)
            self.last_encoding = name, encoding
            if encoding not in ("utf-8", "utf-8-sig"):
                self._note_once(f"label files that are not UTF-8 were read as {encoding}", name)
        return as_utf8(self.open(name), self.last_encoding[1])

    def _note_once(self, note: str, name: str) -> None:
        """Add a note with the first file that it is true of."""
        if not any(other.startswith(note) for other in self.notes):
            self.notes.append(f"{note}, such as {name}")

    def head(self, name: str) -> bytes:
        """Read the first bytes of a file, UTF-16 as UTF-8, to recognize its format."""
        with self.open(name) as stream:
            data = stream.read(HEAD)
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return data[: len(data) // 2 * 2].decode("utf-16", "ignore").encode()
        return data.removeprefix(codecs.BOM_UTF8)

    def read_text(self, name: str) -> bytes:
        """Read a label file as UTF-8, as `open_text`; PictureError above MAX_MEMBER bytes."""
        with self.open_text(name) as stream:
            pieces, size = [], 0
            try:
                while size <= MAX_MEMBER and (piece := stream.read(MAX_LINE // 64)):
                    pieces.append(piece)
                    size += len(piece)
            except Exception as error:  # zlib, lzma and zipfile each have their own
                raise PictureError("unreadable file", f"{name}: {error}") from None
        if size > MAX_MEMBER:
            raise PictureError("file too large", f"{name} holds more than {MAX_MEMBER} bytes")
        return b"".join(pieces)

    def _raw_lines(self, name: str) -> Iterator[bytes]:
        with self.open(name) as stream:
            while line := stream.readline(MAX_LINE):
                yield line


def picture_tree(tree: Tree, options: SimpleNamespace) -> Tree:
    """The tree of the pictures of labels in `tree`: that of `--images`, or `tree` itself."""
    images = getattr(options, "images", None)
    return Tree(images, options) if images else tree


def is_hidden(name: str) -> bool:
    """Whether a file is hidden or of the system: `__MACOSX/`, `._*`, `.DS_Store`."""
    parts = (part for part in name.split("/") if part not in (".", ".."))
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _refuse_pointer(name: str, head: bytes) -> None:
    if head.startswith(LFS_POINTER):
        raise FileRefused(
            f"{name} is a git-lfs pointer instead of the file; run `git lfs pull` in its "
            "repository, then convert again."
        )


def _refuse_unclear(names: str) -> bytes:
    raise PictureError("several pictures of this name", names)


def is_archive(name: str) -> bool:
    """Whether a file name has the ending of a zip or tar."""
    return name.lower().endswith(ARCHIVES)


def is_unread_archive(name: str) -> bool:
    """Whether a file name has the ending of another archive, or of a part of one."""
    return re.search(r"\.(7z|rar|zst|z\d\d|(zip|7z|tar|gz)\.\d{3})$", name.lower()) is not None


def read_member(archive: str, name: str, encodings: tuple[str, ...] = NAME_ENCODINGS) -> bytes:
    """Read a member's bytes; PictureError where it is broken or unpacks to too much."""
    with _open_member(archive, name, encodings) as stream:
        try:
            data = stream.read(MAX_MEMBER + 1)
        except Exception as error:  # zlib, lzma and zipfile each have their own
            raise PictureError("unreadable image", f"{name}: {error}") from None
    if len(data) > MAX_MEMBER:
        raise PictureError("image too large", f"{name} unpacks to more than {MAX_MEMBER} bytes")
    return data


def _open_member(archive: str, name: str, encodings: tuple[str, ...]) -> io.BufferedReader:
    opened, members, _ = _open_archive(archive, encodings)
    if name not in members:
        raise FileNotFoundError(2, "no such member", f"{archive}/{name}")
    try:
        if isinstance(opened, zipfile.ZipFile):
            stream = opened.open(members[name])
        else:
            stream = opened.extractfile(members[name])
        # zipfile's streams have all methods of a BufferedReader.
        return cast(io.BufferedReader, stream)
    except Exception as error:  # zlib, lzma and zipfile each have their own
        raise PictureError("unreadable image", f"{name}: {error}") from None


@functools.lru_cache(maxsize=8)
def _open_archive(
    path: str, encodings: tuple[str, ...]
) -> tuple[zipfile.ZipFile | tarfile.TarFile, dict, str | None]:
    """Open an archive; returns it, its plain files by name, and the names' detected encoding.

    The archive is kept open, as its index is slow to read.

    Raises:
        DataError: it cannot be read, or more than one of the encodings fits its names.
    """
    try:
        check_regular(path)
        if path.lower().endswith(".zip"):
            archive = zipfile.ZipFile(path)
            members = [info for info in archive.infolist() if not info.is_dir()]
            names = [_zip_name(info) for info in members]
        else:
            archive = tarfile.open(path)  # noqa: SIM115
            members = [member for member in archive if member.isfile()]
            names = [os.fsencode(member.name.removeprefix("./")) for member in members]
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as an archive ({error}).") from None
    unclear = [name for name in names if isinstance(name, bytes) and not name.isascii()]
    encoding = name_encoding(unclear, encodings, path) if unclear else None
    decode = functools.partial(_decode, encoding=encoding or "utf-8", zipped=path.endswith("zip"))
    return archive, dict(zip(map(decode, names), members)), encoding


def _zip_name(info: zipfile.ZipInfo) -> str | bytes:
    """A zip member's name; its bytes if it has no UTF-8 flag, as zipfile decodes it as CP437."""
    return info.filename if info.flag_bits & 0x800 else info.filename.encode("cp437")


def _decode(name: str | bytes, encoding: str, zipped: bool) -> str:
    if isinstance(name, str):
        return name
    try:
        return name.decode(encoding)
    except UnicodeDecodeError:
        # A zip's names without the UTF-8 flag are CP437 by definition.
        return name.decode("cp437") if zipped else os.fsdecode(name)
