"""Read and check rows of metadata.jsonl and parquet files; draw rows where there is no dataset."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from data_prep.dataset.pictures import Header, PictureError, read_header
from data_prep.dataset.schema import convert_line, from_messages, is_unicode, turn_problem
from ocrkit.data.rows import IMAGE_MARK, TEXT_COLUMNS, Message, Row, text_of
from ocrkit.errors import DataError

# Columns by which a row of `--layout messages` is told from those of other tools.
_MESSAGES_COLUMNS = {"id", "messages", "images", "task", "group", "source"}


def raw_rows(path: Path) -> Iterator[tuple[int, str | dict]]:
    """Read the rows of a metadata.jsonl or parquet file, unchecked, numbered from 1."""
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
    """Iterate with a progress bar, which appears after two seconds."""
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
) -> tuple[Row | None, dict[str, str] | None]:
    """Check a row: (the row, None), or (None, why it cannot be used as `{where, reason, detail}`).

    Args:
        path: the row's file; paths of pictures are relative to its folder.
        number: of the row or line in it.
        raw: a line of metadata.jsonl, or a row of a parquet file.
        prompts: prompts that replace the row's own, by task.
        blank: take a completion without text, the truth of a blank picture in an evaluation.
    """
    try:
        row = _checked(json.loads(raw) if isinstance(raw, str) else raw, path, blank)
        if prompt := (prompts or {}).get(row.get("task")):
            row["prompt"] = [{"role": "user", "content": prompt}]
        return row, None
    except (ValueError, RecursionError, OSError) as error:
        reason = str(error).partition(":")[0] if isinstance(error, DataError) else "broken line"
        return None, {"where": f"{path}:{number}", "reason": reason, "detail": f"{error}"}


def _checked(value: Any, path: Path, blank: bool) -> Any:
    """Check a row's columns and bring them to the types of `Row`.

    Raises:
        DataError: something is missing or of another type; the text before the colon is the reason.
    """
    if not isinstance(value, dict):
        raise DataError(f"bad row: a row is a JSON object, not {json.dumps(value)[:80]}")
    row: Any = from_messages(value) if value.keys() >= _MESSAGES_COLUMNS else value
    if line := convert_line(row, path):
        raise DataError(f"another tool's row: it has {', '.join(row)[:80]}; {line} reads it")
    if not isinstance(row.get("id"), str | int):
        raise DataError(f"no id: a row has {row.get('id')!r} for an id, which is no text")
    row["id"] = str(row["id"])
    for name in TEXT_COLUMNS:
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
        isinstance(answers, list) and all(isinstance(answer, str) for answer in answers)
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
    texts += [row["id"], *(row.get(name) or "" for name in TEXT_COLUMNS)]
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
    # Sizes are measured, whatever the row says of them: pixel budgets are computed from them.
    headers = [_header(image) for image in row["images"]]
    row["first_frames"] = sum(header.frames > 1 for header in headers)
    row["sizes"] = [(header.width, header.height) for header in headers]
    row["width"], row["height"] = row["sizes"][0]
    return row


def _with_file(image: Any, folder: Path, id: str) -> Any:
    """Replace a picture that has a path and no bytes by its file; return others unchanged."""
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


def _marked(row: dict[str, Any]) -> list[Message]:
    """Convert a row's prompt to texts, with `IMAGE_MARK` where its parts have a picture.

    Pictures that all stand before the first question need no mark: that is where they go anyway.
    """
    messages: list[Message] = []
    marks = 0
    for message in row["prompt"]:
        content = message["content"]
        if isinstance(content, list):
            images = [part.get("type") == "image" for part in content]
            texts = [part.get("text") or "" for part in content]
            content = "".join(IMAGE_MARK if image else text for image, text in zip(images, texts))
            marks += sum(images)
        messages.append({"role": message["role"], "content": content})
    pictures = row.get("images_file_names") or row.get("images")
    if marks and isinstance(pictures, list) and marks != len(pictures):
        raise DataError(
            f"bad prompt: row {row['id']!r} has {marks} image parts for {len(pictures)} pictures"
        )
    question = next((m for m in messages if m["role"] == "user"), None)
    if marks and question and str(question["content"]).startswith(IMAGE_MARK * marks):
        question["content"] = question["content"][marks:]
    return messages


def _is_picture(value: object) -> bool:
    """Whether a value is a file's name, or a picture as a parquet file holds it."""
    if not isinstance(value, dict):
        return isinstance(value, str)
    return isinstance(value.get("bytes"), bytes)


def _is_message(value: object) -> bool:
    """Whether a value has a role, and for its content a text or parts whose texts are texts."""
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


def drawn_rows(count: int) -> list[Row]:
    """Draw rows of printed lines, to try a model on when its own data is not at hand."""
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
