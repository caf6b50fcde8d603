"""Questions about documents and charts: the JSON of DocVQA and its kin, or ChartQA.

DocVQA's `{"data": [{question, image, answers}]}` and ChartQA's `[{imgname, query, label}]`. Of
several right answers the first is the completion, and all are in the row's `answers`.
"""

import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from data_prep.dataset.archive import Tree, picture_tree
from data_prep.dataset.schema import Item, Picture, Reject, clean_text, is_unicode
from data_prep.dataset.split import official_split
from data_prep.sources import folder_of, slug, stem
from data_prep.sources._jsonstream import json_records

EXAMPLE = "docvqa/train_v1.0.json --images docvqa/documents --out data/docvqa"
TASKS = ("vqa",)
OPTIONS = {"images": None, "language": "en"}
IMAGE = ("image", "imgname", "image_local_name", "file_path", "image_path", "image_id")
QUESTION = ("question", "query")
ANSWERS = ("answers", "answer", "label")
DOCUMENT = ("ucsf_document_id", "docId")
SPLIT = ("data_split", "dataset_split", "set_name")


def rows(path: str, options: SimpleNamespace) -> Iterator[Item | Reject]:
    """One item per question; a test set's questions, which have no answers, are rejects."""
    tree = Tree(path, options)
    images = picture_tree(tree, options)
    for name in tree.files("*.json"):
        shape = shape_of(tree, name)
        if shape is None:
            continue  # such as a chart's own annotation
        for number, record in json_records(tree, name, shape or None):
            where = f"{name} record {number}"
            item = read_record(record, images, name, where, tree.label_split(name))
            if isinstance(item, Item):
                item.key = f"{slug(stem(name))}-{number:06d}"
                item.language = options.language
            yield item


def shape_of(tree: Tree, name: str) -> str | None:
    """ "data" for an object with a list of this name, "" for a list, None for another file."""
    head = tree.head(name).lstrip()
    if re.match(rb"\[\s*(\{|\])", head):
        return ""
    return "data" if head.startswith(b"{") and (tree.only or b'"data"' in head) else None


def first_of(record: dict, names: tuple[str, ...]) -> Any:
    """The value of the first name that a record has; None without any."""
    return next((record[name] for name in names if record.get(name) is not None), None)


def read_record(
    record: object, images: Tree, name: str, where: str, split: str | None
) -> Item | Reject:
    """A question as an item, its key and language left out."""
    if isinstance(record, Reject):
        return record
    if not isinstance(record, dict):
        return Reject(where, "malformed record", f"no object but {type(record).__name__}")
    image, question = first_of(record, IMAGE), first_of(record, QUESTION)
    answers = first_of(record, ANSWERS)
    answers = answers if isinstance(answers, list) else [answers]
    answers = [str(answer) if isinstance(answer, int | float) else answer for answer in answers]
    if not isinstance(image, str) or not isinstance(question, str):
        return Reject(where, "malformed record", "image or question is no text")
    if answers in ([], [None]):
        return Reject(where, "no answer", question[:200])
    if not all(isinstance(answer, str) for answer in answers):
        return Reject(where, "malformed record", f"answers are {answers!r}"[:200])
    if not all(map(is_unicode, (image, question, *answers))):
        return Reject(where, "text is not UTF-8", question[:200])
    answers = [text for text in map(clean_text, answers) if text]
    stated = first_of(record, SPLIT)
    split = (official_split(stated) if isinstance(stated, str) else None) or split
    document = first_of(record, DOCUMENT)
    return Item(
        key="",
        where=where,
        text=answers[0] if answers else "",
        pictures=[find_picture(images, image, folder_of(name), f"{slug(stem(name))}-", split)],
        group=image if document is None else str(document),
        language="",
        task="vqa",
        split=split,
        prompt=question,
        meta={"question_id": record["questionId"]} if "questionId" in record else {},
        answers=answers or None,
    )


def find_picture(images: Tree, image: str, folder: str, prefix: str, split: str | None) -> Picture:
    """The picture of a question, which its other questions share."""
    place = images.find(image, folder, split)
    if place not in images:
        # TextVQA's ids are names without their ending.
        place = images.picture_of(image) or place
    return Picture(images.loader(place), name=f"{prefix}{slug(image)}")
