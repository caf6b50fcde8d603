"""AI Hub Text in the Wild (한국어 글자체 이미지): words, or whole photographs.

One `textinthewild_data_info.json`: `images[]{id, file_name, type}` and `annotations[]{image_id,
bbox: [x, y, w, h], text, attributes{class: word, character or ignored}}`. On whole photographs,
characters that lie inside a word are not read twice.
"""

from collections.abc import Iterator
from types import SimpleNamespace

from data_prep.dataset.archive import Tree
from data_prep.dataset.schema import Item, Reject
from data_prep.sources import _aihub, slug
from data_prep.sources._aihub import Pictures, UnclearPicture, find_pictures, korean_word
from data_prep.sources._jsonstream import json_elements
from data_prep.sources._pages import Page, Word, corners, page_rows, stated_size

EXAMPLE = "textinthewild/ --task words --workers 4 --out data/wild"
TASKS = _aihub.TASKS
OPTIONS = _aihub.OPTIONS
INSIDE = 0.8  # share of a character's area in a word that makes it the word's own


def rows(path: str, options: SimpleNamespace) -> Iterator[Item | Reject]:
    """One item per annotation, or per photograph (which holds all annotations in memory)."""
    tree = Tree(path, options, legacy="cp949")
    pictures = find_pictures(tree, options)
    for name in tree.files("textinthewild*.json", "*data_info*.json"):
        images: dict[object, tuple] = {}
        try:
            with tree.open_text(name) as stream:
                for image in json_elements(stream, "images"):
                    file = image["file_name"]
                    size = stated_size(image.get("width"), image.get("height"))
                    images[str(image["id"])] = (str(file), size, image.get("type"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            yield Reject(name, "malformed JSON", f"{type(error).__name__}: {error}")
            continue
        pages: dict[str, list[Word]] = {}
        for number, annotation in enumerate(annotations(tree, name)):
            where = f"{name} annotation {number}"
            if isinstance(annotation, Reject):
                yield annotation
                continue
            image_id, word = annotation
            if image_id not in images:
                yield Reject(where, "missing image", f"no image has the id {image_id}")
            elif options.task == "pages":
                pages.setdefault(image_id, []).append(word)
            else:
                file, size, kind = images[image_id]
                word.meta |= {"type": kind} if kind else {}
                page = Page(file, size, [word])
                yield from picture_rows(pictures, page, name, where, f"{number:07d}", options)
        for number, (image_id, words) in enumerate(pages.items()):
            file, size, _ = images[image_id]
            page = Page(file, size, without_repeats(words))
            where = f"{name} image {image_id}"
            yield from picture_rows(pictures, page, name, where, f"page-{number:06d}", options)


def picture_rows(
    pictures: Pictures, page: Page, label: str, where: str, key: str, options: SimpleNamespace
) -> Iterator[Item | Reject]:
    """The items of a picture's words; `label` is the label file."""
    try:
        tree, page.image = pictures.find(page.image, label)
    except UnclearPicture as error:
        yield Reject(where, "several pictures of this name", str(error))
        return
    split = tree.split(page.image) or pictures.tree.split(label)
    yield from page_rows(tree, page, where, slug(key), options, language="ko", split=split)


def annotations(tree: Tree, name: str) -> Iterator[tuple[str, Word] | Reject]:
    """(image id, word) of every annotation."""
    with tree.open_text(name) as stream:
        try:
            for number, value in enumerate(json_elements(stream, "annotations")):
                try:
                    attributes = value.get("attributes") or {}
                    meta = {"class": attributes.get("class", "word")}
                    word = korean_word(value.get("text"), corners(value.get("bbox")), meta)
                    yield str(value["image_id"]), word
                except (KeyError, AttributeError) as error:
                    where = f"{name} annotation {number}"
                    yield Reject(where, "malformed annotation", f"{type(error).__name__}: {error}")
        except ValueError as error:
            yield Reject(name, "malformed JSON", str(error))


def without_repeats(words: list[Word]) -> list[Word]:
    """The words of a picture without the characters that lie inside one of them."""
    boxes = [w.points for w in words if w.meta["class"] == "word" and isinstance(w.points, list)]
    return [
        word
        for word in words
        if word.meta["class"] != "character"
        or not isinstance(word.points, list)
        or not any(share_inside(word.points, box) >= INSIDE for box in boxes)
    ]


def share_inside(inner: list[float], outer: list[float]) -> float:
    """The share of one box's area that lies in another."""
    width = min(inner[2], outer[2]) - max(inner[0], outer[0])
    height = min(inner[3], outer[3]) - max(inner[1], outer[1])
    area = (inner[2] - inner[0]) * (inner[3] - inner[1])
    return max(width, 0) * max(height, 0) / area if area else 0.0
