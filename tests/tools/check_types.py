"""Type check ocrkit and data_prep with ty, against a baseline of known errors that only shrinks.

`python -m tests.tools.check_types` prints every error beyond the baseline and exits with 1 if there
is any; `--lower` writes the present counts, and refuses to raise one. After an update of ty, whose
diagnostics change with every release, raise counts in check_types.json by hand.
"""

import argparse
import ast
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
BASELINE = Path(__file__).with_suffix(".json")
PACKAGES = ("ocrkit", "data_prep")
# Files and folders that have no errors at all.
TYPED = (
    "ocrkit/__init__.py",
    "ocrkit/config",
    "ocrkit/metrics",
    "ocrkit/data",
    "ocrkit/models",
    "ocrkit/training/train.py",
    "ocrkit/evaluation/evaluate.py",
    "data_prep/dataset",
)
MOST_ERRORS = 150
MOST_ANY = 60
_ERROR = re.compile(r"(?P<file>[^:\n]+\.py):\d+:\d+: error\[")


def run_ty(*paths: str | Path) -> list[str]:
    """Errors of ty in files and folders, `path:line:column: error[rule] message` each.

    Raises:
        RuntimeError: ty itself failed.
    """
    program = Path(sys.executable).with_name("ty")
    command = [program, "check", "--project", ROOT, "--python", sys.prefix]
    command += ["--output-format", "concise", "--no-progress", "--color", "never", *paths]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if checked.returncode not in (0, 1):
        raise RuntimeError(f"ty failed: {checked.stdout}{checked.stderr}")
    return [line for line in checked.stdout.splitlines() if _ERROR.match(line)]


def count_errors(errors: list[str]) -> dict[str, int]:
    """{file: number of errors}, by path."""
    counts = Counter(match["file"] for error in errors if (match := _ERROR.match(error)))
    return dict(sorted(counts.items()))


def count_any() -> int:
    """Number of parameters of both packages that are annotated `Any` and nothing else.

    `*args` and `**kwargs`, which are passed on to a library as they come, do not count.
    """
    count = 0
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.arguments):
                    named = [*node.posonlyargs, *node.args, *node.kwonlyargs]
                    hints = [ast.unparse(arg.annotation) for arg in named if arg.annotation]
                    count += sum(hint.strip("'\"") in ("Any", "typing.Any") for hint in hints)
    return count


def read_baseline() -> dict:
    """{"any_parameters": count, "errors": {file: count}}, as committed."""
    return json.loads(BASELINE.read_text("utf-8"))


def compare_with_baseline(counts: dict[str, int], any_parameters: int) -> tuple[list, list]:
    """Sentences on counts above and on counts below the baseline."""
    baseline = read_baseline()
    pairs = {name: (baseline["errors"].get(name, 0), count) for name, count in counts.items()}
    pairs |= {name: (count, 0) for name, count in baseline["errors"].items() if name not in counts}
    pairs["parameters annotated Any"] = (baseline["any_parameters"], any_parameters)
    above = [f"{name}: {new}, baseline {old}" for name, (old, new) in pairs.items() if new > old]
    below = [f"{name}: {new}, baseline {old}" for name, (old, new) in pairs.items() if new < old]
    return above, below


def main(argv: list[str] | None = None) -> int:
    """Compare with the baseline or lower it; exit code 1 where a count is above it."""
    parser = argparse.ArgumentParser(prog="check_types", description=__doc__.partition("\n")[0])
    parser.add_argument("--lower", action="store_true", help="write the present counts")
    args = parser.parse_args(argv)
    errors, any_parameters = run_ty(*PACKAGES), count_any()
    counts = count_errors(errors)
    above, below = compare_with_baseline(counts, any_parameters)
    for sentence in above:
        print(f"more than before: {sentence}")
        print(*(error for error in errors if error.startswith(sentence.split(":")[0])), sep="\n")
    if above:
        return 1
    if args.lower:
        baseline = {"any_parameters": any_parameters, "errors": counts}
        BASELINE.write_text(json.dumps(baseline, indent=2) + "\n", encoding="utf-8")
    elif below:
        print("fewer than before; run python -m tests.tools.check_types --lower", *below, sep="\n")
    print(f"{sum(counts.values())} known errors, {any_parameters} parameters annotated Any")
    return 0


if __name__ == "__main__":
    sys.exit(main())
