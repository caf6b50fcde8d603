"""CASIA HWDB2.x pages of Chinese handwriting as lines (.dgrl, folders or their zips)."""

from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace

from data_prep.dataset.pictures import bitmap
from data_prep.dataset.schema import Item, Picture, Reject
from data_prep.sources._hwdb import PROMPT, Broken, Reader, bitmap_size, decode_label, page_lines

EXAMPLE = "HWDB2.0Train HWDB2.0Test --workers 4 --out data/hwdb-lines"
TASKS = ("lines",)
OPTIONS: dict = {}
GROUPS_SPAN_INPUTS = True  # writers have one numbering over all parts


def rows(path: str, options: SimpleNamespace) -> Iterator[Item | Reject]:
    """An item a line."""
    return page_lines(path, "*.dgrl", read_line)


def read_line(reader: Reader, code_length: int, bits: int) -> Item | Reject:
    """One line: i32 count, the codes, i32 top, left, height and width, the bitmap."""
    (count,) = reader.unpack("i")
    if count < 0:
        raise Broken("malformed record", f"a line of {count} characters")
    label = reader.take(count * code_length)
    top, left, height, width = reader.unpack("iiii")
    size = bitmap_size(width, height, bits)
    data = reader.pixels(size)
    if not size:
        return Reject("", "empty picture", f"{width}x{height}")
    try:
        text = decode_label(label, code_length)
    except ValueError as error:
        return Reject("", "unknown character code", str(error))
    picture = Picture(partial(bitmap, data, width, height, bits))
    meta = {"top": top, "left": left}
    return Item("", "", text, [picture], "", "zh", prompt=PROMPT, meta=meta)
