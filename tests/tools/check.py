"""The full counts behind the README's figures: `make check` runs this and writes check.json.

Every figure is measured here, with its aim beside it where there is one; what misses its aim is
printed as such and makes the command fail. `python -m tests.tools.check PART...` measures parts
anew.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import datetime
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from data_prep.convert import convert
from notebooks.run import run as run_notebook
from ocrkit.models.base import TINY
from ocrkit.run_folder import package_versions
from tests.benchmarks.preparing import peak_memory
from tests.tools.check_readme import aims_of, update_readme

ROOT = Path(__file__).parents[2]
RUNS = ROOT / "runs" / "check"
RESULT = ROOT / "notebooks" / "benchmarks" / "check.json"
SEEDS = (42, 43, 44)
PACKAGES = "torch transformers trl peft unsloth datasets rapidfuzz jiwer papermill".split()


def quickstart(name: str, cores: int | None = None, **parameters: object) -> dict:
    """Run the quickstart notebook headless; what its report says, and the seconds it took.

    Args:
        cores: how many it may take; None: all.
    """
    folder = RUNS / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "papermill", "--no-progress-bar"]
    command += ["notebooks/quickstart.ipynb", str(folder / "notebook.ipynb")]
    for key, value in {"output_dir": folder, **parameters}.items():
        command += ["-p", key, str(value)]
    environment = os.environ | ({"OMP_NUM_THREADS": str(cores)} if cores else {})
    started = time.perf_counter()
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
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
    """`make demo` over three seeds: time, CER before and after, and what was forgotten.

    The first has the machine to itself, as a newcomer's has, and is timed; the others share it.
    """
    first, *others = SEEDS
    runs = {str(first): quickstart(f"demo-{first}", seed=first)}
    with ThreadPoolExecutor(len(others)) as pool:
        made = [pool.submit(quickstart, f"demo-{seed}", cores=1, seed=seed) for seed in others]
        runs |= {str(seed): run.result() for seed, run in zip(others, made)}
    ratios = [run["tuned"]["cer"]["value"] / run["base"]["cer"]["value"] for run in runs.values()]
    apart = [run["tuned"]["cer"]["high"] < run["base"]["cer"]["low"] for run in runs.values()]
    seconds = runs[str(first)]["seconds"]
    return {
        "runs": runs,
        "aims": {
            "a run by itself, seconds": aim(seconds, seconds <= 240, "at most 240"),
            "largest tuned CER / base CER": aim(max(ratios), max(ratios) <= 1 / 3, "at most 1/3"),
            "intervals apart, runs": aim(sum(apart), all(apart), "all"),
        },
    }


def receipts(data: Path) -> dict:
    """The same notebook on real receipts, and Tesseract on the same lines where it is installed."""
    from ocrkit.data.load import load_data
    from ocrkit.evaluation.evaluation import Evaluation
    from ocrkit.metrics import cer

    folder = RUNS / "sroie"
    shutil.rmtree(folder, ignore_errors=True)
    summary = convert("sroie", data, folder, task="lines", split="0.7,0.1,0.2", workers=2)
    rows, rejects = sum(summary["rows"].values()), sum(summary["rejects"].values())
    run = quickstart("receipts", recipe="receipts", dataset=folder)
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
        from ocrkit.evaluation.evaluate import evaluate_engine

        config = TrainConfig(dataset=str(folder), output_dir=str(RUNS / "receipts"))
        theirs = evaluate_engine("tesseract", load_data(config)["test"], RUNS / "receipts")
        pairs = [(r["reference"].lower(), (r["prediction"] or "").lower()) for r in theirs.records]
        found["tesseract"] = theirs.metrics["cer"]
        found["tesseract CER, case folded"] = cer(*zip(*pairs))
    return found


def handwriting(data: Path) -> dict:
    """Real handwriting before and after, beside Tesseract: Bangla characters and Chinese lines.

    The characters of one writer are trained on, those of another are read. Three lines are too few
    to train on, so they are read by what the Chinese notebook learned from its sample.
    """
    from ocrkit import TrainConfig, evaluate, load_data, load_model, train
    from ocrkit.evaluation.evaluate import evaluate_engine

    folder = RUNS / "handwriting"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(data / "bangla_characters", folder / "writers")
    table = folder / "writers" / "labels.tsv"
    header, *rows = (folder / "writers/labels_by_row_order.tsv").read_text("utf-8").splitlines()
    split = [f"{row}\t{'train' if row.startswith('Format1') else 'test'}" for row in rows]
    table.write_text("\n".join([f"{header}\tsplit", *split]) + "\n", "utf-8")
    columns = {"image_column": "file", "text_column": "text", "split_column": "split"}
    convert("table", table, folder / "bn", language="bn", split="source", **columns)
    convert("hctr", data / "chinese_lines", folder / "zh", split="0,0,1")
    found: dict[str, dict] = {}
    for language in ("bn", "zh"):
        config = TrainConfig.from_recipe(
            "quickstart",
            dataset=str(folder / language),
            output_dir=str(folder / f"run-{language}"),
            max_steps=150,
            per_device_train_batch_size=15,
            # The writers' table has no validation split to read meanwhile.
            eval_steps=None,
        )
        rows = load_data(config)
        model, processor = load_model(config)
        read = [evaluate(model, processor, rows["test"], config, name="base")]
        if language == "bn":
            train(model, processor, rows, config)
        else:
            config.model_name_or_path = str(RUNS / "notebooks/chinese_handwriting/run/adapter")
            model, processor = load_model(config)
        read.append(evaluate(model, processor, rows["test"], config, name="tuned"))
        if shutil.which("tesseract"):
            read.append(evaluate_engine("tesseract", rows["test"], config.output_dir))
        found[language] = {"n": len(rows["test"])} | {e.name: e.metrics["cer"] for e in read}
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


CHANGES = {
    "plain": {},
    "confusion-weighted": {"loss": "confusion_weighted"},
    "curriculum by length": {"curriculum": "length"},
}
# What is trained on, with which recipe, for how many steps, and the metrics that tell.
EXPERIMENTS = {
    "lines": ("quickstart", 40, ("cer",)),
    "documents": ("tiny", 40, ("numeric_accuracy", "teds")),
}


def training() -> dict:
    """Plain, confusion-weighted and curriculum training, three seeds each.

    On worn receipt lines, and on the sample of worn three-line receipts and tables. Short runs on
    the same rows, so that they differ by one setting alone; two at a time, on a core each.
    """
    from data_prep.synthetic.receipts import thermal_receipts

    folder = RUNS / "training"
    shutil.rmtree(folder, ignore_errors=True)
    thermal_receipts(folder / "lines", receipts=150, seed=7, progress=False)
    shutil.copytree(ROOT / "ocrkit" / "assets" / "samples" / "financial", folder / "documents")
    jobs = [(e, c, seed) for e in EXPERIMENTS for seed in SEEDS for c in CHANGES]
    found: dict[str, dict] = {
        experiment: {"steps": steps, "metrics": metrics, "runs": {change: {} for change in CHANGES}}
        for experiment, (_, steps, metrics) in EXPERIMENTS.items()
    }
    with ProcessPoolExecutor(2, get_context("spawn"), one_core) as pool:
        for (experiment, change, seed), figures in zip(jobs, pool.map(trained, jobs)):
            found[experiment]["runs"][change][str(seed)] = figures
    return found


def one_core() -> None:
    """Keep a process of a pool to one core."""
    import torch

    torch.set_num_threads(1)


def trained(job: tuple[str, str, int]) -> dict:
    """Train one of the `EXPERIMENTS` with one of the `CHANGES` and a seed; its test metrics."""
    from ocrkit import TrainConfig, evaluate, load_data, load_model, train

    experiment, change, seed = job
    recipe, steps, metrics = EXPERIMENTS[experiment]
    folder = RUNS / "training"
    config = TrainConfig.from_recipe(
        recipe,
        dataset=str(folder / experiment),
        output_dir=str(folder / f"{experiment}-{change}-{seed}"),
        seed=seed,
        max_steps=steps,
        per_device_train_batch_size=16,
        eval_steps=20,
        eval_samples=30,
        save_steps=40,
        **CHANGES[change],
    )
    data = load_data(config)
    model, processor = load_model(config)
    train(model, processor, data, config)
    read = evaluate(model, processor, data["test"], config, name="tuned")
    return {"rows": len(data["train"]), **{name: read.metrics[name] for name in metrics}}


# The metric that each notebook's story turns on.
STORIES = {
    "bangla_handwriting": "cer",
    "korean_signboards": "cer",
    "chinese_handwriting": "cer",
    "financial_documents": "field_accuracy",
    "visual_question_answering": "exact_match",
}


def notebooks() -> dict:
    """The notebooks of five domains as a newcomer runs them: seconds, the test before and after."""
    found: dict[str, dict] = {}
    aims = {}
    for name, metric in STORIES.items():
        folder = RUNS / "notebooks" / name
        shutil.rmtree(folder, ignore_errors=True)
        result = run_notebook(name, folder)
        if result["error"]:
            raise RuntimeError(f"{name} failed: {result['error']}")
        report = json.loads((folder / "run/report/report.json").read_text(encoding="utf-8"))
        before, after = (report["evaluations"][at]["metrics"][metric] for at in (0, -1))
        seconds = result["seconds"]
        found[name] = {"metric": metric, "before": before, "after": after, "seconds": seconds}
        better = after["high"] < before["low"] if metric == "cer" else after["low"] > before["high"]
        aims[f"{name}, seconds"] = aim(seconds, seconds <= 240, "at most 240")
        aims[f"{name}, {metric} after"] = aim(after["value"], better, "better, intervals apart")
    return {"runs": found, "aims": aims}


def command_lines() -> dict:
    """Generated command lines with absurd values: tracebacks, wrong exit codes, seconds."""
    from tests.tools.fuzz_commands import fuzz

    found = fuzz(2000)
    seconds, faults = found["seconds"], len(found["faults"])
    found["aims"] = {
        "lines": aim(found["lines"], found["lines"] >= 2000, "at least 2,000"),
        "tracebacks and wrong exit codes": aim(faults, faults == 0, "0"),
        "seconds": aim(seconds, seconds <= 180, "at most 180"),
    }
    return found


def slow_tests() -> dict:
    """The tests that take part only here, a process a core."""
    command = [sys.executable, "-m", "pytest", "-m", "slow", "-n", "logical", "--dist", "worksteal"]
    command += ["--durations=10"]
    done = subprocess.run(command, cwd=ROOT, check=False)
    return {"aims": {"slow tests, exit code": aim(done.returncode, done.returncode == 0, "0")}}


def model_digest() -> str:
    """Which embedded model a part was measured with; a test holds it to the one that is there."""
    return hashlib.sha256((TINY / "model.safetensors").read_bytes()).hexdigest()[:16]


def aim(value: float, met: bool, wanted: str) -> dict:
    """A figure beside what it should be."""
    return {"value": round(value, 4), "aim": wanted, "met": bool(met)}


def main(chosen: list[str]) -> int:
    """Measure everything, or chosen parts anew; write check.json and print what missed its aim."""
    parts = {"memory": memory, "demo": demo}
    data = os.environ.get("OCRKIT_TEST_DATA")
    if data:
        parts["receipts"] = partial(receipts, Path(data) / "finance_sroie")
    else:
        print("OCRKIT_TEST_DATA is not set: nothing is measured on real pictures.")
    parts |= {"training": training, "notebooks": notebooks}
    if data:
        parts["handwriting"] = partial(handwriting, Path(data))
    parts |= {"command lines": command_lines, "slow tests": slow_tests}
    if unknown := set(chosen) - set(parts):
        print(f"No part {', '.join(sorted(unknown))}; there are {', '.join(parts)}.")
        return 2
    result = json.loads(RESULT.read_text(encoding="utf-8")) if chosen else {}
    result |= {
        "python": platform.python_version(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "packages": package_versions(PACKAGES),
    }
    started = time.perf_counter()
    for name in chosen or parts:
        began = time.perf_counter()
        found = parts[name]()
        minutes = round((time.perf_counter() - began) / 60, 1)
        made = {"date": f"{datetime.now():%Y-%m-%d %H:%M}", "minutes": minutes}
        result[name] = {**made, "model": model_digest(), **found}
        if not chosen:
            minutes = (time.perf_counter() - started) / 60
            whole = {"minutes of all parts": aim(minutes, minutes <= 45, "at most 45")}
            result["whole run"] = {"aims": whole}
        # After every part, so that a run that is stopped leaves what it measured.
        text = json.dumps(result, indent=1, ensure_ascii=False)
        RESULT.write_text(text + "\n", encoding="utf-8")
        update_readme(result)
    missed = 0
    for part, name, figure in aims_of(result):
        state = "met" if figure["met"] else "BELOW AIM"
        missed += not figure["met"]
        print(f"{part}: {name} {figure['value']} (aim {figure['aim']}): {state}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
