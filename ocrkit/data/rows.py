"""Rows of a dataset: read, check and hash them, and pick columns and pictures from them."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm.auto import tqdm

from data_prep.dataset.pictures import Header, PictureError, read_header
from data_prep.dataset.schema import convert_line, from_messages, is_unicode, turn_problem
from ocrkit.errors import DataError

# Columns that are taken from the pictures themselves.
MEASURED_COLUMNS = ("width", "height", "sizes")
# Columns of text besides the messages, which a row may lack.
_TEXTS = ("task", "language", "group", "source", "meta")
# Where a picture stands in a prompt's text: Unicode's sign for an object that is no text.
IMAGE_MARK = "\ufffc"
# What tells a row of `--layout messages` from those of other tools.
_MESSAGES = {"id", "messages", "images", "task", "group", "source"}


def text_of(messages: Sequence[dict]) -> str:
    """The text of the first of `messages`: of its parts where its content is a list of parts."""
    content = messages[0]["content"] if messages else None
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content or ())


def features() -> Any:
    """The columns of a Dataset of rows."""
    from datasets import Features, Image, List, Value

    message = List({"role": Value("string"), "content": Value("string")})
    columns = {"id": Value("string"), "images": List(Image()), "prompt": message}
    columns |= {"completion": message, "width": Value("int32"), "height": Value("int32")}
    columns |= {"sizes": List(List(Value("int32"))), "answers": List(Value("string"))}
    return Features(columns | {name: Value("string") for name in _TEXTS})


def dataset_of(rows: list[dict]) -> Any:
    """Rows as `usable_row` returns them, as a Dataset."""
    from datasets import Dataset

    columns = features()
    return Dataset.from_dict({n: [row.get(n) for row in rows] for n in columns}, features=columns)


def raw_rows(path: Path) -> Iterator[tuple[int, str | dict]]:
    """The rows of a metadata.jsonl or parquet file as they stand there, numbered from 1."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        batches = pq.ParquetFile(path).iter_batches(batch_size=64)
        rows: Iterator = (row for batch in batches for row in batch.to_pylist())
        yield from enumerate(_with_bar(rows, path.name), 1)
        return
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
        for number, line in enumerate(_with_bar(lines, path.parent.name), 1):
            if line.strip():
                yield number, line


def _with_bar(items: Iterator, name: str) -> Iterator:
    """Items with a bar where they take long; one that is left early is no failure."""
    with tqdm(desc=name, delay=2) as bar:
        for item in items:
            yield item
            bar.update()


def usable_row(
    path: Path,
    number: int,
    raw: str | dict,
    prompts: dict[str, str] | None = None,
    blank: bool = False,
) -> tuple[dict | None, dict | None]:
    """A row to train on, or None and why not as `{where, reason, detail}`.

    Args:
        path: the file that the row stands in; pictures are named from its folder.
        number: of the row or line in it.
        raw: a line of metadata.jsonl, or a row of a parquet file.
        prompts: what to ask for instead of the row's own prompt, by task.
        blank: take a completion without text, the truth of a blank picture in an evaluation.
    """
    try:
        row = _row(json.loads(raw) if isinstance(raw, str) else raw, path, blank)
        if prompt := (prompts or {}).get(row.get("task")):
            row["prompt"] = [{"role": "user", "content": prompt}]
        return row, None
    except (ValueError, RecursionError, OSError) as error:
        reason = str(error).partition(":")[0] if isinstance(error, DataError) else "broken line"
        return None, {"where": f"{path}:{number}", "reason": reason, "detail": f"{error}"}


def _row(row: Any, path: Path, blank: bool) -> dict:
    if not isinstance(row, dict):
        raise DataError(f"bad row: a row is a JSON object, not {json.dumps(row)[:80]}")
    if row.keys() >= _MESSAGES:
        row = from_messages(row)
    if line := convert_line(row, path):
        raise DataError(f"another tool's row: it has {', '.join(row)[:80]}; {line} reads it")
    if not isinstance(row.get("id"), str | int):
        raise DataError(f"no id: a row has {row.get('id')!r} for an id, which is no text")
    row["id"] = str(row["id"])
    for name in _TEXTS:
        value = row.get(name)
        if isinstance(value, int | float):
            row[name] = str(value)
        elif value is not None and not isinstance(value, str):
            raise DataError(f"bad row: {name} of row {row['id']!r} is {value!r}, which is no text")
    for name in ("prompt", "completion"):
        if not isinstance(row.get(name), list) or not row[name]:
            raise DataError(f"no {name}: row {row['id']!r} has no list of messages under {name}")
        if not all(map(_is_message, row[name])):
            raise DataError(
                f"bad {name}: row {row['id']!r} has something else than {{role, content}} messages "
                f"under {name}"
            )
    row["prompt"] = _marked(row)
    row["completion"] = [{"role": m["role"], "content": text_of([m])} for m in row["completion"]]
    answers = row.get("answers")
    if answers is not None and not (
        isinstance(answers, list) and all(isinstance(one, str) for one in answers)
    ):
        raise DataError(
            f"bad answers: row {row['id']!r} has {answers!r}, which is no list of texts"
        )
    for name in ("prompt", "completion"):
        if problem := turn_problem(name, row[name]):
            raise DataError(f"wrong turns: row {row['id']!r}: {problem}")
    if not blank and not text_of(row["completion"]).strip():
        raise DataError(f"empty text: row {row['id']!r} has nothing to learn")
    texts = [m["content"] for m in (*row["prompt"], *row["completion"])]
    texts += [row["id"], *(row.get(name) or "" for name in _TEXTS)]
    if not is_unicode("".join(texts)):
        raise DataError(f"text is not UTF-8: row {row['id']!r} holds bytes that are no text")
    if "images_file_names" in row:
        names = row.pop("images_file_names")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError(
                f"bad picture: row {row['id']!r} has {names!r} for images_file_names, which is no "
                "list of file names"
            )
        row["images"] = [str(path.parent / name) for name in names]
    if not row.get("images"):
        raise DataError(f"no picture: row {row['id']!r} names no picture")
    if isinstance(row["images"], list):
        row["images"] = [_with_file(image, path.parent, row["id"]) for image in row["images"]]
    if not isinstance(row["images"], list) or not all(map(_is_picture, row["images"])):
        raise DataError(
            f"bad picture: row {row['id']!r} has something else than names and {{path, bytes}} "
            "under images; a parquet file holds the bytes of its pictures"
        )
    # The stated size of a single picture is trusted nowhere: budgets are computed from it.
    headers = [_header(image) for image in row["images"]]
    row["first_frames"] = sum(header.frames > 1 for header in headers)
    row["sizes"] = [(header.width, header.height) for header in headers]
    row["width"], row["height"] = row["sizes"][0]
    return row


def _with_file(image: Any, folder: Path, id: str) -> Any:
    """The file of a picture that has a path and no bytes; every other value as it is."""
    if not isinstance(image, dict) or image.get("bytes") is not None or not image.get("path"):
        return image
    file = folder / str(image["path"])
    if not file.is_file():
        raise DataError(
            f"missing picture: row {id!r} has the path {image['path']!r} of its picture without "
            f"the bytes, and {file} is no file; embed the pictures, as `python -m "
            "data_prep.convert --format parquet` does"
        )
    return str(file)


def _marked(row: dict) -> list[dict]:
    """A row's prompt with texts only, `IMAGE_MARK` where its parts have a picture.

    Where all pictures stand before the first question there is no mark: so texts show them anyway.
    """
    messages, marks = [], 0
    for message in row["prompt"]:
        content = message["content"]
        if isinstance(content, list):
            images = [part.get("type") == "image" for part in content]
            texts = [part.get("text") or "" for part in content]
            content = "".join(IMAGE_MARK if one else text for one, text in zip(images, texts))
            marks += sum(images)
        messages.append({"role": message["role"], "content": content})
    pictures = row.get("images_file_names") or row.get("images")
    if marks and isinstance(pictures, list) and marks != len(pictures):
        raise DataError(
            f"bad prompt: row {row['id']!r} has {marks} image parts for {len(pictures)} pictures"
        )
    asked = next((m for m in messages if m["role"] == "user"), None)
    if marks and asked and asked["content"].startswith(IMAGE_MARK * marks):
        asked["content"] = asked["content"][marks:]
    return messages


def _is_picture(value: Any) -> bool:
    """Whether it is a file's name, or a picture as a parquet file holds it."""
    if not isinstance(value, dict):
        return isinstance(value, str)
    return isinstance(value.get("bytes"), bytes)


def _is_message(value: Any) -> bool:
    """Whether it has a role, and for its content a text or parts whose texts are texts."""
    if not isinstance(value, dict) or not isinstance(value.get("role"), str):
        return False
    content = value.get("content")
    return isinstance(content, str) or (
        isinstance(content, list)
        and all(isinstance(p, dict) and isinstance(p.get("text") or "", str) for p in content)
    )


def _header(image: str | dict) -> Header:
    try:
        return read_header(image)
    except PictureError as error:
        reason = error.reason.replace("image", "picture")
        name = image.get("path") if isinstance(image, dict) else None
        raise DataError(f"{reason}: {f'{name}: ' if name else ''}{error.detail}") from None


def picture_hashes(data: Any) -> list[list[str]]:
    """A hash of every picture of each row: a picture drawn anew under its old name has another.

    Files are hashed whole, as they lie, and not by name, size or time: a dataset that was copied
    or moved is still the same one, and a redrawn file of the same size is not. That decodes
    nothing, and costs a small part of what reading the rows with a model costs.

    Args:
        data: a Dataset, or a list of rows.
    """
    stored = data
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
            kind = repr((image.mode, image.size, image.getpalette()))
            content = kind.encode() + image.tobytes()
        elif isinstance(image, str | os.PathLike):
            content = Path(image).read_bytes()
        else:
            content = image if isinstance(image, bytes) else repr(image).encode()
    except (OSError, ValueError):
        # It is the reading of this row that fails, and says why.
        content = b"unreadable"
    return hashlib.sha256(content).hexdigest()


def drawn_rows(count: int) -> list[dict[str, Any]]:
    """Rows of printed lines, drawn on the spot, for models whose own data is not at hand."""
    from data_prep.dataset.schema import PROMPTS
    from data_prep.synthetic.render import draw_line, load_font, shipped_fonts

    font = load_font(shipped_fonts("DejaVuSans")[0], 21)
    texts = [f"No. {37 * number} of 9" for number in range(count)]
    return [
        {
            "id": f"line-{number}",
            "prompt": [{"role": "user", "content": PROMPTS["transcription"]}],
            "completion": [{"role": "assistant", "content": text}],
            "images": [draw_line(text, font)],
        }
        for number, text in enumerate(texts)
    ]


def without_images(data: Any) -> Any:
    """Drop the column of pictures, so that reading a row decodes none; a list stays as it is."""
    if hasattr(data, "remove_columns") and "images" in data.column_names:
        return data.remove_columns("images")
    return data


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
