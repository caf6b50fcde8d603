"""What lies behind a rate: tables by column, kinds of error, confidence, suspect labels."""

import unicodedata
from collections.abc import Sequence

import numpy as np

from ocrkit.metrics.edits import process_cer, process_edits
from ocrkit.metrics.intervals import Tally, resample, wilson
from ocrkit.metrics.names import METRICS
from ocrkit.metrics.text import normalize, script

CORE = ("id", "reference", "prediction", "language", "group", "confidence", "finish_reason")
CORE += ("error", "image", "answers", "field")  # `field`: the table of JSON fields
KINDS = ("case", "spacing", "normalisation", "missing content", "extra content", "wholly wrong")
KINDS += ("misread",)
LENGTHS = (8, 16, 32, 64, 128, 512)


def missing(prediction: object) -> bool:
    """Tell whether there is no prediction: None, or the NaN of a table."""
    return prediction is None or prediction != prediction


def said(record: dict) -> str:
    """Return the prediction of a record as it is scored: "" where it is missing."""
    prediction = record.get("prediction")
    return "" if missing(prediction) else prediction


def with_intervals(tallies: dict[str, Tally], groups: Sequence | None) -> dict[str, dict]:
    """Return `{metric: {value, low, high}}` with 95 % intervals over groups.

    One draw of groups serves all metrics. A share takes Wilson's interval where no two samples
    share a group, or where all samples agree and the bootstrap cannot vary: then over groups.
    """
    sums = resample(np.column_stack([part for tally in tallies.values() for part in tally]), groups)
    own = [number if group is None else (group,) for number, group in enumerate(groups or ())]
    found = {}
    for number, (name, tally) in enumerate(tallies.items()):
        part, whole = sums[:, 2 * number], sums[:, 2 * number + 1]
        low, high = np.percentile(part / np.where(whole == 0, 1, whole), [2.5, 97.5])
        if name in METRICS and METRICS[name].right_or_wrong:
            there = np.flatnonzero(tally.whole)
            independent = len({own[i] for i in there}) if groups is not None else len(there)
            if low == high or independent == len(there):
                low, high = wilson(round(tally.rate * independent), independent)
        found[name] = {"value": tally.rate, "low": float(low), "high": float(high)}
    return found


def length_bin(text: str) -> str:
    """Name the length class of a reference, in code points."""
    below = 1
    for limit in LENGTHS:
        if len(text) <= limit:
            return f"{below}-{limit}" if text else "empty"
        below = limit + 1
    return f"over {LENGTHS[-1]}"


def columns(records: list[dict], most: int = 20) -> dict[str, list]:
    """Return the columns worth a table: length, language, script, and what else few values have."""
    found = {
        "length": [length_bin(record["reference"]) for record in records],
        "language": [record.get("language") for record in records],
        "script": [script(record["reference"]) for record in records],
    }
    for name in dict.fromkeys(name for record in records for name in record if name not in CORE):
        values = [record.get(name) for record in records]
        if all(value is None or isinstance(value, str | int | float) for value in values):
            found[name] = values
    return {
        name: values
        for name, values in found.items()
        if 1 < len(set(values)) <= most or (name in ("length", "script") and records)
    }


def by_column(
    records: list[dict], tallies: dict[str, Tally], groups: Sequence | None
) -> dict[str, dict[str, dict]]:
    """Return `{column: {value: {n, metric: {value, low, high}}}}` for the columns worth a table."""
    found: dict[str, dict[str, dict]] = {}
    for name, values in columns(records).items():
        rows: dict[str, list[int]] = {}
        for number, value in enumerate(values):
            rows.setdefault("none" if value is None else str(value), []).append(number)
        order = sorted(rows, key=lambda value: (-len(rows[value]), value))
        if name == "length":
            order = sorted(
                rows, key=lambda value: min(len(records[n]["reference"]) for n in rows[value])
            )
        found[name] = {}
        for value in order:
            chosen = np.asarray(rows[value])
            part = {
                key: Tally(*(array[chosen] for array in tally)) for key, tally in tallies.items()
            }
            some = None if groups is None else [groups[number] for number in chosen]
            found[name][value] = {"n": len(chosen), **with_intervals(part, some)}
    return found


# --- kinds of error


def right_answers(record: dict) -> list[str]:
    """All texts that a record's prediction may be: several for some questions, else the truth."""
    return record.get("answers") or [record["reference"]]


def error_kinds(records: list[dict]) -> list[str | None]:
    """Sort every sample's error into one of `KINDS`; None where the prediction equals the truth.

    The first that fits: equal but for case, for white space, or under the lenient profile; a fifth
    of the reference or more missing (or extra), at least three quarters of all edits being of that
    sort and half of the reference read; similarity under 0.2; anything else is misread.
    """
    references = [record["reference"] for record in records]
    predictions = [said(record) for record in records]
    edits = process_edits(references, predictions)
    return [
        _kind(record, reference, prediction, counts, alike)
        for record, reference, prediction, counts, alike in zip(
            records, references, predictions, zip(*edits[:4]), edits.ned_similarity.part
        )
    ]


def _kind(
    record: dict, reference: str, prediction: str, counts: tuple, similarity: float
) -> str | None:
    if prediction in right_answers(record):
        return None
    one, other = (unicodedata.normalize("NFC", text) for text in (reference, prediction))
    if one.casefold() == other.casefold() and one != other:
        return "case"
    if "".join(one.split()) == "".join(other.split()) and one != other:
        return "spacing"
    language = record.get("language")
    if normalize(one, "lenient", language) == normalize(other, "lenient", language):
        return "normalisation"
    substituted, deleted, inserted, length = counts
    total = substituted + deleted + inserted
    if not other.strip() or (deleted >= 0.2 * length and deleted >= 0.75 * total):
        return "missing content"
    if inserted >= max(0.2 * length, 0.75 * total) and substituted + deleted <= length / 2:
        return "extra content"
    return "wholly wrong" if similarity < 0.2 else "misread"


def runaway(record: dict) -> bool:
    """Tell whether generation ran away: stopped by its limit, or one phrase repeated to the end."""
    if record.get("finish_reason") in ("length", "max_new_tokens", "max_tokens"):
        return True
    tail = said(record)[-600:].rstrip()
    for period in range(1, len(tail) // 4 + 1):
        phrase = tail[-period:]
        times = max(4, -(-24 // period))
        # Two characters tell of most periods that they are none.
        if tail[-1 - period] == tail[-1] and tail.endswith(phrase * times):
            # What the truth repeats as well, such as a dotted line, was read.
            return phrase * times not in record["reference"]
    return False


# --- confidence


def coverage_curve(records: list[dict], points: int = 50) -> list[dict]:
    """CER of the most confident share of samples: `[{coverage, threshold, cer}]`, ascending.

    `threshold` is the lowest confidence within the share: below it a human would read.
    """
    sure = [record for record in records if record.get("confidence") is not None]
    if len(sure) < 2:
        return []
    sure.sort(key=lambda record: -record["confidence"])
    tally = process_cer([record["reference"] for record in sure], [said(record) for record in sure])
    errors, lengths = np.cumsum(tally.part), np.cumsum(tally.whole)
    steps = np.unique(np.linspace(1, len(sure), min(points, len(sure))).round().astype(int))
    return [
        {
            "coverage": step / len(records),
            "threshold": float(sure[step - 1]["confidence"]),
            "cer": float(errors[step - 1] / max(lengths[step - 1], 1)),
        }
        for step in map(int, steps)
    ]


def suspect_labels(systems: Sequence[list[dict]], least: float = 0.9) -> list[dict]:
    """List samples where the last system is confident and yet differs from the truth.

    Args:
        systems: the records of one or more evaluations over the same ids, in the same order.
        least: the lowest confidence of the last system.

    Returns:
        The last system's records with `agree` added: how many systems read the very same under the
        lenient profile. Most agreed first, then most confident.

    """
    found = []
    for readings in zip(*systems, strict=True):
        last = readings[-1]
        language = last.get("language")
        prediction = normalize(said(last), "lenient", language)
        if (last.get("confidence") or 0) < least or not prediction or runaway(last):
            continue
        if prediction == normalize(last["reference"], "lenient", language):
            continue
        agree = sum(prediction == normalize(said(one), "lenient", language) for one in readings)
        found.append({**last, "agree": agree})
    return sorted(found, key=lambda record: (-record["agree"], -record["confidence"]))
