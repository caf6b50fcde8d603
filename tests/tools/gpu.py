"""Check of a GPU in ten minutes, `make gpu`: what a card does with the kit, into bench-gpu.json.

Seven parts, each measurement in a process of its own, written to disk as soon as it ends, in the
order of their worth. Without CUDA only `--small` runs, which tries the script itself on a CPU.
Please send bench-gpu.json as an issue: no card has been measured by the kit's authors.
"""

import argparse
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "notebooks" / "benchmarks"


def main(arguments: list[str]) -> int:
    """Measure; exit code 0 done, 1 a part failed or a figure misses its aim, 2 wrong usage."""
    from ocrkit.errors import ConfigError
    from tests.benchmarks.gpu import has_gpu
    from tests.benchmarks.suite import GPU_PARTS, benchmark, markdown, missed
    from tests.tools.bench import update_page
    from tests.tools.check_readme import FIGURES_PAGE

    parser = argparse.ArgumentParser(prog="python -m tests.tools.gpu", description=__doc__)
    names = ", ".join(GPU_PARTS)
    parser.add_argument("--only", default="", help=f"parts, separated by commas, of {names}")
    parser.add_argument(
        "--minutes", type=float, default=10, help="no part begins later (%(default)s)"
    )
    parser.add_argument("--small", action="store_true", help="tiny models, also on a CPU")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "runs" / "gpu", help="folder to write to"
    )
    args = parser.parse_args(arguments)
    if not args.small and not has_gpu():
        print("torch sees no GPU: `python -m ocrkit doctor` says why; --small tries the script.")
        return 1
    only = [name.strip() for name in args.only.split(",") if name.strip()]
    settings = {name: {"small": args.small} for name in GPU_PARTS}
    try:
        result = benchmark("gpu", args.out, only, settings, args.minutes)
    except ConfigError as error:
        print(f"ocrkit: {error}", file=sys.stderr)
        return 2
    print(markdown(result))
    if not args.small:
        shutil.copy(args.out / "bench-gpu.json", RESULTS)
        update_page(ROOT / FIGURES_PAGE, RESULTS)
    failed = [name for name, part in result["parts"].items() if "error" in part]
    return 1 if failed or missed(result) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
