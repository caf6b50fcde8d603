"""Load a dataset folder as a DatasetDict whose pictures are opened only when a row is taken."""

import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import DatasetDict

from data_prep.dataset.schema import SPLITS, convert_line
from ocrkit.config import TrainConfig
from ocrkit.data.read_rows import raw_rows, usable_row
from ocrkit.data.rows import MEASURED_COLUMNS, Row, dataset_of, features, text_of
from ocrkit.environment import is_main_process
from ocrkit.errors import DataError
from ocrkit.run_folder import record_skipped

if TYPE_CHECKING:
    from datasets import Dataset

# Columns of a parquet file that are replaced by the checked ones.
_CHECKED_COLUMNS = (*MEASURED_COLUMNS, "prompt", "answers")
# Flush to Arrow every 1,000 rows, which takes a sixth of the memory of Python's objects.
_FLUSH_ROWS = 1000


def load_data(config: TrainConfig) -> "Splits":
    """Load `config.dataset`, a folder as data_prep.convert writes it, as a DatasetDict.

    Rows hold `id`, `prompt`, `completion`, `images` (decoded when a row is taken), `sizes` (width
    and height in pixels of each picture; of the first also as `width` and `height`), and the
    folder's other columns. `config.prompts` replaces the prompts of the tasks that it names. Rows
    that cannot be used (broken line, several turns, missing or unreadable picture) are left out,
    listed in `<output_dir>/skipped.jsonl` and counted. A completion without text is left out of
    train alone: in the other splits it is the truth of a blank picture. Of pictures with several
    frames the first is taken, and their number printed.

    With `streaming` the train split is a `RowStream`, which reads rows while it trains.

    Raises:
        DataError: no such folder, or none of its splits holds a usable row; later, a split that the
            folder lacks is asked for.
    """
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
    splits: dict[str, Any] = {}
    skipped: list[dict[str, str]] = []
    several = 0
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
        from ocrkit.data.stream import RowStream

        return Splits({"train": RowStream(files["train"], config), **splits}, str(folder))
    if not splits:
        raise DataError(f"{folder} has no usable row; {skipped[0]['detail'] if skipped else ''}")
    return Splits(splits, str(folder))


def split_files(folder: Path) -> dict[str, list[Path]]:
    """List the files of each split that exists: a metadata.jsonl, parquet files, or messages."""
    for pattern in ("{}/metadata.jsonl", "data/{}-*.parquet", "{}.jsonl"):
        files = {split: sorted(folder.glob(pattern.format(split))) for split in SPLITS}
        if any(files.values()):
            return {split: paths for split, paths in files.items() if paths}
    return {}


def _way_to_convert(folder: Path) -> str:
    """Say how to convert a folder that is no dataset, by the first row of its JSONL files."""
    for path in sorted([*folder.glob("*.jsonl"), *folder.glob("*/metadata.jsonl")]):
        try:
            with path.open(encoding="utf-8-sig") as lines:
                if line := convert_line(json.loads(next(lines, "")), path):
                    return f"{line} reads it"
        except (ValueError, RecursionError, OSError):
            continue
    return "it is not a dataset that data_prep.convert wrote"


def without_knowledge(rows: "Dataset") -> "Dataset":
    """Remove the knowledge that prompts of questions state before the question.

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


def _split(
    paths: list[Path],
    limit: int | None,
    skipped: list[dict[str, str]],
    prompts: dict[str, str],
    blank: bool,
) -> tuple["Dataset | None", int]:
    """Read a split: (its usable rows, None without any; number of pictures with several frames).

    Args:
        limit: read the first N usable rows; None: all.
        skipped: rows that cannot be used are added to it.
        blank: keep rows whose completion has no text.
    """
    from datasets import concatenate_datasets

    parts: list[Dataset] = []
    rows: list[Row] = []
    numbers: list[int] = []
    count = frames = 0
    parquet = paths[0].suffix == ".parquet"
    for path in paths:
        for number, raw in raw_rows(path):
            row, problem = usable_row(path, number, raw, prompts, blank)
            if row is None:
                skipped.append(problem or {})
                continue
            count += 1
            frames += row["first_frames"]
            if parquet:
                # Pictures stay in the file; memory holds numbers of rows and checked columns.
                checked: Any = {name: row.get(name) for name in _CHECKED_COLUMNS}
                rows.append(checked)
                numbers.append(number - 1)
            else:
                rows.append(row)
                if len(rows) == _FLUSH_ROWS:
                    parts.append(dataset_of(rows))
                    rows = []
            if count == limit:
                break
        if parquet and numbers:
            parts.append(_parquet_rows(path, numbers, rows))
            rows, numbers = [], []
        if count == limit:
            break
    if rows:
        parts.append(dataset_of(rows))
    dataset = _without_duplicates(concatenate_datasets(parts), paths[0], skipped) if parts else None
    return dataset, frames


def _parquet_rows(path: Path, numbers: list[int], rows: Sequence[Row]) -> "Dataset":
    """Select rows of a parquet file as a Dataset that opens pictures when a row is taken.

    Args:
        numbers: of the rows, from 0.
        rows: their checked columns, `_CHECKED_COLUMNS`.
    """
    from datasets import Dataset

    columns = features()
    with without_bars():
        selected = Dataset.from_parquet(str(path)).select(numbers)
        selected = selected.remove_columns(
            [name for name in selected.column_names if name in _CHECKED_COLUMNS]
        )
        for name in _CHECKED_COLUMNS:
            selected = selected.add_column(
                name, [row.get(name) for row in rows], feature=columns[name]
            )
        for name in columns:
            if name not in selected.column_names:
                selected = selected.add_column(name, [None] * len(rows), feature=columns[name])
        return selected.select_columns(list(columns)).cast(columns)


def _without_duplicates(rows: "Dataset", path: Path, skipped: list[dict[str, str]]) -> "Dataset":
    """Remove rows whose id came before: predictions are matched with rows by id."""
    # An array of hashes takes a tenth of the memory of a set of ids or pyarrow's count_distinct.
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


@contextmanager
def without_bars() -> Generator[None]:
    """Disable the progress bars of datasets: several a file, all labelled `train`."""
    import datasets

    hidden = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not hidden:
            datasets.enable_progress_bars()


class Splits(DatasetDict):
    """A DatasetDict whose missing split raises a DataError with instructions.

    With `streaming` its train split is a `RowStream`.
    """

    def __init__(self, splits: dict[str, Any], folder: str = ""):
        super().__init__(**splits)
        self.folder = folder

    def __missing__(self, split: str) -> None:
        """Raise a DataError that lists the splits of the folder."""
        raise DataError(
            f"{self.folder} has no {split} split; it has {', '.join(map(str, self))}. Deal it "
            "anew: `python -m data_prep.convert ... --split 0.8,0.1,0.1`."
        )
