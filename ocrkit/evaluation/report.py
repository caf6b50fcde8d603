"""HTML report of a comparison: one self-contained page without scripts or external files."""

import base64
import io
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape
from rapidfuzz.distance import Levenshtein

from data_prep.dataset.pictures import open_image
from ocrkit.display.charts import begun_at, learning_curves, line_chart
from ocrkit.display.tables import interval, visible
from ocrkit.evaluation import analysis
from ocrkit.evaluation.records import scored_text
from ocrkit.metrics.edits import process_cer
from ocrkit.metrics.names import label
from ocrkit.metrics.text import graphemes

if TYPE_CHECKING:
    from ocrkit.evaluation.compare import Comparison
    from ocrkit.evaluation.evaluation import Evaluation

SHOWN = 12  # samples a list
HEAT_MAP_UNITS = 12  # rows, and columns
# Share of the last system's edits that case and spaces must be, for a table without them.
FOLDED = 0.2
LONGEST = 600  # code points of a text that are shown
PICTURE = (640, 220)  # pixels
TALL_PICTURE = (420, 520)
HEADLINE = ("field_f1", "numeric_accuracy", "cer", "exact_match", "normalized_match", "wer")


def render(
    comparison: "Comparison",
    history: Sequence[dict] | None = None,
    skipped: dict[str, int] | None = None,
    other: Sequence[tuple[str | None, "Comparison"]] = (),
    about: Mapping[str, object] | None = None,
) -> str:
    """Render the page; the arguments are those of `Comparison.save`."""
    first = comparison.evaluations[0]
    known = len(comparison.evaluations) > 1
    log = list(history or ())
    history = begun_at(first.metrics["cer"]["value"] if known else None, log)
    begins = len(history) > len(log)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parents[1] / "assets"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sections = [section(comparison)]
    for title, another in other:
        sections.append(section(another) | ({"title": title} if title else {}))
    return environment.get_template("report.html").render(
        sections=sections,
        curves=learning_curves(history),
        begun_with=first.name if begins else "",
        training=during_training(history),
        skipped=skipped or {},
        about=about or {},
        versions=comparison.evaluations[-1].versions,
    )


def during_training(history: Sequence[dict]) -> dict[str, Any]:
    """Return sample readings and confusion weights from a training log.

    `samples` holds the rows that every evaluation read, with at most five of their readings, the
    first and the last among them; `weights` the largest weights of confused characters, at `step`.
    """
    read = [entry for entry in history if entry.get("samples")]
    chosen = sorted({round(n) for n in np.linspace(0, len(read) - 1, min(5, len(read)))})
    rows: dict[str, dict[str, Any]] = {}
    for entry in (read[number] for number in chosen):
        for sample in entry["samples"]:
            truth, reading = sample["reference"], sample["prediction"]
            row = rows.setdefault(sample["id"], {"truth": truth[:LONGEST], "readings": []})
            html, cer = differences(truth, reading), process_cer([truth], [reading]).rate
            row["readings"].append({"step": entry["step"], "html": html, "cer": _percent(cer)})
    weighed = [entry for entry in history if entry.get("confusion_weights")]
    weights = weighed[-1]["confusion_weights"] if weighed else {}
    return {
        "samples": rows,
        "weights": {visible(char): f"{weight:.2f}" for char, weight in weights.items()},
        "step": weighed[-1]["step"] if weighed else None,
    }


def section(comparison: "Comparison") -> dict[str, Any]:
    """Return the template's variables for one comparison."""
    evaluations = comparison.evaluations
    first, last = evaluations[0], evaluations[-1]
    lists = _sample_lists(comparison)
    head, *rows = comparison.rows()
    cards = [
        {
            "name": label(name),
            "value": _percent(last.metrics[name]["value"]),
            "interval": interval(last.metrics[name]).split(" % ")[1],
            "others": [(e.name, interval(e.metrics.get(name))) for e in evaluations[:-1]],
        }
        for name in HEADLINE
        if name in last.metrics
    ]
    return {
        "title": comparison.title,
        "names": [evaluation.name for evaluation in evaluations],
        "n": len(first.records),
        "groups": len({r.get("group") for r in first.records} - {None}),
        "failed": [(e.name, e.failed) for e in evaluations],
        "profile": first.profile,
        "cards": cards[:4],
        "head": head,
        # Value and interval are separate, so that a narrow page can break between them.
        "rows": [
            [cell.replace(", ", ",\u00a0", 1).partition(" [") for cell in row] for row in rows
        ],
        "by": [_by(column, evaluations) for column in comparison.by],
        "folded": _folded(evaluations),
        "kinds": _kinds(list(comparison.kinds.items())),
        "heat": heat_map(last.counts.grapheme_confusions),
        "coverage": coverage_chart(evaluations),
        "lists": lists,
        "without_pictures": _without_pictures(lists),
    }


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %".replace("-", "−")


def _by(column: str, evaluations: Sequence["Evaluation"]) -> dict[str, Any]:
    metric = "field_accuracy" if column == "field" else "cer"
    rows = []
    values = evaluations[-1].by[column]
    rates_of = {value: [e.by[column][value][metric] for e in evaluations] for value in values}
    # Bars share one scale, capped so that a hopeless base does not flatten all others.
    most = min(1.0, max(rate["high"] for rates in rates_of.values() for rate in rates)) or 1.0
    for value, rates in rates_of.items():
        bars = []
        for evaluation, rate in zip(evaluations, rates):
            ends = {key: round(100 * min(1.0, rate[key] / most), 1) for key in rate}
            bars.append(
                {
                    "name": evaluation.name,
                    "text": _percent(rate["value"]),
                    "interval": f"[{_percent(rate['low'])}, {_percent(rate['high'])}]",
                    "width": ends["value"],
                    "low": ends["low"],
                    "reach": round(ends["high"] - ends["low"], 1),
                }
            )
        rows.append({"value": value, "n": values[value]["n"], "bars": bars})
    name = "Accuracy by field" if column == "field" else f"CER by {column.replace('_', ' ')}"
    return {"column": name, "rows": rows}


def _folded(evaluations: Sequence["Evaluation"]) -> list[list[str]]:
    """Rows of CER without case and spaces; none where they are a small part of the errors."""
    if "cer" not in evaluations[-1].metrics:
        return []
    last = [tally.part.sum() for tally in analysis.folded_cer(evaluations[-1].records).values()]
    if min(last) > (1 - FOLDED) * last[0] or not last[0]:
        return []
    table = []
    for evaluation in evaluations:
        groups = [record.get("group") for record in evaluation.records]
        rates = analysis.with_intervals(analysis.folded_cer(evaluation.records), groups)
        table.append([evaluation.name, *map(interval, rates.values())])
    return [["", *rates], *table]


def _kinds(counted: list[tuple[str, dict[str, int]]]) -> list[dict[str, Any]]:
    most = max(max(counts.values()) for _, counts in counted) or 1
    return [
        {
            "value": kind,
            "bars": [
                {"name": name, "text": counts[kind], "width": round(100 * counts[kind] / most, 1)}
                for name, counts in counted
            ],
        }
        for kind in counted[0][1]
        if any(counts[kind] for _, counts in counted)
    ]


def heat_map(counts: Counter[tuple[str, str]]) -> dict[str, Any] | None:
    """Return the most frequent confusions as a grid: references down, predictions across."""
    if not counts:
        return None
    # Dictionaries as ordered sets.
    downs: dict[str, None] = {}
    acrosses: dict[str, None] = {}
    for (reference, prediction), _ in counts.most_common():
        if max(len({*downs, reference}), len({*acrosses, prediction})) <= HEAT_MAP_UNITS:
            downs[reference] = acrosses[prediction] = None
    peak = counts.most_common(1)[0][1]
    return {
        "across": [visible(unit) for unit in acrosses],
        "rows": [
            {
                "unit": visible(down),
                "cells": [
                    {"n": counts[down, across], "heat": round(100 * counts[down, across] / peak)}
                    for across in acrosses
                ],
            }
            for down in downs
        ],
    }


# --- samples


def _sample_lists(comparison: "Comparison") -> list[dict[str, Any]]:
    """Choose the worst, median and random samples of the last system, what changed, suspects."""
    evaluations = comparison.evaluations
    last = evaluations[-1]
    cer = last.counts.edits.cer
    rates = cer.part / np.maximum(cer.whole, 1)
    order = sorted(range(len(rates)), key=lambda n: (-rates[n], -cer.part[n], n))
    wrong = [n for n in order if cer.part[n]]
    number_of = {record["id"]: number for number, record in enumerate(last.records)}
    middle = max(0, len(order) // 2 - SHOWN // 4)
    drawn = random.Random(0).sample(range(len(rates)), min(SHOWN // 2, len(rates)))
    suspects = analysis.suspect_labels([evaluation.records for evaluation in evaluations])
    lists: list[tuple[str, str, list[int]]] = [
        ("Worst samples", "Highest CER first.", wrong[:SHOWN])
    ]
    if len(evaluations) > 1:
        changed = {"fewer": comparison.improved(), "more": comparison.worse()}
        for title, more, less in (("improved", "fewer", "more"), ("got worse", "more", "fewer")):
            note = (
                f"{more.capitalize()} edits than under {evaluations[0].name} in "
                f"{len(changed[more])} of {len(number_of)} samples, {less} in {len(changed[less])}."
            )
            numbers = [number_of[change["id"]] for change in changed[more][:SHOWN]]
            lists.append((f"What {title}", note, numbers))
    note = "Confident, and different from the truth: look whether the label is wrong."
    agreed = {number_of[record["id"]]: agree for record, agree in suspects[:SHOWN]}
    lists.append(("Suspect labels", note, list(agreed)))
    lists.append(("Median samples", "Around the median CER.", order[middle:][: SHOWN // 2]))
    lists.append(("Random samples", "Drawn with a fixed seed.", sorted(drawn)))
    return [
        {
            "title": title,
            "note": note,
            "samples": [
                _sample(comparison, number, agreed if title == "Suspect labels" else {})
                for number in numbers
            ],
        }
        for title, note, numbers in lists
        if numbers
    ]


def _without_pictures(lists: Sequence[dict[str, Any]]) -> str:
    """Return a sentence on the samples shown that lack their picture, and why."""
    shown = {sample["id"]: sample for section in lists for sample in section["samples"]}
    lost = [sample["file"] for sample in shown.values() if sample["file"] and not sample["picture"]]
    if lost:
        return f"{len(lost)} of {len(shown)} pictures cannot be opened, such as {lost[0]}."
    if any(sample["picture"] for sample in shown.values()):
        return ""
    return "Without pictures: the predictions name no picture files; parquet keeps them inside."


def _sample(comparison: "Comparison", number: int, agreed: Mapping[int, int]) -> dict[str, Any]:
    """Return a sample with every reading; `agreed` counts systems that read alike, by sample."""
    readings = []
    for evaluation in comparison.evaluations:
        record = evaluation.records[number]
        cer = evaluation.counts.edits.cer
        readings.append(
            {
                "name": evaluation.name,
                "empty": not scored_text(record),
                "html": differences(record["reference"], scored_text(record)),
                "cer": _percent(cer.part[number] / max(cer.whole[number], 1)),
                "error": record.get("error"),
                "confidence": record.get("confidence"),
                "runaway": analysis.runaway(record),
            }
        )
    record = comparison.evaluations[-1].records[number]
    images = [e.records[number].get("image") for e in comparison.evaluations]
    agree = agreed.get(number)
    return {
        "id": record["id"],
        "language": record.get("language"),
        "truth": shortened(record["reference"]),
        "readings": readings,
        "picture": next(filter(None, map(thumbnail, images)), None),
        "file": next((str(image) for image in images if isinstance(image, str | Path)), None),
        "agree": f"read alike by {agree} of {len(readings)}" if agree else "",
    }


def shortened(text: str) -> str:
    """Cut a text to `LONGEST` code points, with an ellipsis where it was longer."""
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"


def differences(reference: str, prediction: str) -> Markup:
    """Mark a reading grapheme by grapheme: `<del>` for missing text, `<ins>` for added text.

    Texts longer than `LONGEST` code points are cut, and the mark-up says so.
    """
    truth, reading = graphemes(reference[:LONGEST]), graphemes(prediction[:LONGEST])
    parts = []
    for edit in Levenshtein.opcodes(truth, reading):
        missing = truth[edit.src_start : edit.src_end]
        added = reading[edit.dest_start : edit.dest_end]
        if edit.tag == "equal":
            parts.append(escape("".join(added)))
            continue
        if missing:
            parts.append(Markup("<del>{}</del>").format("".join(map(visible, missing))))
        if added:
            parts.append(Markup("<ins>{}</ins>").format("".join(map(visible, added))))
    if len(prediction) > LONGEST:
        note = f" … and {len(prediction) - LONGEST} more characters"
        parts.append(Markup("<span class='more'>{}</span>").format(note))
    return Markup("").join(parts)


def thumbnail(image: Any) -> dict[str, Any] | None:
    """Return {src, width, height} of a picture as a small data URI; None where it cannot be opened.

    `image` is a picture as `open_image` takes it, or a function that returns one.
    """
    try:
        image = open_image(image() if callable(image) else image).copy()
        image.thumbnail(TALL_PICTURE if image.height > image.width else PICTURE)
    except (OSError, ValueError):
        return None  # the report is made without a lost picture
    files = []
    for form, options in (("PNG", {"optimize": True}), ("JPEG", {"quality": 72})):
        file = io.BytesIO()
        image.save(file, form, **options)
        files.append((len(file.getvalue()), form.lower(), file.getvalue()))
    _, form, content = min(files)
    # Crops of a few pixels are enlarged to be legible.
    scale = max(1.0, min(3.0, 44 / image.height, PICTURE[0] / image.width))
    return {
        "src": f"data:image/{form};base64,{base64.b64encode(content).decode()}",
        "width": round(scale * image.width),
        "height": round(scale * image.height),
    }


def coverage_chart(evaluations: Sequence["Evaluation"]) -> Markup | None:
    """Draw CER over the share of samples kept, most confident first; None without confidences."""
    lines = []
    for evaluation in evaluations:
        curve = analysis.coverage_curve(evaluation.records, evaluation.counts.edits.cer)
        if curve:
            points = [(100 * point["coverage"], point["cer"]) for point in curve]
            lines.append((evaluation.name, points))
    if not lines:
        return None
    return line_chart("CER of the most confident share", lines, "% of samples kept", percent=True)
