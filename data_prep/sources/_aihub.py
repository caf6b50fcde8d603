"""What the AI Hub sources share: finding a label's picture, and rows of its words or of all of it.

INPUT is the folder that holds pictures and labels, unpacked or in the zips they come in.
"""

from collections.abc import Callable, Iterator
from types import SimpleNamespace

from ..archive import Tree
from ..schema import Item, Reject
from . import IMAGES, folder_of, slug, stem
from ._pages import WRONG_SHAPE, Page, Word, page_rows, read_json

TASKS = ("words", "pages")
ILLEGIBLE = "xxx"  # how outdoor signs mark what nobody could read

# How the parallel trees of pictures are called where the labels' are called otherwise.
TWINS = (("라벨링", "원천"), ("라벨", "원천"), ("TL", "TS"), ("VL", "VS"), ("label", "image"))


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
    """Rows of every .json label file; `read_page` raises one of WRONG_SHAPE where it is none."""
    tree = Tree(path)
    pictures = Pictures(tree)
    for name in tree.files("*.json"):
        try:
            page = read_page(read_json(tree, name))
            if not isinstance(page.image, str):
                raise ValueError("the picture's name is no text")
        except WRONG_SHAPE as error:
            yield Reject(name, "malformed JSON", f"{type(error).__name__}: {error}")
            continue
        page.image = pictures.find(page.image, name)
        key, split = slug(stem(name)), tree.split(name)
        yield from page_rows(tree, page, name, key, options, language="ko", split=split)


def korean_word(text: object, points: object, meta: dict | None = None) -> Word:
    """A word as AI Hub annotates it."""
    meta = meta or {}
    if meta.get("class") == "ignored":
        return Word(text, points, meta, "marked as ignored")
    illegible = isinstance(text, str) and text.strip().lower() == ILLEGIBLE
    return Word(text, points, meta, "marked illegible" if illegible else "")
