"""An evaluation: predictions of one system, made, resumed, scored and saved."""

import hashlib
import json
import random
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from ocrkit import analysis, metrics
from ocrkit.analysis import said
from ocrkit.metrics import Tally
from ocrkit.text import PROFILE_VERSION, script

REQUIRED = {"id", "reference", "prediction"}
HEADLINE = ("cer", "exact_match")


@dataclass
class Evaluation:
    """Predictions of one system and what they score.

    `records` are dicts {id, reference, prediction, language, group, confidence, finish_reason,
    error, image, ...}; an image is a path, a PIL image or a function that returns one. `metrics` is
    {metric: {value, low, high}} with 95 % intervals, `by` is {column: {value: {n, metric: ...}}}.
    """

    name: str
    records: list[dict]
    metrics: dict[str, dict]
    by: dict[str, dict]
    profile: dict
    fingerprint: str | None = None
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """Samples without a prediction; they score as empty strings."""
        return sum(bool(r.get("error")) or r.get("prediction") is None for r in self.records)

    def summary(self) -> dict:
        """Return what `metrics.json` holds."""
        return {
            "name": self.name,
            "n": len(self.records),
            "failed": self.failed,
            "metrics": self.metrics,
            "by": self.by,
            "profile": self.profile,
            "unicode": unicodedata.unidata_version,
            "fingerprint": self.fingerprint,
            "versions": self.versions,
        }

    def save(self, folder: str | Path) -> Path:
        """Write `predictions.jsonl` and `metrics.json` into `folder`, each whole or not at all."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        lines = "".join(map(_line, self.records))
        write_whole(folder / "predictions.jsonl", lines)
        write_whole(
            folder / "metrics.json", json.dumps(self.summary(), ensure_ascii=False, indent=1)
        )
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> "Evaluation":
        """Read an evaluation that `save` wrote."""
        folder = Path(folder)
        path = folder / "metrics.json"
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} does not exist: give a folder that an evaluation was saved in."
            )
        saved = json.loads(path.read_text(encoding="utf-8"))
        if "metrics" not in saved:
            raise ValueError(
                f"{path} holds an unfinished evaluation: run evaluate again to finish."
            )
        keys = ("name", "metrics", "by", "profile", "fingerprint", "versions")
        records = read_predictions(folder / "predictions.jsonl")
        return cls(records=records, **{key: saved[key] for key in keys})

    def __repr__(self) -> str:
        """Return the table that `print` shows."""
        from ocrkit.report import compare

        return compare(self).table()

    def _repr_html_(self) -> str:
        from ocrkit.report import compare

        return compare(self)._repr_html_()


def score(
    records: Iterable[dict],
    name: str = "predictions",
    profile: str = "strict",
    fingerprint: str | None = None,
) -> Evaluation:
    """Score records {id, reference, prediction, ...}, cross-checking the CER against jiwer.

    Raises:
        ValueError: there are no records, one lacks an id or a reference, or an id comes twice.
        RuntimeError: jiwer counts other edits than this package on a sample of the records.

    """
    records = list(records)
    if not records:
        raise ValueError(f"Evaluation {name!r} has no records: there is nothing to score.")
    seen: set = set()
    for number, record in enumerate(records, 1):
        if record.get("id") is None or not isinstance(record.get("reference"), str):
            raise ValueError(
                f"Record {number} of {name!r} needs an 'id' and a 'reference' that is a string, "
                f"but has the keys {', '.join(record) or 'none'}."
            )
        if record["id"] in seen:
            raise ValueError(f"Id {record['id']!r} comes twice in {name!r}: ids must be unique.")
        seen.add(record["id"])
    cross_check(records)
    counted = tallies(records, profile)
    groups = [record.get("group") for record in records]
    return Evaluation(
        name=name,
        records=records,
        metrics=analysis.with_intervals(counted, groups),
        by=analysis.by_column(records, {key: counted[key] for key in HEADLINE}, groups),
        profile={"name": profile, "version": PROFILE_VERSION[profile]},
        fingerprint=fingerprint,
        versions={
            name: metadata.version(name) for name in ("rapidfuzz", "regex", "numpy", "jiwer")
        },
    )


def tallies(records: Sequence[dict], profile: str = "strict") -> dict[str, Tally]:
    """Count every metric of every sample; a metric that has no sample to apply to is left out."""
    references = [record["reference"] for record in records]
    predictions = [said(record) for record in records]
    languages = [record.get("language") for record in records]
    similarity = metrics.process_ned_similarity(references, predictions)
    found = {
        "cer": metrics.process_cer(references, predictions),
        "cer_grapheme": metrics.process_cer_grapheme(references, predictions),
    }
    # Chinese is written without spaces: its words are not what str.split() returns.
    spaced = np.array([not _is_chinese(record) for record in records])
    if spaced.any():
        part, whole = metrics.process_wer(references, predictions)
        found["wer"] = Tally(part * spaced, whole * spaced)
    found |= {
        "exact_match": metrics.process_exact_match(references, predictions),
        "normalized_match": metrics.process_normalized_match(
            references, predictions, languages if profile != "squad" else None, profile
        ),
        "ned_similarity": similarity,
        "share_similar": Tally((similarity.part >= 0.8).astype(float), similarity.whole),
    }
    if not spaced.all():
        counts = metrics.process_edits(references, predictions)
        length = counts.lengths * ~spaced
        correct = (counts.lengths - counts.substitutions - counts.deletions) * ~spaced
        found["cr"] = Tally(correct, length)
        found["ar"] = Tally(correct - counts.insertions * ~spaced, length)
    running = np.array([float(analysis.runaway(record)) for record in records])
    found["runaway_rate"] = Tally(running, np.ones(len(records)))
    return found


def _is_chinese(record: dict) -> bool:
    language = record.get("language")
    return language.startswith("zh") if language else script(record["reference"]) == "Han"


def cross_check(records: Sequence[dict], most: int = 200) -> None:
    """Hold the CER against jiwer's on a seeded sample of the records, `most` at the most.

    Raises:
        RuntimeError: the two counts of edits differ.

    """
    import jiwer

    # jiwer spends seconds on a page that ran away, and one such page proves nothing more.
    short = [r for r in records if len(r["reference"]) + len(said(r)) <= 2000]
    sample = random.Random(0).sample(short, min(most, len(short)))
    if not sample:
        return
    references, predictions = metrics.pairs(
        [record["reference"] for record in sample], [said(record) for record in sample]
    )
    split = jiwer.Compose([jiwer.ReduceToListOfListOfChars()])
    theirs = jiwer.process_characters(references, predictions, split, split)
    theirs = theirs.substitutions + theirs.deletions + theirs.insertions
    ours = int(metrics.process_cer(references, predictions).part.sum())
    if ours != theirs:
        raise RuntimeError(
            f"jiwer counts {theirs} edits on a sample of {len(sample)} records and ocrkit {ours}: "
            "the installed versions of rapidfuzz and jiwer disagree, so no CER can be trusted."
        )


# --- running a model


def evaluate(
    model: Any,
    processor: Any,
    data: Any,
    config: Any,
    name: str = "base",
    profile: str | None = None,
) -> Evaluation:
    """Predict every row of `data` greedily, stream to disk, and score.

    Predictions go to `<output_dir>/eval/<name>/predictions.jsonl` as they come. A run that was
    interrupted goes on where it stopped, if weights, ids, generation settings, pixel budget and
    profile versions are the same (the fingerprint); otherwise it starts afresh.

    Args:
        model: what `load_model` returned.
        processor: likewise.
        data: rows {id, prompt, completion, images, language, group, ...}: a `datasets.Dataset` or
            a list of dicts.
        config: the `TrainConfig`; `output_dir` says where the results go.
        name: the folder's name, such as `base` or `tuned`.
        profile: the normalisation profile of `normalized_match`; None takes the config's.

    """
    from ocrkit.predict import fingerprint, predict_stream

    records = records_of(data)
    if not records:
        raise ValueError(f"The data to evaluate as {name!r} has no rows.")
    folder = Path(config.output_dir) / "eval" / name
    stamp = fingerprint(model, processor, data, config) + json.dumps(PROFILE_VERSION)
    stamp = hashlib.sha256(stamp.encode()).hexdigest()[:16]
    done = _predicted(folder, stamp)
    for record in records:
        record.update(done.get(record["id"], {}))
    todo = [number for number, record in enumerate(records) if record["id"] not in done]
    by_id = {records[number]["id"]: records[number] for number in todo}
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "metrics.json", json.dumps({"name": name, "fingerprint": stamp}))
    kept = "".join(_line(record) for record in records if record["id"] in done)
    write_whole(folder / "predictions.jsonl", kept)
    with _append(folder / "predictions.jsonl") as file:
        for item in predict_stream(model, processor, _select(data, todo), config) if todo else ():
            record = by_id.pop(item["id"])
            record.update(item)
            file.write(_line(record))
            file.flush()
    for record in by_id.values():
        record["error"] = "the model returned no prediction for this row"
    evaluation = score(records, name, profile or config.normalization_profile, stamp)
    evaluation.save(folder)
    return evaluation


def records_of(data: Any) -> list[dict]:
    """Turn dataset rows into records without a prediction, opening no picture."""
    hugging = hasattr(data, "remove_columns")
    rows = data.remove_columns("images") if hugging and "images" in data.column_names else data
    records = []
    for number, row in enumerate(rows):
        meta = row.get("meta")
        meta = json.loads(meta) if isinstance(meta, str) and meta.startswith("{") else {}
        extra = {
            key: value
            for key, value in {**meta, "task": row.get("task"), "source": row.get("source")}.items()
            if isinstance(value, bool | int | str) and len(str(value)) <= 64
        }
        record = {
            **extra,
            "id": row["id"],
            "reference": _text(row["completion"][0]["content"]),
            "prediction": None,
            "language": row.get("language"),
            "group": row.get("group"),
            "confidence": None,
            "finish_reason": None,
            "error": None,
            "image": partial(_picture, data, number),
        }
        records.append(record)
    return records


def _picture(data: Any, number: int) -> Any:
    pictures = data[number].get("images")
    return pictures[0] if pictures else None


def _text(content: str | list[dict]) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content if part.get("type") == "text")


def _select(data: Any, numbers: list[int]) -> Any:
    return data.select(numbers) if hasattr(data, "select") else [data[number] for number in numbers]


def _predicted(folder: Path, stamp: str) -> dict[Any, dict]:
    """Return what an interrupted run of the same fingerprint predicted, by id, but failures."""
    try:
        saved = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError):
        return {}
    if saved.get("fingerprint") != stamp:
        return {}
    keys = ("prediction", "confidence", "finish_reason", "error")
    found = {}
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:  # the line that was being written when the run was stopped
            continue
        if record.get("prediction") is not None and not record.get("error"):
            found[record["id"]] = {key: record.get(key) for key in keys}
    return found


def _line(record: dict) -> str:
    keep = {key: value for key, value in record.items() if key != "image" or isinstance(value, str)}
    return json.dumps(keep, ensure_ascii=False) + "\n"


def _append(path: Path) -> Any:
    # A lone surrogate is no UTF-8; backslashreplace writes it as JSON's own escape.
    return path.open("a", encoding="utf-8", errors="backslashreplace", newline="\n")


def write_whole(path: Path, text: str) -> None:
    """Write a UTF-8 file that is never seen half-written."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
    part.replace(path)


def read_predictions(path: str | Path) -> list[dict]:
    """Read `predictions.jsonl` of any system.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is no JSON object or lacks a key; file and line are named.

    """
    return list(_read_predictions(Path(path)))


def _read_predictions(path: Path) -> Iterator[dict]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: give a predictions.jsonl.")
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}:{number} is no JSON ({error}): mend the line.") from None
            if not isinstance(record, dict) or not record.keys() >= REQUIRED:
                raise ValueError(
                    f"{path}:{number} must be a JSON object with id, reference and prediction, "
                    f"but is {line.strip()[:80]!r}."
                )
            yield record
