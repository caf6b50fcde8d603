"""Puts the figures of `check.json` between the README's marks."""

from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

TITLES = {
    "cer": "CER",
    "field_accuracy": "fields right",
    "exact_match": "answers right",
    "numeric_accuracy": "amounts right",
    "teds": "TEDS of the tables",
}


def aims_of(result: dict) -> Iterator[tuple[str, str, dict]]:
    """(part, name, figure) of every figure that has an aim."""
    for part, figures in result.items():
        if isinstance(figures, dict):
            for name, figure in figures.get("aims", {}).items():
                yield part, name, figure


def update_readme(result: dict) -> None:
    """Put the figures between the README's marks; parts that were not measured are left out."""
    path = ROOT / "README.md"
    parts = {"demo": demo, "receipts": receipts, "handwriting": handwriting}
    marks = {"figures": "\n\n".join(part(result) for name, part in parts.items() if name in result)}
    parts = {"notebooks": notebooks, "training": training, "memory": memory}
    marks |= {name: part(result) for name, part in parts.items() if name in result}
    for mark, text in marks.items():
        before, _, rest = path.read_text(encoding="utf-8").partition(f"<!-- {mark} -->\n")
        end = f"<!-- end of {mark} -->"
        after = rest.partition(end)[2]
        path.write_text(f"{before}<!-- {mark} -->\n{text}\n{end}{after}", encoding="utf-8")


def table(*rows: list[str]) -> str:
    """A table in Markdown, the first row its head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "| --- " * len(rows[0]) + "|", *lines[1:]])


def cell(figure: dict) -> str:
    """A rate with its interval."""
    return "{value:.1%} [{low:.1%}, {high:.1%}]".format(**figure)


def _before_after(name: str, run: dict) -> list[list[str]]:
    """Rows of CER and exact match of a run of the quickstart."""
    return [
        [f"{name}: {title}", cell(run["base"][key]), cell(run["tuned"][key])]
        for title, key in (("CER", "cer"), ("exact match", "exact_match"))
    ]


def demo(result: dict) -> str:
    """`make demo` over its seeds."""
    runs = result["demo"]["runs"]
    seed, first = next(iter(runs.items()))
    rows = [row for name, run in runs.items() for row in _before_after(f"seed {name}", run)]
    text = (
        f"`make demo` on worn till receipts in fonts that the base never saw, {first['samples']} "
        f"lines of receipts kept apart, {result['cores']} CPU cores, 95 % intervals over receipts; "
        f"it took {first['seconds']:.0f} s. The price: "
        f"CER on the base's own clean lines rose from {cell(first['printed-base']['cer'])} to "
        f"{cell(first['printed-tuned']['cer'])} (seed {seed}). The report shows it."
    )
    return f"{table(['', 'before', 'after'], *rows)}\n\n{text}"


def receipts(result: dict) -> str:
    """Real receipts, beside Tesseract where it was there."""
    found = result["receipts"]
    rows = _before_after("lines of held-out receipts", found["run"])
    text = (
        "The same notebook with `-p recipe receipts` (every weight is trained, pictures are worn "
        f"further) on {sum(found['rows'].values()):,} real lines, split by receipt "
        f"({found['rows']['train']:,} to train, {found['rows']['test']:,} to test); with case "
        f"folded the CER after is {found['tuned CER, case folded']:.1%}."
    )
    if "tesseract" in found:
        text += (
            f" Tesseract 5 reads the same lines with {found['tesseract']['value']:.1%}, and "
            f"{found['tesseract CER, case folded']:.1%} with case folded (the truth is all "
            "capitals)"
        )
        tuned = found["run"]["tuned"]["cer"]
        if tuned["low"] <= found["tesseract CER, case folded"] <= tuned["high"]:
            text += ", which lies within the tiny model's interval."
        elif found["tuned CER, case folded"] > found["tesseract CER, case folded"]:
            text += ": a tiny model is no match for it there yet."
        else:
            text += "."
    printed = [cell(found["run"][f"printed-{name}"]["cer"]) for name in ("base", "tuned")]
    text += (
        f" It took {found['run']['seconds'] / 60:.0f} minutes, and the price is higher: CER on the "
        f"base's own clean lines rose from {printed[0]} to {printed[1]}."
    )
    return f"{table(['27 real receipts (SROIE)', 'before', 'after'], *rows)}\n\n{text}"


def handwriting(result: dict) -> str:
    """Real Bangla characters and Chinese lines, beside Tesseract where it was there."""
    head = ["real handwriting, CER", "before", "after", "Tesseract 5"]
    rows = []
    for language, title in (("bn", "Bangla characters"), ("zh", "Chinese lines")):
        found = result["handwriting"][language]
        systems = ("base", "tuned", "tesseract")
        cells = [cell(found[name]) if name in found else "not installed" for name in systems]
        rows.append([f"{found['n']} {title}", *cells])
    text = (
        "The embedded model was never shown handwriting. For the characters it was trained on "
        "those of one writer and read another's; for the lines it learned the drawn sample of the "
        "Chinese notebook."
    )
    return f"{table(head, *rows)}\n\n{text}"


def training(result: dict) -> str:
    """Losses and curriculum beside plain training, a table a metric."""
    text = []
    for experiment in ("lines", "documents"):
        found = result["training"][experiment]
        plain = found["runs"]["plain"]
        for metric in found["metrics"]:
            head = [f"{TITLES[metric]} after {found['steps']} steps"]
            head += [f"seed {seed}" for seed in plain]
            rows = [
                [name, *(cell(run[metric]) for run in seeded.values())]
                for name, seeded in found["runs"].items()
            ]
            text.append(table(head, *rows))
        count = next(iter(plain.values()))["rows"]
        apart = [
            run[metric]["low"] > plain[seed][metric]["high"]
            or run[metric]["high"] < plain[seed][metric]["low"]
            for metric in found["metrics"]
            for name, seeded in found["runs"].items()
            for seed, run in seeded.items()
            if name != "plain"
        ]
        text.append(
            f"The same {count:,} worn {experiment}, one setting changed at a time: of "
            f"{len(apart)} results {sum(apart) or 'none'} lies apart from plain training's."
        )
    return "\n\n".join(text)


def memory(result: dict) -> str:
    """What a conversion holds in memory."""
    rows = []
    for name, figure in result["memory"]["aims"].items():
        below = "" if figure["met"] else " (**below aim**)"
        rows.append([name, f"{figure['value']:.3g}{below}", figure["aim"]])
    return table(["memory of a conversion", "measured", "aim"], *rows)


def notebooks(result: dict) -> str:
    """What the notebooks of five domains reach."""
    rows = []
    for name, run in result["notebooks"]["runs"].items():
        better = result["notebooks"]["aims"][f"{name}, {run['metric']} after"]["met"]
        after = cell(run["after"]) + ("" if better else " (**below aim**)")
        title, seconds = TITLES[run["metric"]], f"{run['seconds']:.0f}"
        rows.append([name, title, cell(run["before"]), after, seconds])
    head = ["notebook on its sample, two CPU cores", "measure", "before", "after", "seconds"]
    return table(head, *rows)
