"""AI Hub letters (다양한 형태의 한글 문자 OCR): letters, words, or whole pictures.

One JSON file per picture: `image.file_name` with either `text.letter.value`, the text of the whole
picture, or `text.word[]{value, wordbox: [x1, y1, x2, y2]}`, or only `info.text`.
"""

from functools import partial

from data_prep.sources import _aihub
from data_prep.sources._pages import Page, stated_size

EXAMPLE = "letters/ --task words --out data/letters"
TASKS, OPTIONS = _aihub.TASKS, _aihub.OPTIONS


def read_page(label: dict) -> Page:
    """Read a label file: a page of words, or of one text that is the whole picture's."""
    image, text = label["image"], label.get("text") or {}
    size = stated_size(image.get("width"), image.get("height"))
    if text.get("word"):
        boxes = [(word.get("value"), word.get("wordbox")) for word in text["word"]]
        # A null box must not be taken for the whole picture.
        words = [_aihub.korean_word(t, "malformed" if box is None else box) for t, box in boxes]
    else:
        letter = (text.get("letter") or {}).get("value")
        words = [_aihub.korean_word(label["info"].get("text") if letter is None else letter, None)]
    return Page(image["file_name"], size, words)


rows = partial(_aihub.label_rows, read_page=read_page)
