"""A CSV, TSV or JSONL table with an image column and a text column.

Paths of pictures are taken from the table's folder. A text that is an object or a list (in JSONL)
is the JSON answer of `--task extraction`.
"""

import csv
from collections.abc import Iterator
from types import SimpleNamespace

from ..archive import Tree
from ..schema import DataError, Item, Picture, Reject, dump_json, is_unicode, parse_json
from ..split import official_split
from . import folder_of, slug, stem

EXAMPLE = "labels.csv --image-column file --text-column label --language en --out data/mine"
TASKS = ("transcription", "extraction")
OPTIONS = {
    "image_column": "image",
    "text_column": "text",
    "group_column": None,
    "split_column": None,
    "language": "und",
}


def rows(path: str, options: SimpleNamespace) -> Iterator[Item | Reject]:
    """An item a record; its group is the group column's value, or else the picture."""
    tree = Tree(path)
    tables = list(tree.files("*.csv", "*.tsv", "*.jsonl"))
    if tree.only and not tables:
        tables = [tree.only]  # whatever its name, a person pointed at it
    for name in tables:
        key = "" if len(tables) == 1 else slug(stem(name)) + "-"
        for number, record in read_records(tree, name, options):
            where = f"{name}:{number}"
            if isinstance(record, str):
                yield Reject(where, "malformed line", record)
            else:
                yield read_record(tree, name, where, f"{key}{number:06d}", record, options)


def read_records(
    tree: Tree, name: str, options: SimpleNamespace
) -> Iterator[tuple[int, dict | str]]:
    """(line number, record) of a table; a record that is none is what is wrong with it."""
    if name.lower().endswith((".jsonl", ".json")):
        for number, line in tree.lines(name):
            if line.strip():
                yield number, parse_record(line)
        return
    delimiter = "\t" if name.lower().endswith(".tsv") else ","
    # A CSV value may run over lines, so the reader gets the line ends back.
    reader = csv.reader((line + "\n" for _, line in tree.lines(name)), delimiter=delimiter)
    header = next(reader, [])
    for column in ("image_column", "text_column", "group_column", "split_column"):
        wanted = getattr(options, column)
        if wanted and wanted not in header:
            raise DataError(
                f"{name} has no column {wanted!r}; its columns are {', '.join(header)[:300]}; "
                f"name one by --{column.replace('_', '-')}."
            )
    while True:
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield reader.line_num, str(error)
            continue
        if len(values) == len(header):
            yield reader.line_num, dict(zip(header, values))
        elif values:
            yield reader.line_num, f"{len(values)} values under {len(header)} columns"


def parse_record(line: str) -> dict | str:
    """One JSON object, or what is wrong with it."""
    try:
        record = parse_json(line)
    except ValueError as error:
        return str(error)
    return record if isinstance(record, dict) else f"no object: {line[:100]}"


def read_record(
    tree: Tree, table: str, where: str, key: str, record: dict, options: SimpleNamespace
) -> Item | Reject:
    """A record as an item."""
    for column in (options.group_column, options.split_column):
        if column and column not in record:
            return Reject(where, "malformed line", f"no column {column}")
    image, text = record.get(options.image_column), record.get(options.text_column)
    if not isinstance(image, str) or not image.strip():
        return Reject(where, "missing image", f"column {options.image_column} names none")
    if not is_unicode(image):
        return Reject(where, "text is not UTF-8", image[:200])
    try:
        text = read_text(text, options.task)
    except ValueError as error:
        return Reject(where, *error.args)
    split = record.get(options.split_column) if options.split_column else table
    return Item(
        key=key,
        where=where,
        text=text,
        pictures=[Picture(tree.image_loader(image, folder_of(table)))],
        group=str(record.get(options.group_column, "")) if options.group_column else image,
        language=options.language,
        task=options.task,
        split=official_split(str(split)),
    )


def read_text(value: object, task: str) -> str:
    """A column's value as a row's text; ValueError(reason, detail) where it is none."""
    if value is None:
        raise ValueError("empty text", "the column is empty or missing")
    if task == "extraction":
        try:
            return dump_json(parse_json(value) if isinstance(value, str) else value)
        except (ValueError, TypeError) as error:
            raise ValueError("malformed JSON", str(error)) from None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("malformed line", f"the text is no text but {type(value).__name__}")
    return str(value)
