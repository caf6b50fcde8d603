"""A comparison as one self-contained HTML page: no script, no font and no file from elsewhere."""

import base64
import io
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape
from PIL import Image
from rapidfuzz.distance import Levenshtein

from ocrkit import analysis
from ocrkit.analysis import said
from ocrkit.metrics import char_confusions, process_cer
from ocrkit.text import graphemes

if TYPE_CHECKING:
    from ocrkit.report import Comparison

SHOWN = 12  # samples a list
LONGEST = 600  # characters of a text that are shown
PICTURE = (640, 220)
TALL_PICTURE = (420, 520)
HEADLINE = ("cer", "exact_match", "normalized_match", "field_f1", "numeric_accuracy", "wer")


def render(
    comparison: "Comparison",
    history: Sequence[dict] | None = None,
    skipped: dict[str, int] | None = None,
    other: Sequence[tuple[str | None, "Comparison"]] = (),
) -> str:
    """Return the page; the arguments are those of `Comparison.save`."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "assets"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sections = [section(comparison)]
    for title, another in other:
        sections.append(section(another) | ({"title": title} if title else {}))
    return environment.get_template("report.html").render(
        sections=sections,
        curves=learning_curves(history or ()),
        skipped=skipped or {},
        versions=comparison.evaluations[-1].versions,
    )


def small_table(comparison: "Comparison") -> str:
    """Return the table of metrics as HTML for a notebook's cell."""
    head, *rows = comparison.rows()
    cells = Markup("").join(Markup("<th>{}</th>").format(cell) for cell in head)
    lines = [Markup("<tr>{}</tr>").format(cells)]
    for row in rows:
        cells = Markup("").join(Markup("<td>{}</td>").format(cell) for cell in row)
        lines.append(Markup("<tr>{}</tr>").format(cells))
    return str(Markup("<table>{}</table>").format(Markup("").join(lines)))


def section(comparison: "Comparison") -> dict[str, Any]:
    """Return what the template shows of one comparison."""
    from ocrkit.report import NAMES, interval, kinds

    evaluations = comparison.evaluations
    first, last = evaluations[0], evaluations[-1]
    head, *rows = comparison.rows()
    cards = [
        {
            "name": NAMES.get(name, name.replace("_", " ")),
            "values": [(e.name, _percent(e.metrics[name]["value"])) for e in evaluations],
            "interval": "[{}, {}]".format(
                *(_percent(last.metrics[name][end]) for end in ("low", "high"))
            ),
            "difference": interval(comparison.differences[last.name][name], sign=True)
            if len(evaluations) > 1 and name in comparison.differences[last.name]
            else "",
        }
        for name in HEADLINE
        if name in last.metrics
    ]
    lists = _sample_lists(comparison)
    return {
        "title": " → ".join(evaluation.name for evaluation in evaluations),
        "names": [evaluation.name for evaluation in evaluations],
        "n": len(first.records),
        "groups": len({r.get("group") for r in first.records} - {None}),
        "failed": [(e.name, e.failed) for e in evaluations],
        "profile": first.profile,
        "cards": cards[:4],
        "head": head,
        "rows": rows,
        "by": [_by(column, evaluations) for column in last.by],
        "kinds": _kinds([(e.name, kinds(e)) for e in evaluations]),
        "heat": heat_map(last.records),
        "coverage": coverage_chart(evaluations),
        "lists": lists,
    }


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %".replace("-", "−")


def _by(column: str, evaluations: list) -> dict[str, Any]:
    rows = []
    values = evaluations[-1].by[column]
    found = {value: [e.by[column][value]["cer"] for e in evaluations] for value in values}
    # Bars share one scale; a hopeless base must not press all others flat against the axis.
    most = min(1.0, max(cer["value"] for cers in found.values() for cer in cers)) or 1.0
    for value, cers in found.items():
        bars = [
            {
                "name": evaluation.name,
                "text": _percent(cer["value"]),
                "interval": f"[{_percent(cer['low'])}, {_percent(cer['high'])}]",
                "width": round(100 * min(1.0, cer["value"] / most), 1),
            }
            for evaluation, cer in zip(evaluations, cers)
        ]
        rows.append({"value": value, "n": values[value]["n"], "bars": bars})
    return {"column": column.replace("_", " "), "rows": rows}


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


def heat_map(records: list[dict], most: int = 12) -> dict[str, Any] | None:
    """Return the most frequent confusions as a grid: references down, predictions across."""
    counts = char_confusions(
        [record["reference"] for record in records], list(map(said, records)), unit="grapheme"
    )
    if not counts:
        return None
    downs, acrosses = [], []
    for (reference, prediction), _ in counts.most_common():
        if len({*downs, reference}) <= most and len({*acrosses, prediction}) <= most:
            downs.extend([reference] * (reference not in downs))
            acrosses.extend([prediction] * (prediction not in acrosses))
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


def visible(unit: str) -> str:
    """Write a unit so that one sees it: nothing, white space and invisible characters by name."""
    if unit == "":
        return "∅"
    if unit in (" ", "\n", "\t", "\u3000"):
        return {" ": "␣", "\n": "⏎", "\t": "⇥", "\u3000": "□"}[unit]
    if not unit.isprintable() and len(unit) == 1:
        return f"U+{ord(unit):04X}"
    return unit


# --- samples


def _sample_lists(comparison: "Comparison") -> list[dict[str, Any]]:
    """Choose the worst, median and random samples of the last system, what got worse, suspects."""
    evaluations = comparison.evaluations
    last = evaluations[-1]
    tally = process_cer([r["reference"] for r in last.records], list(map(said, last.records)))
    rates = tally.part / np.maximum(tally.whole, 1)
    order = sorted(range(len(rates)), key=lambda n: (-rates[n], -tally.part[n], n))
    wrong = [n for n in order if tally.part[n]]
    at = {record["id"]: number for number, record in enumerate(last.records)}
    middle = max(0, len(order) // 2 - SHOWN // 4)
    chosen = random.Random(0).sample(range(len(rates)), min(SHOWN // 2, len(rates)))
    suspects = analysis.suspect_labels([evaluation.records for evaluation in evaluations])
    lists = [("Worst samples", "Highest CER first.", wrong[:SHOWN], None)]
    if len(evaluations) > 1:
        worse = comparison.worse()
        note = f"{len(worse)} of {len(at)} samples have more edits than under {evaluations[0].name}"
        note += f"; {len(comparison.improved())} have fewer."
        lists.append(("What got worse", note, [at[c["id"]] for c in worse[:SHOWN]], None))
    note = "Confident, and different from the truth: look whether the label is wrong."
    lists.append(("Suspect labels", note, [at[s["id"]] for s in suspects[:SHOWN]], suspects))
    lists.append(("Median samples", "Around the median CER.", order[middle:][: SHOWN // 2], None))
    lists.append(("Random samples", "Drawn with a fixed seed.", sorted(chosen), None))
    return [
        {
            "title": title,
            "note": note,
            "samples": [
                _sample(comparison, number, agreed[place]["agree"] if agreed else None)
                for place, number in enumerate(numbers)
            ],
        }
        for title, note, numbers, agreed in lists
        if numbers
    ]


def _sample(comparison: "Comparison", number: int, agree: int | None) -> dict[str, Any]:
    readings = []
    for evaluation in comparison.evaluations:
        record = evaluation.records[number]
        cer = process_cer([record["reference"]], [said(record)]).rate
        readings.append(
            {
                "name": evaluation.name,
                "empty": not said(record),
                "html": differences(record["reference"], said(record)),
                "cer": _percent(cer),
                "error": record.get("error"),
                "confidence": record.get("confidence"),
                "runaway": analysis.runaway(record),
            }
        )
    pictures = (thumbnail(e.records[number].get("image")) for e in comparison.evaluations)
    return {
        "id": record["id"],
        "language": record.get("language"),
        "truth": record["reference"][:LONGEST] + "…" * (len(record["reference"]) > LONGEST),
        "readings": readings,
        "picture": next(filter(None, pictures), None),
        "agree": f"read alike by {agree} of {len(readings)}" if agree else "",
    }


def differences(reference: str, prediction: str) -> Markup:
    """Mark a reading grapheme by grapheme: `<del>` what it misses, `<ins>` what it adds.

    Texts longer than `LONGEST` code points are cut, and the mark-up says so.
    """
    one, other = graphemes(reference[:LONGEST]), graphemes(prediction[:LONGEST])
    parts = []
    for tag, start, stop, begin, end in Levenshtein.opcodes(one, other):
        if tag == "equal":
            parts.append(escape("".join(other[begin:end])))
            continue
        if start < stop:
            parts.append(Markup("<del>{}</del>").format("".join(map(visible, one[start:stop]))))
        if begin < end:
            parts.append(Markup("<ins>{}</ins>").format("".join(map(visible, other[begin:end]))))
    if len(prediction) > LONGEST:
        note = f" … and {len(prediction) - LONGEST} more characters"
        parts.append(Markup("<span class='more'>{}</span>").format(note))
    return Markup("").join(parts)


def thumbnail(image: Any) -> dict[str, Any] | None:
    """Return {src, width, height} of a picture as a small data URI; None where it cannot be had.

    `image` is a path, a PIL image or a function that returns one.
    """
    try:
        image = image() if callable(image) else image
        if isinstance(image, str | Path):
            with Image.open(image) as opened:
                opened.load()
                image = opened
        if not isinstance(image, Image.Image):
            return None
        image = image.convert("RGBA" if "transparency" in image.info else image.mode)
        if image.mode not in ("L", "RGB"):
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
        image = image.copy()
        image.thumbnail(TALL_PICTURE if image.height > image.width else PICTURE)
    except (OSError, ValueError, Image.DecompressionBombError):
        return None  # a picture that is gone must not cost the report
    files = []
    for form, options in (("PNG", {"optimize": True}), ("JPEG", {"quality": 72})):
        file = io.BytesIO()
        image.save(file, form, **options)
        files.append((len(file.getvalue()), form.lower(), file.getvalue()))
    _, form, content = min(files)
    return {
        "src": f"data:image/{form};base64,{base64.b64encode(content).decode()}",
        "width": image.width,
        "height": image.height,
    }


# --- charts, as SVG that takes its colours from the page


def learning_curves(history: Sequence[dict]) -> list[Markup]:
    """Draw loss and evaluation CER over steps, as far as `history` has them."""
    charts = []
    for title, keys in (
        ("Loss", ("loss", "eval_loss")),
        ("CER during training", ("eval_cer",)),
    ):
        lines = []
        for key in keys:
            points = [(e["step"], e[key]) for e in history if _number(e.get(key)) and "step" in e]
            if points:
                lines.append((key.replace("_", " "), points))
        if lines:
            charts.append(line_chart(title, lines, "step", percent="CER" in title))
    return charts


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and np.isfinite(value)


def coverage_chart(evaluations: list) -> Markup | None:
    """Draw CER against the share of samples kept, most confident first."""
    lines = []
    for evaluation in evaluations:
        curve = analysis.coverage_curve(evaluation.records)
        if curve:
            points = [(100 * point["coverage"], point["cer"]) for point in curve]
            lines.append((evaluation.name, points))
    if not lines:
        return None
    return line_chart("CER of the most confident share", lines, "% of samples kept", percent=True)


def line_chart(
    title: str, lines: list[tuple[str, list[tuple[float, float]]]], x_name: str, percent: bool
) -> Markup:
    """Draw named lines of (x, y) points, y from 0; lines differ by dash as well as by colour."""
    left, right, top, bottom = 52, 588, 14, 196
    xs = [x for _, points in lines for x, _ in points]
    ys = [y for _, points in lines for _, y in points]
    low, high = min(xs), max(max(xs), min(xs) + 1e-9)
    ticks = _ticks(max(ys) or 1.0)
    peak = ticks[-1]

    def place(x: float, y: float) -> str:
        across = left + (right - left) * (x - low) / (high - low)
        return f"{across:.1f},{bottom - (bottom - top) * y / peak:.1f}"

    parts = []
    for tick in ticks:
        height = float(place(low, tick).split(",")[1])
        text = f"{100 * tick:g} %" if percent else f"{tick:g}"
        parts.append(
            Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
                left, right, height, height
            )
        )
        parts.append(
            Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(
                left - 6, height + 4, text
            )
        )
    for x, anchor in ((low, "start"), (high, "end")):
        where = place(x, 0).split(",")[0]
        label = Markup('<text x="{}" y="{}" text-anchor="{}">{:g}</text>')
        parts.append(label.format(where, bottom + 18, anchor, round(x, 2)))
    middle = Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>')
    parts.append(middle.format((left + right) / 2, bottom + 18, x_name))
    for number, (name, points) in enumerate(lines):
        path = " ".join(place(x, y) for x, y in points)
        line = Markup('<polyline class="line s{}" points="{}"><title>{}</title></polyline>')
        parts.append(line.format(number % 4 if len(lines) > 1 else 1, path, name))
        if len(points) == 1:
            x, y = path.split(",")
            parts.append(
                Markup('<circle class="dot s{}" cx="{}" cy="{}" r="4"/>').format(number, x, y)
            )
    figure = Markup(
        '<figure><figcaption>{}</figcaption><svg viewBox="0 0 600 222" role="img" '
        'aria-label="{}">{}</svg>{}</figure>'
    )
    return figure.format(title, title, Markup("").join(parts), _legend([n for n, _ in lines]))


def _legend(names: list[str]) -> Markup:
    key = Markup(
        '<span><svg class="key" viewBox="0 0 28 8"><line class="line s{}" '
        'x1="0" x2="28" y1="4" y2="4"/></svg>{}</span>'
    )
    items = Markup(" ").join(key.format(n % 4, name) for n, name in enumerate(names))
    return Markup('<div class="legend">{}</div>').format(items) if len(names) > 1 else Markup("")


def _ticks(peak: float) -> list[float]:
    """Return 3 to 6 round values from 0 to at least `peak`."""
    scale = 10.0 ** np.floor(np.log10(peak))
    step = next(
        scale * part
        for part in (0.05, 0.1, 0.2, 0.25, 0.5, 1, 2, 2.5, 5)
        if peak <= 5 * scale * part
    )
    return [round(step * number, 10) for number in range(int(np.ceil(peak / step - 1e-9)) + 1)]
