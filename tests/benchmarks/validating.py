"""Benchmark of `validate` beside an earlier version, whose checkout is the argument.

CHECKOUT is a worktree of that version (`git worktree add ../before COMMIT`). Both check the same
datasets with two workers, in turns; the reports must be equal. With one worker the seconds of
processor time are compared, which other work on the machine hardly changes.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from data_prep.convert import convert
from tests.benchmarks.drawn import printed_lines, street_signs, write_pages
from tests.benchmarks.measure import in_turns, ratio_row, table

ROOT = Path(__file__).parents[2]


def validate(checkout: Path, dataset: Path, workers: int) -> float:
    """Run a version's command; returns its seconds, of processor time where it is one process."""
    for path in dataset.glob("validation.*"):
        path.unlink()
    command = ["-m", "data_prep.validate", str(dataset), "--workers", str(workers)]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, *command],
        env=environment,
        cwd=dataset,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu if workers == 1 else seconds


def main() -> None:
    """Draw the datasets, measure both versions and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--times", type=int, default=4, help="size of the datasets; at 1, half is Python's start"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        datasets = {name: Path(folder, name) for name in ("printed", "handwritten", "photographs")}
        printed_lines(datasets["printed"], 6_000 * options.times)
        write_pages(Path(folder, "pages"), 4_000 * options.times)
        convert("hwdb-dgrl", Path(folder, "pages"), datasets["handwritten"], progress=False)
        street_signs(datasets["photographs"], 500 * options.times)
        rows = []
        for name, dataset in datasets.items():
            reports = []
            for checkout in (options.checkout, ROOT):
                validate(checkout.resolve(), dataset, 2)
                reports.append((dataset / "validation.json").read_bytes())
            equal = "equal reports" if reports[0] == reports[1] else "REPORTS DIFFER"
            count = sum(json.loads(reports[1])["rows"].values())
            for workers, unit in ((2, "s"), (1, "s of processor time")):
                sides = {
                    side: partial(validate, checkout.resolve(), dataset, workers)
                    for side, checkout in (("ours", ROOT), ("theirs", options.checkout))
                }
                seconds = in_turns(sides, options.rounds)
                what = f"validate, {count:,} {name}, {workers} workers ({equal})"
                rows.append(
                    ratio_row(what, "before", seconds["ours"], seconds["theirs"], 1.6, unit)
                )
                print(table(rows[-1:]).splitlines()[-1], flush=True)
    print(f"load: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
