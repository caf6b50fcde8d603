"""AQUA questions on art (JSON lists of image, question, answer), with `--knowledge SemArt`.

A question that needs knowledge gets the painting's description in front of it, from SemArt's three
tables or one of them. Without `--knowledge` such questions are kept bare.
"""

import csv
from collections.abc import Iterator
from types import SimpleNamespace

from data_prep.dataset.archive import Tree, picture_tree
from data_prep.dataset.schema import DataError, Item, Picture, Reject, is_unicode
from data_prep.sources import folder_of, slug, stem
from data_prep.sources._jsonstream import json_records

EXAMPLE = "AQUA --images SemArt/Images --knowledge SemArt --out data/aqua"
TASKS = ("vqa",)
OPTIONS = {"images": None, "knowledge": None}


def rows(path: str, options: SimpleNamespace) -> Iterator[Item | Reject]:
    """One item per question; the group is the painting, which is stored once."""
    tree = Tree(path, options)
    images = picture_tree(tree, options)
    knowledge = read_knowledge(options.knowledge) if options.knowledge else None
    for name in tree.files("*.json"):
        for number, record in json_records(tree, name):
            where, key = f"{name} record {number}", f"{slug(stem(name))}-{number:06d}"
            item = read_record(record, images, name, where, key, knowledge)
            if isinstance(item, Item):
                item.split = tree.label_split(name)
            yield item


def read_record(
    record: object, images: Tree, name: str, where: str, key: str, knowledge: dict | None
) -> Item | Reject:
    """A question as an item."""
    if isinstance(record, Reject):
        return record
    fields = ("image", "question", "answer")
    values = record if isinstance(record, dict) else {}
    texts = [text for field in fields if isinstance(text := values.get(field), str)]
    if len(texts) < len(fields) or not all(map(is_unicode, texts)):
        return Reject(where, "malformed record", f"{', '.join(fields)} are not all texts")
    image, question, answer = texts
    needed = bool(values.get("need_external_knowledge"))
    if needed and knowledge is not None:
        if image not in knowledge:
            return Reject(where, "missing knowledge", f"no description of {image}")
        question = f"{knowledge[image]}\n\n{question}"
    # The same painting in two lists is two pictures, for their splits may differ.
    picture = Picture(
        images.image_loader(image, folder_of(name)), name=f"{slug(stem(name))}-{slug(image)}"
    )
    return Item(
        key=key,
        where=where,
        text=answer,
        pictures=[picture],
        group=image,
        language="en",
        task="vqa",
        prompt=question,
        meta={"need_external_knowledge": needed},
    )


def read_knowledge(path: str) -> dict[str, str]:
    """{image: description} of a table, or of all tables of SemArt's folder, one per split."""
    tree = Tree(path)
    names = [tree.only] if tree.only else list(tree.files("semart_*.csv"))
    if not names:
        raise DataError(f"--knowledge {path} holds no semart_*.csv; name SemArt or a table of it.")
    knowledge: dict[str, str] = {}
    for name in names:
        knowledge |= _read_table(tree, name)
    return knowledge


def _read_table(tree: Tree, name: str) -> dict[str, str]:
    """{image: description} of a table as SemArt's, which is tab-separated and not in UTF-8."""
    data = tree.read(name).removeprefix(b"\xef\xbb\xbf")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("cp1252", "replace")
    lines = text.splitlines(keepends=True)
    delimiter = "\t" if lines and "\t" in lines[0] else ","
    reader = csv.DictReader(lines, delimiter=delimiter)
    columns = {(column or "").lower(): column for column in reader.fieldnames or ()}
    image = columns.get("image_file", columns.get("image"))
    description = columns.get("description", columns.get("knowledge"))
    if image is None or description is None:
        raise DataError(f"--knowledge: {name} lacks the columns IMAGE_FILE and DESCRIPTION.")
    return {line[image]: line[description] or "" for line in reader if line[image]}
