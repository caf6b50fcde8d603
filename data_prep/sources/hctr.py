"""Lines of Chinese handwriting in Intel's layout: `*_img_id_gt.txt` of `id,text`, and pictures."""

from collections.abc import Iterator
from types import SimpleNamespace

from data_prep.dataset.archive import Tree, picture_tree
from data_prep.dataset.schema import Item, Picture, Reject, is_unicode
from data_prep.sources import IMAGES, folder_of, slug, stem
from data_prep.sources._hwdb import PROMPT

EXAMPLE = "hctr_data --out data/hctr"
TASKS = ("lines",)
OPTIONS = {"images": None}


def rows(path: str, options: SimpleNamespace) -> Iterator[Item | Reject]:
    """One item per line of a label file, whose first comma alone separates."""
    tree = Tree(path, options)
    images = picture_tree(tree, options)
    for name in tree.files("*img_id_gt.txt"):
        base = name.rpartition("/")[2]
        phase, split = base.removesuffix("_img_id_gt.txt"), tree.label_split(name)
        for number, line in tree.lines(name):
            where = f"{name}:{number}"
            image, comma, text = line.partition(",")
            if not comma or not is_unicode(line):
                reason = "malformed line" if is_unicode(line) else "text is not UTF-8"
                yield Reject(where, reason, line[:200])
                continue
            image = find_image(images, folder_of(name), phase, image.strip())
            yield Item(
                key=f"{slug(phase)}-{number:06d}",
                where=where,
                text=text,
                pictures=[Picture(images.loader(image))],
                group=stem(image),
                language="zh",
                split=split,
                prompt=PROMPT,
            )


def find_image(tree: Tree, folder: str, phase: str, image: str) -> str:
    """A picture in the phase's folder or beside the labels, its extension given or not."""
    endings = ("", *(pattern.removeprefix("*") for pattern in IMAGES))
    for place in (f"{folder}/{phase}/", f"{folder}/"):
        for ending in endings:
            name = f"{place}{image}{ending}".lstrip("/")
            if name in tree:
                return name
    path = f"{folder}/{phase}/{image}".lstrip("/")
    return tree.picture_of(path) or tree.find(f"{phase}/{image}", folder)
