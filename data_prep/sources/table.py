"""A table with a picture column and a text column: CSV, TSV, JSONL, or a JSON list of objects.

Also read are docTR's `{"a.jpg": "text"}`, EasyOCR's `filename,words` (the text is what follows the
first comma), and `a.jpg text` or two columns without a header. Paths of pictures are taken from the
table's folder. A text that is an object or a list is the JSON answer of `--task extraction`; of
Donut's `ground_truth` it is what stands under `gt_parse`.
"""

import contextlib
import csv
import itertools
import re
from collections.abc import Collection, Iterator
from types import SimpleNamespace

from data_prep.dataset.archive import Tree, picture_tree
from data_prep.dataset.other_trainers import TEXT_SEQUENCE
from data_prep.dataset.schema import (
    ENDINGS,
    DataError,
    Item,
    Picture,
    Reject,
    dump_json,
    is_unicode,
    one_line,
    parse_json,
)
from data_prep.dataset.split import official_split
from data_prep.sources import folder_of, slug, stem
from data_prep.sources._jsonstream import json_elements, json_members

EXAMPLE = "labels.csv --image-column file --text-column label --language en --out data/mine"
TASKS = ("transcription", "extraction")
OPTIONS = {
    "image_column": "image",
    "text_column": "text",
    "group_column": None,
    "split_column": None,
    "images": None,
    "language": "und",
}
# Columns that are taken where a table has none of the default name.
ALIASES = {
    "image": (
        *("file_name", "filename", "image_path", "image_name", "image_file"),
        *("path", "file_path", "filepath", "file", "img"),
    ),
    "text": ("words", "label", "ground_truth", "transcription", "transcript"),
}
EASYOCR = ["filename", "words"]


def rows(path: str, options: SimpleNamespace) -> Iterator[Item | Reject]:
    """One item per record; its group is the group column's value, or else the picture."""
    tree = Tree(path, options)
    images = picture_tree(tree, options)
    tables = list(tree.files("*.csv", "*.tsv", "*.jsonl"))
    tables += [name for name in tree.files("*.json", "*.txt") if shape_of(tree, name)]
    if tree.only and not tables:
        tables = [tree.only]  # whatever its name, a person pointed at it
    for name in tables:
        key = "" if len(tables) == 1 else slug(stem(name)) + "-"
        split = tree.label_split(name)
        for number, record in read_records(tree, name, options):
            where = f"{name}:{number}"
            if isinstance(record, str):
                yield Reject(where, "malformed line", record)
            else:
                yield read_record(images, name, where, f"{key}{number:06d}", record, options, split)


def shape_of(tree: Tree, name: str) -> str:
    """ "list" or "object" of JSON, "words" for `a.jpg text`, or "" for a file of another shape."""
    head = tree.head(name).lstrip()
    if name.lower().endswith(".json"):
        # `[{` and `{"a.jpg": "text"` alone: every other JSON file may be anything.
        if re.match(rb"\[\s*\{", head):
            return "list"
        member = re.match(rb'\{\s*"((?:\\.|[^"\\])*)"\s*:\s*"', head)
        is_picture = member and member[1].decode("utf-8", "replace").lower().endswith(ENDINGS)
        return "object" if is_picture else ""
    first = head.splitlines()[0].decode("utf-8", "surrogateescape") if head else ""
    return "words" if split_words(first) and not first.startswith(("{", "[")) else ""


def split_words(line: str) -> tuple[str, str] | None:
    """(picture, text) of `a.jpg text`; None for a line that does not begin with a picture."""
    match = re.match(r"(.*?\.\w{3,4})[ \t]+(.*)", line)
    return (match[1], match[2]) if match and match[1].lower().endswith(ENDINGS) else None


def read_records(
    tree: Tree, name: str, options: SimpleNamespace
) -> Iterator[tuple[int, dict | str]]:
    """(number of the line or record, record or its problem) of a table."""
    ending = name.lower().rpartition(".")[2]
    shape = shape_of(tree, name) if ending in ("json", "txt") else ""
    if shape in ("list", "object"):
        yield from read_json(tree, name, shape, options)
    elif ending in ("jsonl", "json"):
        for number, line in tree.lines(name):
            yield number, parse_record(line)
    elif shape == "words":
        for number, line in tree.lines(name):
            pair = split_words(line)
            record = dict(zip((options.image_column, options.text_column), pair or ()))
            yield number, record or f"no picture at its beginning: {line[:100]}"
    else:
        yield from read_csv(tree, name, "\t" if ending == "tsv" else ",", options)


def read_json(
    tree: Tree, name: str, shape: str, options: SimpleNamespace
) -> Iterator[tuple[int, dict | str]]:
    """The records of a JSON list, or the members of docTR's object as records."""
    number = 0
    with tree.open_text(name) as stream:
        try:
            if shape == "list":
                for number, record in enumerate(json_elements(stream), start=1):
                    good = isinstance(record, dict)
                    yield number, record if good else f"no object: {str(record)[:100]}"
                return
            for number, (image, text) in enumerate(json_members(stream), start=1):
                yield number, {options.image_column: image, options.text_column: text}
        except ValueError as error:
            yield number + 1, str(error)


def read_csv(
    tree: Tree, name: str, delimiter: str, options: SimpleNamespace
) -> Iterator[tuple[int, dict | str]]:
    """The records of a CSV or TSV file under its header; a CSV of Excel may have semicolons."""
    lines = tree.lines(name, blank=True)  # values in quotes may hold blank lines
    header_line = next(lines, (1, ""))[1]
    if delimiter not in header_line:
        delimiter = next((mark for mark in ";\t" if mark in header_line), delimiter)
    if header_line.strip().lower().split(",") == EASYOCR and not is_quoted(tree, name):
        for number, line in lines:
            if line.strip():
                image, comma, text = line.partition(",")
                yield number, dict(zip(EASYOCR, (image, text))) if comma else f"no comma: {line}"
        return
    # A CSV value may run over lines, so the reader gets the line ends back.
    feed = (line + "\n" for _, line in itertools.chain([(1, header_line)], lines))
    reader = csv.reader(feed, delimiter=delimiter)
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise DataError(
            f"{name} has no header that can be read ({error}); give it lines that end with LF, the "
            "first with the names of the columns."
        ) from None
    is_picture = [cell.strip().lower().endswith(ENDINGS) for cell in header]
    if sorted(is_picture) == [False, True]:  # two columns without a header
        values = header
        header = [options.image_column, options.text_column][:: 1 if is_picture[0] else -1]
        yield 1, dict(zip(header, values))
    for column in ("image_column", "text_column", "group_column", "split_column"):
        wanted, columns = getattr(options, column), one_line(", ".join(header))[:300]
        if wanted and not column_of(wanted, header):
            raise DataError(
                f"{name} has no column {wanted!r}; its columns are {columns}; "
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


def is_quoted(tree: Tree, name: str) -> bool:
    """Whether a file of EasyOCR's columns is CSV whose quotes stand around values with commas.

    In EasyOCR's own files quotes and commas are text.
    """
    quoted = False
    for _, line in tree.lines(name):
        if line.strip() and not re.fullmatch(r'[^,]*,([^",]*|"([^"]|"")*")\s*', line):
            return False
        quoted = quoted or line.rstrip().endswith('"')
    return quoted


def column_of(wanted: str, columns: Collection[str]) -> str | None:
    """The column of a name, or one of its ALIASES, in any case; None without any."""
    names = (wanted, *ALIASES.get(wanted, ()))
    if wanted in columns:
        return wanted
    folded = {column.strip().lower(): column for column in columns}
    return next((folded[name.lower()] for name in names if name.lower() in folded), None)


def parse_record(line: str) -> dict | str:
    """Parse a JSON object; returns its problem for another line."""
    try:
        record = parse_json(line)
    except ValueError as error:
        return str(error)
    return record if isinstance(record, dict) else f"no object: {line[:100]}"


def read_record(
    images: Tree,
    table: str,
    where: str,
    key: str,
    record: dict,
    options: SimpleNamespace,
    split: str | None,
) -> Item | Reject:
    """A record as an item; `images` holds its picture."""
    for column in (options.group_column, options.split_column):
        if column and not column_of(column, record):
            return Reject(where, "malformed line", f"no column {column}")
    image = record.get(column_of(options.image_column, record))
    text = record.get(column_of(options.text_column, record))
    if not isinstance(image, str) or not image.strip():
        return Reject(where, "missing image", f"column {options.image_column} names none")
    if not is_unicode(image):
        return Reject(where, "text is not UTF-8", image[:200])
    try:
        text = read_text(text, options.task)
    except ValueError as error:
        return Reject(where, *error.args)
    if options.split_column:
        split = official_split(str(record[column_of(options.split_column, record)]))
    group = record[column_of(options.group_column, record)] if options.group_column else image
    return Item(
        key=key,
        where=where,
        text=text,
        pictures=[Picture(images.image_loader(image, folder_of(table), split))],
        group=str(group),
        language=options.language,
        task=options.task,
        split=split,
    )


def unwrap_donut(value: object) -> object:
    """The answer in Donut's ground_truth, which holds more fields; else the value."""
    if not isinstance(value, dict):
        return value
    return value.get("gt_parse", value.get("gt_parses", value))


def read_text(value: object, task: str) -> str:
    """A column's value as a row's text; ValueError(reason, detail) where it is none."""
    if value is None:
        raise ValueError("empty text", "the column is empty or missing")
    if task == "extraction":
        try:
            return dump_json(unwrap_donut(parse_json(value) if isinstance(value, str) else value))
        except (ValueError, TypeError) as error:
            raise ValueError("malformed JSON", str(error)) from None
    if isinstance(value, str) and value.lstrip().startswith('{"gt_parse":'):
        with contextlib.suppress(ValueError):  # a text that is a brace
            value = unwrap_donut(parse_json(value))
            value = value.get(TEXT_SEQUENCE, value) if isinstance(value, dict) else value
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("malformed line", f"the text is no text but {type(value).__name__}")
    return str(value)
