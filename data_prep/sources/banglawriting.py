"""BanglaWriting: pages `<writer>_<age>_<gender>.jpg` with LabelMe .json, as words or whole pages.

A word labelled `*` was struck out by its writer (taken so; the authors do not say).
"""

from collections.abc import Iterator
from types import SimpleNamespace

from data_prep.dataset.archive import Tree, picture_tree
from data_prep.dataset.schema import Item, Reject
from data_prep.sources import folder_of, slug, stem
from data_prep.sources._pages import WRONG_SHAPE, Page, Word, page_rows, read_json, stated_size

EXAMPLE = "BanglaWriting/converted --task words --out data/banglawriting"
TASKS = ("words", "pages")
OPTIONS = {"images": None, "keep_illegible": False}


def rows(path: str, options: SimpleNamespace) -> Iterator[Item | Reject]:
    """One item per word or page; the group is the writer."""
    tree = Tree(path, options)
    images = picture_tree(tree, options)
    for name in tree.files("*.json"):
        try:
            label = read_json(tree, name)
            words = [
                Word(
                    shape["label"],
                    shape.get("points") or "malformed",
                    problem="struck out" if shape["label"] == "*" else "",
                )
                for shape in label["shapes"]
            ]
        except WRONG_SHAPE as error:
            yield Reject(name, "malformed JSON", f"{type(error).__name__}: {error}")
            continue
        size = stated_size(label.get("imageWidth"), label.get("imageHeight"))
        page = Page(find_image(images, name, label.get("imagePath")), size, words)
        base = stem(name).rpartition("/")[2]
        yield from page_rows(
            images, page, name, slug(stem(name)), options, language="bn", group=base.split("_")[0]
        )


def find_image(tree: Tree, label: str, stated: object) -> str:
    """The picture beside a label file: of the same name, or as the file states it."""
    for ending in (".jpg", ".JPG", ".jpeg", ".png"):
        if (name := stem(label) + ending) in tree:
            return name
    if beside := tree.picture_of(stem(label)):
        return beside
    return tree.find(stated, folder_of(label)) if isinstance(stated, str) else f"{stem(label)}.jpg"
