"""Comparison of evaluations over the same samples: table, Markdown, JSON and HTML report."""

import json
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.dataset.manifest import check_own, write_folder
from ocrkit.config.values import read_settings
from ocrkit.display.markdown import markdown_code, markdown_table, markdown_text
from ocrkit.display.tables import heading_table, interval, p_text
from ocrkit.evaluation import analysis
from ocrkit.evaluation.evaluation import (
    Evaluation,
    condition_holds,
    console_table,
    fails,
    parse_condition,
    run_of,
)
from ocrkit.evaluation.records import scored_text
from ocrkit.metrics.intervals import Tally, mcnemar, resample
from ocrkit.metrics.names import label
from ocrkit.run_folder import foreign_weights, read_log, read_run, restore, skipped_counts

CHANGE = "change of "  # prefix of a condition on a difference
MATCHES = ("exact_match", "normalized_match")
_FILES = ("index.html", "report.md", "report.json")
_CHANGE_COLUMNS = ("id", "reference", "before", "after")


@dataclass
class Comparison:
    """Evaluations over the same ids; the first one is the baseline of the others.

    `differences` is {name: {metric: {value, low, high}}}, later minus first, with paired 95 %
    bootstrap intervals over groups; `p_values` {name: {metric: p}}, exact McNemar for matches;
    `changes` {name: [{id, before, after, ...}]}, samples whose edits changed, most improved first.
    """

    evaluations: list[Evaluation]
    differences: dict[str, dict[str, dict[str, float]]]
    p_values: dict[str, dict[str, float]]
    changes: dict[str, list[dict[str, Any]]]

    @property
    def title(self) -> str:
        """Heading with the names of the evaluations."""
        return (" → " if len(self.evaluations) == 2 else ", ").join(
            e.name for e in self.evaluations
        )

    @property
    def by(self) -> dict[str, dict[str, dict]]:
        """Tables by column of the last evaluation whose values all evaluations have."""
        return {
            column: values
            for column, values in self.evaluations[-1].by.items()
            if all(values.keys() <= e.by.get(column, {}).keys() for e in self.evaluations)
        }

    @cached_property
    def kinds(self) -> dict[str, dict[str, int]]:
        """Number of samples with each kind of error (`analysis.KINDS`) by evaluation."""
        counts = {e.name: Counter(e.counts.error_kinds) for e in self.evaluations}
        return {
            name: {kind: count[kind] for kind in analysis.KINDS} for name, count in counts.items()
        }

    def improved(self, name: str | None = None) -> list[dict[str, Any]]:
        """Samples with fewer edits than in the first evaluation, largest gain first."""
        name = name or self.evaluations[-1].name
        return [change for change in self.changes.get(name, []) if change["change"] < 0]

    def worse(self, name: str | None = None) -> list[dict[str, Any]]:
        """Samples with more edits than in the first evaluation, largest loss first."""
        name = name or self.evaluations[-1].name
        return [change for change in self.changes.get(name, [])[::-1] if change["change"] > 0]

    def fails(self, condition: str) -> bool:
        """Tell whether `cer > 0.05` holds for the last evaluation.

        `change of cer > 0` asks for the last one's difference from the first.

        Raises:
            ValueError: the condition cannot be read, or names a metric without a value.
        """
        last = self.evaluations[-1]
        if not condition.startswith(CHANGE):
            return fails(last, condition)
        condition = condition.removeprefix(CHANGE)
        metric = parse_condition(condition)[0]
        changes = {
            name: change["value"] for name, change in self.differences.get(last.name, {}).items()
        }
        if metric not in changes:
            raise ValueError(
                f"There is no change of {metric} to look at: compare two evaluations that have it."
            )
        return condition_holds(condition, changes, last.name)

    def rows(self, only: Sequence[str] | None = None) -> list[list[str]]:
        """Cells of the table of metrics, the heading first; of all metrics, or `only` some."""
        first, *others = self.evaluations
        head = ["", *(evaluation.name for evaluation in self.evaluations)]
        head += [f"{other.name} − {first.name}" for other in others]
        rows = [head]
        for name in only or first.metrics:
            row = [label(name)]
            row += [interval(evaluation.metrics.get(name)) for evaluation in self.evaluations]
            for other in others:
                cell = interval(self.differences[other.name].get(name), sign=True)
                p = self.p_values[other.name].get(name)
                row.append(cell + (f", p {p_text(p)}" if p is not None else ""))
            rows.append(row)
        return rows

    def table(self, only: Sequence[str] | None = None) -> str:
        """Plain text for a console: all metrics, or `only` some, with their 95 % intervals."""
        return console_table(self.rows(only), self.evaluations)

    def to_markdown(self, most: int = 10) -> str:
        """Markdown for a pull request or a model card; at most `most` samples a list."""
        head, *rows = self.rows()
        first = self.evaluations[0]
        names = [markdown_text(e.name) for e in self.evaluations]
        lines = [f"# {markdown_text(self.title)}", ""]
        lines += markdown_table(
            list(map(markdown_text, head)),
            ([markdown_text(metric), *cells] for metric, *cells in rows),
        )
        lines += [
            "",
            f"{len(first.records)} samples; 95 % intervals (bootstrap over groups, Wilson for "
            f"shares); matches under profile {markdown_code(first.profile['name'])} version "
            f"{markdown_text(first.profile['version'])}.",
        ]
        failed = [f"{e.failed} of {name}" for e, name in zip(self.evaluations, names) if e.failed]
        if failed:
            lines += ["", f"Failed predictions, scored as empty: {', '.join(failed)}."]
        for column, values in self.by.items():
            metric = "field_accuracy" if column == "field" else "cer"
            title = "Accuracy by field" if column == "field" else f"CER by {column}"
            cells = [
                [
                    markdown_text(value),
                    str(scores["n"]),
                    *(interval(e.by[column][value][metric]) for e in self.evaluations),
                ]
                for value, scores in values.items()
            ]
            lines += ["", f"## {markdown_text(title.replace('_', ' '))}", ""]
            lines += markdown_table([markdown_text(column), "samples", *names], cells, right=[1])
        counts = list(self.kinds.values())
        if any(any(count.values()) for count in counts):
            cells = [[kind, *(str(count[kind]) for count in counts)] for kind in analysis.KINDS]
            lines += ["", "## Kinds of error", ""]
            lines += markdown_table(["samples", *names], cells, right=range(1, len(names) + 1))
        for title, changes in (("Improved", self.improved()), ("Got worse", self.worse())):
            if len(self.evaluations) > 1:
                lines += ["", f"## {title}: {len(changes)} samples", ""]
            if changes:
                lines += markdown_table(
                    ["id", "truth", names[0], names[-1]],
                    ([_cell(change[key]) for key in _CHANGE_COLUMNS] for change in changes[:most]),
                )
        return "\n".join(lines) + "\n"

    def summary(self) -> dict[str, Any]:
        """Return the content of `report.json`."""
        return {
            "evaluations": [evaluation.summary() for evaluation in self.evaluations],
            "differences": self.differences,
            "p_values": self.p_values,
            "improved": {name: [c["id"] for c in self.improved(name)] for name in self.changes},
            "worse": {name: [c["id"] for c in self.worse(name)] for name in self.changes},
            "kinds": self.kinds,
            "confusions": {e.name: _confusions(e) for e in self.evaluations},
            "coverage": {
                e.name: analysis.coverage_curve(e.records, e.counts.edits.cer)
                for e in self.evaluations
            },
            "suspect_labels": [
                record["id"]
                for record, _ in analysis.suspect_labels([e.records for e in self.evaluations])
            ],
        }

    def save(
        self,
        folder: str | Path,
        history: Sequence[dict] | None = None,
        skipped: dict[str, int] | None = None,
        other: Sequence["Comparison | tuple[str, Comparison]"] = (),
        overwrite: bool = False,
        about: Mapping[str, object] | None = None,
    ) -> Path:
        """Write `index.html`, `report.md` and `report.json` into `folder` and return it.

        Args:
            folder: created where it does not exist.
            history: lines of `train_log.jsonl`, {step, loss, eval_cer, ...}, for the curves.
            skipped: {reason: rows} that training or evaluation left out.
            other: further comparisons to show below, each alone or as (title, comparison).
            overwrite: replace files of these names even where the kit did not write them.
            about: facts of the run for the head, such as {model: ..., dataset: ...}; the date is
                added.

        Raises:
            FileExistsError: the folder holds a file of these names that the kit did not write.
            OSError: the disk is full or cannot be written; an older report is unchanged.
        """
        from ocrkit.evaluation.report import render

        folder = Path(folder)
        check_own(folder, _FILES, overwrite)  # before pictures are drawn
        pages = [item if isinstance(item, tuple) else (None, item) for item in other]
        about = {**(about or {}), "date": f"{datetime.now():%Y-%m-%d}"}
        page = render(self, history, skipped, pages, about)
        markdown, summary = self.to_markdown(), self.summary()
        summary["about"] = about
        facts = "; ".join(f"{name} {value}" for name, value in about.items())
        markdown = markdown.replace("\n", f"\n\n{markdown_text(facts)}\n", 1)
        for title, comparison in pages:
            title = title or comparison.title
            body = comparison.to_markdown().split("\n", 1)[1].replace("\n## ", "\n### ")
            markdown += f"\n## {markdown_text(title)}\n{body}"
            summary.setdefault("other", []).append({"title": title, **comparison.summary()})
        if skipped:
            summary["skipped"] = skipped
            counts = ", ".join(f"{count} {reason}" for reason, count in skipped.items())
            markdown += f"\nSkipped rows: {markdown_text(counts)}.\n"
        text = json.dumps(summary, ensure_ascii=False, indent=1)
        write_folder(folder, dict(zip(_FILES, (page, markdown, text))), overwrite)
        return folder

    def __repr__(self) -> str:
        """Return the table for a console."""
        return self.table()

    def _repr_html_(self) -> str:
        return str(heading_table(self.rows(), "metric").html)


def _cell(value: object) -> str:
    text = " ".join(str("" if value is None else value).split())
    return markdown_code(text if len(text) <= 120 else text[:120] + "…", in_table=True) or "—"


def _confusions(evaluation: Evaluation, most: int = 50) -> dict[str, list[list]]:
    """Return the most frequent confusions as [truth, reading, count], for both units."""
    counts = evaluation.counts
    confusions = {"char": counts.edits.confusions, "grapheme": counts.grapheme_confusions}
    return {
        unit: [[*pair, count] for pair, count in counted.most_common(most)]
        for unit, counted in confusions.items()
    }


def compare(*evaluations: Evaluation) -> Comparison:
    """Compare evaluations of the same samples; the first is the baseline of the others.

    Raises:
        ValueError: ids, references or normalisation profiles differ, or a name comes twice; the
            message says which.
    """
    if not evaluations:
        raise ValueError("There is nothing to compare: give at least one evaluation.")
    first = evaluations[0]
    names = [evaluation.name for evaluation in evaluations]
    if len(set(names)) < len(names):
        raise ValueError(f"Two evaluations have the same name among {names}: rename one.")
    aligned = [first, *(_aligned(first, other) for other in evaluations[1:])]
    differences, p_values, changes = {}, {}, {}
    groups = [record.get("group") for record in first.records]
    for evaluation in aligned[1:]:
        before, after = first.counts.tallies, evaluation.counts.tallies
        differences[evaluation.name] = _paired(
            {name: (before[name], after[name]) for name in before if name in after}, groups
        )
        p_values[evaluation.name] = {
            name: mcnemar(
                int((before[name].part > after[name].part).sum()),
                int((before[name].part < after[name].part).sum()),
            )
            for name in MATCHES
        }
        changes[evaluation.name] = _changes(first, evaluation)
    return Comparison(aligned, differences, p_values, changes)


def _aligned(first: Evaluation, other: Evaluation) -> Evaluation:
    """Return `other` with its records in the order of `first`."""
    between = f"{first.name!r} and {other.name!r}"
    if first.profile != other.profile:
        raise ValueError(
            f"Evaluations {between} were scored under different normalisation profiles, "
            f"{first.profile} and {other.profile}: score both again under one."
        )
    theirs = {record["id"]: record for record in other.records}
    ours = [record["id"] for record in first.records]
    lacking = [key for key in ours if key not in theirs]
    added = sorted(set(theirs) - set(ours), key=str)
    if lacking or added:
        parts = [
            f"{len(ids)} only in {name!r} (such as {ids[0]!r})"
            for ids, name in ((lacking, first.name), (added, other.name))
            if ids
        ]
        raise ValueError(
            f"Evaluations {between} cover different ids, {' and '.join(parts)}: "
            "evaluate both on the same rows."
        )
    changed = [r["id"] for r in first.records if r["reference"] != theirs[r["id"]]["reference"]]
    if changed:
        raise ValueError(
            f"Evaluations {between} have different references for {len(changed)} ids "
            f"(such as {changed[0]!r}): evaluate both against the same truth."
        )
    if [record["id"] for record in other.records] == ours:
        return other
    return replace(other, records=[theirs[key] for key in ours])


def _paired(
    tallies: dict[str, tuple[Tally, Tally]], groups: Sequence[Hashable]
) -> dict[str, dict[str, float]]:
    """Return differences, second minus first tally, with paired bootstrap intervals."""
    columns = [counts for before, after in tallies.values() for counts in (*before, *after)]
    sums = resample(np.column_stack(columns), groups)
    sums = sums.reshape(len(sums), len(tallies), 4)
    before_rates = sums[:, :, 0] / np.where(sums[:, :, 1] == 0, 1, sums[:, :, 1])
    after_rates = sums[:, :, 2] / np.where(sums[:, :, 3] == 0, 1, sums[:, :, 3])
    low, high = np.percentile(after_rates - before_rates, [2.5, 97.5], axis=0)
    return {
        name: {"value": after.rate - before.rate, "low": float(low[n]), "high": float(high[n])}
        for n, (name, (before, after)) in enumerate(tallies.items())
    }


def _changes(first: Evaluation, other: Evaluation) -> list[dict[str, Any]]:
    """List samples whose number of edits changed, most improved first."""
    change = other.counts.edits.cer.part - first.counts.edits.cer.part
    changes = [
        {
            "id": old["id"],
            "reference": old["reference"],
            "before": scored_text(old),
            "after": scored_text(new),
            "change": int(difference),
        }
        for old, new, difference in zip(first.records, other.records, change)
        if difference
    ]
    return sorted(changes, key=lambda change: change["change"])


def training_of(folder: str | Path, recipe: str = "") -> dict[str, Any]:
    """Return `history`, `skipped` rows and facts `about` the run that an evaluation lies in.

    They are arguments of `Comparison.save`. The result is empty, and a line is printed, where the
    evaluation measured other weights.

    Args:
        folder: of the evaluation.
        recipe: that the run was started with, for the facts; the run folder does not know it.
    """
    folder = Path(folder)
    run = run_of(folder)
    restore(run)
    summary = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    if foreign := foreign_weights(summary, read_run(run)):
        print(f"The learning curve in {run} is left out of the report of {folder}: {foreign}.")
        return {}
    history = read_log(run / "train_log.jsonl")
    path = run / "config.yaml"
    settings = read_settings(path) if path.is_file() else {}
    steps = max((entry.get("step", 0) for entry in history), default=0)
    about = {
        "model": settings.get("model_name_or_path"),
        "recipe": recipe,
        "dataset": settings.get("dataset"),
        "steps": steps,
    }
    about = {name: value for name, value in about.items() if value}
    return {"history": history, "skipped": skipped_counts(run), "about": about}
