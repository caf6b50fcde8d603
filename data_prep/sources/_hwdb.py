"""CASIA HWDB formats: bounded reading, character codes, writers."""

import re
import struct
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from types import SimpleNamespace
from typing import BinaryIO

from data_prep.dataset.archive import Tree
from data_prep.dataset.pictures import Span
from data_prep.dataset.schema import Item, Picture, Reject
from data_prep.sources import slug, stem

MAX_RECORD = 64 * 2**20  # bytes of one bitmap; the largest real page is a tenth of it
PROMPT = "Transcribe the handwritten Chinese text in the image."


class Broken(Exception):
    """A record that breaks off or contradicts itself, with the reason and detail of its reject.

    `skips` are distances in bytes at which the next record might begin.
    """

    def __init__(self, reason: str, detail: str = "", skips: tuple[int, ...] = ()) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail, self.skips = reason, detail, skips


class Reader:
    """Reads little-endian fields and never asks for more bytes than the file still has.

    `path` is that of a file on disk, whose pixels workers then read themselves.
    """

    def __init__(self, stream: BinaryIO, size: int, path: str | None = None) -> None:
        self.stream, self.size, self.at, self.path = stream, size, 0, path
        self.peeked = b""

    @property
    def left(self) -> int:
        """Bytes from here to the end."""
        return self.size - self.at

    def take(self, count: int) -> bytes:
        """The next bytes; Broken where the file ends before."""
        self._check(count)
        data, self.peeked = self.peeked[:count], self.peeked[count:]
        if len(data) < count:
            data += self.stream.read(count - len(data))
        if len(data) != count:  # an archive that stated a wrong size
            raise Broken("truncated record", f"{count} bytes wanted at {self.at}, {len(data)} read")
        self.at += count
        return data

    def pixels(self, count: int) -> bytes | Span:
        """The next bytes, or where they lie on disk: sending them to a worker would cost more."""
        if self.path is None:
            return self.take(count)
        self._check(count)
        span = Span(self.path, self.at, count)
        self.at += count
        self.stream.seek(self.at)
        self.peeked = b""
        return span

    def _check(self, count: int) -> None:
        if count < 0 or count > min(self.left, MAX_RECORD):
            raise Broken("truncated record", f"{count} bytes wanted at {self.at}, {self.left} left")

    def peek(self, count: int) -> bytes:
        """The next bytes, fewer at the end, which stay to be read."""
        data = self.take(min(count, self.left))
        self.at -= len(data)
        self.peeked = data + self.peeked
        return data

    def unpack(self, layout: str) -> tuple:
        """The next fields, as `struct` names them."""
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout)))


def read_page_header(reader: Reader) -> tuple[int, int, int]:
    """(code length, bits a pixel, line count) of a .dgr or .dgrl file; its lines come next."""
    (header_size,) = reader.unpack("i")
    magic = reader.take(8)
    if not magic.startswith(b"DGR"):
        raise Broken("wrong magic", repr(magic))
    if header_size < 36:
        raise Broken("malformed header", f"its size is {header_size}")
    reader.take(header_size - 36)  # the illustration, a remark for people
    _, code_length, bits = reader.unpack("20shh")
    _, _, lines = reader.unpack("iii")
    if not 1 <= code_length <= 8 or bits not in (1, 8) or lines < 0:
        detail = f"code length {code_length}, {bits} bits a pixel, {lines} lines"
        raise Broken("malformed header", detail)
    return code_length, bits, lines


def bitmap_size(width: int, height: int, bits: int) -> int:
    """Bytes of a bitmap whose rows start at whole bytes; Broken for a size that is none."""
    if width < 0 or height < 0:
        raise Broken("malformed record", f"a bitmap of {width}x{height}")
    return height * ((width * bits + 7) // 8)


@lru_cache(maxsize=65536)
def decode_code(code: bytes) -> str:
    """One character from its label bytes; ValueError if unknown, "" for the filler FFFF.

    GB18030 is used throughout: gb2312 and gbk read A1AA as different dashes. A second byte of 00
    means ASCII, and FDA3 is a published A3FD with its bytes swapped.
    """
    code = code.rstrip(b"\0") or b"\0"
    if code == b"\xff\xff":
        return ""
    if code == b"\xfd\xa3":
        code = b"\xa3\xfd"
    character = code.decode("gb18030")
    if len(character) != 1 or not character.isprintable() or "\ue000" <= character <= "\uf8ff":
        raise ValueError(f"{code.hex()} stands for no character")
    return character


def decode_label(label: bytes, code_length: int) -> str:
    """A line's text, each code by itself; ValueError names the code that is unknown."""
    codes = (label[at : at + code_length] for at in range(0, len(label), code_length))
    return "".join(decode_code(code) for code in codes)


def line_item(label: bytes, code_length: int, load: partial, top: int, left: int) -> Item | Reject:
    """A line as an item, its key, place and group left out."""
    try:
        text = decode_label(label, code_length)
    except ValueError as error:
        return Reject("", "unknown character code", str(error))
    meta = {"top": top, "left": left}
    return Item("", "", text, [Picture(load)], "", "zh", prompt=PROMPT, meta=meta)


def writer(name: str) -> str:
    """The writer that a file name states: 001-P16.dgrl and C001-f.gnt are of 001 and C001."""
    base = name.rpartition("/")[2]
    match = re.match(r"[A-Za-z]?\d+", base)
    return match[0] if match else base


def page_lines(
    path: str, options: SimpleNamespace, pattern: str, read_line: Callable
) -> Iterator[Item | Reject]:
    """One item per line of every page file, by `read_line(reader, code_length, bits)`.

    That returns an item without key, place and group, or a reject. A page that breaks off is one
    reject more, which says how many lines are lost.
    """
    tree = Tree(path, options)
    for name in tree.files(pattern):
        key, split = slug(stem(name)), tree.label_split(name) or tree.split(name)
        for number, item in enumerate(_read_page(tree, name, read_line), 1):
            item.where = f"{name} line {number}"
            if isinstance(item, Item):
                item.key, item.group, item.split = f"{key}-{number:03d}", writer(name), split
            yield item


def _read_page(tree: Tree, name: str, read_line: Callable) -> Iterator[Item | Reject]:
    read, lines = 0, 0
    try:
        with tree.open(name) as stream:
            reader = Reader(stream, tree.size(name), tree.on_disk(name))
            code_length, bits, lines = read_page_header(reader)
            while read < lines:
                yield read_line(reader, code_length, bits)
                read += 1
    except Broken as error:
        lost = f"; {lines - read} lines are lost" if lines else ""
        yield Reject("", error.reason, error.detail + lost)
