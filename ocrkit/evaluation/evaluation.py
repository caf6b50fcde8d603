"""An evaluation: predictions of one system, scored, saved and read again."""

import json
import math
import operator
import random
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.dataset.files import check_own, finish_together, naming, write_together
from data_prep.dataset.schema import one_line
from ocrkit.display.tables import columns_of_text, heading_table, interval
from ocrkit.evaluation import analysis
from ocrkit.evaluation.analysis import missing, said
from ocrkit.metrics import edits as metrics
from ocrkit.metrics import fields
from ocrkit.metrics.intervals import Tally, shares
from ocrkit.metrics.names import METRICS, label
from ocrkit.metrics.text import PROFILE_VERSION, script
from ocrkit.run_folder import UNKNOWN, package_versions

REQUIRED = {"id", "reference", "prediction"}
#: What an evaluation that is still running writes into its folder: a fingerprint, then records.
UNFINISHED = "unfinished.jsonl"
HEADLINE = ("cer", "exact_match")
# What `Evaluation.save` writes, in this order.
_SAVED = ("predictions.jsonl", "metrics.json")
# What a record may hold there besides None.
_TYPES = {"id": (str, int), "reference": (str,), "prediction": (str,), "language": (str,)}
_TYPES |= {"group": (str, int), "confidence": (float, int)}


@dataclass
class Evaluation:
    """Predictions of one system and what they score.

    `records` are dicts {id, reference, prediction, language, group, confidence, finish_reason,
    error, image, ...}; an image is a path, a PIL image or a function that returns one. `metrics` is
    {metric: {value, low, high}} with 95 % intervals, `by` is {column: {value: {n, metric: ...}}}.
    `weights` is the fingerprint of the weights that were measured and `run` the id of the run that
    made them; None where a system has no weights, or no run of the kit made them.
    """

    name: str
    records: list[dict]
    metrics: dict[str, dict]
    by: dict[str, dict]
    profile: dict
    fingerprint: str | None = None
    run: str | None = None
    weights: str | None = None
    versions: dict[str, str | None] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """Samples without a prediction; they score as empty strings."""
        return sum(bool(r.get("error")) or missing(r.get("prediction")) for r in self.records)

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
            "run": self.run,
            "weights": self.weights,
            "versions": self.versions,
        }

    def save(self, folder: str | Path, overwrite: bool = False) -> Path:
        """Write `predictions.jsonl` and `metrics.json` into `folder`, both or neither.

        Args:
            folder: made where it does not exist.
            overwrite: replace a `predictions.jsonl` that lies there without its `metrics.json`.

        Raises:
            FileExistsError: there is such a file, which is another system's.
            OSError: the disk is full or cannot be written; what was saved before is as it was.

        """
        folder = Path(folder)
        with naming(folder):
            folder.mkdir(parents=True, exist_ok=True)
        finish_together(folder, _SAVED)
        check_evaluation_folder(folder, overwrite)
        lines = "".join(map(line_of, self.records))
        summary = json.dumps(self.summary(), ensure_ascii=False, indent=1)
        # Never do numbers stand beside predictions they do not belong to.
        write_together(folder, dict(zip(_SAVED, (lines, summary))))
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> "Evaluation":
        """Read an evaluation that `save` wrote.

        Raises:
            FileNotFoundError: one of its two files is missing.
            ValueError: a file is not what `save` wrote, or the two do not belong together.

        """
        folder = Path(folder)
        finish_together(folder, _SAVED)
        path, lines = folder / "metrics.json", folder / "predictions.jsonl"
        if not path.is_file():
            if (folder / UNFINISHED).is_file():
                raise ValueError(
                    f"{folder} holds an unfinished evaluation: run evaluate again to finish."
                )
            raise FileNotFoundError(
                f"{path} does not exist: give a folder that an evaluation was saved in."
            )
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is no JSON ({error}): run evaluate again.") from None
        keys = ("name", "metrics", "by", "profile", "fingerprint", "versions")
        lacking = {"n", *keys} - (saved.keys() if isinstance(saved, dict) else set())
        if lacking:
            raise ValueError(
                f"{path} is no summary of an evaluation, as it has no "
                f"{', '.join(sorted(lacking))}: run evaluate again."
            )
        records = checked(read_predictions(lines), str(lines))
        if len(records) != saved["n"]:
            raise ValueError(
                f"{lines} holds {len(records)} records, but {path} was made of {saved['n']}: "
                "run evaluate again."
            )
        # Version 0.1.0 did not say which weights it measured.
        measured = {"run": saved.get("run"), "weights": saved.get("weights", UNKNOWN)}
        return cls(records=records, **{key: saved[key] for key in keys}, **measured)

    def __repr__(self) -> str:
        """Return the metrics with their 95 % intervals as columns of plain text."""
        return console_table(self._rows(), [self])

    def _repr_html_(self) -> str:
        return str(heading_table(self._rows(), "metric").html)

    def _rows(self) -> list[list[str]]:
        """Cells of the table of metrics, the heading first."""
        return [["", self.name], *([label(n), interval(m)] for n, m in self.metrics.items())]


def console_table(rows: Sequence[Sequence[str]], evaluations: Sequence[Evaluation]) -> str:
    """Columns of plain text, then the number of samples and failures of each evaluation."""
    notes = [
        f"{one_line(e.name)}: {len(e.records)} samples, {e.failed} failed" for e in evaluations
    ]
    notes.append(f"95 % intervals; matches under profile {evaluations[0].profile['name']!r}")
    return "\n".join([columns_of_text(rows), "", *notes])


def score(
    records: Iterable[dict],
    name: str = "predictions",
    profile: str = "strict",
    fingerprint: str | None = None,
    locale: str = "en",
) -> Evaluation:
    """Score records {id, reference, prediction, ...}, cross-checking the CER against jiwer.

    `profile` is that of `normalized_match`, `locale` decides how amounts in JSON are written.

    Raises:
        ValueError: `checked` refuses the records.
        RuntimeError: jiwer counts other edits than this package on a sample of the records.

    """
    records = checked(records, name)
    cross_check(records)
    counted = tallies(records, profile, locale)
    groups = [record.get("group") for record in records]
    by = analysis.by_column(records, {key: counted[key] for key in HEADLINE}, groups)
    numbers, truths, predictions = extractions(records)
    if truths:
        some = [groups[number] for number in numbers]
        by["field"] = {
            field: {"n": int(tally.whole.sum())}
            | analysis.with_intervals({"field_accuracy": tally}, some)
            for field, tally in list(fields.field_table(truths, predictions).items())[:40]
        }
    return Evaluation(
        name=name,
        records=records,
        metrics=analysis.with_intervals(counted, groups),
        by=by,
        profile={"name": profile, "version": PROFILE_VERSION[profile], "locale": locale},
        fingerprint=fingerprint,
        versions=package_versions(("rapidfuzz", "regex", "numpy", "jiwer")),
    )


def checked(records: Iterable[dict], name: str) -> list[dict]:
    """Return records as they can be scored: NaN, which tables have for nothing, becomes None.

    Raises:
        ValueError: there are no records, one lacks an id or a reference or holds what cannot be
            scored, or an id comes twice; the message names the record, and where it is from.

    """
    kept, seen = [], set()
    for number, record in enumerate(records, 1):
        where = f"Record {number} of {name!r}"
        if any(map(_is_nan, record.values())):
            record = {key: None if _is_nan(value) else value for key, value in record.items()}
        for key in ("id", "reference"):
            if record.get(key) is None:
                keys = ", ".join(record) or "none"
                found = f"its {key} is null" if key in record else f"has the keys {keys}"
                raise ValueError(f"{where} needs an 'id' and a 'reference', but {found}.")
        for key, types in _TYPES.items():
            value = record.get(key)
            if not (value is None or isinstance(value, types)) or isinstance(value, bool):
                wanted = " or ".join(kind.__name__ for kind in types)
                raise ValueError(f"{where}: {key}={value!r:.80} is no {wanted}.")
        answers = record.get("answers")
        if not (answers is None or (isinstance(answers, list) and all(map(_is_text, answers)))):
            raise ValueError(f"{where}: answers={answers!r:.80} is no list of texts.")
        if not 0 <= (record.get("confidence") or 0) <= 1:
            raise ValueError(
                f"{where}: confidence={record['confidence']!r} is no probability: "
                "give numbers from 0 to 1, percentages divided by 100."
            )
        if record["id"] in seen:
            raise ValueError(f"Id {record['id']!r} comes twice in {name!r}: ids must be unique.")
        seen.add(record["id"])
        kept.append(record)
    if not kept:
        raise ValueError(f"Evaluation {name!r} has no records: there is nothing to score.")
    return kept


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def tallies(
    records: Sequence[dict], profile: str = "strict", locale: str = "en"
) -> dict[str, Tally]:
    """Count every metric of every sample; a metric that has no sample to apply to is left out."""
    references = [record["reference"] for record in records]
    predictions = [said(record) for record in records]
    languages = [record.get("language") for record in records]
    counts = metrics.process_edits(references, predictions)
    similarity = counts.ned_similarity
    # Of several right answers the best counts in matches; edits are those to the first.
    answers = list(map(analysis.right_answers, records))
    asked = [number for number, record in enumerate(records) if record.get("answers")]
    found = {
        "cer": counts.cer,
        "cer_grapheme": metrics.process_cer_grapheme(references, predictions),
    }
    # Chinese is written without spaces: its words are not what str.split() returns.
    spaced = np.array([not _is_chinese(record) for record in records])
    if spaced.any():
        part, whole = metrics.process_wer(references, predictions)
        found["wer"] = Tally(part * spaced, whole * spaced)
    found |= {
        "exact_match": metrics.process_exact_match(answers, predictions)
        if asked
        else counts.exact_match,
        "normalized_match": metrics.process_normalized_match(
            answers, predictions, languages, profile
        ),
        "ned_similarity": similarity,
        "share_similar": Tally((similarity.part >= 0.8).astype(float), similarity.whole),
    }
    if asked:
        tally = metrics.process_anls(
            [answers[number] for number in asked], [predictions[number] for number in asked]
        )
        found["anls"] = _spread(tally, asked, len(records))
    if not spaced.all():
        length = counts.lengths * ~spaced
        correct = (counts.lengths - counts.substitutions - counts.deletions) * ~spaced
        found["cr"] = Tally(correct, length)
        found["ar"] = Tally(correct - counts.insertions * ~spaced, length)
    found |= _structured(records, locale)
    found["runaway_rate"] = shares([float(analysis.runaway(record)) for record in records])
    return found


def _structured(records: Sequence[dict], locale: str) -> dict[str, Tally]:
    """Count the metrics of fields and tables, over the records whose truth is one."""
    found: dict[str, Tally] = {}
    chosen, truths, predictions = extractions(records)
    if truths:
        parts = {
            "field_accuracy": fields.process_field_accuracy(truths, predictions),
            "field_f1": fields.process_field_f1(truths, predictions),
            "nted": fields.process_nted(truths, predictions),
            "numeric_accuracy": fields.process_numeric_accuracy(truths, predictions, locale),
            "json_parse_rate": fields.process_json_parse_rate([said(records[n]) for n in chosen]),
        }
        found |= {name: _spread(tally, chosen, len(records)) for name, tally in parts.items()}
    tables = [n for n, r in enumerate(records) if fields.is_table(r["reference"])]
    for name, structure_only in (("teds", False), ("teds_structure", True)) if tables else ():
        scores = [
            fields.teds(records[n]["reference"], said(records[n]), structure_only) for n in tables
        ]
        found[name] = _spread(shares(scores), tables, len(records))
    return {name: tally for name, tally in found.items() if tally.whole.sum()}


def extractions(records: Sequence[dict]) -> tuple[list[int], list, list]:
    """Return the numbers, truths and parsed predictions of records whose truth is JSON.

    A record counts where its task is `extraction`, or where no task is given and its truth is an
    object or a list of objects: `[1]` alone may as well be a line of text.
    """
    found: list[tuple[int, Any, Any]] = []
    for number, record in enumerate(records):
        if record.get("task") in ("extraction", None) and record["reference"].lstrip()[:1] in "{[":
            truth = fields.parse_json(record["reference"])
            if _is_extraction(truth, record.get("task")):
                found.append((number, truth, fields.parse_json(said(record))))
    numbers, truths, predictions = map(list, zip(*found)) if found else ([], [], [])
    return numbers, truths, predictions


def _is_extraction(truth: Any, task: str | None) -> bool:
    if isinstance(truth, list) and task is None:
        return bool(truth) and all(isinstance(item, dict) for item in truth)
    return isinstance(truth, dict | list)


def _spread(tally: Tally, numbers: list[int], size: int) -> Tally:
    """Put counts of some samples where they belong among all; the others add nothing."""
    part, whole = np.zeros(size), np.zeros(size)
    part[numbers], whole[numbers] = tally
    return Tally(part, whole)


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
    short = [r for r in records if len(r["reference"]) + len(str(said(r))) <= 2000]
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


def parsed_condition(condition: str) -> tuple[str, str, float]:
    """Take `cer > 0.05` apart into a metric, a comparison and a limit.

    Raises:
        ValueError: it cannot be read, or names no metric.

    """
    found = re.fullmatch(r"\s*(\w+)\s*(<=|>=|<|>)\s*([0-9.eE+-]+)\s*", condition)
    try:
        limit = float(found[3]) if found else math.nan
    except ValueError:
        limit = math.nan
    if not math.isfinite(limit):
        raise ValueError(
            f"Condition {condition!r} cannot be read: write it as 'cer > 0.05', with a finite "
            "number."
        )
    names = [name for name in METRICS if name != "loss"] + ["failed"]
    if found[1] not in names:
        raise ValueError(f"Condition {condition!r} names no metric: use one of {', '.join(names)}.")
    return found[1], found[2], limit


def fails(evaluation: Evaluation, condition: str) -> bool:
    """Tell whether a condition such as `cer > 0.05` holds, for a command that then exits 1.

    Raises:
        ValueError: the condition cannot be read, or names a metric that the evaluation lacks.

    """
    name, comparison, limit = parsed_condition(condition)
    values = {name: value["value"] for name, value in evaluation.metrics.items()}
    values["failed"] = evaluation.failed
    if name not in values:
        raise ValueError(
            f"Condition {condition!r} names no metric of {evaluation.name!r}: "
            f"use one of {', '.join(values)}."
        )
    if values[name] is None or math.isnan(values[name]):
        raise ValueError(
            f"{evaluation.name!r} has no value of {name}, so {condition!r} cannot be judged; "
            "evaluate rows that have one, or judge by another metric."
        )
    compare = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
    return compare[comparison](values[name], limit)


# --- on disk


def check_evaluation_folder(folder: Path, overwrite: bool = False) -> None:
    """Refuse a folder with predictions alone: no evaluation, but what another system wrote.

    Raises:
        FileExistsError: it names the file, and the way out.

    """
    if not any((folder / name).exists() for name in ("metrics.json", UNFINISHED)):
        check_own(folder, _SAVED[:1], overwrite, "move it, or give the evaluation another name")


def line_of(record: dict) -> str:
    """Write a record as one line of `predictions.jsonl`; of pictures only a path is kept."""
    keep = {key: value for key, value in record.items() if key != "image"}
    if isinstance(record.get("image"), str | Path):
        # Absolute, so that a report that is made from another folder finds it.
        keep["image"] = str(Path(record["image"]).absolute())
    return json.dumps(keep, ensure_ascii=False) + "\n"


def read_predictions(path: str | Path) -> list[dict]:
    """Read `predictions.jsonl` of any system; picture paths are relative to it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is no JSON object or lacks a key; file and line are named.

    """
    records = list(_read_predictions(Path(path)))
    for record in records:
        if isinstance(record.get("image"), str):
            record["image"] = str(Path(path).parent / record["image"])
    return records


def _read_predictions(path: Path) -> Iterator[dict]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: give a predictions.jsonl.")
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                line = raw.decode("utf-8-sig")
            except UnicodeDecodeError:
                raise ValueError(f"{path}:{number} is no UTF-8: write the file in UTF-8.") from None
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
