"""AI Hub sources: finding a label's picture, and rows of its words or of the whole picture.

INPUT is the folder that holds pictures and labels, unpacked or in the zips they come in; or the
archives of pictures (원천데이터) and of labels (라벨링데이터), each an INPUT of its own.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

from data_prep.dataset.archive import Tree
from data_prep.dataset.schema import Item, Reject
from data_prep.sources import IMAGES, folder_of, slug, stem
from data_prep.sources._pages import WRONG_SHAPE, Page, Word, page_rows, read_json

TASKS = ("words", "pages")
OPTIONS = {"images": None, "keep_illegible": False}
ILLEGIBLE = "xxx"  # how outdoor signs mark what nobody could read

# How labels' folders and archives are called, and how their pictures' are.
TWINS = (
    ("", ""),
    ("라벨링", "원천"),
    ("라벨", "원천"),
    ("TL", "TS"),
    ("VL", "VS"),
    ("label", "image"),
)


class UnclearPicture(Exception):
    """Several pictures have the name that a label gives, and none lies nearer to it."""


class Pictures:
    """Finds pictures by the names that labels give them, in the label's input and in others.

    Only inputs without any label are others: a picture that is missing in one complete dataset
    must not be taken from a second one.
    """

    def __init__(self, tree: Tree, inputs: Sequence[str] = ()) -> None:
        self.tree = tree
        trees = [Tree(path, legacy=tree.encoding) for path in inputs if Path(path) != tree.path]
        self.others = [other for other in trees if next(other.files("*.json"), None) is None]
        self.indexes: dict[bool, dict[str, list[tuple[Tree, str]]]] = {}

    def find(self, name: str, label: str) -> tuple[Tree, str]:
        """The tree and name of a label's picture: beside it, in a parallel tree, or anywhere.

        Where it is nowhere, it is a name that the label's own tree lacks. Raises UnclearPicture.
        """
        base = name.replace("\\", "/").rpartition("/")[2]
        for old, new in TWINS:
            folder = folder_of(label).replace(old, new) if old else folder_of(label)
            candidate = f"{folder}/{base}".lstrip("/")
            if candidate in self.tree:
                return self.tree, candidate
        for elsewhere in (False, True):
            if pictures := self.index(elsewhere).get(base):
                return nearest(pictures, self.tree, label)
        return self.tree, base

    def index(self, elsewhere: bool) -> dict[str, list[tuple[Tree, str]]]:
        """All pictures of the own tree, or of the others, by file name: only made if needed."""
        if elsewhere not in self.indexes:
            index: dict[str, list[tuple[Tree, str]]] = {}
            for tree in self.others if elsewhere else [self.tree]:
                for name in tree.files(*IMAGES):
                    index.setdefault(name.rpartition("/")[2], []).append((tree, name))
            self.indexes[elsewhere] = index
        return self.indexes[elsewhere]


def find_pictures(tree: Tree, options: SimpleNamespace) -> Pictures:
    """The pictures of a tree's labels: in it, in inputs without labels, and below `--images`."""
    return Pictures(tree, [*options.inputs, *filter(None, [options.images])])


def nearest(pictures: list[tuple[Tree, str]], tree: Tree, label: str) -> tuple[Tree, str]:
    """The picture whose last folders agree longest with those of a label in `tree`."""
    if len(pictures) == 1:
        return pictures[0]
    folders = [full_folder(tree, label, *twin) for twin in TWINS]
    scores = [max(shared_end(full_folder(*p), folder) for folder in folders) for p in pictures]
    best = [picture for picture, score in zip(pictures, scores) if score == max(scores)]
    if len(best) > 1:
        raise UnclearPicture(" and ".join(f"{place.path}: {name}" for place, name in best[:3]))
    return best[0]


def full_folder(tree: Tree, name: str, old: str = "", new: str = "") -> list[str]:
    """The folders of a file from its input's own name on, pictures' names put for labels'."""
    path = f"{tree.root.resolve().name}/{folder_of(name)}".rstrip("/")
    return (path.replace(old, new) if old else path).split("/")


def shared_end(path: list[str], other: list[str]) -> int:
    """Number of last parts that two paths share."""
    pairs = zip(reversed(path), reversed(other))
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def label_rows(
    path: str, options: SimpleNamespace, read_page: Callable[[dict], Page]
) -> Iterator[Item | Reject]:
    """Rows of every .json label file; `read_page` raises one of WRONG_SHAPE where it is none."""
    tree = Tree(path, options, legacy="cp949")
    pictures = find_pictures(tree, options)
    for name in tree.files("*.json"):
        try:
            page = read_page(read_json(tree, name))
            if not isinstance(page.image, str):
                raise ValueError("the picture's name is no text")
        except WRONG_SHAPE as error:
            yield Reject(name, "malformed JSON", f"{type(error).__name__}: {error}")
            continue
        try:
            place, page.image = pictures.find(page.image, name)
        except UnclearPicture as error:
            yield Reject(name, "several pictures of this name", str(error))
            continue
        key, split = slug(stem(name)), tree.split(name)
        yield from page_rows(place, page, name, key, options, language="ko", split=split)


def korean_word(text: object, points: object, meta: dict | None = None) -> Word:
    """A word as AI Hub annotates it."""
    meta = meta or {}
    if meta.get("class") == "ignored":
        return Word(text, points, meta, "marked as ignored")
    illegible = isinstance(text, str) and text.strip().lower() == ILLEGIBLE
    return Word(text, points, meta, "marked illegible" if illegible else "")
