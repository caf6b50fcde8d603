"""CASIA HWDB1.x isolated Chinese characters (.gnt, folders or the zips they come in)."""

import struct
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace

from data_prep.dataset.archive import Tree
from data_prep.dataset.pictures import bitmap
from data_prep.dataset.schema import Item, Picture, Reject
from data_prep.sources import slug, stem
from data_prep.sources._hwdb import PROMPT, Broken, Reader, decode_code, writer

EXAMPLE = "HWDB1.1trn_gnt HWDB1.1tst_gnt --out data/hwdb-characters"
TASKS = ("transcription",)
OPTIONS: dict = {}
GROUPS_SPAN_INPUTS = True  # writers have one numbering over all parts
HEADER = "I2sHH"
CHUNK = 2**20


def rows(path: str, options: SimpleNamespace) -> Iterator[Item | Reject]:
    """One item per record: u32 size, 2 code bytes, u16 width and height, one byte per pixel."""
    tree = Tree(path, options)
    for name in tree.files("*.gnt"):
        key, split = slug(stem(name)), tree.label_split(name) or tree.split(name)
        with tree.open(name) as stream:
            reader = Reader(stream, tree.size(name))
            number = 0
            while reader.left:
                number += 1
                where = f"{name} record {number}"
                try:
                    code, width, height, data = read_record(reader)
                    text = decode_code(code)
                except Broken as error:
                    if not skip_to_next(reader, error):
                        lost = f"{error.detail}; {reader.left} bytes are lost"
                        yield Reject(where, error.reason, lost)
                        break
                    yield Reject(where, error.reason, error.detail)
                    continue
                except ValueError as error:
                    yield Reject(where, "unknown character code", str(error))
                    continue
                yield Item(
                    key=f"{key}-{number:05d}",
                    where=where,
                    text=text,
                    pictures=[Picture(partial(bitmap, data, width, height))],
                    group=writer(name),
                    language="zh",
                    split=split,
                    prompt=PROMPT,
                    meta={"code": code.hex()},
                )


def read_record(reader: Reader) -> tuple[bytes, int, int, bytes]:
    """(code, width, height, pixels) of the next record; Broken where its sizes contradict."""
    size, code, width, height = reader.unpack(HEADER)
    if size != 10 + width * height or not width or not height:
        detail = f"record of {size} bytes for {width}x{height} pixels"
        raise Broken("sizes contradict", detail, (size - 10, width * height))
    return code, width, height, reader.take(width * height)


def skip_to_next(reader: Reader, error: Broken) -> bool:
    """Go to the record after a contradictory one; False where neither of its sizes leads there.

    Only forward: the smaller size is tried first, then the larger.
    """
    skipped = 0
    for skip in sorted(skip for skip in error.skips if skip >= 0):
        if skip - skipped > reader.left:
            break
        while skipped < skip:
            skipped += len(reader.take(min(skip - skipped, CHUNK)))
        head = reader.peek(10)
        if not head:
            return True
        if len(head) == 10:
            size, _, width, height = struct.unpack(f"<{HEADER}", head)
            if size == 10 + width * height and size > 10:
                return True
    return False
