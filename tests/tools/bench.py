"""Benchmark command of `make bench`: measure speed and memory, update the page of figures.

`python -m tests.tools.bench PART...` measures some parts again. Exit code 1 if a figure misses its
aim. A card is measured by `python -m tests.tools.gpu`.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

from tests.tools.check_readme import FIGURES_PAGE, write_marks

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "notebooks" / "benchmarks"
WORK = ROOT / "runs" / "bench"


def update_page(page: Path, results: Path) -> None:
    """Write the tables of bench.json and bench-gpu.json between the marks of `page`."""
    from tests.benchmarks.suite import markdown

    tables = [
        markdown(json.loads((results / name).read_text(encoding="utf-8")))
        for name in ("bench.json", "bench-gpu.json")
        if (results / name).is_file()
    ]
    write_marks(page, {"bench": "\n\n".join(tables)})


def main(arguments: list[str]) -> int:
    """Measure; exit code 1 if a figure misses its aim."""
    # Imported here: the worker processes of a conversion import this module when they start.
    from tests.benchmarks.suite import benchmark, markdown, missed

    parser = argparse.ArgumentParser(prog="python -m tests.tools.bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART")
    args = parser.parse_args(arguments)
    WORK.mkdir(parents=True, exist_ok=True)
    for earlier in RESULTS.glob("bench*.json") if args.parts else ():
        shutil.copy(earlier, WORK)
    result = benchmark("cpu", WORK, args.parts)
    print(markdown(result))
    shutil.copy(WORK / "bench.json", RESULTS)
    update_page(ROOT / FIGURES_PAGE, RESULTS)
    return 1 if missed(result) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
