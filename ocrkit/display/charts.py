"""SVG line charts, in the colours of the page that shows them."""

from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np
from markupsafe import Markup

#: Name and (x, y) points of a line.
Line = tuple[str, list[tuple[float, float]]]


def learning_curves(history: Sequence[dict[str, Any]]) -> list[Markup]:
    """Draw loss, evaluation CER and curriculum share over steps, where `history` has them.

    Args:
        history: entries of `train_log.jsonl`, {step, loss, eval_cer, ...}.
    """
    charts = []
    for title, keys in (
        ("Loss", ("loss", "eval_loss")),
        ("CER during training", ("eval_cer",)),
        ("Share of the training rows available", ("curriculum_share",)),
    ):
        lines: list[Line] = []
        for key in keys:
            points = [(e["step"], e[key]) for e in history if _number(e.get(key)) and "step" in e]
            if points:
                lines.append((key.replace("_", " "), points))
        if lines:
            charts.append(line_chart(title, lines, "step", percent="loss" not in keys))
    return charts


def begun_at(cer: float | None, history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A history that begins at step 0 with the CER before training, where that and later are known.

    Args:
        cer: of the weights that training began from.
        history: as for `learning_curves`.
    """
    known = cer is not None and any("eval_cer" in entry for entry in history)
    return [*([{"step": 0, "eval_cer": cer}] if known else []), *history]


def _number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and bool(np.isfinite(value))


def line_chart(title: str, lines: Sequence[Line], x_name: str, percent: bool) -> Markup:
    """Draw lines, y from 0; lines differ by dash as well as by colour.

    Args:
        title: heading of the chart.
        lines: names and points.
        x_name: label of the x axis.
        percent: y values are fractions, shown in percent.
    """
    left, right, top, bottom = 52, 588, 14, 196
    xs = [x for _, points in lines for x, _ in points]
    ys = [y for _, points in lines for _, y in points]
    low, high = min(xs), max(max(xs), min(xs) + 1e-9)
    ticks = _ticks(max(ys) or 1.0)
    peak = ticks[-1]

    def pixels(x: float, y: float) -> str:
        across = left + (right - left) * (x - low) / (high - low)
        return f"{across:.1f},{bottom - (bottom - top) * y / peak:.1f}"

    parts = []
    grid = Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>')
    number_at = Markup('<text x="{}" y="{}" text-anchor="end">{}</text>')
    for tick in ticks:
        height = float(pixels(low, tick).split(",")[1])
        text = f"{100 * tick:g} %" if percent else f"{tick:g}"
        parts.append(grid.format(left, right, height, height))
        parts.append(number_at.format(left - 6, height + 4, text))
    for x, anchor in ((low, "start"), (high, "end")):
        across = pixels(x, 0).split(",")[0]
        label = Markup('<text x="{}" y="{}" text-anchor="{}">{:g}</text>')
        parts.append(label.format(across, bottom + 18, anchor, round(x, 2)))
    middle = Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>')
    parts.append(middle.format((left + right) / 2, bottom + 18, x_name))
    for number, (name, points) in enumerate(lines):
        path = " ".join(pixels(x, y) for x, y in points)
        line = Markup('<polyline class="line s{}" points="{}"><title>{}</title></polyline>')
        parts.append(line.format(number % 4 if len(lines) > 1 else 1, path, name))
        if len(points) == 1:
            dot = Markup('<circle class="dot s{}" cx="{}" cy="{}" r="4"/>')
            parts.append(dot.format(number, *path.split(",")))
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
        scale * factor
        for factor in (0.05, 0.1, 0.2, 0.25, 0.5, 1, 2, 2.5, 5)
        if peak <= 5 * scale * factor
    )
    return [round(step * number, 10) for number in range(int(np.ceil(peak / step - 1e-9)) + 1)]
