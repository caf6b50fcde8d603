"""AI Hub public administration documents (공공행정문서 OCR): words, or whole pages.

A JSON a picture: `images[0]{"image.file.name"}` and
`annotations[]{"annotation.text", "annotation.bbox": [x, y, w, h]}`, not in reading order.
"""

from collections.abc import Iterator
from types import SimpleNamespace

from data_prep.dataset.schema import Item, Reject
from data_prep.sources import _aihub
from data_prep.sources._aihub import korean_word
from data_prep.sources._pages import Page, corners, stated_size

EXAMPLE = "documents/ --task pages --out data/documents"
TASKS = _aihub.TASKS
OPTIONS = _aihub.OPTIONS


def rows(path: str, options: SimpleNamespace) -> Iterator[Item | Reject]:
    """An item a word or a page."""
    return _aihub.label_rows(path, options, read_page)


def read_page(label: dict) -> Page:
    """A label file's content."""
    image = label["images"][0]
    words = [
        korean_word(one.get("annotation.text"), corners(one.get("annotation.bbox")))
        for one in label["annotations"]
    ]
    size = stated_size(image.get("image.width"), image.get("image.height"))
    return Page(image["image.file.name"], size, words)
