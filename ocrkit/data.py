"""Read a dataset folder into what trains: rows with their pictures opened only when needed."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from data_prep.pictures import Header, PictureError, read_header
from data_prep.schema import SPLITS, DataError, convert_line, is_unicode, turn_problem
from ocrkit.config import TrainConfig
from ocrkit.processes import is_main_process
from ocrkit.run_folder import record_skipped

# Columns that are taken from the pictures themselves.
_MEASURED = ("width", "height", "sizes")
# What is not taken from a parquet file as it stands there.
_OURS = (*_MEASURED, "prompt", "answers")
# Columns of text besides the messages, which a row may lack.
_TEXTS = ("task", "language", "group", "source", "meta")
# Where a picture stands in a prompt's text: Unicode's sign for an object that is no text.
IMAGE_MARK = "\ufffc"
# Rows that are Python's at once: Arrow holds them in a sixth of the memory.
_PART = 1000


def text_of(messages: Sequence[dict]) -> str:
    """The text of the first of `messages`: of its parts where its content is a list of parts."""
    content = messages[0]["content"] if messages else None
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content or ())


def load_data(config: TrainConfig) -> Any:
    """Read `config.dataset`, a folder as data_prep.convert writes it, as a DatasetDict (`Splits`).

    Rows hold `id`, `prompt`, `completion`, `images` (decoded when a row is taken), `sizes` (width
    and height in pixels of each picture; of the first also as `width` and `height`), and what else
    the folder has. Rows of a task that `config.prompts` names are asked for by that prompt. A row
    that cannot be used (broken line, several turns, missing or unreadable picture) is left out;
    every one of them is listed in `<output_dir>/skipped.jsonl`, and their number is printed. A
    completion without text is left out of train alone: in the other splits it is the truth of a
    blank picture. Of pictures with several frames the first is taken, and their number printed.

    With `streaming` the train split is a `RowStream`, read while it trains.

    Raises:
        DataError: no such folder, or none of its splits holds a usable row; later, a split that is
            asked for and is not there.
    """
    from ocrkit.splits import Splits

    folder = Path(config.dataset)
    if not config.dataset or not folder.is_dir():
        raise DataError(
            f"dataset={config.dataset!r} is no folder; make one with `python -m data_prep.convert`."
        )
    files = split_files(folder)
    if not files:
        raise DataError(
            f"{folder} holds none of {', '.join(f'{s}/metadata.jsonl' for s in SPLITS)}, and no "
            f"data/<split>-*.parquet; {_way_to_convert(folder)}."
        )
    splits, skipped, several = {}, [], 0
    for split, paths in files.items():
        if split == "train" and config.streaming:
            continue
        limit = config.max_train_samples if split == "train" else config.max_eval_samples
        rows, frames = _split(paths, limit, skipped, config.prompts, blank=split != "train")
        several += frames
        if rows is not None:
            splits[split] = rows
    if several and is_main_process():
        print(f"{several} pictures hold several frames; the first of each is taken.")
    record_skipped(config.output_dir, skipped, place=str(folder))
    if config.streaming and "train" in files:
        from ocrkit.streaming import RowStream

        return Splits({"train": RowStream(files["train"], config), **splits}, str(folder))
    if not splits:
        raise DataError(f"{folder} has no usable row; {skipped[0]['detail'] if skipped else ''}")
    return Splits(splits, str(folder))


def split_files(folder: Path) -> dict[str, list[Path]]:
    """The files of each split that is there: a metadata.jsonl, or parquet files."""
    files = {split: [folder / split / "metadata.jsonl"] for split in SPLITS}
    found = {split: paths for split, paths in files.items() if paths[0].is_file()}
    parquet = {split: sorted(folder.glob(f"data/{split}-*.parquet")) for split in SPLITS}
    return found or {split: paths for split, paths in parquet.items() if paths}


def _way_to_convert(folder: Path) -> str:
    """What to do with a folder that is no dataset, by the first row of what lies in it."""
    for path in sorted([*folder.glob("*.jsonl"), *folder.glob("*/metadata.jsonl")]):
        try:
            with path.open(encoding="utf-8-sig") as lines:
                if line := convert_line(json.loads(next(lines, "")), path):
                    return f"{line} reads it"
        except (ValueError, RecursionError, OSError):
            continue
    return "it is not a dataset that data_prep.convert wrote"


def without_knowledge(rows: Any) -> Any:
    """Rows of questions whose prompts have lost what was told before the question.

    Knowledge stands before the question with an empty line between, in rows whose `meta` has
    `need_external_knowledge`; the others stay as they are.
    """

    prompts = []
    for row in rows.remove_columns("images"):
        *before, last = row["prompt"]
        if json.loads(row["meta"] or "{}").get("need_external_knowledge"):
            last = {**last, "content": text_of([last]).rpartition("\n\n")[2]}
        prompts.append([*before, last])
    column = rows.features["prompt"]
    return rows.remove_columns("prompt").add_column("prompt", prompts, feature=column)


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


def _split(
    paths: list[Path],
    limit: int | None,
    skipped: list[dict],
    prompts: dict,
    blank: bool,
) -> tuple[Any, int]:
    """The usable rows of a split as a Dataset, and how many of their pictures have several frames.

    None where no row can be used.

    Args:
        skipped: rows that cannot be used are added to it.
        blank: keep rows whose completion has no text.
    """
    from datasets import concatenate_datasets

    rows, parts, numbers, found, frames = [], [], [], 0, 0
    parquet = paths[0].suffix == ".parquet"
    for path in paths:
        for number, raw in raw_rows(path):
            row, problem = usable_row(path, number, raw, prompts, blank)
            if row is None:
                skipped.append(problem)
                continue
            found += 1
            frames += row["first_frames"]
            if parquet:
                # It keeps its pictures inside; only which rows are good is kept in memory.
                rows.append({name: row.get(name) for name in _OURS})
                numbers.append(number - 1)
            else:
                rows.append(row)
                if len(rows) == _PART:
                    parts.append(dataset_of(rows))
                    rows = []
            if found == limit:
                break
        if parquet and numbers:
            parts.append(_parquet_rows(path, numbers, rows))
            rows, numbers = [], []
        if found == limit:
            break
    if rows:
        parts.append(dataset_of(rows))
    dataset = _once(concatenate_datasets(parts), paths[0], skipped) if parts else None
    return dataset, frames


def _parquet_rows(path: Path, numbers: list[int], rows: list[dict]) -> Any:
    """Rows of a parquet file by their numbers from 0, as a Dataset that opens pictures when read.

    Args:
        rows: what each of them has in the columns `_OURS`.
    """
    from datasets import Dataset

    columns = features()
    with without_bars():
        part = Dataset.from_parquet(str(path)).select(numbers)
        part = part.remove_columns([name for name in part.column_names if name in _OURS])
        for name in _OURS:
            part = part.add_column(name, [row[name] for row in rows], feature=columns[name])
        for name in columns:
            if name not in part.column_names:
                part = part.add_column(name, [None] * len(rows), feature=columns[name])
        return part.select_columns(list(columns)).cast(columns)


def _once(rows: Any, path: Path, skipped: list[dict]) -> Any:
    """The rows but those whose id came before: predictions are matched with rows by id."""
    # Hashes in an array: a set of ids takes ten times the memory, as pyarrow's count_distinct does.
    names = (name for chunk in rows.data.column("id").chunks for name in chunk.to_pylist())
    hashes = np.sort(np.fromiter(map(hash, names), np.int64, len(rows)))
    if (hashes[1:] != hashes[:-1]).all():
        return rows
    seen, kept = set(), []
    for number, name in enumerate(rows["id"]):
        if name in seen:
            detail = f"duplicate id: {name!r} comes twice"
            skipped.append({"where": f"{path}", "reason": "duplicate id", "detail": detail})
        else:
            seen.add(name)
            kept.append(number)
    return rows.select(kept)


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


@contextmanager
def without_bars() -> Iterator[None]:
    """No bars of datasets' own: two for every file, which call each split `train`, and more."""
    import datasets

    hidden = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not hidden:
            datasets.enable_progress_bars()


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
    from data_prep.render import draw_line, load_font, shipped_fonts
    from data_prep.schema import PROMPTS

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
