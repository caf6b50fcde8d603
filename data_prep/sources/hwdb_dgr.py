"""CASIA pages of Chinese handwriting kept by character (.dgr), put together to lines."""

from functools import partial

from PIL import Image, ImageChops

from data_prep.dataset.pictures import ink_to_black, read_bitmap
from data_prep.dataset.schema import Item, Reject
from data_prep.sources._hwdb import Broken, Reader, bitmap_size, line_item, page_lines

EXAMPLE = "HIT-MW --out data/hit-mw"
TASKS = ("lines",)
OPTIONS: dict = {}
GROUPS_SPAN_INPUTS = True  # writers have one numbering over all parts
MAX_LINE_PIXELS = 32_000_000  # a line's characters may claim to lie anywhere on a page

Place = tuple[int, int, int, int]  # left, top, width, height


def read_line(reader: Reader, code_length: int, bits: int) -> Item | Reject:
    """Read a line: i32 count; a character's code, i16 top, left, height, width, and bitmap."""
    (count,) = reader.unpack("i")
    if count < 0 or count * (code_length + 8) > reader.left:
        raise Broken("malformed record", f"a line of {count} characters, {reader.left} bytes left")
    label, places, bitmaps = [], [], []
    for _ in range(count):
        label.append(reader.take(code_length))
        top, left, height, width = reader.unpack("hhhh")
        data = reader.take(bitmap_size(width, height, bits))
        if data:
            places.append((left, top, width, height))
            bitmaps.append(data)
    if not places:
        return Reject("", "empty picture", f"{count} characters without a pixel")
    left, top, right, bottom = union(places)
    if (right - left) * (bottom - top) > MAX_LINE_PIXELS:
        return Reject("", "image too large", f"{right - left}x{bottom - top} pixels")
    load = partial(compose, b"".join(bitmaps), places, bits)
    return line_item(b"".join(label), code_length, load, top, left)


rows = partial(page_lines, pattern="*.dgr", read_line=read_line)


def union(places: list[Place]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) around all characters."""
    return (
        min(left for left, *_ in places),
        min(top for _, top, *_ in places),
        max(left + width for left, _, width, _ in places),
        max(top + height for _, top, _, height in places),
    )


def compose(data: bytes, places: list[Place], bits: int) -> Image.Image:
    """Characters laid on white where they stood, the darker pixel showing where they overlap."""
    left, top, right, bottom = union(places)
    line = Image.new("L", (right - left, bottom - top), 255)
    characters, at = [], 0
    for _, _, width, height in places:
        size = bitmap_size(width, height, bits)
        characters.append(read_bitmap(data[at : at + size], width, height, bits))
        at += size
    if bits == 1:
        characters = ink_to_black(characters)
    for (x, y, width, height), character in zip(places, characters):
        corner = x - left, y - top
        below = line.crop((*corner, corner[0] + width, corner[1] + height))
        line.paste(ImageChops.darker(below, character), corner)
    return line
