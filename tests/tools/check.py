"""Full check of `make check`: measure the figures of the README and write check.json.

`python -m tests.tools.check PART...` measures some parts again. Exit code 1 if a figure misses its
aim.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from data_prep.convert import convert
from notebooks.run import run as run_notebook
from ocrkit.environment import package_versions
from tests.benchmarks.measure import model_digest
from tests.benchmarks.preparing import peak_memory
from tests.helpers.llama_cpp import llama_server
from tests.tools.check_readme import aims_of, update_pages
from tests.tools.front_picture import front_picture

ROOT = Path(__file__).parents[2]
RUNS = ROOT / "runs" / "check"
RESULT = ROOT / "notebooks" / "benchmarks" / "check.json"
SEEDS = (42, 43, 44)
PACKAGES = "torch transformers trl peft unsloth datasets rapidfuzz jiwer papermill".split()


def notebook(name: str, out: Path, cores: int | None = None, **parameters: object) -> dict:
    """Run a notebook headless, in an empty folder; returns its seconds and its report.json.

    Args:
        cores: number of CPU threads; None takes all.

    Raises:
        RuntimeError: a cell of the notebook failed.
    """
    shutil.rmtree(out, ignore_errors=True)
    result = run_notebook(name, out, parameters, cores)
    if result["error"]:
        raise RuntimeError(f"{name} failed: {result['error']}")
    report = json.loads((out / "run/report/report.json").read_text(encoding="utf-8"))
    return {"seconds": result["seconds"], "report": report}


def quickstart(seed: int, cores: int | None = None) -> dict:
    """Run the quickstart notebook; returns seconds, samples and metrics of its report."""
    result = notebook("quickstart", RUNS / f"demo-{seed}", cores, seed=seed)
    report = result["report"]
    figures = {
        evaluation["name"]: {
            metric: evaluation["metrics"][metric] for metric in ("cer", "exact_match")
        }
        for comparison in (report, *report["other"])
        for evaluation in comparison["evaluations"]
    }
    samples = report["evaluations"][0]["n"]
    return {"seconds": round(result["seconds"], 1), "samples": samples, **figures}


def demo() -> dict:
    """Run `make demo` with three seeds: time, CER before and after, and forgetting.

    The first run has the machine to itself and is timed; the others run in parallel.
    """
    first, *others = SEEDS
    runs = {str(first): quickstart(first)}
    with ThreadPoolExecutor(len(others)) as pool:
        runs |= zip(map(str, others), pool.map(partial(quickstart, cores=1), others))
    ratios = [run["tuned"]["cer"]["value"] / run["base"]["cer"]["value"] for run in runs.values()]
    apart = [run["tuned"]["cer"]["high"] < run["base"]["cer"]["low"] for run in runs.values()]
    seconds = runs[str(first)]["seconds"]
    picture = front_picture(RUNS / f"demo-{first}" / "run")
    picture.save(RESULT.with_name("before_after.png"), optimize=True)
    return {
        "runs": runs,
        "aims": {
            "a run by itself, seconds": aim(seconds, seconds <= 240, "at most 240"),
            "largest tuned CER / base CER": aim(max(ratios), max(ratios) <= 1 / 3, "at most 1/3"),
            "intervals apart, runs": aim(sum(apart), all(apart), "all"),
        },
    }


def receipts(data: Path) -> dict:
    """Train and read one of five folds of real receipts, which `make bench` goes on from."""
    from tests.benchmarks.receipts import cross_validate, kept_folds

    return fold_of_receipts(cross_validate(data, kept_folds(), folds=1))


def fold_of_receipts(figures: dict) -> dict:
    """Figures of one fold with their aims; the aim of CER is that of all folds, so not here."""
    from tests.benchmarks.receipts import BASE, TUNED, rows_of

    _, *rows = rows_of(figures)
    aims = {row["what"]: aim(row["ours"], row["met"], row["aim"]) for row in rows}
    before, after = (figures["readers"][name]["CER without case"] for name in (BASE, TUNED))
    better = after["high"] < before["low"]
    name = "one fold of real receipts, CER without case after"
    aims[name] = aim(after["value"], better, "better, intervals apart")
    return {"figures": figures, "aims": aims}


def handwriting(data: Path) -> dict:
    """Evaluate real handwriting before and after training, and Tesseract on the same pictures.

    Bangla: train on the characters of one writer, evaluate those of another. Chinese: three lines
    are too few to train on, so they are read with the adapter of the Chinese notebook.
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
    columns: dict[str, Any] = {"image_column": "file", "text_column": "text"}
    columns["split_column"] = "split"
    convert("table", table, folder / "bn", language="bn", split="source", **columns)
    convert("hctr", data / "chinese_lines", folder / "zh", split="0,0,1")
    figures: dict[str, dict] = {}
    for language in ("bn", "zh"):
        config = TrainConfig.from_recipe(
            "quickstart",
            dataset=str(folder / language),
            output_dir=str(folder / f"run-{language}"),
            max_steps=150,
            per_device_train_batch_size=15,
            # The table of the writers has no validation split.
            eval_steps=None,
        )
        rows = load_data(config)
        model, processor = load_model(config)
        evaluations = [evaluate(model, processor, rows["test"], config, name="base")]
        if language == "bn":
            train(model, processor, rows, config)
        else:
            config.model_name_or_path = str(RUNS / "notebooks/chinese_handwriting/run/adapter")
            model, processor = load_model(config)
        evaluations.append(evaluate(model, processor, rows["test"], config, name="tuned"))
        if shutil.which("tesseract"):
            evaluations.append(evaluate_engine("tesseract", rows["test"], config.output_dir))
        rates = {evaluation.name: evaluation.metrics["cer"] for evaluation in evaluations}
        figures[language] = {"n": len(rows["test"])} | rates
    return figures


def memory() -> dict:
    """Peak memory of a conversion: 1 GB in one .gnt file, and 20,000 .dgrl lines."""
    peaks = peak_memory(RUNS / "memory")
    return {
        "aims": {
            f"{source}, MB resident": aim(peak, peak < 400, "under 400")
            for source, peak in peaks.items()
        }
    }


# Main metric of each notebook.
STORIES = {
    "bangla_handwriting": "cer",
    "korean_signboards": "cer",
    "chinese_handwriting": "cer",
    "financial_documents": "field_accuracy",
    "visual_question_answering": "exact_match",
}


def notebooks() -> dict:
    """Run the notebooks of five domains with their defaults: seconds, metric before and after.

    Two run in parallel, each on one core.
    """
    runs: dict[str, dict] = {}
    aims = {}
    with ThreadPoolExecutor(2) as pool:
        folders = [RUNS / "notebooks" / name for name in STORIES]
        results = list(pool.map(partial(notebook, cores=1), STORIES, folders))
    for (name, metric), result in zip(STORIES.items(), results):
        before, after = (result["report"]["evaluations"][at]["metrics"][metric] for at in (0, -1))
        seconds = result["seconds"]
        runs[name] = {"metric": metric, "before": before, "after": after, "seconds": seconds}
        better = after["high"] < before["low"] if metric == "cer" else after["low"] > before["high"]
        aims[f"{name}, seconds"] = aim(seconds, seconds <= 240, "at most 240")
        aims[f"{name}, {metric} after"] = aim(after["value"], better, "better, intervals apart")
    return {"runs": runs, "aims": aims}


def command_lines() -> dict:
    """Fuzz the command lines: tracebacks, wrong exit codes, seconds."""
    from tests.tools.fuzz_commands import fuzz

    result = fuzz(2000)
    seconds, faults = result["seconds"], len(result["faults"])
    result["aims"] = {
        "lines": aim(result["lines"], result["lines"] >= 2000, "at least 2,000"),
        "tracebacks and wrong exit codes": aim(faults, faults == 0, "0"),
        "seconds": aim(seconds, seconds <= 180, "at most 180"),
    }
    return result


def baselines(data: Path | None) -> dict:
    """Read samples, and lines of real receipts, with RapidOCR and Tesseract: CER and seconds."""
    from ocrkit import TrainConfig, baseline, load_data
    from ocrkit.places import sample

    folders = {name: sample(name) for name in ("chinese", "korean", "bangla")}
    if data:
        folders["receipts"] = RUNS / "sroie-lines"
        shutil.rmtree(folders["receipts"], ignore_errors=True)
        convert("sroie", data, folders["receipts"], task="lines", split="0.7,0.1,0.2", workers=2)
    figures: dict[str, dict] = {}
    for name, folder in folders.items():
        output = RUNS / "baselines" / name
        shutil.rmtree(output, ignore_errors=True)
        config = TrainConfig(dataset=str(folder), output_dir=str(output))
        rows = load_data(config)["test"]
        began = time.perf_counter()
        table = baseline(rows, config, samples=400)
        seconds = time.perf_counter() - began
        figures[name] = {"rows": len(rows), "engines": table.rows, "seconds": round(seconds, 1)}
    return {"samples": figures}


def forecast() -> dict:
    """Simulate steps and make them on this CPU: peaks by the events of torch's allocator."""
    from tests.benchmarks.forecasting import beside_real

    peaks = beside_real()
    apart = max(abs(peak["simulated"] / peak["real"] - 1) for peak in peaks.values())
    return {
        "peaks": peaks,
        "aims": {"simulated peaks beside real ones": aim(apart, apart <= 0.05, "at most 0.05")},
    }


def server(program: Path) -> dict:
    """Read worn lines by the embedded reader and by its GGUF behind llama.cpp's server."""
    from tests.benchmarks.serving import exported_reader, serving

    llama_cpp = Path(os.environ["UNSLOTH_LLAMA_CPP_PATH"])
    figures = serving(exported_reader(RUNS / "server", llama_cpp), program)
    same, failed = (figures["server"][name] for name in ("same", "failed"))
    least = figures["program"]["same"]
    return {
        "figures": figures,
        "aims": {
            "rows read the same as the model": aim(
                same, same >= least, f"at least llama-mtmd-cli's {least}"
            ),
            "failed rows": aim(failed, failed == 0, "0"),
        },
    }


def hosts(folder: Path) -> dict:
    """Ask the install cell what it would change on Colab and on Kaggle; aims are what it keeps."""
    from tests.tools import hosts

    figures: dict[str, dict] = {"aims": {}}
    for host, (packages, gpu) in hosts.hosts(folder).items():
        change = hosts.changes(packages, gpu)
        found = hosts.faults(change, gpu)
        figures[host] = {"replaced": change.replaced, "new": change.installed, "faults": found}
        figures["aims"][f"{host}, kept packages replaced"] = aim(len(found), not found, "0")
    return figures


def slow_tests() -> dict:
    """Run the tests marked slow, one process a core."""
    command = [sys.executable, "-m", "pytest", "-m", "slow", "-n", "logical", "--dist", "worksteal"]
    command += ["--durations=10"]
    done = subprocess.run(command, cwd=ROOT, check=False)
    return {"aims": {"slow tests, exit code": aim(done.returncode, done.returncode == 0, "0")}}


def aim(value: float, met: bool, wanted: str) -> dict:
    """A figure with its aim, and whether it meets the aim."""
    return {"value": round(value, 4), "aim": wanted, "met": bool(met)}


def main(chosen: list[str]) -> int:
    """Measure all parts, or the `chosen` ones again; exit code 1 if a figure misses its aim."""
    parts = {"memory": memory, "demo": demo}
    data = os.environ.get("OCRKIT_TEST_DATA")
    if data:
        parts["receipts"] = partial(receipts, Path(data) / "finance_sroie")
    else:
        print("OCRKIT_TEST_DATA is not set: parts on real pictures are left out.")
    parts["notebooks"] = notebooks
    if data:
        parts["handwriting"] = partial(handwriting, Path(data))
    parts["baselines"] = partial(baselines, Path(data) / "finance_sroie" if data else None)
    parts["forecast"] = forecast
    if lists := os.environ.get("OCRKIT_TEST_HOSTS"):
        parts["hosts"] = partial(hosts, Path(lists))
    else:
        print("OCRKIT_TEST_HOSTS, a folder of Colab's package lists, is not set: left out.")
    if program := llama_server():
        parts["server"] = partial(server, program)
    else:
        print(
            "UNSLOTH_LLAMA_CPP_PATH, a llama.cpp with a built llama-server, is not set: left out."
        )
    parts |= {"command lines": command_lines, "slow tests": slow_tests}
    if unknown := set(chosen) - set(parts):
        print(f"PART {', '.join(sorted(unknown))} is unknown; take some of {', '.join(parts)}.")
        return 2
    result = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {}
    result |= {
        "python": platform.python_version(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "packages": package_versions(PACKAGES),
    }
    for name in chosen or parts:
        began = time.perf_counter()
        figures = parts[name]()
        minutes = round((time.perf_counter() - began) / 60, 1)
        date = {"date": f"{datetime.now():%Y-%m-%d %H:%M}", "minutes": minutes}
        result[name] = {**date, "model": model_digest(), **figures}
        minutes = sum(part.get("minutes", 0) for part in result.values() if isinstance(part, dict))
        whole = {"minutes of all parts": aim(minutes, minutes <= 60, "at most 60")}
        result["whole run"] = {"aims": whole}
        # Write after every part, so that an interrupted run keeps its figures.
        text = json.dumps(result, indent=1, ensure_ascii=False)
        RESULT.write_text(text + "\n", encoding="utf-8")
        update_pages(result)
    missed = 0
    for part, name, figure in aims_of(result):
        state = "met" if figure["met"] else "BELOW AIM"
        missed += not figure["met"]
        print(f"{part}: {name} {figure['value']} (aim {figure['aim']}): {state}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
