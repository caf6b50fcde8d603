"""Evaluation of one system: scored predictions, saved and loaded, and conditions on them."""

import json
import math
import operator
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from data_prep.dataset.files import finish_together, naming, write_together
from data_prep.dataset.manifest import check_own
from data_prep.dataset.schema import one_line
from ocrkit.display.tables import columns_of_text, heading_table, interval
from ocrkit.environment import package_versions
from ocrkit.errors import ConfigError
from ocrkit.evaluation import analysis
from ocrkit.evaluation.records import (
    Record,
    check_records,
    is_missing,
    read_predictions,
    record_line,
)
from ocrkit.evaluation.scoring import SampleCounts, cross_check
from ocrkit.metrics import fields
from ocrkit.metrics.names import METRICS, label
from ocrkit.metrics.text import PROFILE_VERSION
from ocrkit.run_folder import UNKNOWN

#: File in the folder of an unfinished evaluation: a fingerprint, then records.
UNFINISHED = "unfinished.jsonl"
HEADLINE = ("cer", "exact_match")
MOST_FIELDS = 40  # rows of the table by JSON field
# Files that `Evaluation.save` writes, in this order.
_SAVED = ("predictions.jsonl", "metrics.json")
_COMPARISONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@dataclass
class Evaluation:
    """Predictions of one system and their scores.

    `metrics` is {metric: {value, low, high}} with 95 % intervals, `by` is {column: {value: {n,
    metric: {value, low, high}}}}, `profile` is {name, version, locale} of the normalisation.
    `weights` is the fingerprint of the measured weights and `run` the id of the run that trained
    them; None where a system has no weights, or no run of the kit trained them.
    """

    name: str
    records: list[Record]
    metrics: dict[str, dict[str, float]]
    by: dict[str, dict[str, dict[str, Any]]]
    profile: dict[str, Any]
    fingerprint: str | None = None
    run: str | None = None
    weights: str | None = None
    versions: dict[str, str | None] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """Number of samples without a prediction; they score as empty strings."""
        return sum(bool(r.get("error")) or is_missing(r.get("prediction")) for r in self.records)

    @cached_property
    def counts(self) -> SampleCounts:
        """Per-sample counts of the records; `compare`, reports and the browser reuse them."""
        # Version 0.1.0 saved no locale.
        locale = self.profile.get("locale", "en")
        return SampleCounts(self.records, self.profile["name"], locale)

    def summary(self) -> dict[str, Any]:
        """Return the content of `metrics.json`."""
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
            folder: created where it does not exist.
            overwrite: replace a `predictions.jsonl` that lies there without its `metrics.json`.

        Raises:
            FileExistsError: the folder holds such a file, which another system wrote.
            OSError: the disk is full or cannot be written; files saved before are unchanged.
        """
        folder = Path(folder)
        with naming(folder):
            folder.mkdir(parents=True, exist_ok=True)
        finish_together(folder, _SAVED)
        check_evaluation_folder(folder, overwrite)
        lines = "".join(map(record_line, self.records))
        summary = json.dumps(self.summary(), ensure_ascii=False, indent=1)
        # An atomic pair, so that metrics.json never describes other predictions.
        write_together(folder, dict(zip(_SAVED, (lines, summary))))
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> "Evaluation":
        """Read an evaluation that `save` wrote.

        Raises:
            FileNotFoundError: one of its two files is missing.
            ValueError: a file is damaged, or the two do not belong together.
        """
        folder = Path(folder)
        finish_together(folder, _SAVED)
        path, lines = folder / "metrics.json", folder / "predictions.jsonl"
        if not path.is_file():
            if (folder / UNFINISHED).is_file():
                raise ValueError(
                    f"{folder} holds an unfinished evaluation: run evaluate again to finish."
                )
            saved = sorted(path.parent for path in folder.glob("eval/*/metrics.json"))
            such = f", such as {saved[-1]}" if saved else ""
            raise FileNotFoundError(
                f"{path} does not exist: give a folder that an evaluation was saved in{such}."
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
        records = check_records(read_predictions(lines), str(lines))
        if len(records) != saved["n"]:
            raise ValueError(
                f"{lines} holds {len(records)} records, but {path} was made of {saved['n']}: "
                "run evaluate again."
            )
        # Version 0.1.0 did not save which weights it measured.
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
    records: Iterable[Mapping[str, Any]],
    name: str = "predictions",
    profile: str = "strict",
    fingerprint: str | None = None,
    locale: str = "en",
) -> Evaluation:
    """Score records {id, reference, prediction, ...}, cross-checking the CER against jiwer.

    Args:
        records: see `ocrkit.evaluation.records.Record`.
        name: name of the system.
        profile: normalisation profile of `normalized_match`.
        fingerprint: hash of weights, rows and settings that made the predictions.
        locale: how amounts in JSON are written.

    Raises:
        ValueError: a record is invalid (see `check_records`).
        RuntimeError: jiwer counts other edits than this package on a sample of the records.
    """
    evaluation = Evaluation(
        name=name,
        records=check_records(records, name),
        metrics={},
        by={},
        profile={"name": profile, "version": PROFILE_VERSION[profile], "locale": locale},
        fingerprint=fingerprint,
        versions=package_versions(("rapidfuzz", "regex", "numpy", "jiwer")),
    )
    counts = evaluation.counts
    cross_check(counts)
    groups = [record.get("group") for record in evaluation.records]
    evaluation.metrics = analysis.with_intervals(counts.tallies, groups)
    headline = {name: counts.tallies[name] for name in HEADLINE}
    evaluation.by = analysis.by_column(evaluation.records, headline, groups)
    numbers, truths, predictions = counts.extractions
    if truths:
        tallies = list(fields.field_table(truths, predictions).items())[:MOST_FIELDS]
        own_groups = [groups[number] for number in numbers]
        evaluation.by["field"] = {
            path: {"n": int(tally.whole.sum())}
            | analysis.with_intervals({"field_accuracy": tally}, own_groups)
            for path, tally in tallies
        }
    return evaluation


# --- conditions


def parse_condition(condition: str) -> tuple[str, str, float]:
    """Parse `cer > 0.05` into a metric, a comparison and a limit.

    Raises:
        ValueError: the condition cannot be read, or names no metric.
    """
    parts = re.fullmatch(r"\s*(\w+)\s*(<=|>=|<|>)\s*([0-9.eE+-]+)\s*", condition)
    try:
        limit = float(parts[3]) if parts else math.nan
    except ValueError:
        limit = math.nan
    if parts is None or not math.isfinite(limit):
        raise ValueError(
            f"Condition {condition!r} cannot be read: write it as 'cer > 0.05', with a finite "
            "number."
        )
    names = [name for name in METRICS if name != "loss"] + ["failed"]
    if parts[1] not in names:
        raise ValueError(f"Condition {condition!r} names no metric: use one of {', '.join(names)}.")
    return parts[1], parts[2], limit


def fails(evaluation: Evaluation, condition: str) -> bool:
    """Tell whether a condition such as `cer > 0.05` holds, for a command that then exits 1.

    Raises:
        ValueError: the condition cannot be read, or names a metric that the evaluation lacks.
    """
    values: dict[str, float | None] = {
        name: metric["value"] for name, metric in evaluation.metrics.items()
    }
    values["failed"] = evaluation.failed
    return condition_holds(condition, values, evaluation.name)


def condition_holds(condition: str, values: Mapping[str, float | None], name: str) -> bool:
    """Tell whether a condition holds for the metrics `values` of the system `name`.

    Raises:
        ValueError: the condition cannot be read, or names a metric without a value.
    """
    metric, comparison, limit = parse_condition(condition)
    if metric not in values:
        raise ValueError(
            f"Condition {condition!r} names no metric of {name!r}: use one of {', '.join(values)}."
        )
    value = values[metric]
    if value is None or math.isnan(value):
        raise ValueError(
            f"{name!r} has no value of {metric}, so {condition!r} cannot be judged; "
            "evaluate rows that have one, or judge by another metric."
        )
    return _COMPARISONS[comparison](value, limit)


# --- folder


def check_evaluation_folder(folder: Path, overwrite: bool = False) -> None:
    """Refuse a folder with predictions but no evaluation: another system wrote them.

    Raises:
        FileExistsError: the message names the file and the way out.
    """
    if not any((folder / name).exists() for name in ("metrics.json", UNFINISHED)):
        check_own(folder, _SAVED[:1], overwrite, "move it, or give the evaluation another name")


def load_evaluations(
    folders: Sequence[Path], names: Sequence[str] | None = None
) -> list[Evaluation]:
    """Load evaluations under distinct names.

    Args:
        folders: their folders, such as `runs/s1/eval/tuned`.
        names: a name for each; without names its own name, or `s1/tuned` where two have the same.

    Raises:
        ConfigError: there are fewer or more distinct names than evaluations.
    """
    evaluations = [Evaluation.load(folder) for folder in folders]
    if not names:
        own = [evaluation.name for evaluation in evaluations]
        names = [
            f"{run_of(folder).name}/{name}" if own.count(name) > 1 else name
            for folder, name in zip(folders, own)
        ]
    if len(names) != len(evaluations) or len(set(names)) < len(names):
        raise ConfigError(
            f"The names {', '.join(names)} do not tell {len(evaluations)} evaluations apart: "
            "give --names, a different one for each."
        )
    return [replace(evaluation, name=name) for evaluation, name in zip(evaluations, names)]


def run_of(folder: Path) -> Path:
    """Return the run folder of an evaluation, which lies in it as `eval/NAME`."""
    return folder.resolve().parent.parent
