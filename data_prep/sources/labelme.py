"""LabelMe annotations (a .json a picture) of any language, as words or whole pages.

A shape's text is its `label`; or its `description` (its `text`), where a file has any, for its
labels are then kinds such as "text".
"""

import base64
import binascii
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace

from data_prep.dataset.archive import Tree, picture_tree
from data_prep.dataset.schema import Item, Reject
from data_prep.sources import folder_of, slug, stem
from data_prep.sources._pages import WRONG_SHAPE, Page, Word, page_rows, read_json, stated_size

EXAMPLE = "annotations/ --images photos/ --language bn --out data/words"
TASKS = ("words", "pages")
OPTIONS = {"images": None, "language": "und"}
SHAPES = {"rectangle": "box", "polygon": "mask", "rotation": "quad", "quadrilateral": "quad"}


def rows(path: str, options: SimpleNamespace) -> Iterator[Item | Reject]:
    """One item per shape or page; circles, lines and points are rejects."""
    tree = Tree(path, options)
    images = picture_tree(tree, options)
    for name in tree.files("*.json"):
        try:
            label = read_json(tree, name)
            if "shapes" not in label:
                continue  # another file
            words = read_shapes(label["shapes"])
        except WRONG_SHAPE as error:
            yield Reject(name, "malformed JSON", f"{type(error).__name__}: {error}"[:200])
            continue
        size = stated_size(label.get("imageWidth"), label.get("imageHeight"))
        image = find_image(images, name, label.get("imagePath"), tree.split(name))
        page = Page(image, size, words)
        load = None if image in images else embedded_picture(label.get("imageData"))
        places = {"language": options.language, "split": tree.split(name)}
        for item in page_rows(images, page, name, slug(stem(name)), options, **places):
            if isinstance(item, Item) and load is not None:
                item.pictures[0].load = load
            yield item


def read_shapes(shapes: list[dict]) -> list[Word]:
    """The words of a file's shapes."""
    described = [shape.get("description", shape.get("text")) for shape in shapes]
    has_texts = any(isinstance(text, str) and text.strip() for text in described)
    words = []
    for shape, text in zip(shapes, described):
        kind = shape.get("shape_type") or "polygon"
        # A polygon of two points is a rectangle, as older files have it.
        points = shape.get("points")
        outline = SHAPES.get(kind, "") if isinstance(points, list) and len(points) > 2 else "box"
        meta = {"label": shape["label"]} if has_texts else {}
        points = points if kind in SHAPES and points else "malformed"
        words.append(Word(text if has_texts else shape["label"], points, meta, outline=outline))
    return words


def find_image(images: Tree, name: str, stated: object, split: str | None) -> str:
    """The picture that a file names, or else the one that has the file's own name."""
    image = images.find(stated, folder_of(name), split) if isinstance(stated, str) else ""
    if image and image in images:
        return image
    return images.picture_of(stem(name)) or image or f"{stem(name)}.jpg"


def embedded_picture(data: str | None) -> partial | None:
    """Loader of the picture that a label file holds in itself; None where it holds none."""
    try:
        return partial(bytes, base64.b64decode(data, validate=True)) if data else None
    except (binascii.Error, TypeError, ValueError):
        return None
