"""PaddleOCR and PPOCRLabel label files, for recognition or detection.

`path<TAB>text` (also `["a.jpg", "b.jpg"]<TAB>text`) and `path<TAB>[{"transcription", "points"}]`
are told apart line by line. Of several files with the same texts the one with boxes is read, then
one whose name states a split. Boxes marked `difficult`, `###` or `*`, and PPOCRLabel's placeholders
for a text that is not typed yet, are illegible; `--keep-illegible` keeps their texts.
"""

import hashlib
from collections.abc import Iterator
from types import SimpleNamespace

from data_prep.dataset.archive import Tree, picture_tree
from data_prep.dataset.crops import enclosing_box
from data_prep.dataset.schema import (
    ENDINGS,
    Item,
    Picture,
    Reject,
    clean_text,
    is_unicode,
    parse_json,
)
from data_prep.dataset.split import CROP_FOLDER, page_of
from data_prep.sources import folder_of, slug, stem

EXAMPLE = "train_data/rec_gt_train.txt train_data/rec_gt_test.txt --language ko --out data/rec"
TASKS = ("lines",)
OPTIONS = {"language": "und", "images": None, "keep_illegible": False}
ILLEGIBLE = ("###", "*")
PLACEHOLDERS = ("待识别", "TEMPORARY")
NOT_LABELS = ("filestate.txt",)  # PPOCRLabel's list of the pictures that are done

Said = dict[bytes, str]  # a digest of (picture, text), and the label file that has it


def rows(path: str, options: SimpleNamespace) -> Iterator[Item | Reject]:
    """An item a recognition line or a detection box; given a folder, of all its .txt labels."""
    tree = Tree(path, options)
    images = picture_tree(tree, options)
    files = [tree.only] if tree.only else label_files(tree)
    said: Said = {}
    for name in sorted(files, key=lambda name: richness(tree, name)):
        key = "" if len(files) == 1 else slug(stem(name)) + "-"
        split = tree.label_split(name)
        for number, line in tree.lines(name):
            if not line.strip():
                continue
            where = f"{name}:{number}"
            picture, tab, label = line.partition("\t")
            if not tab:
                yield Reject(where, "malformed line", f"no tab: {line[:200]}")
                continue
            if not is_unicode(line):
                yield Reject(where, "text is not UTF-8", line[:200])
                continue
            if "\t" in label.strip():
                yield Reject(where, "malformed line", f"more than one tab: {line[:200]}")
                continue
            pictures = [images.find(one, folder_of(name), split) for one in picture_names(picture)]
            for index, image in enumerate(pictures):
                for item in read_label(images, image, label.strip(), where, options):
                    if isinstance(item, Item):
                        other = said_already(said, item, image, name) if len(files) > 1 else None
                        if other and other != name:
                            yield Reject(item.where, f"said already in {other}", item.text[:200])
                            continue
                        suffix = f"-{index}" if len(pictures) > 1 else ""
                        item.key = f"{key}{number:06d}{suffix}{item.key}"
                        item.split = split
                    yield item


def label_files(tree: Tree) -> list[str]:
    """The .txt files of which one of the first lines names a picture."""
    names = [n for n in tree.files("*.txt") if n.rpartition("/")[2].lower() not in NOT_LABELS]
    return [name for name in names if names_pictures(tree, name)]


def names_pictures(tree: Tree, name: str) -> bool:
    """Whether one of a file's first lines is `path<TAB>...` with the ending of a picture."""
    for line in tree.head(name).decode("utf-8", "replace").splitlines():
        picture, tab, _ = line.partition("\t")
        if tab and all(one.lower().endswith(ENDINGS) for one in picture_names(picture)):
            return True
    return False


def richness(tree: Tree, name: str) -> tuple[bool, bool]:
    """What a label file sorts by: with boxes before without, with a split before without."""
    return b"\t[{" not in tree.head(name), tree.label_split(name) is None


def picture_names(text: str) -> list[str]:
    """The pictures of a line: a path, or a JSON list of paths with the same text."""
    if text.startswith("["):
        try:
            names = parse_json(text)
        except ValueError:
            return [text]
        if isinstance(names, list) and names and all(isinstance(one, str) for one in names):
            return names
    return [text]


def said_already(said: Said, item: Item, image: str, name: str) -> str | None:
    """The label file that has an item's text on the same picture, or on the page of a crop."""
    page = page_of(image)
    box = item.pictures[0].box
    wanted = [(image, str(box), item.text)]
    if page != image:
        wanted.append((page.rpartition("/")[2], "page", clean_text(item.text)))
    other = next((said[one] for one in map(digest, wanted) if one in said), None)
    if other is None:
        said[digest(wanted[0])] = name
        if box:
            base = stem(image).rpartition("/")[2]
            said[digest((base, "page", clean_text(item.text)))] = name
    return other


def digest(parts: tuple[str, str, str]) -> bytes:
    """A short hash, so that memory holds no texts."""
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "replace"), digest_size=12).digest()


def read_label(
    tree: Tree, image: str, label: str, where: str, options: SimpleNamespace
) -> Iterator[Item | Reject]:
    """The items of one line, keyed by their place in it."""
    item = Item("", where, label, [Picture(tree.loader(image))], image, options.language)
    if not label.startswith(('[{"', "[{'")):
        is_crop = CROP_FOLDER in folder_of(image).split("/")
        marked = is_crop and label in (*ILLEGIBLE, *PLACEHOLDERS)
        if marked and not options.keep_illegible:
            yield Reject(where, "marked illegible", label)
        elif label == "[]":
            # PPOCRLabel's line for a picture without boxes.
            yield Reject(where, "empty text", "the picture has no box")
        else:
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
        elif mark_of(box) and not options.keep_illegible:
            yield Reject(place, "marked illegible", mark_of(box))
        else:
            try:
                picture = Picture(load, enclosing_box(box.get("points")))
            except ValueError as error:
                yield Reject(place, "malformed box", str(error))
                continue
            yield Item(f"-{index:04d}", place, text, [picture], image, options.language)


def mark_of(box: dict) -> str:
    """What says of a box that nobody can read it, or "" where nothing does."""
    if box.get("difficult") is True:
        return f"difficult: {box['transcription']}"[:200]
    text = box["transcription"].strip()
    return text if text in (*ILLEGIBLE, *PLACEHOLDERS) else ""
