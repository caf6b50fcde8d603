"""CORD receipts (parquet): printed lines, or the parsed receipt as JSON."""

from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace

from ..archive import Tree
from ..pictures import enclosing_box
from ..schema import Item, Picture, Reject, dump_json, parse_json
from ..split import official_split
from . import slug, stem
from ._pages import WRONG_SHAPE
from ._parquet import read_parquet

EXAMPLE = "cord-v2/data --task fields --out data/cord"
TASKS = ("fields", "lines")
OPTIONS: dict = {}
PROMPT = "Extract the menu, the subtotal and the total of this receipt as JSON."
CORNERS = ("x1", "y1", "x2", "y2", "x3", "y3", "x4", "y4")


def rows(path: str, options: SimpleNamespace) -> Iterator[Item | Reject]:
    """An item a receipt (`fields`), or a printed line of it (`lines`)."""
    tree = Tree(path)
    for name in tree.files("*.parquet"):
        for number, record in read_parquet(tree, name):
            where, key = f"{name} row {number}", f"{slug(stem(name))}-{number:05d}"
            if isinstance(record, Reject):
                yield record
                continue
            try:
                picture = Picture(partial(bytes, record["image"]["bytes"]))
                truth = parse_json(record["ground_truth"])
                read = receipt_lines if options.task == "lines" else receipt_fields
                items = list(read(truth, picture, where))
            except WRONG_SHAPE as error:
                detail = f"{type(error).__name__}: {error}"[:200]
                yield Reject(where, "malformed record", detail)
                continue
            for item in items:
                if isinstance(item, Item):
                    item.key, item.group = key + item.key, key
                    item.split = official_split(name.rpartition("/")[2])
                yield item


def receipt_fields(truth: dict, picture: Picture, where: str) -> Iterator[Item]:
    """The parsed receipt as its authors nested it: a menu of one dish is an object, not a list."""
    parsed = truth["gt_parses"] if "gt_parses" in truth else truth["gt_parse"]
    text = dump_json(parsed) if parsed else ""
    yield Item("", where, text, [picture], "", "id", task="extraction", prompt=PROMPT)


def receipt_lines(truth: dict, picture: Picture, where: str) -> Iterator[Item | Reject]:
    """The printed lines: the words of a `valid_line` that share a `row_id`."""
    for index, line in enumerate(truth["valid_line"]):
        by_row: dict[object, list[dict]] = {}
        for word in line["words"]:
            by_row.setdefault(word.get("row_id"), []).append(word)
        for part, words in enumerate(by_row.values()):
            place = f"{where} line {index}"
            try:
                corners = [word["quad"][corner] for word in words for corner in CORNERS]
                cut = Picture(picture.load, enclosing_box(corners))
                text = " ".join(word["text"] for word in words)
            except WRONG_SHAPE as error:
                yield Reject(place, "malformed annotation", f"{type(error).__name__}: {error}")
                continue
            key = f"-{index:04d}-{part}"
            meta = {"category": line.get("category")}
            yield Item(key, place, text, [cut], "", "id", meta=meta)
