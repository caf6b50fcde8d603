"""Evaluate whatever reads: a model, an engine by name, a file of predictions."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from data_prep.dataset.files import naming, write_whole
from ocrkit.data.rows import (
    first_picture,
    first_picture_files,
    picture_hashes,
    select_rows,
    text_of,
    without_images,
)
from ocrkit.evaluation.evaluation import (
    UNFINISHED,
    Evaluation,
    check_evaluation_folder,
    line_of,
    read_predictions,
    score,
)
from ocrkit.evaluation.tesseract import _tesseract, _tesseract_language
from ocrkit.metrics import fields
from ocrkit.metrics.text import PROFILE_VERSION
from ocrkit.run_folder import run_id_of_model


def evaluate(
    model: Any,
    processor: Any,
    data: Any,
    config: Any,
    name: str = "base",
    profile: str | None = None,
    locale: str | None = None,
) -> Evaluation:
    """Predict every row of `data` greedily, stream to disk, and score.

    Predictions go to `<output_dir>/eval/<name>/unfinished.jsonl` as they come. A run that was
    interrupted goes on where it stopped, if weights, ids, pictures, generation settings, pixel
    budget and profile versions are the same (the fingerprint); otherwise it starts afresh. An
    evaluation that is there already is replaced when the new one is whole.

    Args:
        model: what `load_model` returned.
        processor: likewise.
        data: rows {id, prompt, completion, images, language, group, ...}: a `datasets.Dataset` or
            a list of dicts.
        config: the `TrainConfig`; `output_dir` says where the results go.
        name: the folder's name, such as `base` or `tuned`.
        profile: the normalisation profile of `normalized_match`; None takes the config's.
        locale: how amounts are written in JSON that is read; None takes the config's.

    """
    from ocrkit.models.read import fingerprint, predict_stream, weights_fingerprint

    return _run(
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
    data: Any,
    output_dir: str | Path,
    name: str | None = None,
    language: str | None = None,
    psm: int | None = None,
    profile: str = "strict",
    locale: str = "en",
) -> Evaluation:
    """Evaluate an engine by name on the rows of `data`, streamed and resumed as a model is.

    Args:
        engine: `tesseract` (the program, through pytesseract).
        data: as for `evaluate`.
        output_dir: results go to `<output_dir>/eval/<name>`.
        name: the folder's name; the engine's where None.
        language: Tesseract's own language, such as `eng` or `kor+eng`; None takes each row's.
        psm: page segmentation mode; None takes 7 (one line) for pictures at least three times as
            wide as high and 6 (one block) for the others.
        profile: the normalisation profile of `normalized_match`.
        locale: how amounts are written in JSON that is read.

    Raises:
        ValueError: the engine is unknown, Tesseract lacks a language, or the name is no name.
        RuntimeError: Tesseract or pytesseract is not installed.

    """
    if engine != "tesseract":
        raise ValueError(f"Engine {engine!r} is unknown: use 'tesseract', or score a file.")
    folder = eval_folder(output_dir, name or engine)
    try:
        import pytesseract

        version = str(pytesseract.get_tesseract_version())
        installed = set(pytesseract.get_languages())
    except (ImportError, OSError, SystemExit) as error:
        raise RuntimeError(
            f"Tesseract cannot be run ({error}): install pytesseract and the package tesseract-ocr."
        ) from None
    rows = [(row["id"], language or _tesseract_language(row)) for row in without_images(data)]
    for wanted in sorted(part for code in {code for _, code in rows} for part in code.split("+")):
        if wanted not in installed:
            raise ValueError(
                f"Tesseract has no data for {wanted!r}: install tesseract-ocr-"
                f"{wanted.replace('_', '-')}, or pass a language that it has "
                f"({', '.join(sorted(installed - {'osd'}))})."
            )
    stamp = json.dumps([engine, version, psm, rows, picture_hashes(data)])
    stream = partial(_tesseract, language=language, psm=psm)
    return _run(data, folder, stamp, stream, profile, locale)


def tesseract_baseline(data: Any, config: Any) -> list[Evaluation]:
    """Evaluate Tesseract on the rows of `data`, to stand beside a model in a comparison.

    Returns:
        A list of its one evaluation; of none where it cannot be run or lacks a language, which is
        printed.

    """
    try:
        given = {"profile": config.normalization_profile, "locale": config.locale}
        return [evaluate_engine("tesseract", data, config.output_dir, **given)]
    except (RuntimeError, ValueError) as error:
        print(f"Left out: {error}")
        return []


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
    """Where an evaluation is kept: `<output_dir>/eval/<name>`.

    Raises:
        ValueError: the name would lead elsewhere.

    """
    if name in ("", ".", "..") or "/" in name or "\\" in name:
        raise ValueError(
            f"Evaluation name {name!r} leads out of eval/: give one without / and \\, such as base."
        )
    return Path(output_dir) / "eval" / name


# --- streaming and resuming


def _run(
    data: Any,
    folder: Path,
    stamp: str,
    stream: Callable[[Any], Iterable[dict]],
    profile: str,
    locale: str,
    **measured: str | None,
) -> Evaluation:
    """Predict what `folder` does not hold yet under this stamp, then score and save all."""
    records = records_of(data)
    if not records:
        raise ValueError(f"The data to evaluate as {folder.name!r} has no rows.")
    twice = [key for key, count in Counter(r["id"] for r in records).items() if count > 1]
    if twice:
        raise ValueError(f"Id {twice[0]!r} comes twice in the data: ids must be unique.")
    stamp = hashlib.sha256((stamp + json.dumps(PROFILE_VERSION)).encode()).hexdigest()[:16]
    done = _predicted(folder, stamp)
    for record in records:
        record.update(done.get(record["id"], {}))
    todo = [number for number, record in enumerate(records) if record["id"] not in done]
    waiting = {records[number]["id"]: records[number] for number in todo}
    check_evaluation_folder(folder)
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
    # Beside an evaluation that is whole, which stays until this one is.
    path = folder / UNFINISHED
    kept = [line_of(record) for record in records if record["id"] in done]
    write_whole(path, "".join([json.dumps({"fingerprint": stamp}) + "\n", *kept]))
    append = {"encoding": "utf-8", "errors": "backslashreplace", "newline": "\n"}
    with naming(path), path.open("a", **append) as file:
        for item in stream(select_rows(data, todo)) if todo else ():
            record = waiting.pop(item["id"], None)
            if record is None:
                raise RuntimeError(f"The system answered id {item['id']!r}, which was not asked.")
            record.update(item)
            file.write(line_of(record))
            file.flush()
    for record in waiting.values():
        record["error"] = "the system returned no prediction for this row"
    evaluation = replace(score(records, folder.name, profile, stamp, locale), **measured)
    evaluation.save(folder)
    path.unlink()
    return evaluation


def _predicted(folder: Path, stamp: str) -> dict[Any, dict]:
    """Return what a run of the same stamp predicted, interrupted or whole, by id, but failures."""
    head, *lines = _lines(folder / UNFINISHED) or [{}]
    if head.get("fingerprint") != stamp:
        try:
            whole = Evaluation.load(folder)
        except (OSError, ValueError):
            return {}
        lines = whole.records if whole.fingerprint == stamp else []
    keys = ("prediction", "confidence", "finish_reason", "error")
    return {
        record["id"]: {key: record.get(key) for key in keys}
        for record in lines
        if record.get("prediction") is not None and not record.get("error")
    }


def _lines(path: Path) -> list[dict]:
    found = []
    text = path.read_bytes().decode(errors="replace") if path.is_file() else ""
    for line in text.split("\n"):
        try:
            found.append(json.loads(line))
        except ValueError:  # the line that was being written when the run was stopped
            continue
    return found


def records_of(data: Any) -> list[dict]:
    """Turn dataset rows into records without a prediction, opening no picture."""
    records, files = [], first_picture_files(data)
    for number, row in enumerate(without_images(data)):
        if not {"id", "completion"} <= row.keys() or not row["completion"]:
            raise ValueError(
                f"Row {number} has no id or no completion, but the keys {', '.join(row)}: "
                "evaluate rows of prompt, completion and images."
            )
        meta = fields.parse_json(row.get("meta"))
        extra = meta if isinstance(meta, dict) else {}
        extra = {**extra, "task": row.get("task"), "source": row.get("source")}
        record = {
            key: value
            for key, value in extra.items()
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
        records.append(record)
    return records
