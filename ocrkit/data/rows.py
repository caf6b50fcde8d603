"""Rows of a dataset: their columns and types, their texts, pictures and hashes."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from PIL import Image

if TYPE_CHECKING:
    from datasets import Dataset, Features

# Columns that are taken from the pictures themselves.
MEASURED_COLUMNS = ("width", "height", "sizes")
# Columns of text besides the messages, which a row may lack.
TEXT_COLUMNS = ("task", "language", "group", "source", "meta")
# Placeholder of a picture in a prompt's text: Unicode's object replacement character.
IMAGE_MARK = "\ufffc"


class Message(TypedDict):
    """One message of a conversation; its content is a text, or parts of text and pictures."""

    role: str
    content: str | list[dict[str, Any]]


class Row(TypedDict, total=False):
    """A row to train on or to read.

    `images` holds PIL pictures, paths or `{path, bytes}`; `sizes` is (width, height) in pixels of
    each. `epoch`, how often the row was seen before, is there in training alone.
    """

    id: str
    prompt: list[Message]
    completion: list[Message]
    images: list[Any]
    sizes: list[tuple[int, int]]
    width: int
    height: int
    first_frames: int
    answers: list[str] | None
    task: str | None
    language: str | None
    group: str | None
    source: str | None
    meta: str | None
    epoch: int


def text_of(messages: Sequence[Message]) -> str:
    """Return the text of the first message, joined where its content is a list of parts."""
    content = messages[0]["content"] if messages else None
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content or ())


def features() -> "Features":
    """Return the columns of a Dataset of rows."""
    from datasets import Features, Image, List, Value

    message = List({"role": Value("string"), "content": Value("string")})
    columns = {"id": Value("string"), "images": List(Image()), "prompt": message}
    columns |= {"completion": message, "width": Value("int32"), "height": Value("int32")}
    columns |= {"sizes": List(List(Value("int32"))), "answers": List(Value("string"))}
    return Features(columns | {name: Value("string") for name in TEXT_COLUMNS})


def dataset_of(rows: Sequence[Row]) -> "Dataset":
    """Make a Dataset of rows as `usable_row` returns them."""
    from datasets import Dataset

    columns = features()
    return Dataset.from_dict({n: [row.get(n) for row in rows] for n in columns}, features=columns)


def picture_hashes(data: "Dataset | Sequence[Row]") -> list[list[str]]:
    """Hash every picture of each row (SHA-256 of its file, its bytes or, of a PIL picture, pixels).

    Names, sizes and times do not count: a copied dataset has the same hashes, and a redrawn file
    of the same size has another. Nothing is decoded.

    Args:
        data: a Dataset, or a list of rows.
    """
    stored: Any = data
    if not isinstance(data, Sequence):
        if "images" not in data.column_names:
            return [[] for _ in range(len(data))]
        stored = data.select_columns(["images"]).with_format("arrow")
    hashes = []
    for start in range(0, len(data), 64):
        rows = stored[start : start + 64]
        rows = rows if stored is data else rows.to_pylist()
        hashes += [[_picture_hash(image) for image in row.get("images") or []] for row in rows]
    return hashes


def _picture_hash(image: Any) -> str:
    if isinstance(image, dict):
        image = image.get("path") if image.get("bytes") is None else image["bytes"]
    try:
        if isinstance(image, Image.Image):
            header = repr((image.mode, image.size, image.getpalette()))
            content = header.encode() + image.tobytes()
        elif isinstance(image, str | os.PathLike):
            content = Path(image).read_bytes()
        else:
            content = image if isinstance(image, bytes) else repr(image).encode()
    except (OSError, ValueError):
        # Reading this row will fail, and that error says why.
        content = b"unreadable"
    return hashlib.sha256(content).hexdigest()


def without_images(data: Any) -> Any:
    """Drop the column of pictures, so that reading a row decodes none; a list stays as it is."""
    if hasattr(data, "remove_columns") and "images" in data.column_names:
        return data.remove_columns("images")
    return data


def undecoded(rows: "Dataset | Sequence[Row]") -> Iterator[Row]:
    """Rows of a Dataset with pictures as `{path, bytes}`, so that opening one fails alone."""
    if isinstance(rows, Sequence):
        yield from rows
        return
    for batch in rows.with_format("arrow").iter(batch_size=16):
        yield from batch.to_pylist()


def first_picture_files(data: Any) -> list[str | None]:
    """Return the file of each row's first picture; [] where the rows hold their pictures' bytes."""
    if not (hasattr(data, "select_columns") and "images" in data.column_names):
        return []
    files: list[str | None] = []
    # As Arrow has them, pictures are paths or bytes and nothing is decoded.
    for batch in data.select_columns("images").with_format("arrow").iter(batch_size=100):
        for pictures in batch["images"].to_pylist():
            first = pictures[0] if pictures else {"path": None, "bytes": None}
            if first["bytes"] is not None:  # as in parquet, which holds the pictures of all rows
                return []
            path = first["path"]
            files.append(path if path and Path(path).is_file() else None)
    return files


def first_picture(data: Any, number: int) -> Any:
    """Return the first picture of row `number`, or None where the row has none."""
    pictures = data[number].get("images")
    return pictures[0] if pictures else None


def select_rows(data: Any, numbers: list[int]) -> Any:
    """Select rows by number from a Dataset or a list."""
    return data.select(numbers) if hasattr(data, "select") else [data[number] for number in numbers]
