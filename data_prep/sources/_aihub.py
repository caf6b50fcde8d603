"""What the AI Hub sources share: finding a label's picture, and rows of words or whole pages.

INPUT is the folder that holds pictures and labels, unpacked or in the zips they come in.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace

from ..archive import Tree
from ..pictures import PictureError, enclosing_box
from ..reading import reading_order
from ..schema import Item, Picture, Reject, clean_text, parse_json
from . import IMAGES, folder_of, slug, stem

TASKS = ("words", "pages")
ILLEGIBLE = "xxx"  # how outdoor signs mark what nobody could read

# How the parallel trees of pictures are called where the labels' are called otherwise.
TWINS = (("라벨링", "원천"), ("라벨", "원천"), ("TL", "TS"), ("VL", "VS"), ("label", "image"))


@dataclass
class Word:
    """One annotated word: its text (None for null), its box as annotated, and what to note."""

    text: object
    points: object
    meta: dict


@dataclass
class Page:
    """One labelled picture: its file name, its stated size if any, and its words."""

    image: str
    size: tuple[int, int] | None
    words: list[Word]


class Pictures:
    """Finds pictures by the names that labels give them."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.index: dict[str, str] | None = None

    def find(self, name: str, label: str) -> str:
        """The picture `name` of a label file: beside it, in its parallel tree, or anywhere."""
        base = name.replace("\\", "/").rpartition("/")[2]
        for old, new in (("", ""), *TWINS):
            folder = folder_of(label).replace(old, new) if old else folder_of(label)
            if (candidate := f"{folder}/{base}".lstrip("/")) in self.tree:
                return candidate
        if self.index is None:
            # Only where the trees are not parallel: all names are held in memory then.
            self.index = {n.rpartition("/")[2]: n for n in self.tree.files(*IMAGES)}
        return self.index.get(base, base)


def label_rows(
    path: str, options: SimpleNamespace, read_page: Callable[[dict], Page]
) -> Iterator[Item | Reject]:
    """Rows of every .json label file; `read_page` raises ValueError, KeyError... if it is none."""
    tree = Tree(path)
    pictures = Pictures(tree)
    for name in tree.files("*.json"):
        try:
            page = read_page(read_json(tree, name))
            if not isinstance(page.image, str) or not isinstance(page.words, list):
                raise ValueError("the picture's name or the annotations are of a wrong type")
        except PictureError as error:
            yield Reject(name, "malformed JSON", error.detail)
            continue
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            yield Reject(name, "malformed JSON", f"{type(error).__name__}: {error}")
            continue
        image = pictures.find(page.image, name)
        yield from page_rows(tree, image, page, name, slug(stem(name)), tree.split(name), options)


def page_rows(
    tree: Tree,
    image: str,
    page: Page,
    where: str,
    key: str,
    split: str | None,
    options: SimpleNamespace,
) -> Iterator[Item | Reject]:
    """An item a word, or with `--task pages` one item with all words in reading order."""
    load, group = tree.loader(image), stem(image)
    whole = options.task == "pages"
    words, left_out = [], 0
    for index, word in enumerate(page.words):
        place = f"{where} word {index}"
        item = read_word(word, place)
        if isinstance(item, Reject):
            if not whole:
                yield item
            elif item.reason in ("malformed box", "malformed annotation"):
                # A word that is read but cannot be placed: the page's text would lack it.
                yield Reject(where, item.reason, f"word {index}: {item.detail}")
                return
            else:
                left_out += 1
            continue
        text, box = item
        if whole:
            words.append((box, text))
            continue
        yield Item(
            key=f"{key}-{index:04d}",
            where=place,
            text=text,
            pictures=[Picture(load, box, page.size)],
            group=group,
            language="ko",
            split=split,
            meta=word.meta,
        )
    if whole:
        yield Item(
            key=key,
            where=where,
            text=reading_order([(box, text) for box, text in words if box])
            or " ".join(text for _, text in words),
            pictures=[Picture(load, None, page.size)],
            group=group,
            language="ko",
            split=split,
            meta={"left_out": left_out} if left_out else {},
        )


def read_word(word: Word, place: str) -> tuple[str, tuple | None] | Reject:
    """(text, box) of a word; the box is None where the word is the whole picture."""
    if word.meta.get("class") == "ignored":
        return Reject(place, "marked as ignored", str(word.text or ""))
    if word.text is None:
        return Reject(place, "null text")
    if not isinstance(word.text, str):
        return Reject(place, "malformed annotation", f"text is {word.text!r}"[:200])
    if word.text.strip().lower() == ILLEGIBLE:
        return Reject(place, "marked illegible", word.text)
    if word.points is None:
        return clean_text(word.text), None
    try:
        return clean_text(word.text), enclosing_box(word.points)
    except ValueError as error:
        return Reject(place, "malformed box", str(error))


def corners(box: object) -> list:
    """[x, y, width, height] as two corners; ValueError where it is no such box."""
    if not isinstance(box, list) or len(box) != 4:
        raise ValueError(f"box is {box!r}"[:200])
    left, top, width, height = box
    enclosing_box(box)  # numbers, all of them
    if width < 0 or height < 0:
        raise ValueError(f"box is {box!r}"[:200])
    return [left, top, left + width, top + height]


def corners_or_bad(box: object) -> object:
    """As `corners`, but what is no box stays as it is, to be one word's reject."""
    try:
        return corners(box)
    except ValueError:
        return "malformed"


def stated_size(width: object, height: object) -> tuple[int, int] | None:
    """A stated size, where it is one."""
    good = all(isinstance(side, int) and side > 0 for side in (width, height))
    return (width, height) if good else None


def read_json(tree: Tree, name: str) -> dict:
    """A label file, in UTF-8 or CP949; ValueError if it is no JSON object."""
    data = tree.read(name).removeprefix(b"\xef\xbb\xbf")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("cp949")
    value = parse_json(text)
    if not isinstance(value, dict):
        raise ValueError(f"a JSON object is expected, not {type(value).__name__}")
    return value
