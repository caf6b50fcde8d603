"""Forecasts of published runs, of large photographs and of every recipe, into forecasts.json.

`python -m tests.tools.forecasts PART...` computes some parts (published, photographs, recipes)
again, and writes their tables into the front page and the page of figures. Nothing is measured:
each forecast takes about as long as `python -m ocrkit plan --on`.
"""

import json
import sys
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from ocrkit.environment import package_versions
from tests.benchmarks import forecasting
from tests.benchmarks.forecasting import PUBLISHED, RECIPES, ROWS
from tests.tools.check_readme import FIGURES_PAGE, ROOT, table, write_marks

RESULT = ROOT / "notebooks" / "benchmarks" / "forecasts.json"
SOURCE = "https://github.com/unslothai/notebooks/blob/"
PARTS: dict[str, tuple[Iterable[str], Callable[[str], dict[str, Any]]]] = {
    "published": (PUBLISHED, forecasting.beside_published),
    "photographs": (forecasting.BUDGETS, forecasting.of_photographs),
    "recipes": (RECIPES, forecasting.of_recipe),
}
# Recipes for a CPU: their runs are measured.
MEASURED = ("quickstart", "tiny", "receipts")


def _range(hours: list[float]) -> str:
    if hours[1] < 0.1:
        return f"{3600 * hours[0]:.0f} to {3600 * hours[1]:.0f} s"
    least, most = (f"{hour:.2g}" if hour < 10 else f"{hour:.0f}" for hour in hours)
    return f"{least} to {most} h"


def _label(card: dict[str, Any]) -> str:
    return card["card"].upper()


def _gib(card: dict[str, Any]) -> str:
    return f"{card['peak_gib']:.1f} GiB"


def published(result: dict[str, Any]) -> str:
    """Table of published runs: peak and seconds, beside the forecast's."""
    rows, notes = [], []
    for name, told in result["published"]["forecasts"].items():
        run = PUBLISHED[name]
        peak = [f"{told['peak']:.2f}", f"{told['peak'] / run.peak:.2f}"]
        time = ["", ""]
        if told["seconds"]:
            time = [f"{told['seconds']:.0f}", f"{run.seconds / told['seconds']:.1f}"]
        if not run.known:
            notes.append(
                f"{name}: not known, since Unsloth recomputes other layers than transformers; as "
                f"transformers trains it, with the kit's checkpointing of the vision tower, "
                f"{told['peak']:.2f} GiB."
            )
            peak, time = ["not known", ""], ["", ""]
        if run.note:
            notes.append(f"{name}: {run.note}.")
        link = SOURCE + run.notebook.replace("(", "%28").replace(")", "%29")
        source = f"[Unsloth {run.made}]({link})"
        rows.append([name, f"{run.peak:.2f}", *peak, f"{run.seconds:.0f}", *time, source])
    head = ["run on a T4", "published peak, GiB", "forecast", "forecast / published"]
    head += ["published seconds", "least forecast", "published / least", "source"]
    return "\n\n".join([table(head, *rows), "\n".join(f"* {note}" for note in notes)])


def photographs(result: dict[str, Any]) -> str:
    """Table of the korean recipe on photographs of 12 megapixels, a line a pixel budget."""
    told = result["photographs"]["forecasts"]
    names = [_label(card) for card in next(iter(told.values()))["cards"]]
    rows = []
    for budget, forecast in told.items():
        cards = forecast["cards"]
        row = [budget, f"{forecast['longest']:,}", str(cards[0]["batch"]), _gib(cards[0])]
        rows.append([*row, *(card["verdict"] for card in cards)])
    head = ["pixel budget", "tokens a row", "rows a step", "peak", *names]
    return table(head, *rows)


def _unknown(told: dict[str, Any]) -> bool:
    return any("under Unsloth is not known" in note for note in told["notes"])


def recipes(result: dict[str, Any]) -> str:
    """Table of every recipe on every card: whether it fits, most rows a step, hours."""
    rows = []
    for name, told in result["recipes"]["forecasts"].items():
        recipe, cards = RECIPES[name], told["cards"]
        size = "{} x {}".format(*recipe.size)
        row = [f"`{name}`", recipe.model, f"{recipe.row}, {size}, {told['longest']:,} tokens"]
        row += [str(cards[0]["batch"]), _gib(cards[0]) + ("*" if _unknown(told) else "")]
        for card in cards:
            parts = [card["verdict"]]
            if card["largest_batch"]:
                parts.append(f"up to {card['largest_batch']:,}")
                parts += [_range(card["hours"])] if card["hours"] else []
            row.append(", ".join(parts))
        rows.append(row)
    names = [_label(card) for card in told["cards"]]
    head = ["recipe", "model", "row", "rows a step", "peak", *names]
    forecasts = result["recipes"]["forecasts"].values()
    seconds = sorted(told["cpu_seconds"] for told in forecasts)
    gigabytes = max(told["gigabytes"] for told in forecasts)
    text = (
        f"Each forecast took {seconds[0]:.0f} to {seconds[-1]:.0f} s of CPU, half of them up to "
        f"{seconds[len(seconds) // 2]:.0f}, and at most {gigabytes:.2f} GB; torch "
        f"{result['packages']['torch']}, transformers {result['packages']['transformers']}."
    )
    return f"{table(head, *rows)}\n\n{text}"


def cards(result: dict[str, Any]) -> str:
    """Table of the front page: the smallest card of the list that holds a recipe, a line each."""
    own = ", ".join(f"`{name}`" for name in MEASURED)
    rows = [[own, RECIPES[MEASURED[0]].model, "two CPU cores", "", "measured, see above"]]
    for name, told in result["recipes"]["forecasts"].items():
        if name in MEASURED:
            continue
        fitting = [card for card in told["cards"] if card["verdict"] == "fits"]
        smallest, largest = fitting[0], told["cards"][-1]
        hours = f"{_range(smallest['hours'])}; {_label(largest)}: {_range(largest['hours'])}"
        peak = f"{_gib(smallest)} of {smallest['gib']:.1f}"
        if _unknown(told):
            peak += ", Unsloth's not known"
        rows.append([f"`{name}`", RECIPES[name].model, _label(smallest), peak, hours])
    head = ["recipe", "model", "smallest card", "forecast of memory", f"of time, {ROWS:,} rows"]
    return table(head, *rows)


PAGES: dict[str, dict[str, tuple[str, Callable[[dict[str, Any]], str]]]] = {
    "README.md": {"cards": ("recipes", cards)},
    FIGURES_PAGE: {
        "published": ("published", published),
        "photographs": ("photographs", photographs),
        "recipes": ("recipes", recipes),
    },
}


def update_pages(result: dict[str, Any], root: Path = ROOT) -> None:
    """Write the tables between their marks; parts that were not computed stay unchanged."""
    for page, tables in PAGES.items():
        texts = {mark: draw(result) for mark, (part, draw) in tables.items() if part in result}
        write_marks(root / page, texts)


def main(chosen: list[str]) -> int:
    """Compute all parts, or the `chosen` ones again."""
    if unknown := set(chosen) - set(PARTS):
        print(f"PART {', '.join(sorted(unknown))} is unknown; take some of {', '.join(PARTS)}.")
        return 2
    result = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {}
    result["packages"] = package_versions(["torch", "transformers", "peft", "bitsandbytes"])
    for part in chosen or PARTS:
        names, compute = PARTS[part]
        told = {}
        for name in names:
            told[name] = compute(name)
            print(f"{part}, {name}: {told[name]['cpu_seconds']} s of CPU", flush=True)
        result[part] = {"date": f"{datetime.now():%Y-%m-%d}", "forecasts": told}
        text = json.dumps(result, indent=1, ensure_ascii=False)
        RESULT.write_text(text + "\n", encoding="utf-8")
        update_pages(result)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
