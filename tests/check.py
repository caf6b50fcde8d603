"""The full counts behind the README's figures: `make check` runs this and writes check.json.

Every figure is measured here, with its aim beside it where there is one; what misses its aim is
printed as such and makes the command fail. `python -m tests.check PART...` measures parts anew.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

from data_prep.convert import convert
from ocrkit.benchmarks.preparing import peak_memory

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "runs" / "check"
RESULT = ROOT / "notebooks" / "benchmarks" / "check.json"
SEEDS = (42, 43, 44)
PACKAGES = "torch transformers trl peft unsloth datasets rapidfuzz jiwer papermill".split()


def quickstart(name: str, **parameters: object) -> dict:
    """Run the quickstart notebook headless; what its report says, and the seconds it took."""
    folder = RUNS / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "papermill", "--no-progress-bar"]
    command += ["notebooks/quickstart.ipynb", str(folder / "notebook.ipynb")]
    for key, value in {"output_dir": folder, **parameters}.items():
        command += ["-p", key, str(value)]
    started = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True)
    seconds = time.perf_counter() - started
    report = json.loads((folder / "report" / "report.json").read_text(encoding="utf-8"))
    figures = {
        evaluation["name"]: {
            metric: evaluation["metrics"][metric] for metric in ("cer", "exact_match")
        }
        for part in (report, *report["other"])
        for evaluation in part["evaluations"]
    }
    return {"seconds": round(seconds, 1), "samples": report["evaluations"][0]["n"], **figures}


def demo() -> dict:
    """`make demo` over three seeds: time, CER before and after, and what was forgotten."""
    runs = {str(seed): quickstart(f"demo-{seed}", seed=seed) for seed in SEEDS}
    ratios = [run["tuned"]["cer"]["value"] / run["base"]["cer"]["value"] for run in runs.values()]
    apart = [run["tuned"]["cer"]["high"] < run["base"]["cer"]["low"] for run in runs.values()]
    slowest = max(run["seconds"] for run in runs.values())
    return {
        "runs": runs,
        "aims": {
            "slowest run, seconds": aim(slowest, slowest <= 360, "at most 360"),
            "largest tuned CER / base CER": aim(max(ratios), max(ratios) <= 1 / 3, "at most 1/3"),
            "intervals apart, runs": aim(sum(apart), all(apart), "all"),
        },
    }


def receipts(data: Path) -> dict:
    """The same notebook on real receipts, and Tesseract on the same lines where it is installed."""
    from ocrkit.data import load_data
    from ocrkit.evaluation import Evaluation
    from ocrkit.metrics import cer

    folder = RUNS / "sroie"
    shutil.rmtree(folder, ignore_errors=True)
    summary = convert("sroie", data, folder, task="lines", split="0.7,0.1,0.2", workers=2)
    rows, rejects = sum(summary["rows"].values()), sum(summary["rejects"].values())
    run = quickstart("receipts", dataset=folder)
    tuned = Evaluation.load(RUNS / "receipts" / "eval" / "tuned")
    pairs = [(r["reference"].lower(), (r["prediction"] or "").lower()) for r in tuned.records]
    found = {
        "rows": summary["rows"],
        "run": run,
        "tuned CER, case folded": cer(*zip(*pairs)),
        "aims": {"rows + rejects": aim(rows + rejects, rows + rejects == 1419, "1,419 boxes")},
    }
    if shutil.which("tesseract"):
        from ocrkit.config import TrainConfig
        from ocrkit.systems import evaluate_engine

        config = TrainConfig(dataset=str(folder), output_dir=str(RUNS / "receipts"))
        theirs = evaluate_engine("tesseract", load_data(config)["test"], RUNS / "receipts")
        pairs = [(r["reference"].lower(), (r["prediction"] or "").lower()) for r in theirs.records]
        found["tesseract"] = theirs.metrics["cer"]
        found["tesseract CER, case folded"] = cer(*zip(*pairs))
    return found


def memory() -> dict:
    """What a conversion holds in memory: 1 GB in one .gnt file, and 20,000 .dgrl lines."""
    found = peak_memory(RUNS / "memory")
    return {
        "aims": {
            f"{source}, MB resident": aim(peak, peak < 400, "under 400")
            for source, peak in found.items()
        }
    }


def training() -> dict:
    """Plain, confusion-weighted and curriculum training on worn receipts, three seeds each.

    Short runs on the same rows, so that they differ by one setting alone.
    """
    from data_prep.receipts import thermal_receipts
    from ocrkit import TrainConfig, evaluate, load_data, load_model, train

    folder = RUNS / "training"
    shutil.rmtree(folder, ignore_errors=True)
    thermal_receipts(folder / "data", receipts=150, seed=7, progress=False)
    changes = {
        "plain": {},
        "confusion-weighted": {"loss": "confusion_weighted"},
        "curriculum by length": {"curriculum": "length"},
    }
    found: dict[str, dict] = {name: {} for name in changes}
    for seed in SEEDS:
        for name, change in changes.items():
            config = TrainConfig.from_recipe(
                "quickstart",
                dataset=str(folder / "data"),
                output_dir=str(folder / f"{name}-{seed}"),
                seed=seed,
                max_steps=120,
                per_device_train_batch_size=16,
                eval_steps=40,
                eval_samples=30,
                save_steps=120,
                **change,
            )
            data = load_data(config)
            model, processor = load_model(config)
            train(model, processor, data, config)
            read = evaluate(model, processor, data["test"], config, name="tuned")
            found[name][str(seed)] = read.metrics["cer"]
    return {"rows": len(data["train"]), "cer": found}


def slow_tests() -> dict:
    """The tests that take part only here, a process a core."""
    command = [sys.executable, "-m", "pytest", "-m", "slow", "-n", "logical", "--dist", "worksteal"]
    done = subprocess.run(command, cwd=ROOT, check=False)
    return {"aims": {"slow tests, exit code": aim(done.returncode, done.returncode == 0, "0")}}


def aim(value: float, met: bool, wanted: str) -> dict:
    """A figure beside what it should be."""
    return {"value": round(value, 4), "aim": wanted, "met": bool(met)}


def aims_of(result: dict) -> Iterator[tuple[str, str, dict]]:
    """(part, name, figure) of every figure that has an aim."""
    for part, figures in result.items():
        if isinstance(figures, dict):
            for name, figure in figures.get("aims", {}).items():
                yield part, name, figure


def readme_part(result: dict) -> str:
    """The README's figures in Markdown, made of what was measured."""

    def cell(figure: dict) -> str:
        return "{value:.1%} [{low:.1%}, {high:.1%}]".format(**figure)

    def lines(name: str, run: dict) -> list[str]:
        rows = (("CER", "cer"), ("exact match", "exact_match"))
        return [
            f"| {name}: {title} | {cell(run['base'][key])} | {cell(run['tuned'][key])} |"
            for title, key in rows
        ]

    runs = result["demo"]["runs"]
    text = ["| | before | after |", "| --- | --- | --- |"]
    text += [line for seed, run in runs.items() for line in lines(f"seed {seed}", run)]
    first = next(iter(runs.values()))
    text += [
        "",
        f"`make demo` on worn till receipts in fonts that the base never saw, {first['samples']} "
        f"lines of receipts kept apart, {result['cores']} CPU cores, 95 % intervals over receipts; "
        f"the slowest run took {max(run['seconds'] for run in runs.values()):.0f} s. The price: "
        f"CER on the base's own clean lines rose from {cell(first['printed-base']['cer'])} to "
        f"{cell(first['printed-tuned']['cer'])} (seed {next(iter(runs))}). The report shows it.",
    ]
    if "receipts" in result:
        found = result["receipts"]
        text += ["", "| 27 real receipts (SROIE) | before | after |", "| --- | --- | --- |"]
        text += lines("lines of held-out receipts", found["run"])
        text += [
            "",
            f"The same notebook on {sum(found['rows'].values()):,} real lines, split by receipt "
            f"({found['rows']['train']:,} to train, {found['rows']['test']:,} to test); with case "
            f"folded the CER after is {found['tuned CER, case folded']:.1%}.",
        ]
        if "tesseract" in found:
            text[-1] += (
                f" Tesseract 5 reads the same lines with {found['tesseract']['value']:.1%}, and "
                f"{found['tesseract CER, case folded']:.1%} with case folded (the truth is all "
                "capitals): a tiny model in four minutes is no match for it there yet."
            )
    if "training" in result:
        seeds = " | ".join(f"seed {seed}" for seed in SEEDS)
        text += ["", f"| CER after 120 steps | {seeds} |", f"| --- |{' --- |' * len(SEEDS)}"]
        for name, runs in result["training"]["cer"].items():
            text.append(f"| {name} | {' | '.join(cell(run) for run in runs.values())} |")
        rows = result["training"]["rows"]
        text += [
            "",
            f"The same {rows:,} worn lines, one setting changed at a time.",
        ]
    text += ["", "| memory of a conversion | measured | aim |", "| --- | --- | --- |"]
    for part, name, figure in aims_of(result):
        if part == "memory":
            below = "" if figure["met"] else " (**below aim**)"
            text.append(f"| {name} | {figure['value']:.3g}{below} | {figure['aim']} |")
    return "\n".join(text)


def update_readme(result: dict) -> None:
    """Put the figures between the README's marks."""
    path = ROOT / "README.md"
    before, _, rest = path.read_text(encoding="utf-8").partition("<!-- figures -->\n")
    after = rest.partition("<!-- end of figures -->")[2]
    part = f"<!-- figures -->\n{readme_part(result)}\n<!-- end of figures -->"
    path.write_text(before + part + after, encoding="utf-8")


def main(chosen: list[str]) -> int:
    """Measure everything, or chosen parts anew; write check.json and print what missed its aim."""
    parts = {"memory": memory, "demo": demo}
    data = os.environ.get("OCRKIT_TEST_DATA")
    if data:
        parts["receipts"] = partial(receipts, Path(data) / "finance_sroie")
    else:
        print("OCRKIT_TEST_DATA is not set: nothing is measured on real receipts.")
    parts |= {"training": training, "slow tests": slow_tests}
    if unknown := set(chosen) - set(parts):
        print(f"No part {', '.join(sorted(unknown))}; there are {', '.join(parts)}.")
        return 2
    result = json.loads(RESULT.read_text(encoding="utf-8")) if chosen else {}
    result |= {
        "python": platform.python_version(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "packages": {name: version(name) for name in PACKAGES},
    }
    for name in chosen or parts:
        began = time.perf_counter()
        found = parts[name]()
        minutes = round((time.perf_counter() - began) / 60, 1)
        result[name] = {"date": f"{datetime.now():%Y-%m-%d %H:%M}", "minutes": minutes, **found}
        # After every part, so that a run that is stopped leaves what it measured.
        text = json.dumps(result, indent=1, ensure_ascii=False)
        RESULT.write_text(text + "\n", encoding="utf-8")
        if "demo" in result:
            update_readme(result)
    missed = 0
    for part, name, figure in aims_of(result):
        state = "met" if figure["met"] else "BELOW AIM"
        missed += not figure["met"]
        print(f"{part}: {name} {figure['value']} (aim {figure['aim']}): {state}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
