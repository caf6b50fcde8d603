"""Tables for notebooks and consoles, and cells: intervals, p-values, visible characters."""

import re
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from data_prep.dataset.schema import one_line
from ocrkit.display.notebook import Shown

_HEAD, _BODY = Markup("<th>{}</th>"), Markup("<td>{}</td>")
# A cell with a longer word, such as JSON, is broken anywhere, and leaves room for other columns.
_LONG, _BROKEN = 24, Markup("<td class='read'>{}</td>")


class Table(Shown):
    """Rows of named cells: a table in a notebook, columns of plain text elsewhere.

    Args:
        rows: {column: value} each, all with the same columns.
        note: shown below, a paragraph a line.
        wide: keep every cell on one line, and scroll where a notebook is narrower.
    """

    def __init__(self, rows: Sequence[Mapping[str, object]], note: str = "", wide: bool = False):
        self.rows = [{name: _cell(value) for name, value in row.items()} for row in rows]
        if not rows:
            note = note or "nothing to show"
        lines = [list(row) for row in self.rows[:1]] + [list(row.values()) for row in self.rows]
        text = [columns_of_text(lines)] if lines else []
        head, *body = [
            Markup("<tr>{}</tr>").format(Markup("").join(map(kind, line)))
            for line, kind in zip(lines, [_head, *[_body] * len(self.rows)])
        ] or [Markup("")]
        table = Markup("<table>{}{}</table>").format(head, Markup("").join(body))
        if wide:
            table = Markup("<div class='wide'>{}</div>").format(table)
        below = Markup("").join(map(Markup("<p>{}</p>").format, note.splitlines()))
        super().__init__(table + below, "\n".join([*text, note] if note else text))


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


def _head(cell: str) -> Markup:
    return _HEAD.format(_unbroken(cell))


def _body(cell: str) -> Markup:
    longest = max(map(len, cell.split()), default=0)
    return (_BROKEN if longest > _LONG else _BODY).format(_unbroken(cell))


def _unbroken(cell: str) -> str:
    """Put no-break spaces into intervals and p-values of a cell."""
    return re.sub(r"\S+ %|\[[^]]*\]|\bp [<=] \S+", lambda m: m[0].replace(" ", "\u00a0"), cell)


def _cell(value: object) -> str:
    return format(value, ".4g") if isinstance(value, float) else str(value)


def interval(metric: Mapping[str, float] | None, sign: bool = False) -> str:
    """Format {value, low, high} in percent, or in signed percentage points; "—" where None."""
    if metric is None:
        return "—"
    form, unit = ("+.1f", "points") if sign else (".1f", "%")
    value, low, high = (format(100 * metric[key], form) for key in ("value", "low", "high"))
    return f"{value} {unit} [{low}, {high}]".replace("-", "−")


def p_text(p: float) -> str:
    """Format a p-value with its relation: `= 0.012`, `< 0.001`."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def visible(unit: str) -> str:
    """Make a unit visible: symbols for nothing and white space, code points for controls."""
    if unit == "":
        return "∅"
    if unit in (" ", "\n", "\t", "\u3000"):
        return {" ": "␣", "\n": "⏎", "\t": "⇥", "\u3000": "□"}[unit]
    if not unit.isprintable() and len(unit) == 1:
        return f"U+{ord(unit):04X}"
    return unit
