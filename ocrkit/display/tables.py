"""Tables for notebooks and consoles, and cells: intervals, p-values, visible characters."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from data_prep.dataset.schema import one_line
from ocrkit.display.notebook import Shown

_HEAD, _BODY = Markup("<th>{}</th>"), Markup("<td>{}</td>")


class Table(Shown):
    """Rows of named cells: a table in a notebook, columns of plain text elsewhere."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], note: str = ""):
        self.rows = [{name: _cell(value) for name, value in row.items()} for row in rows]
        note = note if rows else note or "nothing to show"
        lines = [list(row) for row in self.rows[:1]] + [list(row.values()) for row in self.rows]
        text = [columns_of_text(lines)] if lines else []
        head, *body = [
            Markup("<tr>{}</tr>").format(Markup("").join(map(tag.format, map(_whole, line))))
            for line, tag in zip(lines, [_HEAD, *[_BODY] * len(self.rows)])
        ] or [Markup("")]
        table = Markup("<table>{}{}</table>").format(head, Markup("").join(body))
        below = Markup("<p>{}</p>").format(note) if note else Markup("")
        super().__init__(table + below, "\n".join([*text, *([note] if note else [])]))


def heading_table(lines: Sequence[Sequence[str]], corner: str) -> Table:
    """Table whose first line is the heading; `corner` is the title of the first column."""
    (_, *names), *rows = lines
    return Table([dict(zip((corner, *names), row)) for row in rows])


def columns_of_text(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells as plain text whose columns are aligned; control characters as escapes."""
    lines = [list(map(one_line, line)) for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines)]
    aligned = ("  ".join(c.ljust(w) for c, w in zip(line, widths)) for line in lines)
    return "\n".join(line.rstrip() for line in aligned)


def _whole(cell: str) -> str:
    """A cell's text that breaks only before and after an interval or a p-value."""
    return re.sub(r"\S+ %|\[[^]]*\]|\bp [<=] \S+", lambda m: m[0].replace(" ", "\u00a0"), cell)


def _cell(value: Any) -> str:
    return format(value, ".4g") if isinstance(value, float) else str(value)


def interval(found: dict | None, sign: bool = False) -> str:
    """Write {value, low, high} in percent, or in signed percentage points; "—" where None."""
    if found is None:
        return "—"
    form, unit = ("+.1f", "points") if sign else (".1f", "%")
    value, low, high = (format(100 * found[key], form) for key in ("value", "low", "high"))
    return f"{value} {unit} [{low}, {high}]".replace("-", "−")


def p_text(p: float) -> str:
    """Write a p-value as people do."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def visible(unit: str) -> str:
    """Write a unit so that one sees it: nothing, white space and invisible characters by name."""
    if unit == "":
        return "∅"
    if unit in (" ", "\n", "\t", "\u3000"):
        return {" ": "␣", "\n": "⏎", "\t": "⇥", "\u3000": "□"}[unit]
    if not unit.isprintable() and len(unit) == 1:
        return f"U+{ord(unit):04X}"
    return unit
