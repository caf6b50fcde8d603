"""Benchmark command of `make bench`: measure speed, memory and trainings, update their page.

`python -m tests.tools.bench PART...` measures some parts again; with OCRKIT_TEST_DATA there are the
parts `receipts` and `earlier receipts`, of which `--folds N` trains fewer folds. What is not
measured keeps its figures. Exit code 1 if a figure misses its aim. A card is measured by
`python -m tests.tools.gpu`.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

from tests.tools.check_readme import (
    FIGURES_PAGE,
    augmenting,
    cross_validation,
    losses,
    rounds,
    write_marks,
)

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "notebooks" / "benchmarks"
WORK = ROOT / "runs" / "bench"


def update_page(page: Path, results: Path) -> None:
    """Write the tables of bench.json and bench-gpu.json between the marks of `page`."""
    from tests.benchmarks.suite import markdown

    files = [results / name for name in ("bench.json", "bench-gpu.json")]
    measured = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]
    texts = {"bench": "\n\n".join(map(markdown, measured))}
    figures = {
        part: rows[0]["figures"]
        for part, rows in ((name, of["rows"]) for name, of in measured[0]["parts"].items())
        if rows and "figures" in rows[0]
    }
    if "receipts" in figures:
        both = figures["receipts"], figures.get("earlier receipts")
        texts["bench receipts"] = cross_validation(*both)
    for part, draw in {"rounds": rounds, "augmenting": augmenting, "losses": losses}.items():
        if part in figures:
            texts[f"bench {part}"] = draw(figures[part])
    write_marks(page, texts)


def main(arguments: list[str]) -> int:
    """Measure; exit code 1 if a figure misses its aim."""
    # Imported here: the worker processes of a conversion import this module when they start.
    from tests.benchmarks.suite import CPU_PARTS, EXPERIMENTS, benchmark, markdown, missed

    parser = argparse.ArgumentParser(prog="python -m tests.tools.bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--folds", type=int, choices=range(1, 6), metavar="N")
    args = parser.parse_args(arguments)
    WORK.mkdir(parents=True, exist_ok=True)
    for earlier in RESULTS.glob("bench*.json"):
        shutil.copy(earlier, WORK)
    few = {"folds": args.folds}
    settings = {"receipts": few, "earlier receipts": few} if args.folds else None
    result = benchmark("cpu", WORK, args.parts or [*CPU_PARTS, *EXPERIMENTS], settings)
    print(markdown(result))
    shutil.copy(WORK / "bench.json", RESULTS)
    update_page(ROOT / FIGURES_PAGE, RESULTS)
    return 1 if missed(result) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
