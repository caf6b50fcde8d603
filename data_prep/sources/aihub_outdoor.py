"""AI Hub outdoor signs (야외 실제 촬영 한글 이미지): words, or whole photographs.

One JSON file per picture: `images[0]{file_name, width, height}`, `annotations[]{bbox, text}` with
bbox [x, y, w, h], and `metadata[0]{wordorientation}`. The text xxx marks an illegible word.
"""

from functools import partial

from data_prep.sources import _aihub
from data_prep.sources._pages import Page, corners, stated_size

EXAMPLE = "라벨링데이터.zip 원천데이터.zip --task words --out data/signs"
TASKS, OPTIONS = _aihub.TASKS, _aihub.OPTIONS


def read_page(label: dict) -> Page:
    """Read a label file: a page with the words of its annotations."""
    image = label["images"][0]
    orientation = (label.get("metadata") or [{}])[0].get("wordorientation")
    meta = {"orientation": orientation} if isinstance(orientation, str) else {}
    words = [
        _aihub.korean_word(word.get("text"), corners(word.get("bbox")), meta)
        for word in label["annotations"]
    ]
    return Page(image["file_name"], stated_size(image.get("width"), image.get("height")), words)


rows = partial(_aihub.label_rows, read_page=read_page)
