"""What `make bench` runs: every figure of speed and size, into bench.json and the README's table.

`python -m tests.tools.bench PART...` measures parts anew; `--hardware gpu` those that need CUDA.
What misses its aim is printed as such and makes the command fail.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "notebooks" / "benchmarks"
README = ROOT / "README.md"
WORK = ROOT / "runs" / "bench"


def update_readme(readme: Path, results: Path) -> None:
    """Put the tables of bench.json and bench-gpu.json between the README's marks."""
    from tests.benchmarks.suite import markdown

    parts = []
    for name in ("bench.json", "bench-gpu.json"):
        if (results / name).is_file():
            parts.append(markdown(json.loads((results / name).read_text(encoding="utf-8"))))
    before, _, rest = readme.read_text(encoding="utf-8").partition("<!-- bench -->\n")
    after = rest.partition("<!-- end of bench -->")[2]
    text = "\n\n".join(parts) + "\n" * bool(parts)
    readme.write_text(
        f"{before}<!-- bench -->\n{text}<!-- end of bench -->{after}", encoding="utf-8"
    )


def main(arguments: list[str]) -> int:
    """Measure; 1 where a figure misses its aim."""
    # Not at the top: workers of a conversion import this module when they start.
    from tests.benchmarks.suite import benchmark, markdown, missed

    parser = argparse.ArgumentParser(prog="python -m tests.tools.bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--hardware", default="cpu", choices=("cpu", "gpu"))
    given = parser.parse_args(arguments)
    WORK.mkdir(parents=True, exist_ok=True)
    for known in RESULTS.glob("bench*.json") if given.parts else ():
        shutil.copy(known, WORK)
    result = benchmark(given.hardware, WORK, given.parts)
    print(markdown(result))
    # Without CUDA the CPU's parts are measured, whatever was asked for.
    shutil.copy(WORK / ("bench.json" if result["hardware"] == "cpu" else "bench-gpu.json"), RESULTS)
    update_readme(README, RESULTS)
    return 1 if missed(result) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
