"""ICDAR scene text: `gt_img_1.txt` of `x1,y1,...,x4,y4,text` for `img_1.jpg`, put straight.

Also with a script before the text (2017 and 2019), with two corners and a text in quotes (2013),
and as `gt.txt` of `word_1.png, "text"`. `###` is illegible; `--keep-illegible` keeps it as text.
"""

import re
from collections.abc import Iterator
from types import SimpleNamespace

from data_prep.dataset.archive import Tree, picture_tree
from data_prep.dataset.crops import enclosing_box
from data_prep.dataset.schema import ENDINGS, Item, Picture, Reject
from data_prep.sources import folder_of, slug, stem

EXAMPLE = "icdar2015/ --language en --out data/scenes"
TASKS = ("words",)
OPTIONS = {"images": None, "keep_illegible": False, "language": "und"}
ILLEGIBLE = "###"
SCRIPTS = "Arabic Latin Chinese Japanese Korean Bangla Hindi Symbols Mixed None".split()
CORNERS = re.compile(r'\s*(-?\d+)[, ]+(-?\d+)[, ]+(-?\d+)[, ]+(-?\d+)[, ]+"(.*)"\s*')
WORD = re.compile(r'\s*([^,"]+?),\s*"(.*)"\s*')


def rows(path: str, options: SimpleNamespace) -> Iterator[Item | Reject]:
    """One item per line of a label file; its group is the picture."""
    tree = Tree(path, options)
    images = picture_tree(tree, options)
    for name in [tree.only] if tree.only else tree.files("gt_*.txt", "gt.txt", "*_gt.txt"):
        has_script = states_script(tree, name)
        image = find_image(images, name)
        for number, line in tree.lines(name):
            where = f"{name}:{number}"
            try:
                item = read_line(images, image, line, has_script, folder_of(name))
            except ValueError as error:
                yield Reject(where, "malformed line", f"{error}: {line[:200]}")
                continue
            if item.text.strip() == ILLEGIBLE and not options.keep_illegible:
                yield Reject(where, "marked illegible", ILLEGIBLE)
                continue
            item.key, item.where = f"{slug(stem(name))}-{number:04d}", where
            item.language = options.language
            item.split = tree.split(name) or tree.label_split(name)
            yield item


def states_script(tree: Tree, name: str) -> bool:
    """Whether every line of a file has a script in the ninth place."""
    lines = [line.split(",", 9) for _, line in tree.lines(name)]
    return bool(lines) and all(len(line) == 10 and line[8] in SCRIPTS for line in lines)


def find_image(images: Tree, label: str) -> str:
    """The picture of a label file: `gt_img_1.txt` is of `img_1.jpg`."""
    base = re.sub(r"^gt_|_gt$", "", stem(label).rpartition("/")[2])
    place = f"{folder_of(label)}/{base}".lstrip("/")
    return images.picture_of(place) or f"{place}.jpg"


def read_line(images: Tree, image: str, line: str, has_script: bool, folder: str) -> Item:
    """A line as an item, its key left out; ValueError where it is none of the kinds."""
    meta: dict[str, str] = {}
    if match := CORNERS.fullmatch(line):
        left, top, right, bottom = (float(match[at]) for at in (1, 2, 3, 4))
        corners, text = [left, top, right, top, right, bottom, left, bottom], match[5]
    elif (match := WORD.fullmatch(line)) and match[1].lower().endswith(ENDINGS):
        place = images.find(match[1], folder)
        text = match[2].replace('\\"', '"')
        return Item("", "", text, [Picture(images.loader(place))], place, "")
    else:
        parts = line.split(",", 9 if has_script else 8)
        if len(parts) < 9:
            raise ValueError(f"{len(parts)} of 9 parts")
        corners, text = [float(part) for part in parts[:8]], parts[-1]
        meta = {"script": parts[8]} if has_script else {}
    box = enclosing_box(corners)
    quad = tuple(zip(corners[::2], corners[1::2]))
    return Item("", "", text, [Picture(images.loader(image), box, quad=quad)], image, "", meta=meta)
