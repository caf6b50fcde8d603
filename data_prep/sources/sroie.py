"""SROIE receipts (ICDAR 2019): text boxes as lines, or the four key fields as JSON.

Pictures, boxes (`x1,y1,...,x4,y4,text`) and keys (JSON) are found by name, whether they lie in
`img`, `box` and `key` (or `entities`) folders, or together as the competition's zips have them.
"""

import unicodedata
from collections.abc import Iterator
from types import SimpleNamespace

from data_prep.dataset.archive import Tree, picture_tree
from data_prep.dataset.crops import enclosing_box
from data_prep.dataset.pictures import PictureError
from data_prep.dataset.schema import Item, Picture, Reject, clean_text, dump_json, parse_json
from data_prep.sources import IMAGES, slug, stem

EXAMPLE = "SROIE2019 --task lines --out data/sroie"
TASKS = ("lines", "fields")
OPTIONS = {"images": None, "keep_illegible": False}
ILLEGIBLE = "###"  # how ICDAR marks what nobody could read; any other mark is text on a receipt
FIELDS = ("company", "date", "address", "total")
PROMPT = "Extract the company, date, address and total of this receipt as JSON."


def rows(path: str, options: SimpleNamespace) -> Iterator[Item | Reject]:
    """One item per box (`lines`), cut by its enclosing rectangle, or per receipt (`fields`)."""
    tree = Tree(path, options)
    images = picture_tree(tree, options)
    pictures = {document(name): name for name in images.files(*IMAGES)}
    labels = {}
    for name in tree.files("*.csv", "*.txt", "*.json"):
        is_key = looks_like_key(tree, name)
        if is_key is not None and is_key == (options.task == "fields"):
            labels[document(name)] = name
    for doc in labels.keys() - pictures.keys():  # their folders are called otherwise
        if image := images.picture_of(doc):
            pictures = {other: name for other, name in pictures.items() if name != image}
            pictures[doc] = image
    for doc in sorted(labels.keys() | pictures.keys()):
        if doc not in labels:
            kind = "key" if options.task == "fields" else "box"
            yield Reject(pictures[doc], "missing annotation", f"no {kind} file for this picture")
            continue
        image = pictures.get(doc) or f"{stem(labels[doc])}.jpg"
        picture = Picture(images.loader(image))
        read = receipt_lines if options.task == "lines" else receipt_fields
        for item in read(tree, labels[doc], doc, picture):
            marked = isinstance(item, Item) and item.text.strip() == ILLEGIBLE
            if marked and not options.keep_illegible:
                item = Reject(item.where, "marked illegible", ILLEGIBLE)
            if isinstance(item, Item):
                item.split = tree.split(labels[doc])
            yield item


def document(name: str) -> str:
    """The name that a picture and its labels share: their path without the kind's folder.

    ICDAR's older competitions call the labels of `img_1.jpg` `gt_img_1.txt`.
    """
    kinds = ("img", "images", "image", "box", "boxes", "key", "keys", "entities", "gt")
    *folders, base = unicodedata.normalize("NFC", stem(name)).split("/")
    kept = [folder for folder in folders if folder.lower() not in kinds]
    return "/".join([*kept, base.removeprefix("gt_")])


def looks_like_key(tree: Tree, name: str) -> bool | None:
    """True for key JSON, False for boxes, None for neither; both come as .txt, so this reads."""
    if name.lower().endswith(".json"):
        return True
    head = tree.head(name).lstrip()
    if head.startswith(b"{"):
        return True
    # A note such as a licence is no label file; an empty or damaged label file still is one.
    in_kind = any(part.lower() in ("box", "boxes", "key", "entities") for part in name.split("/"))
    return False if in_kind or head.split(b"\n")[0].count(b",") >= 8 else None


def receipt_lines(tree: Tree, name: str, doc: str, picture: Picture) -> Iterator[Item | Reject]:
    """Every line of a box file. Only the first 8 commas separate, for texts hold commas."""
    key = slug(doc)
    for number, line in tree.lines(name):
        where, parts = f"{name}:{number}", line.split(",", 8)
        try:
            if len(parts) < 9:
                raise ValueError(f"{len(parts)} of 9 parts")
            box = enclosing_box([float(part) for part in parts[:8]])
        except ValueError as error:
            yield Reject(where, "malformed line", f"{error}: {line[:200]}")
            continue
        yield Item(
            key=f"{key}-{number:04d}",
            where=where,
            text=parts[8],
            pictures=[Picture(picture.load, box)],
            group=doc,
            language="en",
        )


def receipt_fields(tree: Tree, name: str, doc: str, picture: Picture) -> Iterator[Item | Reject]:
    """A receipt's key file as one item; a field that the file lacks is an empty string."""
    try:
        entities = parse_json(tree.read_text(name))
    except (PictureError, ValueError) as error:
        yield Reject(name, "malformed JSON", str(error))
        return
    if not isinstance(entities, dict):
        yield Reject(name, "malformed JSON", "no object of fields")
        return
    values = {field: clean_text(str(entities.get(field) or "")) for field in FIELDS}
    missing = [field for field in FIELDS if not values[field]]
    yield Item(
        key=slug(doc),
        where=name,
        text=dump_json(values) if len(missing) < len(FIELDS) else "",
        pictures=[picture],
        group=doc,
        language="en",
        task="extraction",
        prompt=PROMPT,
        meta={"missing": missing} if missing else {},
    )
