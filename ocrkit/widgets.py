"""What notebooks show at the end of a cell: pictures with their texts, predictions to browse."""

from typing import Any

from markupsafe import Markup

from ocrkit.browser import Browser, Samples, picture, worst
from ocrkit.data import text_of
from ocrkit.evaluation import Evaluation
from ocrkit.notebook import Shown, looked_at
from ocrkit.report import Comparison


def gallery(rows: Any, count: int = 8) -> Shown:
    """The first `count` rows: pictures with their texts, and with prompts where these differ.

    Args:
        rows: a split as `load_data` gives it.
        count: how many to show.
    """
    chosen = rows.take(min(count, rows.num_rows or count))
    shown = [[text_of(row["completion"])] for row in chosen]
    prompts = [text_of(row["prompt"]) for row in chosen]
    if len(set(prompts)) > 1:
        shown = [[prompt, *texts] for prompt, texts in zip(prompts, shown)]
    # The first column of texts takes the room that there is.
    wide, narrow, lines = Markup("<td class='text'>{}</td>"), Markup("<td>{}</td>"), []
    for row, texts in zip(chosen, shown):
        cells = wide.format(texts[0]) + Markup("").join(map(narrow.format, texts[1:]))
        lines.append(Markup("<tr><td>{}</td>{}</tr>").format(picture(row["images"][0]), cells))
    text = "\n".join(" | ".join(texts) for texts in shown)
    return Shown(Markup("<table>{}</table>").format(Markup("").join(lines)), text)


def browse(found: Evaluation | Comparison, count: int = 8, rows: Any = None) -> Browser | Shown:
    """Predictions to look through: picture, truth, and what was read, with its differences.

    To a person it is a browser, with filters by kind of error, rate, length, language, field and
    text, and a list that the arrow keys move in. Where no one looks on, such as under papermill,
    and on GitHub, it is a table of the worst.

    Args:
        found: an evaluation, or a comparison to see all its systems on the same samples.
        count: rows of the table.
        rows: the split that was read, for the pictures; an evaluation that was made in this
            session has them, one that was loaded has not.
    """
    samples = Samples(found, rows)
    return Browser(samples, count) if looked_at() else worst(samples, count)
