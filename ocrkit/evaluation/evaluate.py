"""Evaluate a model, an OCR engine, a server, or a file of predictions."""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tqdm.auto import tqdm

from data_prep.dataset.files import naming, read_json_lines, write_whole
from data_prep.dataset.schema import one_line
from ocrkit.data.rows import (
    Row,
    first_picture,
    first_picture_files,
    picture_hashes,
    select_rows,
    text_of,
    undecoded,
    without_images,
)
from ocrkit.evaluation.engines import open_engine, read_rows
from ocrkit.evaluation.evaluation import UNFINISHED, Evaluation, check_evaluation_folder, score
from ocrkit.evaluation.records import Record, read_predictions, record_line
from ocrkit.metrics import fields
from ocrkit.metrics.text import PROFILE_VERSION, normalize
from ocrkit.run_folder import run_id_of_model

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, ProcessorMixin

    from ocrkit.config import TrainConfig
    from ocrkit.models.read import Prediction

    Rows = Dataset | Sequence[Row]


def evaluate(
    model: "PreTrainedModel",
    processor: "ProcessorMixin",
    data: "Rows",
    config: "TrainConfig",
    name: str = "base",
    profile: str | None = None,
    locale: str | None = None,
) -> Evaluation:
    """Predict every row of `data` greedily, stream to disk, and score.

    Predictions are appended to `<output_dir>/eval/<name>/unfinished.jsonl`. An interrupted
    evaluation resumes if weights, ids, pictures, generation settings, pixel budget and profile
    versions are unchanged (the fingerprint); otherwise it starts again. An existing evaluation is
    replaced once the new one is complete.

    Args:
        model: the model that `load_model` returned.
        processor: its processor.
        data: rows {id, prompt, completion, images, language, group, ...}: a `datasets.Dataset` or
            a list of dicts.
        config: the `TrainConfig`; results go into its `output_dir`.
        name: name of the evaluation's folder, such as `base` or `tuned`.
        profile: normalisation profile of `normalized_match`; None takes the config's.
        locale: how amounts in JSON are written; None takes the config's.

    Raises:
        ValueError: there are no rows, an id comes twice, `name` is no folder name, or the profile
            does not serve a row's language.
    """
    from ocrkit.models.read import fingerprint, predict_stream, weights_fingerprint

    return _evaluate_stream(
        data,
        eval_folder(config.output_dir, name),
        fingerprint(model, processor, data, config),
        lambda rows: predict_stream(model, processor, rows, config),
        profile or config.normalization_profile,
        locale or config.locale,
        run=run_id_of_model(model, config.model_name_or_path),
        weights=weights_fingerprint(model),
    )


def evaluate_engine(
    engine: str,
    data: "Rows",
    output_dir: str | Path,
    name: str | None = None,
    language: str | None = None,
    psm: int | None = None,
    profile: str = "strict",
    locale: str = "en",
) -> Evaluation:
    """Evaluate an OCR engine on the rows of `data`, streamed and resumed as for a model.

    Args:
        engine: `rapidocr` (PP-OCR models inside the package) or `tesseract` (the program).
        data: as for `evaluate`.
        output_dir: results go to `<output_dir>/eval/<name>`.
        name: name of the evaluation's folder; None takes the engine's name.
        language: Tesseract's own code, as for `engines.open_engine`.
        psm: Tesseract's page segmentation mode, as for `engines.open_engine`.
        profile: normalisation profile of `normalized_match`.
        locale: how amounts in JSON are written.

    Raises:
        ValueError: the engine is unknown, an option is not its own, Tesseract lacks a language, or
            `name` is no folder name.
        RuntimeError: the engine is not installed.
    """
    folder = eval_folder(output_dir, name or engine)
    texts = without_images(data)
    opened = open_engine(engine, texts, language, psm)
    rows = [(row["id"], opened.language_of(row)) for row in texts]
    stamp = json.dumps([engine, opened.version, psm, rows, picture_hashes(data)])
    stream = partial(read_rows, engine=opened)
    return _evaluate_stream(data, folder, stamp, stream, profile, locale)


def evaluate_server(
    url: str,
    model: str,
    data: "Rows",
    config: "TrainConfig",
    name: str | None = None,
    requests: int = 8,
    timeout: float = 120.0,
    price: tuple[float, float] | None = None,
    processor: str | None = None,
) -> Evaluation:
    """Evaluate a model behind an OpenAI-compatible address, streamed and resumed as for a model.

    Args:
        url: the address up to its version, such as http://localhost:8000/v1.
        model: the model's name on the server.
        data: as for `evaluate`.
        config: settings of reading, profile and locale; results go into its `output_dir`.
        name: name of the evaluation's folder; None takes the end of the model's name.
        requests: number of requests at once.
        timeout: seconds to wait for an answer, of which several are tried.
        price: of a million tokens read and of a million written.
        processor: a model or run folder that decides the size of pictures; see `ServerReader`.

    Raises:
        ConfigError: the address or the processor cannot be used.
        RuntimeError: the server is not there, is no chat endpoint, refuses the key or the model,
            sees no pictures, or answers no more.

    """
    from ocrkit.evaluation.server import ServerReader, evaluation_name

    folder = eval_folder(config.output_dir, name or evaluation_name(model))
    reader = ServerReader(url, model, config, requests, timeout, price=price, processor=processor)
    return _evaluate_stream(
        data,
        folder,
        reader.fingerprint(data),
        lambda rows: _failures_shown(reader.read_stream(undecoded(rows)), len(rows)),
        config.normalization_profile,
        config.locale,
    )


def evaluate_file(
    path: str | Path, name: str | None = None, profile: str = "strict", locale: str = "en"
) -> Evaluation:
    """Score a `predictions.jsonl` that any system wrote; picture paths are relative to it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line cannot be used; file and line are named.
    """
    return score(read_predictions(path), name or Path(path).stem, profile, locale=locale)


def eval_folder(output_dir: str | Path, name: str) -> Path:
    """Return the folder of an evaluation, `<output_dir>/eval/<name>`.

    Raises:
        ValueError: the name leads out of `eval/`.
    """
    if name in ("", ".", "..") or "/" in name or "\\" in name:
        raise ValueError(
            f"Evaluation name {name!r} leads out of eval/: give one without / and \\, such as base."
        )
    return Path(output_dir) / "eval" / name


# --- streaming and resuming


def _evaluate_stream(
    data: "Rows",
    folder: Path,
    stamp: str,
    stream: Callable[["Rows"], Iterable[Mapping[str, Any]]],
    profile: str,
    locale: str,
    run: str | None = None,
    weights: str | None = None,
) -> Evaluation:
    """Predict rows that `folder` does not hold under this stamp, then score and save all."""
    records = records_of(data)
    if not records:
        raise ValueError(f"The data to evaluate as {folder.name!r} has no rows.")
    repeated = [key for key, count in Counter(r["id"] for r in records).items() if count > 1]
    if repeated:
        raise ValueError(f"Id {repeated[0]!r} comes twice in the data: ids must be unique.")
    # A profile that does not serve a language is refused before anything is read.
    for language in {record.get("language") for record in records}:
        normalize("", profile, language)
    stamp = hashlib.sha256((stamp + json.dumps(PROFILE_VERSION)).encode()).hexdigest()[:16]
    done = _saved_predictions(folder, stamp)
    for record in records:
        _update(record, done.get(record["id"], {}))
    todo = [number for number, record in enumerate(records) if record["id"] not in done]
    waiting = {records[number]["id"]: records[number] for number in todo}
    check_evaluation_folder(folder)
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
    # A file of its own: an older complete evaluation stays until this one is complete.
    path = folder / UNFINISHED
    kept = [record_line(record) for record in records if record["id"] in done]
    write_whole(path, "".join([json.dumps({"fingerprint": stamp}) + "\n", *kept]))
    with (
        naming(path),
        path.open("a", encoding="utf-8", errors="backslashreplace", newline="\n") as file,
    ):
        for item in stream(select_rows(data, todo)) if todo else ():
            record = waiting.pop(item["id"], None)
            if record is None:
                raise RuntimeError(f"The system answered id {item['id']!r}, which was not asked.")
            _update(record, item)
            file.write(record_line(record))
            file.flush()
    for record in waiting.values():
        record["error"] = "the system returned no prediction for this row"
    evaluation = score(records, folder.name, profile, stamp, locale)
    evaluation.run, evaluation.weights = run, weights
    evaluation.save(folder)
    path.unlink()
    return evaluation


def _failures_shown(answers: "Iterable[Prediction]", total: int) -> "Iterator[Prediction]":
    """Answers as they come, with a progress bar and a line on stderr for each that failed."""
    for answer in tqdm(answers, total=total, desc="server", delay=2):
        if answer["error"]:
            tqdm.write(f"{one_line(answer['id'])} failed: {answer['error']}", file=sys.stderr)
        yield answer


def _update(record: Record, values: Mapping[str, Any]) -> None:
    cast("dict[str, Any]", record).update(values)


def _saved_predictions(folder: Path, stamp: str) -> dict[str | int, dict[str, Any]]:
    """Return successful predictions under the same stamp by id, unfinished or complete."""
    head, *lines = [*read_json_lines(folder / UNFINISHED)] or [{}]
    if head.get("fingerprint") != stamp:
        try:
            complete = Evaluation.load(folder)
        except (OSError, ValueError):
            return {}
        lines = complete.records if complete.fingerprint == stamp else []
    keys = ("prediction", "confidence", "finish_reason", "error")
    return {
        record["id"]: {key: record.get(key) for key in keys}
        for record in lines
        if record.get("prediction") is not None and not record.get("error")
    }


def records_of(data: "Rows") -> list[Record]:
    """Turn dataset rows into records without a prediction, opening no picture.

    Raises:
        ValueError: a row has no id or no completion.
    """
    records, files = [], first_picture_files(data)
    for number, row in enumerate(without_images(data)):
        if not {"id", "completion"} <= row.keys() or not row["completion"]:
            raise ValueError(
                f"Row {number} has no id or no completion, but the keys {', '.join(row)}: "
                "evaluate rows of prompt, completion and images."
            )
        meta = fields.parse_json(row.get("meta"))
        columns = meta if isinstance(meta, dict) else {}
        columns = {**columns, "task": row.get("task"), "source": row.get("source")}
        record: dict[str, Any] = {
            key: value
            for key, value in columns.items()
            if isinstance(value, bool | int | str) and len(str(value)) <= 64
        }
        record |= {
            "id": row["id"],
            "reference": text_of(row["completion"]),
            "prediction": None,
            "language": row.get("language"),
            "group": row.get("group"),
            "confidence": None,
            "finish_reason": None,
            "error": None,
            "image": (files and files[number]) or partial(first_picture, data, number),
        }
        if row.get("answers"):
            record["answers"] = row["answers"]
        records.append(cast("Record", record))
    return records
