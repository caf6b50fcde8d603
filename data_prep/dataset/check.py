"""Checks of single rows, of every layout that convert writes; worker processes run them."""

import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from data_prep.dataset.arithmetic import invoice_problems
from data_prep.dataset.schema import (
    DataError,
    Row,
    content_text,
    convert_line,
    from_messages,
    parse_json,
    row_problems,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jsonschema.protocols import Validator

    Schema = Mapping | bool

BATCH = 64
PARQUET_BATCH = 16  # fewer, as these rows hold their pictures
# Control tokens that models write turns and pictures with; a row whose text has one may be dropped.
CONTROL_TOKEN = re.compile(
    r"<[|｜][^<>|｜\s]{1,40}[|｜]>|</?s>|<(?:bos|eos|pad|image|video|image_soft_token)>"
    r"|<(?:start|end)_of_(?:turn|image)>|\[/?(?:INST|IMG)\]"
)
LONGEST_SIDE = 200  # times the shorter one; the processors of Qwen's models refuse more

Record = tuple[str, bytes | dict]  # the place of a row, and its line or its columns
Problem = tuple[str, str, str]  # ERROR or WARNING, the kind and the detail
ERROR, WARNING = "error", "warning"


class RowCheck(NamedTuple):
    """Result of a row's check; `row` is None where it is none.

    `digests` are of its pictures' bytes, to find pictures that occur twice.
    """

    row: Row | None
    problems: list[Problem]
    digests: list[bytes]


def batches(dataset: Path, files: list[Path]) -> Iterator[list[Record]]:
    """Read the rows of metadata.jsonl or parquet files, in batches."""
    for path in files:
        name = path.relative_to(dataset).as_posix()
        if path.suffix == ".parquet":
            yield from parquet_batches(path, name)
            continue
        batch: list[Record] = []
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                batch.append((f"{name}:{number}", line))
                if len(batch) == BATCH:
                    yield batch
                    batch = []
        if batch:
            yield batch


def parquet_batches(path: Path, name: str) -> Iterator[list[Record]]:
    """Read the rows of a parquet file, in batches; DataError where it cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        number = 0
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(PARQUET_BATCH):
                rows = batch.to_pylist()
                yield [(f"{name} row {number + i}", row) for i, row in enumerate(rows, start=1)]
                number += len(rows)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} cannot be read as parquet ({reason}).") from None


def check_batch(
    records: list[Record],
    layout: str,
    folder: str,
    split: str,
    schema: "Schema | None",
    max_characters: int,
) -> list[tuple[str, RowCheck]]:
    """Check a batch of rows with their texts and pictures.

    Args:
        records: from `batches`.
        layout: "imagefolder", "messages" or "parquet".
        folder: from which the rows name their pictures.
        split: of the rows.
        schema: a JSON Schema of the completions of extraction rows.
        max_characters: completions longer than this are warned of.

    Returns:
        The place of each row and the result of its check.
    """
    validator = None if schema is None else make_validator(schema)
    results = []
    for place, record in records:
        check = check_record(record, layout, folder)
        if check.row is not None:
            check.problems.extend(check_texts(check.row, place, split, validator, max_characters))
        results.append((place, check))
    return results


def check_record(record: bytes | dict, layout: str, folder: str) -> RowCheck:
    """Check a row of parquet, a line of metadata.jsonl, or one of `--layout messages`."""
    if isinstance(record, dict):
        return check_columns(record)
    try:
        value = parse_json(record)
    except ValueError as error:
        return RowCheck(None, [(ERROR, "broken line", str(error))], [])
    try:
        row = from_messages(value) if layout == "messages" else value
        return check_value(row, lambda index, name: Path(folder, name).read_bytes())
    except ValueError as error:
        return RowCheck(None, [(ERROR, "invalid row", str(error))], [])


def check_columns(columns: dict) -> RowCheck:
    """Check a row of a parquet file, which holds its pictures."""
    images = columns.pop("images", ()) or ()
    pictures = [image if isinstance(image, dict) else {} for image in images]
    columns["images_file_names"] = [image.get("path") or "a picture" for image in pictures]
    return check_value(columns, lambda index, name: pictures[index].get("bytes"))


def check_value(value: object, read: Callable[[int, str], bytes | None]) -> RowCheck:
    """Check a row's fields and decode its pictures, which `read` gives by number and name."""
    from data_prep.dataset.pictures import PictureError, check_picture

    problems = row_problems(value, blank=True)
    if problems or not isinstance(value, dict):
        command = convert_line(value, "FILE")
        text = f"of another tool, which {command} reads" if command else "; ".join(problems)
        return RowCheck(None, [(ERROR, "invalid row", text)], [])
    row = Row.from_dict(value)
    check = RowCheck(row, [], [])
    errors: list[Problem] = []
    warnings: list[Problem] = []
    for index, name in enumerate(row.images_file_names):
        try:
            data = read(index, name)
            if not data:
                raise FileNotFoundError
            width, height, frames = check_picture(data)
        except OSError:
            errors.append((ERROR, "missing image", name))
            continue
        except PictureError as error:
            errors.append((ERROR, error.reason, f"{name}: {error.detail}"))
            continue
        size = f"{width}x{height}"
        if frames > 1:
            detail = f"{name} has {frames}, of which the first is taken"
            warnings.append((WARNING, "several frames", detail))
        if max(width, height) > LONGEST_SIDE * min(width, height):
            warnings.append((WARNING, "long picture", f"{name} is {size}; some models refuse it"))
        check.digests.append(hashlib.blake2b(data, digest_size=16).digest())
        if index == 0 and (width, height) != (row.width, row.height):
            detail = f"{name} is {size}, stated {row.width}x{row.height}"
            errors.append((ERROR, "size differs", detail))
    check.problems.extend([*errors, *warnings])
    return check


def completion_of(row: Row) -> str:
    """The text of a row's completion."""
    return content_text(row.completion[-1]["content"])


def check_texts(
    row: Row, place: str, split: str, validator: "Validator | None", max_characters: int
) -> Iterator[Problem]:
    """Yield what is wrong with a row's prompt and completion."""
    answer = completion_of(row)
    asked = "\n".join(content_text(message["content"]) for message in row.prompt)
    if not answer.strip():
        level = ERROR if split == "train" else WARNING
        yield level, "empty text", "nothing is to be read"
    for text in (asked, answer):
        if token := CONTROL_TOKEN.search(text):
            yield WARNING, "control token in a text", f"{token[0]} in {text[:80]!r}"
    if len(answer) > max_characters:
        yield WARNING, "long text", f"{len(answer)} characters"
    # Short answers such as "2" occur anywhere.
    if len(answer) >= 8 and answer in asked:
        yield WARNING, "answer stands in the prompt", answer[:80]
    if row.task != "extraction":
        return
    try:
        value = parse_json(answer)
    except ValueError as error:
        yield ERROR, "completion is no JSON", str(error)
        return
    for error in validator.iter_errors(value) if validator else ():
        path = "/".join(str(part) for part in error.absolute_path)
        detail = f"{path}: {error.message}"[: 298 - len(place)]
        yield ERROR, "completion breaks the schema", detail
    for problem in invoice_problems(value):
        yield WARNING, "arithmetic", problem


def load_schema(path: str | Path) -> "Schema":
    """Load a JSON Schema; DataError where the file holds none."""
    import jsonschema

    try:
        schema = cast("Schema", parse_json(Path(path).read_bytes()))
        make_validator(schema).check_schema(schema)
    except (OSError, ValueError, jsonschema.SchemaError) as error:
        message = getattr(error, "message", error)
        raise DataError(f"{path} cannot be read as a JSON Schema ({message}).") from None
    return schema


def make_validator(schema: "Schema") -> "Validator":
    """Make a validator of the draft that a JSON Schema states."""
    import jsonschema

    return jsonschema.validators.validator_for(schema)(schema)
