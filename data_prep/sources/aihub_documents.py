"""AI Hub public administration documents (공공행정문서 OCR): words, or whole pages.

One JSON file per picture: `images[0]{"image.file.name"}` and
`annotations[]{"annotation.text", "annotation.bbox": [x, y, w, h]}`, not in reading order.
"""

from functools import partial

from data_prep.sources import _aihub
from data_prep.sources._pages import Page, corners, stated_size

EXAMPLE = "documents/ --task pages --out data/documents"
TASKS, OPTIONS = _aihub.TASKS, _aihub.OPTIONS


def read_page(label: dict) -> Page:
    """Read a label file: a page with the words of its annotations."""
    image = label["images"][0]
    words = [
        _aihub.korean_word(word.get("annotation.text"), corners(word.get("annotation.bbox")))
        for word in label["annotations"]
    ]
    size = stated_size(image.get("image.width"), image.get("image.height"))
    return Page(image["image.file.name"], size, words)


rows = partial(_aihub.label_rows, read_page=read_page)
