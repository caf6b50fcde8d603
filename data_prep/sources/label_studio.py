"""Label Studio exports (JSON or JSON_MIN) of marked texts, as words or whole pages.

Boxes in percent of the picture, turned ones put straight, polygons cut out; a region and its text
share an id. Predictions of a model and other annotators' work on the same picture are rejects.
"""

import math
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from data_prep.dataset.archive import Tree, picture_tree
from data_prep.dataset.schema import ENDINGS, Item, Reject
from data_prep.sources import folder_of, slug, stem
from data_prep.sources._jsonstream import json_records
from data_prep.sources._pages import WRONG_SHAPE, Page, Word, page_rows, stated_size

EXAMPLE = "project-1.json --images media/upload --language en --out data/words"
TASKS = ("words", "pages")
OPTIONS = {"images": None, "language": "und"}
UPLOADED = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio puts before an uploaded file's name

Regions = list[tuple[dict, str | None, str]]  # value with its sizes, text, problem


def rows(path: str, options: SimpleNamespace) -> Iterator[Item | Reject]:
    """One item per region with a text, or per picture; the group is the picture."""
    tree = Tree(path, options)
    images = picture_tree(tree, options)
    for name in tree.files("*.json"):
        if not tree.head(name).lstrip().startswith(b"["):
            continue  # another file
        split = tree.label_split(name)
        for number, task in json_records(tree, name, unit="task"):
            yield from task_rows(images, name, number, task, options, split)


def task_rows(
    images: Tree,
    name: str,
    number: int,
    task: dict | Reject,
    options: SimpleNamespace,
    split: str | None,
) -> Iterator[Item | Reject]:
    """The items of a task, which is a picture with its annotations."""
    where = f"{name} task {number}"
    if isinstance(task, Reject):
        yield task
        return
    try:
        reference = picture_reference(task.get("data", task))
        regions = full_regions(task) if "data" in task else brief_regions(task)
        words = [read_region(*region) for region in regions]
        sizes = {stated_size(*sides(value)) for value, _, _ in regions} - {None}
    except WRONG_SHAPE as error:
        yield Reject(where, "malformed record", f"{type(error).__name__}: {error}"[:200])
        return
    if not words:
        yield Reject(where, "missing annotation", "the task has no region")
        return
    image = find_image(images, reference, folder_of(name), split)
    if image is None:
        yield Reject(where, "remote image", reference[:200])
        return
    page = Page(image, sizes.pop() if len(sizes) == 1 else None, words)
    key = f"{slug(stem(name))}-{number:06d}"
    language = options.language
    yield from page_rows(images, page, where, key, options, language=language, split=split)


def picture_reference(data: dict) -> str:
    """How a task names its picture: the first of its texts that has a picture's ending."""
    texts = [value for value in data.values() if isinstance(value, str)]
    for text in texts:
        if urlsplit(text).path.lower().endswith(ENDINGS) or local_path(text):
            return text
    raise ValueError("no value of the task names a picture")


def local_path(reference: str) -> str:
    """The path in `/data/local-files/?d=path`; "" for another reference."""
    return parse_qs(urlsplit(reference).query).get("d", [""])[0]


def find_image(images: Tree, reference: str, folder: str, split: str | None) -> str | None:
    """The picture that a task names; None where it lies on the web and not here.

    Uploads have eight digits and a hyphen before the name that they had.
    """
    path = local_path(reference) or unquote(urlsplit(reference).path)
    head, _, base = path.rpartition("/")
    for candidate in (path, f"{head}/{UPLOADED.sub('', base)}"):
        image = images.find(candidate, folder, split)
        if image in images or image in images.unclear:
            return image
    is_remote = bool(urlsplit(reference).netloc) and not images.only
    return None if is_remote else images.find(path, folder, split)


def full_regions(task: dict) -> Regions:
    """The regions of a task's annotation, and as problems those of all others and predictions."""
    annotations = task.get("annotations") or task.get("completions") or []
    kept = [annotation for annotation in annotations if not annotation.get("was_cancelled")]
    chosen = next((a for a in kept if a.get("ground_truth")), kept[0] if kept else None)
    regions: Regions = []
    for annotation in annotations:
        problem = "" if annotation is chosen else "another annotation of the picture"
        regions += join_results(annotation["result"], problem)
    for prediction in task.get("predictions") or []:
        if isinstance(prediction, dict):  # else the id of one
            regions += join_results(prediction["result"], "prediction, no annotation")
    return regions


def join_results(results: list[dict], problem: str) -> Regions:
    """The regions of a result list: results that share an id, or single ones without id."""
    values: dict[object, dict] = {}
    texts: dict[object, str | None] = {}
    for number, result in enumerate(results):
        value = result.get("value")
        if not isinstance(value, dict):
            continue  # a relation between regions
        region = result.get("id") or number
        has_place = "x" in value or "points" in value
        if not has_place and "text" not in value:
            continue  # a choice or a rating
        # A text area repeats the place of its region.
        if region not in values or (has_place and "text" not in value):
            values[region] = value | {side: result.get(side) for side in SIDES}
        if "text" in value:
            texts[region] = as_text(value["text"])
    return [(value, texts.get(region), problem) for region, value in values.items()]


SIDES = ("original_width", "original_height")


def brief_regions(task: dict) -> Regions:
    """The regions of a JSON_MIN task: lists of places and, parallel to them, of texts."""
    places: list[dict] = []
    for value in task.values():
        is_places = isinstance(value, list) and value and all(map(is_place, value))
        # A box and its label are lists of the same places.
        if is_places and list(map(corners, places)) != list(map(corners, value)):
            places = places + value
    texts = task.get("transcription", task.get("text"))
    texts = texts if isinstance(texts, list) else [texts]
    if places and len(texts) != len(places):
        return [(place, None, f"{len(texts)} texts for {len(places)} boxes") for place in places]
    if not places:
        return [({}, as_text(text), "") for text in texts if text is not None]
    return [(place, as_text(text), "") for place, text in zip(places, texts)]


def is_place(value: object) -> bool:
    """Whether a value of JSON_MIN is a region's place."""
    return isinstance(value, dict) and ("x" in value or "points" in value)


def as_text(value: object) -> str | None:
    """A text area's content, whose entries are lines."""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    if value is None or isinstance(value, str):
        return value
    raise ValueError(f"text is {value!r}")


def sides(value: dict) -> tuple[Any, Any]:
    """The stated size of a region's picture."""
    return value.get("original_width"), value.get("original_height")


def read_region(value: dict, text: str | None, problem: str) -> Word:
    """A region as a word; without a place it is the whole picture."""
    if "x" not in value and "points" not in value:
        return Word(text, None, problem=problem)
    names = [name for key in value if key.endswith("labels") for name in value[key] or ()]
    meta = {"label": names[0]} if names else {}
    outline = "mask" if "points" in value else "quad"
    return Word(text, corners(value), meta, problem if text is not None else "", outline)


def corners(value: dict) -> list[tuple[float, float]] | str:
    """A region's corners in pixels, "malformed" where it has no good place.

    x, y, width and height are percents of the picture, and it is turned around its first corner by
    `rotation` degrees, clockwise.
    """
    try:
        across, down = (float(side) / 100 for side in sides(value))
        if "points" in value:
            return [(float(x) * across, float(y) * down) for x, y in value["points"]]
        left, top = value["x"] * across, value["y"] * down
        width, height = value["width"] * across, value["height"] * down
        turn = math.radians(value.get("rotation") or 0)
        cosine, sine = math.cos(turn), math.sin(turn)
        return [
            (left + x * cosine - y * sine, top + x * sine + y * cosine)
            for x, y in ((0, 0), (width, 0), (width, height), (0, height))
        ]
    except (TypeError, ValueError, KeyError, OverflowError):
        return "malformed"
