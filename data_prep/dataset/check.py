"""Checks of single rows, of every layout that convert writes; worker processes run them."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from data_prep.dataset.schema import (
    DataError,
    Row,
    convert_line,
    dump_json,
    from_messages,
    parse_json,
    row_problems,
)

BATCH = 64
PARQUET_BATCH = 16  # fewer, as these rows hold their pictures
LONGEST_SIDE = 200  # times the shorter one; the processors of Qwen's models refuse more

Record = tuple[str, bytes | dict]  # the place of a row, and its line or its columns
Problems = list[tuple[str, str]]  # the kind and the detail of each


class RowCheck(NamedTuple):
    """Result of a row's check; `row` is None where it is none.

    `digests` are of its pictures' bytes, to find pictures that occur twice.
    """

    row: Row | None
    errors: Problems
    warnings: Problems
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


def check_batch(records: list[Record], layout: str, folder: str) -> list[tuple[str, RowCheck]]:
    """Check a batch of rows with their pictures.

    Args:
        records: from `batches`.
        layout: "imagefolder", "messages" or "parquet".
        folder: from which the rows name their pictures.

    Returns:
        The place of each row and the result of its check.
    """
    return [(place, check_record(record, layout, folder)) for place, record in records]


def check_record(record: bytes | dict, layout: str, folder: str) -> RowCheck:
    """Check a row of parquet, a line of metadata.jsonl, or one of `--layout messages`."""
    if isinstance(record, dict):
        return check_columns(record)
    try:
        value = parse_json(record)
    except ValueError as error:
        return RowCheck(None, [("broken line", str(error))], [], [])
    try:
        row = from_messages(value) if layout == "messages" else value
        return check_value(row, lambda index, name: Path(folder, name).read_bytes())
    except ValueError as error:
        return RowCheck(None, [("invalid row", str(error))], [], [])


def check_columns(columns: dict) -> RowCheck:
    """Check a row of a parquet file, which holds its pictures."""
    images = columns.pop("images", ()) or ()
    pictures = [image if isinstance(image, dict) else {} for image in images]
    columns["images_file_names"] = [image.get("path") or "a picture" for image in pictures]
    return check_value(columns, lambda index, name: pictures[index].get("bytes"))


def check_value(value: object, read: Callable[[int, str], bytes | None]) -> RowCheck:
    """Check a row's fields and decode its pictures, which `read` gives by number and name."""
    from data_prep.dataset.pictures import Opened, PictureError

    if problems := row_problems(value, blank=True):
        command = convert_line(value, "FILE")
        text = f"of another tool, which {command} reads" if command else "; ".join(problems)
        return RowCheck(None, [("invalid row", text)], [], [])
    row = Row.from_json(dump_json(value), blank=True)
    check = RowCheck(row, [], [], [])
    for index, name in enumerate(row.images_file_names):
        try:
            data = read(index, name)
            if not data:
                raise FileNotFoundError
            opened = Opened(data)
        except OSError:
            check.errors.append(("missing image", name))
            continue
        except PictureError as error:
            check.errors.append((error.reason, f"{name}: {error.detail}"))
            continue
        size = "{}x{}".format(*opened.image.size)
        if opened.frames > 1:
            detail = f"{name} has {opened.frames}, of which the first is taken"
            check.warnings.append(("several frames", detail))
        if max(opened.image.size) > LONGEST_SIDE * min(opened.image.size):
            check.warnings.append(("long picture", f"{name} is {size}; some models refuse it"))
        check.digests.append(hashlib.blake2b(data, digest_size=16).digest())
        if index == 0 and opened.image.size != (row.width, row.height):
            detail = f"{name} is {size}, stated {row.width}x{row.height}"
            check.errors.append(("size differs", detail))
    return check
