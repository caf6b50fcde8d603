"""LMDB of scene text: `image-%09d` with `label-%09d`, as text or as MMOCR's JSON.

The file is read by its page layout (lmdb.h and mdb.c of OpenLDAP), without the library: that
wants to write a lock file, which a read-only disk refuses, and trusts every offset in the file.
"""

import heapq
import itertools
import struct
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import BinaryIO

from data_prep.dataset.archive import Tree, picture_tree
from data_prep.dataset.schema import Item, Picture, Reject, parse_json
from data_prep.sources import folder_of, slug

EXAMPLE = "ST_lmdb --language en --out data/synthtext"
TASKS = ("transcription",)
OPTIONS = {"images": None, "language": "und"}

MAGIC = 0xBEEFC0DE
PAGE_HEADER = 16  # bytes: page number u64, pad u16, flags u16, then lower u16 and upper u16
BRANCH, LEAF = 0x01, 0x02  # page flags
BIG_DATA, PLAIN = 0x01, 0x00  # node flags
MAX_VALUE = 64 * 2**20  # bytes of one picture
PICTURE_FOLDERS = ("", "imgs/", "images/", "image/")


class Database:
    """The entries of an LMDB file in the order of their keys; ValueError where it is none."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self.stream, self.size = stream, size
        first = self.read_meta(0)
        second = self.read_meta(first[1] if first else 4096)
        if not (first or second):
            raise ValueError("no LMDB file: its magic number is missing")
        # Of the two meta pages the one of the later transaction counts.
        _, self.page_size, self.root = max(meta for meta in (first, second) if meta)

    def read(self, at: int, count: int) -> bytes:
        """Bytes of the file; ValueError where they do not lie in it."""
        if at < 0 or count < 0 or count > MAX_VALUE or at + count > self.size:
            raise ValueError(f"{count} bytes at {at} lie outside the file")
        self.stream.seek(at)
        return self.stream.read(count)

    def read_meta(self, at: int) -> tuple[int, int, int] | None:
        """(transaction, page size, root page) of a meta page, or None if there is none."""
        try:
            data = self.read(at + PAGE_HEADER, 136)
        except ValueError:
            return None
        (magic,) = struct.unpack_from("<I", data)
        (page_size,) = struct.unpack_from("<I", data, 24)
        (root,) = struct.unpack_from("<Q", data, 24 + 48 + 40)
        (transaction,) = struct.unpack_from("<Q", data, 24 + 96 + 8)
        good_size = 512 <= page_size <= 65536 and page_size & (page_size - 1) == 0
        return (transaction, page_size, root) if magic == MAGIC and good_size else None

    def entries(self, first: bytes) -> Iterator[tuple[bytes, int, int]]:
        """(key, offset, length) of every value from the key `first` on, in ascending order."""
        seen = bytearray(self.size // self.page_size + 1)
        last = b""
        for key, at, count in self.walk(self.root, first, seen, 0):
            if key >= first and key > last:
                last = key
                yield key, at, count

    def walk(
        self, page: int, first: bytes, seen: bytearray, depth: int
    ) -> Iterator[tuple[bytes, int, int]]:
        """The leaves' entries below a page; a page that was walked before is passed over."""
        if page >= len(seen) or seen[page] or depth > 32:
            return
        seen[page] = 1
        try:
            data = self.read(page * self.page_size, self.page_size)
        except ValueError:
            return
        flags, lower = struct.unpack_from("<HH", data, 10)
        count = max(0, min(lower, len(data)) - PAGE_HEADER) // 2
        places = struct.unpack_from(f"<{count}H", data, PAGE_HEADER)
        nodes = [node for place in places if (node := self.node(data, place))]
        for index, (low, high, flag, key, at) in enumerate(nodes):
            if flags & BRANCH:
                # All keys of this child come before the next child's first key.
                if index + 1 == len(nodes) or nodes[index + 1][3] > first:
                    yield from self.walk(low | high << 16 | flag << 32, first, seen, depth + 1)
            elif flags & LEAF and flag == BIG_DATA and at + 8 <= len(data):
                (overflow,) = struct.unpack_from("<Q", data, at)
                yield key, overflow * self.page_size + PAGE_HEADER, low | high << 16
            elif flags & LEAF and flag == PLAIN:
                yield key, page * self.page_size + at, low | high << 16

    @staticmethod
    def node(data: bytes, place: int) -> tuple[int, int, int, bytes, int] | None:
        """(low, high, flags, key, offset of the data) of a page's node."""
        if place + 8 > len(data):
            return None
        low, high, flags, key_size = struct.unpack_from("<HHHH", data, place)
        end = place + 8 + key_size
        return (low, high, flags, data[place + 8 : end], end) if end <= len(data) else None


def rows(path: str, options: SimpleNamespace) -> Iterator[Item | Reject]:
    """One item per number of a picture or a label."""
    tree = Tree(path, options)
    images_below = picture_tree(tree, options)
    for name in tree.files("data.mdb", "*.lmdb", "*.mdb"):
        if name.endswith("lock.mdb"):
            continue
        with tree.open(name) as labels, tree.open(name) as images:
            size = tree.size(name)
            try:
                pairs = merge(Database(images, size), Database(labels, size))
            except ValueError as error:
                yield Reject(name, "unreadable database", str(error))
                continue
            folder = folder_of(name)
            key = f"{slug(folder)}-" if folder else ""
            for number, image, label in pairs:
                where = f"{name} {number}"
                item = read_pair(images_below, folder, where, image, label)
                if isinstance(item, Item):
                    item.key, item.language = f"{key}{number}", options.language
                    item.split, item.group = tree.split(name), f"{folder}/{number}".lstrip("/")
                yield item


Value = bytes | ValueError | None


def merge(images: Database, labels: Database) -> Iterator[tuple[str, Value, Value]]:
    """(number, picture, label) of all numbers; None for a missing picture or label."""
    entries = heapq.merge(
        ((number, "image", value) for number, value in numbered(images, b"image-")),
        ((number, "label", value) for number, value in numbered(labels, b"label-")),
        key=lambda entry: entry[0],
    )
    for number, group in itertools.groupby(entries, key=lambda entry: entry[0]):
        values = {kind: value for _, kind, value in group}
        yield number, values.get("image"), values.get("label")


def numbered(database: Database, prefix: bytes) -> Iterator[tuple[str, Value]]:
    """(number, value) of the keys with a prefix; a value outside the file is its ValueError."""
    for key, at, count in database.entries(prefix):
        if not key.startswith(prefix):
            return
        number = key.removeprefix(prefix)
        if not number.isdigit() or len(number) > 12:
            continue
        try:
            yield number.decode(), database.read(at, count)
        except ValueError as error:
            yield number.decode(), error


def read_pair(tree: Tree, folder: str, where: str, image: Value, label: Value) -> Item | Reject:
    """A number's picture and label as an item; MMOCR's labels may name files as pictures."""
    if label is None:
        return Reject(where, "missing annotation", "the picture has no label")
    if isinstance(image, ValueError) or isinstance(label, ValueError):
        return Reject(where, "broken entry", str(image if isinstance(image, ValueError) else label))
    text, name = label.decode("utf-8", "surrogateescape"), None
    if text.startswith("{"):
        try:
            value = parse_json(text)
            text, name = value["text"], value.get("filename")
        except (ValueError, KeyError):  # a label that is a brace
            pass
    if not isinstance(text, str):
        return Reject(where, "malformed annotation", f"text is {text!r}"[:200])
    if image is not None:
        load = partial(bytes, image)
    else:
        above = f"{folder_of(folder)}/".lstrip("/")
        paths = [f"{above}{place}{name}" for place in PICTURE_FOLDERS] if name else []
        path = next((path for path in paths if path in tree), None)
        if path is None and isinstance(name, str):
            path = tree.find(name, above.rstrip("/"))
        if path is None or path not in tree:
            return Reject(where, "missing image", str(name or "no picture has this number"))
        load = tree.loader(path)
    return Item("", where, text, [Picture(load)], "", "", meta={"file": name} if name else {})
