"""AI Hub public records (OCR 데이터(공공)): words, or whole pages.

A JSON a picture: `Images{identifier, type, width, height}` and `Bbox[]{data, x[4], y[4]}`.
"""

from collections.abc import Iterator
from types import SimpleNamespace

from data_prep.dataset.schema import Item, Reject
from data_prep.sources import _aihub
from data_prep.sources._aihub import korean_word
from data_prep.sources._pages import Page, stated_size

EXAMPLE = "public/ --task words --out data/public"
TASKS = _aihub.TASKS
OPTIONS = _aihub.OPTIONS


def rows(path: str, options: SimpleNamespace) -> Iterator[Item | Reject]:
    """An item a word or a page."""
    return _aihub.label_rows(path, options, read_page)


def read_page(label: dict) -> Page:
    """A label file's content; the picture is called by its identifier and type."""
    image = label["Images"]
    name, kind = image["identifier"], image.get("type", "jpg")
    if not isinstance(name, str) or not isinstance(kind, str):
        raise ValueError("identifier or type is no text")
    if not name.lower().endswith(f".{kind.lower()}"):
        name = f"{name}.{kind}"
    words = [korean_word(one.get("data"), points(one)) for one in label["Bbox"]]
    return Page(name, stated_size(image.get("width"), image.get("height")), words)


def points(box: dict) -> object:
    """The four corners of a box from its lists of x and y."""
    x, y = box.get("x"), box.get("y")
    if not isinstance(x, list) or not isinstance(y, list) or len(x) != len(y):
        return "malformed"
    return [list(pair) for pair in zip(x, y)]
