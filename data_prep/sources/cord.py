"""CORD receipts (parquet, or `image` and `json` folders): printed lines, or the receipt as JSON.

The folders' files hold lines with their categories only; the fields are put together from these.
"""

from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace

from data_prep.dataset.archive import Tree, picture_tree
from data_prep.dataset.crops import enclosing_box
from data_prep.dataset.schema import Item, Picture, Reject, dump_json, parse_json
from data_prep.sources import slug, stem
from data_prep.sources._pages import WRONG_SHAPE, read_json
from data_prep.sources._parquet import read_parquet

EXAMPLE = "cord-v2/data --task fields --out data/cord"
TASKS = ("fields", "lines")
OPTIONS = {"images": None}
REPEATED = ("menu", "void_menu")  # groups that a receipt has one of for every dish
PROMPT = "Extract the menu, the subtotal and the total of this receipt as JSON."
CORNERS = ("x1", "y1", "x2", "y2", "x3", "y3", "x4", "y4")


def rows(path: str, options: SimpleNamespace) -> Iterator[Item | Reject]:
    """One item per receipt (`fields`), or per printed line of it (`lines`)."""
    tree = Tree(path, options)
    for where, key, split, record in records(tree, options):
        if isinstance(record, Reject):
            yield record
            continue
        truth, picture = record
        try:
            read = receipt_lines if options.task == "lines" else receipt_fields
            items = list(read(truth, picture, where))
        except WRONG_SHAPE as error:
            yield Reject(where, "malformed record", f"{type(error).__name__}: {error}"[:200])
            continue
        for item in items:
            if isinstance(item, Item):
                item.key, item.group, item.split = key + item.key, key, split
            yield item


Record = tuple[str, str, str | None, tuple[dict, Picture] | Reject]


def records(tree: Tree, options: SimpleNamespace) -> Iterator[Record]:
    """(place, key, split, truth and picture) of every receipt, from parquet and from folders."""
    for name in tree.files("*.parquet"):
        split = tree.label_split(name)
        for number, columns in read_parquet(tree, name):
            where, key = f"{name} row {number}", f"{slug(stem(name))}-{number:05d}"
            record: tuple[dict, Picture] | Reject
            if isinstance(columns, Reject):
                record = columns
            else:
                try:
                    picture = Picture(partial(bytes, columns["image"]["bytes"]))
                    record = parse_json(columns["ground_truth"]), picture
                except WRONG_SHAPE as error:
                    detail = f"{type(error).__name__}: {error}"[:200]
                    record = Reject(where, "malformed record", detail)
            yield where, key, split, record
    images = picture_tree(tree, options)
    for name in tree.files("*.json"):
        try:
            truth = read_json(tree, name)
            if "valid_line" not in truth:
                continue  # another file, such as a list of the categories
            image = images.picture_of(stem(name)) or f"{stem(name)}.png"
            record = truth, Picture(images.loader(image))
        except WRONG_SHAPE as error:
            record = Reject(name, "malformed JSON", f"{type(error).__name__}: {error}"[:200])
        yield name, slug(stem(name)), tree.split(name), record


def receipt_fields(truth: dict, picture: Picture, where: str) -> Iterator[Item]:
    """The parsed receipt as its authors nested it: a menu of one dish is an object, not a list."""
    names = [name for name in ("gt_parses", "gt_parse") if name in truth]
    parsed = truth[names[0]] if names else parse_lines(truth["valid_line"])
    text = dump_json(parsed) if parsed else ""
    yield Item("", where, text, [picture], "", "id", task="extraction", prompt=PROMPT)


def parse_lines(lines: list[dict]) -> dict:
    """The fields of `valid_line`s as `gt_parse` nests them: `menu.nm` is menu's nm, a dish a group.

    Several dishes become a list; several lines or words of a field become one text.
    """
    parsed: dict[str, dict[object, dict]] = {}
    for line in lines:
        field, *path = line["category"].split(".")
        text = " ".join(word["text"] for word in line["words"] if not word.get("is_key"))
        group = line.get("group_id") if field in REPEATED else None
        node = parsed.setdefault(field, {}).setdefault(group, {})
        for name in path[:-1]:
            node = node.setdefault(name, {})
        last = path[-1] if path else "text"
        if text:
            node[last] = f"{node[last]} {text}" if isinstance(node.get(last), str) else text
    fields = {}
    for field, groups in parsed.items():
        values = [value for value in groups.values() if value]
        if values:
            fields[field] = values[0] if len(values) == 1 else values
    return fields


def receipt_lines(truth: dict, picture: Picture, where: str) -> Iterator[Item | Reject]:
    """The printed lines: the words of a `valid_line` that share a `row_id`."""
    for index, line in enumerate(truth["valid_line"]):
        by_row: dict[object, list[dict]] = {}
        for word in line["words"]:
            by_row.setdefault(word.get("row_id"), []).append(word)
        for number, words in enumerate(by_row.values()):
            place = f"{where} line {index}"
            try:
                corners = [word["quad"][corner] for word in words for corner in CORNERS]
                cut = Picture(picture.load, enclosing_box(corners))
                text = " ".join(word["text"] for word in words)
            except WRONG_SHAPE as error:
                yield Reject(place, "malformed annotation", f"{type(error).__name__}: {error}")
                continue
            key = f"-{index:04d}-{number}"
            meta = {"category": line.get("category")}
            yield Item(key, place, text, [cut], "", "id", meta=meta)
