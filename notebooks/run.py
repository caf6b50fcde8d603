"""Run the notebooks headless and sum up what they reached: `python notebooks/run.py [NAME...]`.

Each gets a folder OUT/NAME with the executed copy, the same as HTML, and its run folder; the table
of all stands in OUT/summary.md. `-p NAME VALUE` is passed on to all of them, as papermill takes it.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def run(
    name: str, out: Path, parameters: dict[str, object] | None = None, cores: int | None = None
) -> dict:
    """Execute a notebook into the folder `out`; returns {notebook, seconds, error, folder}.

    `error` is the last line of what papermill said, or None. The notebook takes `cores` CPU
    threads; None: all.
    """
    out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "papermill", "--no-progress-bar"]
    command += [str(FOLDER / f"{name}.ipynb"), str(out / f"{name}.ipynb")]
    for key, value in {"output_dir": out / "run", **(parameters or {})}.items():
        command += ["-p", key, str(value)]
    # The notebook runs the kit that it lies beside, installed or not.
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": paths}
    if cores:
        environment["OMP_NUM_THREADS"] = str(cores)
    began = time.perf_counter()
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - began
    messages = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
    error = None if done.returncode == 0 else messages[-1]
    return {"notebook": name, "seconds": seconds, "error": error, "folder": out}


def to_html(executed: Path) -> Path:
    """Write an executed notebook as HTML beside it; returns the file."""
    command = [sys.executable, "-m", "nbconvert", "--to", "html", "--log-level", "ERROR"]
    subprocess.run([*command, str(executed)], check=True)
    return executed.with_suffix(".html")


def summary(results: list[dict]) -> str:
    """The table of all notebooks in Markdown: first and last evaluation of each, and its time."""
    head = ["notebook", "CER before", "CER after", "Tesseract", "exact before", "exact after"]
    head += ["seconds", "state"]
    lines = [head, ["---"] * len(head)]
    for result in results:
        report = result["folder"] / "run" / "report" / "report.json"
        cells = ["—"] * 5
        if not result["error"] and report.is_file():
            evaluations = json.loads(report.read_text(encoding="utf-8"))["evaluations"]
            ends = evaluations[0]["metrics"], evaluations[-1]["metrics"]
            cells = [_cell(end[metric]) for metric in ("cer", "exact_match") for end in ends]
            theirs = [e["metrics"]["cer"] for e in evaluations if e["name"] == "tesseract"]
            cells.insert(2, _cell(theirs[0]) if theirs else "—")
        state = result["error"] or "done"
        lines.append([result["notebook"], *cells, f"{result['seconds']:.0f}", state])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cell(figure: dict) -> str:
    return "{value:.1%} [{low:.1%}, {high:.1%}]".format(**figure)


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for; 1 where a notebook failed."""
    parser = argparse.ArgumentParser(prog="python notebooks/run.py", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)}; none: all")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "notebooks")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(NAMES)
    if unknown:
        parser.error(f"no notebook {', '.join(unknown)}; there are {', '.join(NAMES)}")
    results = []
    for name in options.names or NAMES:
        results.append(run(name, options.out / name, dict(options.p)))
        executed = options.out / name / f"{name}.ipynb"
        if executed.is_file():
            to_html(executed)
        print(f"{name}: {results[-1]['error'] or 'done'}, {results[-1]['seconds']:.0f} s")
    text = summary(results)
    (options.out / "summary.md").write_text(text, encoding="utf-8")
    print(f"\n{text}")
    return 1 if any(result["error"] for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
