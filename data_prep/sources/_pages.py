"""Pages whose words have boxes: an item for each word, or one for the page in reading order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

from data_prep.dataset.archive import Tree
from data_prep.dataset.crops import enclosing_box, read_points
from data_prep.dataset.pictures import PictureError
from data_prep.dataset.schema import Item, Picture, Reject, clean_text, parse_json
from data_prep.sources import stem
from data_prep.sources._reading_order import reading_order

MALFORMED = ("malformed box", "malformed annotation")
# Exceptions raised by the fields of a malformed label file.
WRONG_SHAPE = (ValueError, KeyError, TypeError, IndexError, AttributeError)


@dataclass
class Word:
    """An annotated text (None for null) and its points, None for the whole picture.

    `problem` is the reason of a reject that the annotation states, such as illegible. `outline` is
    "box", the enclosing rectangle; "quad", four corners that are straightened; or "mask", a polygon
    with white around it.
    """

    text: object
    points: object
    meta: dict = field(default_factory=dict)
    problem: str = ""
    outline: str = "box"


@dataclass
class Page:
    """A labelled picture: its file name, its annotated size if any, and its words."""

    image: str
    size: tuple[int, int] | None
    words: list[Word]


def page_rows(
    tree: Tree,
    page: Page,
    where: str,
    key: str,
    options: SimpleNamespace,
    *,
    language: str,
    split: str | None = None,
    group: str | None = None,
) -> Iterator[Item | Reject]:
    """Make one item per word, or with `--task pages` one of all words in reading order.

    `page.image` is the picture's name in the tree. A page leaves out words that are annotated as
    illegible; with a malformed box it is a reject.
    """
    load, group = tree.loader(page.image), group or stem(page.image)
    whole = options.task == "pages"
    words, left_out = [], 0
    for index, word in enumerate(page.words):
        place = f"{where} word {index}"
        result = read_word(word, place, getattr(options, "keep_illegible", False))
        if isinstance(result, Reject) and not whole:
            yield result
        elif isinstance(result, Reject):
            if result.reason in MALFORMED:
                yield Reject(where, result.reason, f"word {index}: {result.detail}")
                return
            left_out += 1
        elif whole:
            words.append(result)
        else:
            text, box = result
            quad, mask = outline_of(word)
            picture = Picture(load, box, page.size, quad=quad, mask=mask)
            key_of_word = f"{key}-{index:04d}"
            yield Item(
                key_of_word, place, text, [picture], group, language, split=split, meta=word.meta
            )
    if whole:
        text = reading_order([(box, text) for text, box in words if box])
        text = text or " ".join(text for text, _ in words)
        meta = {"left_out": left_out} if left_out else {}
        picture = Picture(load, None, page.size)
        yield Item(key, where, text, [picture], group, language, split=split, meta=meta)


def outline_of(word: Word) -> tuple[tuple | None, tuple | None]:
    """The (quad, mask) of a `Picture` for a word that is no upright rectangle."""
    if word.outline == "box" or not isinstance(word.points, Sequence):
        return None, None
    points = read_points(word.points)
    if word.outline == "mask":
        return None, points
    return points if len(points) == 4 else None, None


def read_word(word: Word, place: str, keep: bool = False) -> tuple[str, tuple | None] | Reject:
    """Return (text, box) of a word; the box is None where the word is the whole picture.

    `keep` keeps the text of words that are annotated as illegible.
    """
    if word.problem and not keep:
        return Reject(place, word.problem, str(word.text or ""))
    if word.text is None:
        return Reject(place, "null text")
    if not isinstance(word.text, str):
        return Reject(place, "malformed annotation", f"text is {word.text!r}"[:200])
    if word.points is None:
        return clean_text(word.text), None
    try:
        return clean_text(word.text), enclosing_box(word.points)
    except ValueError as error:
        return Reject(place, "malformed box", str(error))


def corners(box: object) -> object:
    """Convert [x, y, width, height] to two corners; "malformed" for other values."""
    if not isinstance(box, Sequence) or len(box) != 4:
        return "malformed"
    try:
        enclosing_box(box)  # refuses values that are no numbers
    except ValueError:
        return "malformed"
    left, top, width, height = box
    return [left, top, left + width, top + height] if min(width, height) >= 0 else "malformed"


def stated_size(width: object, height: object) -> tuple[int, int] | None:
    """The annotated size (width, height) in pixels; None where it is none."""
    if not isinstance(width, int) or not isinstance(height, int):
        return None
    return (width, height) if width > 0 and height > 0 else None


def read_json(tree: Tree, name: str) -> dict:
    """Read a label file; ValueError if it is no JSON object."""
    try:
        value = parse_json(tree.read_text(name))
    except PictureError as error:
        raise ValueError(error.detail) from None
    if not isinstance(value, dict):
        raise ValueError(f"a JSON object is expected, not {type(value).__name__}")
    return value
