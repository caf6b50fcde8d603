"""What notebooks show: pictures with their texts."""

from typing import Any

from markupsafe import Markup

from ocrkit.data import text_of


def gallery(rows: Any, count: int = 8) -> Any:
    """The first `count` rows as pictures with their texts, for the end of a notebook cell.

    Args:
        rows: a split as `load_data` gives it.
        count: how many to show.
    """
    chosen = rows.select(range(min(count, len(rows))))
    return _table([(row["images"][0], [text_of(row["completion"])]) for row in chosen])


def worst(evaluation: Any, count: int = 8) -> Any:
    """The rows read worst, by edits per character: picture, truth, and what was read instead.

    Args:
        evaluation: as `evaluate` returns it.
        count: how many to show.
    """
    from ocrkit.metrics import process_cer
    from ocrkit.report_html import differences

    records = evaluation.records
    tally = process_cer([r["reference"] for r in records], [r["prediction"] for r in records])
    rates = tally.part / tally.whole.clip(min=1)
    chosen = [records[i] for i in (-rates).argsort(kind="stable")[:count]]
    return _table(
        [
            (record["image"], [record["reference"], differences(record["reference"], said)])
            for record in chosen
            for said in [record["prediction"] or ""]
        ]
    )


def _table(rows: list[tuple[Any, list[str]]]) -> Any:
    from IPython.display import HTML

    from ocrkit.report_html import thumbnail

    lines = []
    for image, texts in rows:
        picture = thumbnail(image) or {"src": "", "width": 0, "height": 0}
        cells = [
            Markup("<img src='{src}' width='{width}' height='{height}' alt=''>").format(**picture),
            *(Markup("<code>{}</code>").format(text) for text in texts),
        ]
        cell = Markup("<td style='text-align:left'>{}</td>")
        lines.append(Markup("<tr>{}</tr>").format(Markup("").join(map(cell.format, cells))))
    style = Markup("<style>del{color:#b00020}ins{color:#00695c}</style>")
    return HTML(str(style + Markup("<table>{}</table>").format(Markup("").join(lines))))
