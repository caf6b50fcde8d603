"""AI Hub public records (OCR 데이터(공공)): words, or whole pages.

One JSON file per picture: `Images{identifier, type, width, height}` and `Bbox[]{data, x[4], y[4]}`.
"""

from functools import partial

from data_prep.sources import _aihub
from data_prep.sources._pages import Page, stated_size

EXAMPLE = "public/ --task words --out data/public"
TASKS, OPTIONS = _aihub.TASKS, _aihub.OPTIONS


def read_page(label: dict) -> Page:
    """Read a label file; the picture is called by its identifier and type."""
    image = label["Images"]
    name, kind = image["identifier"], image.get("type", "jpg")
    if not isinstance(name, str) or not isinstance(kind, str):
        raise ValueError("identifier or type is no text")
    if not name.lower().endswith(f".{kind.lower()}"):
        name = f"{name}.{kind}"
    words = [_aihub.korean_word(word.get("data"), points(word)) for word in label["Bbox"]]
    return Page(name, stated_size(image.get("width"), image.get("height")), words)


def points(box: dict) -> object:
    """The four corners of a box from its lists of x and y; "malformed" for other values."""
    x, y = box.get("x"), box.get("y")
    if not isinstance(x, list) or not isinstance(y, list) or len(x) != len(y):
        return "malformed"
    return [list(pair) for pair in zip(x, y)]


rows = partial(_aihub.label_rows, read_page=read_page)
