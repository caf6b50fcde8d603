"""Analysis of rates: intervals, tables by column, kinds of error, confidence, suspect labels."""

import unicodedata
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from ocrkit.evaluation.records import Record, right_answers, scored_text
from ocrkit.metrics.edits import EditCounts, process_cer
from ocrkit.metrics.intervals import Tally, resample, wilson
from ocrkit.metrics.names import METRICS
from ocrkit.metrics.text import normalize, script

# Columns without a table of their own here; `field` names the table of JSON fields.
_NO_COLUMNS = {
    "id", "reference", "prediction", "language", "group", "confidence", "finish_reason",
    "error", "image", "answers", "field",
}  # fmt: skip
KINDS = (
    "case",
    "spacing",
    "normalisation",
    "missing content",
    "extra content",
    "wholly wrong",
    "misread",
)
MOST_VALUES = 20  # of a column that gets a table
CURVE_POINTS = 50  # of the coverage curve, at most
CONFIDENT = 0.9  # confidence from which on a label that differs is suspect
LENGTHS = (8, 16, 32, 64, 128, 512)  # upper limits of length classes, in code points


def with_intervals(
    tallies: Mapping[str, Tally], groups: Sequence[Hashable] | None
) -> dict[str, dict[str, float]]:
    """Return `{metric: {value, low, high}}` with 95 % intervals over groups.

    One bootstrap draw of groups serves all metrics. A share takes Wilson's interval where no two
    samples share a group, or where all samples agree and the bootstrap cannot vary; then it counts
    groups.

    Args:
        tallies: by metric.
        groups: group of each sample; None makes every sample a group of its own.
    """
    sums = resample(
        np.column_stack([counts for tally in tallies.values() for counts in tally]), groups
    )
    # A sample without a group is its own group, told apart from groups by its type.
    ids = [number if group is None else (group,) for number, group in enumerate(groups or ())]
    metrics = {}
    for number, (name, tally) in enumerate(tallies.items()):
        part, whole = sums[:, 2 * number], sums[:, 2 * number + 1]
        low, high = np.percentile(part / np.where(whole == 0, 1, whole), [2.5, 97.5])
        if name in METRICS and METRICS[name].right_or_wrong:
            samples = np.flatnonzero(tally.whole)
            independent = len({ids[n] for n in samples}) if groups is not None else len(samples)
            if low == high or independent == len(samples):
                low, high = wilson(round(tally.rate * independent), independent)
        metrics[name] = {"value": tally.rate, "low": float(low), "high": float(high)}
    return metrics


def length_bin(text: str) -> str:
    """Name the length class of a reference, in code points."""
    below = 1
    for limit in LENGTHS:
        if len(text) <= limit:
            return f"{below}-{limit}" if text else "empty"
        below = limit + 1
    return f"over {LENGTHS[-1]}"


def columns(records: Sequence[Record]) -> dict[str, list[Any]]:
    """Return the columns worth a table: length, language, script, and others of few values."""
    values: dict[str, list[Any]] = {
        "length": [length_bin(record["reference"]) for record in records],
        "language": [record.get("language") for record in records],
        "script": [script(record["reference"]) for record in records],
    }
    names = dict.fromkeys(name for record in records for name in record)
    for name in (name for name in names if name not in _NO_COLUMNS):
        column = [record.get(name) for record in records]
        if all(value is None or isinstance(value, str | int | float) for value in column):
            values[name] = column
    return {
        name: column
        for name, column in values.items()
        if 1 < len(set(column)) <= MOST_VALUES or (name in ("length", "script") and records)
    }


def by_column(
    records: Sequence[Record],
    tallies: Mapping[str, Tally],
    groups: Sequence[Hashable] | None,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return `{column: {value: {n, metric: {value, low, high}}}}` for the columns worth a table."""
    tables: dict[str, dict[str, dict[str, Any]]] = {}
    for name, values in columns(records).items():
        rows: dict[str, list[int]] = {}
        for number, value in enumerate(values):
            rows.setdefault("none" if value is None else str(value), []).append(number)
        if name == "length":
            shortest = {
                value: min(len(records[n]["reference"]) for n in numbers)
                for value, numbers in rows.items()
            }
            order = sorted(rows, key=shortest.__getitem__)
        else:
            order = sorted(rows, key=lambda value: (-len(rows[value]), value))
        tables[name] = {}
        for value in order:
            chosen = np.asarray(rows[value])
            own_tallies = {
                metric: Tally(tally.part[chosen], tally.whole[chosen])
                for metric, tally in tallies.items()
            }
            own_groups = None if groups is None else [groups[number] for number in rows[value]]
            tables[name][value] = {"n": len(chosen), **with_intervals(own_tallies, own_groups)}
    return tables


# --- kinds of error


def folded_cer(records: Sequence[Record]) -> dict[str, Tally]:
    """CER as it is, without case, without spaces and without both: {label: edits and lengths}.

    Both texts are changed before they are aligned: case by `str.casefold`, spaces by dropping all
    white space.
    """
    truths = [record["reference"] for record in records]
    readings = [scored_text(record) for record in records]

    def bare(texts: Sequence[str]) -> list[str]:
        return ["".join(text.split()) for text in texts]

    folded = [[text.casefold() for text in texts] for texts in (truths, readings)]
    return {
        "CER": process_cer(truths, readings),
        "CER without case": process_cer(*folded),
        "CER without spaces": process_cer(bare(truths), bare(readings)),
        "CER without case and spaces": process_cer(*map(bare, folded)),
    }


def error_kinds(records: Sequence[Record], edits: EditCounts) -> list[str | None]:
    """Classify every sample's error as one of `KINDS`; None where the prediction is right.

    The first that fits: equal but for case, for white space, or under the lenient profile; a fifth
    of the reference or more missing (or extra), at least three quarters of all edits being of that
    sort and half of the reference read; similarity under 0.2; anything else is misread.

    Args:
        records: the samples.
        edits: `process_edits` of their references and predictions.
    """
    counts = zip(edits.substitutions, edits.deletions, edits.insertions, edits.lengths)
    return [
        _error_kind(record, *numbers, similarity)
        for record, numbers, similarity in zip(records, counts, edits.ned_similarity.part)
    ]


def _error_kind(
    record: Record,
    substitutions: int,
    deletions: int,
    insertions: int,
    length: int,
    similarity: float,
) -> str | None:
    if scored_text(record) in right_answers(record):
        return None
    truth, reading = (
        unicodedata.normalize("NFC", text) for text in (record["reference"], scored_text(record))
    )
    if truth.casefold() == reading.casefold() and truth != reading:
        return "case"
    if "".join(truth.split()) == "".join(reading.split()) and truth != reading:
        return "spacing"
    language = record.get("language")
    if normalize(truth, "lenient", language) == normalize(reading, "lenient", language):
        return "normalisation"
    total = substitutions + deletions + insertions
    if not reading.strip() or (deletions >= 0.2 * length and deletions >= 0.75 * total):
        return "missing content"
    if insertions >= max(0.2 * length, 0.75 * total) and substitutions + deletions <= length / 2:
        return "extra content"
    return "wholly wrong" if similarity < 0.2 else "misread"


def runaway(record: Record) -> bool:
    """Tell whether generation ran away: stopped by its limit, or one phrase repeated to the end."""
    if record.get("finish_reason") in ("length", "max_new_tokens", "max_tokens"):
        return True
    tail = scored_text(record)[-600:].rstrip()
    for period in range(1, len(tail) // 4 + 1):
        phrase = tail[-period:]
        times = max(4, -(-24 // period))
        # Comparing two characters first rules out most periods.
        if tail[-1 - period] == tail[-1] and tail.endswith(phrase * times):
            # A phrase that the truth repeats as well, such as a dotted line, was read.
            return phrase * times not in record["reference"]
    return False


# --- confidence


def coverage_curve(records: Sequence[Record], cer: Tally) -> list[dict[str, float]]:
    """CER of the most confident share of samples: `[{coverage, threshold, cer}]`, ascending.

    `threshold` is the lowest confidence within the share: below it a human would read.

    Args:
        records: the samples; those without a confidence belong to no share.
        cer: their edits and reference lengths.
    """
    confidences = [record.get("confidence") for record in records]
    ranked = [(-value, n) for n, value in enumerate(confidences) if value is not None]
    if len(ranked) < 2:
        return []
    ranked.sort()
    order = [number for _, number in ranked]
    errors, lengths = np.cumsum(cer.part[order]), np.cumsum(cer.whole[order])
    steps = np.unique(np.linspace(1, len(order), min(CURVE_POINTS, len(order))).round().astype(int))
    return [
        {
            "coverage": step / len(records),
            "threshold": float(-ranked[step - 1][0]),
            "cer": float(errors[step - 1] / max(lengths[step - 1], 1)),
        }
        for step in map(int, steps)
    ]


def suspect_labels(systems: Sequence[Sequence[Record]]) -> list[tuple[Record, int]]:
    """List samples where the last system is confident and yet differs from the truth.

    Args:
        systems: the records of one or more evaluations over the same ids, in the same order.

    Returns:
        The last system's record, and how many systems read the same text under the lenient
        profile. Most agreed first, then most confident.
    """
    suspects: list[tuple[Record, int]] = []
    for readings in zip(*systems, strict=True):
        last = readings[-1]
        language = last.get("language")
        prediction = normalize(scored_text(last), "lenient", language)
        if (last.get("confidence") or 0) < CONFIDENT or not prediction or runaway(last):
            continue
        if prediction == normalize(last["reference"], "lenient", language):
            continue
        texts = [normalize(scored_text(record), "lenient", language) for record in readings]
        suspects.append((last, texts.count(prediction)))
    return sorted(suspects, key=lambda suspect: (-suspect[1], -(suspect[0].get("confidence") or 0)))
