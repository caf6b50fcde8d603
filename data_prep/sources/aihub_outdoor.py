"""AI Hub outdoor signs (야외 실제 촬영 한글 이미지): words, or whole photographs.

A JSON a picture: `images[0]{file_name, width, height}`, `annotations[]{bbox: [x, y, w, h], text}`
and `metadata[0]{wordorientation}`. The text xxx means that nobody could read it.
"""

from collections.abc import Iterator
from types import SimpleNamespace

from data_prep.dataset.schema import Item, Reject
from data_prep.sources import _aihub
from data_prep.sources._aihub import korean_word
from data_prep.sources._pages import Page, corners, stated_size

EXAMPLE = "라벨링데이터.zip 원천데이터.zip --task words --out data/signs"
TASKS = _aihub.TASKS
OPTIONS = _aihub.OPTIONS


def rows(path: str, options: SimpleNamespace) -> Iterator[Item | Reject]:
    """An item a word or a photograph."""
    return _aihub.label_rows(path, options, read_page)


def read_page(label: dict) -> Page:
    """A label file's content."""
    image = label["images"][0]
    meta = label.get("metadata") or [{}]
    orientation = meta[0].get("wordorientation")
    note = {"orientation": orientation} if isinstance(orientation, str) else {}
    words = [
        korean_word(one.get("text"), corners(one.get("bbox")), note) for one in label["annotations"]
    ]
    size = stated_size(image.get("width"), image.get("height"))
    return Page(image["file_name"], size, words)
