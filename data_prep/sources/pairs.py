"""Pictures beside the `.gt.txt`, `.txt` or `.json` of their name, also in a webdataset's tars.

So Tesseract's tesstrain, kraken and Calamari keep lines. A `.json` is the answer of an extraction;
with `--task transcription` it is what stands under its `text`.
"""

import re
import unicodedata
from collections.abc import Iterator
from types import SimpleNamespace

from data_prep.dataset.archive import Tree, picture_tree
from data_prep.dataset.pictures import PictureError
from data_prep.dataset.schema import Item, Picture, Reject, dump_json, parse_json
from data_prep.sources import IMAGES, slug, stem

EXAMPLE = "foo-ground-truth/ --language bn --out data/lines"
TASKS = ("labels", "transcription", "extraction")
OPTIONS = {"images": None, "language": "und"}
LABELS = (".gt.txt", ".txt", ".json")  # the first that a picture has is its label
# What OCRopus and Calamari put before a picture's ending, for its versions of one line.
VERSIONS = (".bin", ".nrm", ".dew", ".raw")
NOTES = ("readme", "license", "licence", "source", "sources", "notice", "changelog")
YOLO = re.compile(r"\s*(\d+( +\d*\.?\d+(e-?\d+)?){4,}\s*)+", re.IGNORECASE)


def rows(path: str, options: SimpleNamespace) -> Iterator[Item | Reject]:
    """One item per picture; a label file without a picture is a reject."""
    tree = Tree(path, options)
    images = picture_tree(tree, options)
    labels = label_files(tree)
    pictures = list(images.files(*IMAGES))
    used = {label_of(labels, image)[0] for image in pictures}
    # Labels whose picture lies in another folder, or nowhere.
    apart = {name: images.picture_of(name) for name in labels if name not in used}
    shown = set(apart.values())
    for image in pictures:
        _, label = label_of(labels, image)
        if label is not None:
            yield read_pair(tree, images, image, label, options)
        elif images is tree and image not in shown:
            yield Reject(image, "missing annotation", f"no {', '.join(LABELS)} of its name")
    for name, image in apart.items():
        if image is not None:
            yield read_pair(tree, images, image, labels[name], options)
        elif name.rpartition("/")[2].lower() not in NOTES:
            yield Reject(labels[name], "missing image", f"no picture is called {name}")


def label_files(tree: Tree) -> dict[str, str]:
    """The label file of every name without its ending, in NFC: the first kind of `LABELS`."""
    labels: dict[str, str] = {}
    for label in tree.files(*(f"*{ending}" for ending in LABELS)):
        ending = ending_of(label)
        name = unicodedata.normalize("NFC", label[: -len(ending)])
        other = labels.get(name)
        if other is None or LABELS.index(ending) < LABELS.index(ending_of(other)):
            labels[name] = label
    return labels


def ending_of(label: str) -> str:
    """Which of the `LABELS` a file's name ends with."""
    return next(ending for ending in LABELS if label.lower().endswith(ending))


def label_of(labels: dict[str, str], image: str) -> tuple[str, str | None]:
    """(name, label file) of a picture.

    Where there is no label of its name, that with its ending (`a.jpg.txt`) or without its version
    is taken.
    """
    name = unicodedata.normalize("NFC", stem(image))
    whole = unicodedata.normalize("NFC", image)
    if name not in labels and whole in labels:
        return whole, labels[whole]
    if name not in labels and name.lower().endswith(VERSIONS):
        name = name.rpartition(".")[0]
    return name, labels.get(name)


def read_pair(
    tree: Tree, images: Tree, image: str, label: str, options: SimpleNamespace
) -> Item | Reject:
    """A picture with its label as an item."""
    is_json = label.lower().endswith(".json")
    if options.task == "extraction" and not is_json:
        return Reject(label, "missing annotation", "the label is a text, not JSON")
    try:
        data = tree.read_text(label)
        text = data.decode("utf-8", "surrogateescape")
        if is_json:
            value = parse_json(text)
            text = value["text"] if options.task == "transcription" else dump_json(value)
            if not isinstance(text, str):
                raise TypeError(f"text is {text!r}")
        elif YOLO.fullmatch(text):
            return Reject(label, "annotation is no text", f"boxes of numbers: {text[:100]}")
    except PictureError as error:
        return Reject(label, error.reason, error.detail)
    except (ValueError, KeyError, TypeError) as error:
        return Reject(label, "malformed JSON", f"{type(error).__name__}: {error}"[:200])
    extraction = is_json and options.task != "transcription"
    name = unicodedata.normalize("NFC", stem(image))
    return Item(
        key=slug(image),
        where=image,
        text=text,
        pictures=[Picture(images.loader(image))],
        group=name.rpartition(".")[0] if name.lower().endswith(VERSIONS) else name,
        language=options.language,
        task="extraction" if extraction else "transcription",
        split=images.split(image) or tree.split(label),
    )
