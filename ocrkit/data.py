"""Read a dataset folder into what trains: rows with their pictures opened only when needed."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from tqdm.auto import tqdm

from ocrkit.config import TrainConfig
from ocrkit.processes import is_main_process

SPLITS = ("train", "validation", "test")


class DataError(ValueError):
    """Data that cannot be used: the message states the value, the cause and the way out."""


def text_of(messages: list[dict]) -> str:
    """The text of a completion (or prompt), whether its content is a string or a list of parts."""
    content = messages[0]["content"]
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content)


def load_data(config: TrainConfig) -> Any:
    """Read `config.dataset`, a folder as data_prep.convert writes it, as a DatasetDict.

    Rows hold `id`, `prompt`, `completion`, `images` (decoded when a row is taken), `width` and
    `height` in pixels, and what else the folder has. A row that cannot be used (broken line,
    empty text, missing or unreadable picture) is left out; every one of them is listed in
    `<output_dir>/skipped.jsonl`, and their number is printed.

    Raises:
        DataError: no such folder, or none of its splits holds a usable row.
    """
    from datasets import Dataset, DatasetDict, Features, Image, List, Value

    folder = Path(config.dataset)
    if not config.dataset or not folder.is_dir():
        raise DataError(
            f"dataset={config.dataset!r} is no folder; make one with `python -m data_prep.convert`."
        )
    files = {split: folder / split / "metadata.jsonl" for split in SPLITS}
    files = {split: path for split, path in files.items() if path.is_file()}
    if not files:
        raise DataError(
            f"{folder} holds none of {', '.join(f'{s}/metadata.jsonl' for s in SPLITS)}; "
            "it is not a dataset that data_prep.convert wrote."
        )
    message = List({"role": Value("string"), "content": Value("string")})
    features = {"id": Value("string"), "images": List(Image()), "prompt": message}
    features |= {"completion": message, "width": Value("int32"), "height": Value("int32")}
    text_columns = ("task", "language", "group", "source", "meta")
    features |= {name: Value("string") for name in text_columns}
    splits, skipped = {}, []
    for split, path in files.items():
        limit = config.max_train_samples if split == "train" else config.max_eval_samples
        rows = []
        for row in _usable(path, skipped):
            rows.append(row)
            if limit and len(rows) == limit:
                break
        if rows:
            columns = {name: [row.get(name) for row in rows] for name in features}
            splits[split] = Dataset.from_dict(columns, features=Features(features))
    record_skipped(config.output_dir, skipped, place=str(folder))
    if not splits:
        raise DataError(f"{folder} has no usable row; {skipped[0]['detail'] if skipped else ''}")
    return DatasetDict(splits)


def _usable(path: Path, skipped: list[dict]) -> Iterator[dict]:
    """Rows of a metadata.jsonl; what is wrong with the others is appended to `skipped`."""
    with path.open(encoding="utf-8-sig", errors="replace") as lines:
        for number, line in enumerate(tqdm(lines, desc=path.parent.name, delay=2), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                yield _row(row, path.parent)
            except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
                reason = "broken line" if isinstance(error, json.JSONDecodeError) else "bad row"
                if isinstance(error, DataError):
                    reason = str(error).partition(":")[0]
                skipped.append(
                    {"where": f"{path}:{number}", "reason": reason, "detail": f"{error}"}
                )


def _row(row: dict, folder: Path) -> dict:
    for name in ("prompt", "completion"):
        if not isinstance(row.get(name), list) or not row[name]:
            raise DataError(
                f"no {name}: row {row.get('id')!r} has no list of messages under {name}"
            )
        row[name] = [{"role": m["role"], "content": text_of([m])} for m in row[name]]
    if not row["completion"][0]["content"].strip():
        raise DataError(f"empty text: row {row.get('id')!r} has nothing to learn")
    paths = [folder / name for name in row["images_file_names"]]
    sizes = [_size(path) for path in paths]
    if not sizes:
        raise DataError(f"no picture: row {row.get('id')!r} names no picture")
    # The stated size of a single picture is trusted nowhere: budgets are computed from it.
    row["width"], row["height"] = sizes[0]
    row["images"] = [str(path) for path in paths]
    row["id"] = str(row["id"])
    return row


def _size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            # Orientations 5 to 8 lie on their side; datasets turns them upright as it decodes.
            return image.size[::-1] if image.getexif().get(0x0112, 1) > 4 else image.size
    except FileNotFoundError:
        raise DataError(f"missing picture: {path} does not exist") from None
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise DataError(f"unreadable picture: {path} cannot be opened ({error})") from None


def record_skipped(
    output_dir: str | os.PathLike, skipped: list[dict[str, str]], place: str = ""
) -> None:
    """List rows that were left out in `<output_dir>/skipped.jsonl` and print their number.

    Args:
        skipped: `{where, reason, detail}` each.
        place: what was listed before with a `where` that begins so is replaced.
    """
    if not is_main_process():
        return
    path = Path(output_dir) / "skipped.jsonl"
    kept = [e for e in _skipped(output_dir) if not (place and e["where"].startswith(place))]
    if not kept and not skipped:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in [*kept, *skipped])
    path.write_text(text, encoding="utf-8")
    counts = Counter(entry["reason"] for entry in skipped)
    if counts:
        listed = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
        print(f"{len(skipped)} rows left out ({listed}); see {path}")


def skipped_counts(output_dir: str | os.PathLike) -> dict[str, int]:
    """Reasons for rows left out of this run, with their numbers."""
    return dict(Counter(entry["reason"] for entry in _skipped(output_dir)))


def _skipped(output_dir: str | os.PathLike) -> list[dict[str, str]]:
    path = Path(output_dir) / "skipped.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def picture_rows(paths: list[Path], prompt: str) -> list[dict[str, Any]]:
    """Rows without a completion, for reading picture files; what cannot be opened is named."""
    rows = []
    for path in paths:
        try:
            with Image.open(path) as image:
                image.load()
                picture = image.copy()
        except (OSError, Image.DecompressionBombError) as error:
            print(f"{path} left out: {error}")
            continue
        message = {"role": "user", "content": prompt}
        rows.append({"id": str(path), "prompt": [message], "images": [picture]})
    return rows
