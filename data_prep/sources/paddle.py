"""PaddleOCR label files, for recognition or detection.

`path<TAB>text` and `path<TAB>[{"transcription", "points"}]` are told apart line by line. Boxes
marked `###` or `*` are illegible by convention.
"""

from collections.abc import Iterator
from types import SimpleNamespace

from ..archive import Tree
from ..pictures import enclosing_box
from ..schema import Item, Picture, Reject, is_unicode, parse_json
from ..split import official_split
from . import folder_of, slug, stem

EXAMPLE = "train_data/rec_gt_train.txt train_data/rec_gt_test.txt --language ko --out data/rec"
TASKS = ("lines",)
OPTIONS = {"language": "und"}
ILLEGIBLE = ("###", "*")


def rows(path: str, options: SimpleNamespace) -> Iterator[Item | Reject]:
    """An item a recognition line or a detection box; given a folder, of all its .txt labels."""
    tree = Tree(path)
    files = list(tree.files("*.txt")) or ([tree.only] if tree.only else [])
    for name in files:
        key = "" if len(files) == 1 else slug(stem(name)) + "-"
        for number, line in tree.lines(name):
            if not line.strip():
                continue
            where = f"{name}:{number}"
            image, tab, label = line.partition("\t")
            if not tab:
                yield Reject(where, "malformed line", f"no tab: {line[:200]}")
                continue
            if not is_unicode(line):
                yield Reject(where, "text is not UTF-8", line[:200])
                continue
            image = tree.find(image, folder_of(name))
            for item in read_label(tree, image, label.strip(), where, options):
                if isinstance(item, Item):
                    item.key = f"{key}{number:06d}{item.key}"
                    item.split = official_split(name.rpartition("/")[2])
                yield item


def read_label(
    tree: Tree, image: str, label: str, where: str, options: SimpleNamespace
) -> Iterator[Item | Reject]:
    """The items of one line, keyed by their place in it."""
    item = Item("", where, label, [Picture(tree.loader(image))], image, options.language)
    if not label.startswith(('[{"', "[{'")) and label != "[]":
        yield item
        return
    try:
        boxes = parse_json(label)
    except ValueError as error:
        yield Reject(where, "malformed line", str(error))
        return
    load = item.pictures[0].load
    for index, box in enumerate(boxes):
        place = f"{where} box {index}"
        text = box.get("transcription") if isinstance(box, dict) else None
        if not isinstance(text, str):
            yield Reject(place, "malformed line", "a box without transcription")
        elif text in ILLEGIBLE:
            yield Reject(place, "marked illegible", text)
        else:
            try:
                picture = Picture(load, enclosing_box(box.get("points")))
            except ValueError as error:
                yield Reject(place, "malformed box", str(error))
                continue
            yield Item(f"-{index:04d}", place, text, [picture], image, options.language)
