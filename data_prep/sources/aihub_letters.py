"""AI Hub letters (다양한 형태의 한글 문자 OCR): letters, words, or whole pictures.

A JSON a picture: `image.file_name` with either `text.letter.value`, which is the whole picture's
text, or `text.word[]{value, wordbox: [x1, y1, x2, y2]}`, or only `info.text`.
"""

from collections.abc import Iterator
from types import SimpleNamespace

from data_prep.dataset.schema import Item, Reject
from data_prep.sources import _aihub
from data_prep.sources._aihub import korean_word
from data_prep.sources._pages import Page, stated_size

EXAMPLE = "letters/ --task words --out data/letters"
TASKS = _aihub.TASKS
OPTIONS = _aihub.OPTIONS


def rows(path: str, options: SimpleNamespace) -> Iterator[Item | Reject]:
    """An item a word, or a picture."""
    return _aihub.label_rows(path, options, read_page)


def read_page(label: dict) -> Page:
    """A label file's content."""
    image, text = label["image"], label.get("text") or {}
    size = stated_size(image.get("width"), image.get("height"))
    if text.get("word"):
        boxes = [(one.get("value"), one.get("wordbox")) for one in text["word"]]
        # A null box must not be taken for the whole picture.
        words = [korean_word(value, "malformed" if box is None else box) for value, box in boxes]
    else:
        letter = (text.get("letter") or {}).get("value")
        whole = letter if letter is not None else label.get("info").get("text")
        words = [korean_word(whole, None)]
    return Page(image["file_name"], size, words)
