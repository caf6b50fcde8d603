"""CASIA HWDB2.x pages of Chinese handwriting as lines (.dgrl, folders or their zips)."""

from functools import partial

from data_prep.dataset.pictures import bitmap
from data_prep.dataset.schema import Item, Reject
from data_prep.sources._hwdb import Broken, Reader, bitmap_size, line_item, page_lines

EXAMPLE = "HWDB2.0Train HWDB2.0Test --workers 4 --out data/hwdb-lines"
TASKS = ("lines",)
OPTIONS: dict = {}
GROUPS_SPAN_INPUTS = True  # writers have one numbering over all parts


def read_line(reader: Reader, code_length: int, bits: int) -> Item | Reject:
    """Read a line: i32 count, the codes, i32 top, left, height and width, the bitmap."""
    (count,) = reader.unpack("i")
    if count < 0:
        raise Broken("malformed record", f"a line of {count} characters")
    label = reader.take(count * code_length)
    top, left, height, width = reader.unpack("iiii")
    size = bitmap_size(width, height, bits)
    data = reader.pixels(size)
    if not size:
        return Reject("", "empty picture", f"{width}x{height}")
    return line_item(label, code_length, partial(bitmap, data, width, height, bits), top, left)


rows = partial(page_lines, pattern="*.dgrl", read_line=read_line)
