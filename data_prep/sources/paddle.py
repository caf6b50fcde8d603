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

Labels = dict[bytes, str]  # {digest of picture and text: the label file that has them}


def rows(path: str, options: SimpleNamespace) -> Iterator[Item | Reject]:
    """One item per recognition line or detection box, of a folder's .txt labels together."""
    tree = Tree(path, options)
    images = picture_tree(tree, options)
    files = [tree.only] if tree.only else label_files(tree)
    labels: Labels = {}
    for name in sorted(files, key=lambda name: label_file_order(tree, name)):
        key = "" if len(files) == 1 else slug(stem(name)) + "-"
        split = tree.label_split(name)
        for number, line in tree.lines(name):
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
            folder = folder_of(name)
            pictures = [images.find(path, folder, split) for path in picture_names(picture)]
            for index, image in enumerate(pictures):
                for item in read_label(images, image, label.strip(), where, options):
                    if isinstance(item, Item):
                        other = labelled_in(labels, item, image, name) if len(files) > 1 else None
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
        if tab and all(path.lower().endswith(ENDINGS) for path in picture_names(picture)):
            return True
    return False


def label_file_order(tree: Tree, name: str) -> tuple[bool, bool]:
    """Sort key of a label file: files with boxes first, then files that state a split."""
    return b"\t[{" not in tree.head(name), tree.label_split(name) is None


def picture_names(text: str) -> list[str]:
    """The pictures of a line: a path, or a JSON list of paths with the same text."""
    if text.startswith("["):
        try:
            names = parse_json(text)
        except ValueError:
            return [text]
        if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
            return names
    return [text]


def labelled_in(labels: Labels, item: Item, image: str, name: str) -> str | None:
    """The label file that has an item's text on the same picture, or on the page of a crop.

    Without any, the item is added to `labels` as one of the file `name`.
    """
    page, box = page_of(image), item.pictures[0].box
    keys = [digest(image, str(box), item.text)]
    if page != image:
        keys.append(digest(page.rpartition("/")[2], "page", clean_text(item.text)))
    other = next((labels[key] for key in keys if key in labels), None)
    if other is None:
        labels[keys[0]] = name
        if box:
            base = stem(image).rpartition("/")[2]
            labels[digest(base, "page", clean_text(item.text))] = name
    return other


def digest(*parts: str) -> bytes:
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
            # PPOCRLabel writes "[]" for a picture without boxes.
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
    """The mark of an illegible box; "" for a legible one."""
    if box.get("difficult") is True:
        return f"difficult: {box['transcription']}"[:200]
    text = box["transcription"].strip()
    return text if text in (*ILLEGIBLE, *PLACEHOLDERS) else ""
