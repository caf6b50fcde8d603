"""`benchmark`: every part in one run, with inputs and versions, into bench.json."""

import json
import math
import os
import platform
import shutil
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from ocrkit.environment import package_versions
from ocrkit.errors import ConfigError
from tests.benchmarks import (
    augmenting,
    collating,
    gpu,
    labelling,
    losses,
    preparing,
    reading,
    receipts,
    training,
)
from tests.benchmarks.measure import model_digest, table

PACKAGES = (
    "torch torchvision transformers trl peft unsloth bitsandbytes datasets pillow numpy rapidfuzz "
    "jiwer"
).split()
CPU_PARTS = {
    "training": training.training,
    "padding": training.padding,
    "loss": training.loss,
    "collating": collating.collating,
    "generation": reading.generation,
    "metrics": reading.metrics,
    "conversion": preparing.conversion,
    "start": preparing.start,
    "growth": preparing.growth,
    "growth with a model": preparing.growth_with_a_model,
}
# Trainings that are compared by what they reach, many minutes each: measured only by name.
EXPERIMENTS = {
    "rounds": labelling.rounds,
    "augmenting": augmenting.augmenting,
    "losses": losses.losses,
}
if os.environ.get("OCRKIT_TEST_DATA"):
    EXPERIMENTS["receipts"] = receipts.receipts
    EXPERIMENTS["earlier receipts"] = receipts.earlier_receipts
# In this order: what a person with a card for ten minutes has most of.
GPU_PARTS = {
    "precision": gpu.precision,
    "korean": gpu.korean,
    "peers": gpu.peers,
    "four bits": gpu.four_bits,
    "out of memory": gpu.out_of_memory,
    "forecast": gpu.forecasts,
    "windows": gpu.windows,
}


def benchmark(
    hardware: str = "cpu",
    output_dir: str | Path = "runs/benchmark",
    parts: Iterable[str] = (),
    settings: dict[str, dict] | None = None,
    minutes: float = math.inf,
) -> dict[str, Any]:
    """Measure, and write `<output_dir>/bench.json` (bench-gpu.json) after every part.

    Args:
        hardware: "cpu", or "gpu" for what a card does with the kit (`python -m tests.tools.gpu`).
        parts: names of some; what the file holds of others stays. Without any, all are measured but
            `EXPERIMENTS`.
        settings: smaller (or larger) counts for a part, as {part: {argument: value}}.
        minutes: no part begins later; with hardware "gpu" a part that fails is recorded, and the
            others go on.

    Returns:
        What the file holds: machine, versions, and for each part its date, seconds and rows.

    Raises:
        ConfigError: hardware or a part that does not exist.
    """
    if hardware not in ("cpu", "gpu"):
        raise ConfigError(f"hardware={hardware!r} is not one of cpu, gpu.")
    usual = CPU_PARTS if hardware == "cpu" else GPU_PARTS
    every = CPU_PARTS | EXPERIMENTS if hardware == "cpu" else GPU_PARTS
    chosen = set(parts)
    if unknown := chosen - set(every):
        raise ConfigError(
            f"hardware={hardware} has no part {', '.join(sorted(unknown))}; it has "
            f"{', '.join(every)}."
        )
    started = time.perf_counter()
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ("bench.json" if hardware == "cpu" else "bench-gpu.json")
    known = json.loads(path.read_text(encoding="utf-8")) if chosen and path.is_file() else {}
    result = {**known, **machine(hardware), "parts": known.get("parts", {})}
    for name in [name for name in every if name in (chosen or usual)]:
        if (spent := (time.perf_counter() - started) / 60) > minutes:
            print(f"{name}: left out after {spent:.0f} of {minutes:g} minutes", flush=True)
            continue
        work = folder / "work" / name
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        began = time.perf_counter()
        rows, error = [], ""
        try:
            rows = every[name](work, **(settings or {}).get(name, {}))
        except Exception as problem:
            if hardware == "cpu":
                raise
            error = " ".join(str(problem).split())[-500:]
        result["parts"][name] = {
            "date": f"{datetime.now():%Y-%m-%d %H:%M}",
            "seconds": round(time.perf_counter() - began, 1),
            # Above the number of cores, others worked too, and figures on the clock are bent.
            "load": round(os.getloadavg()[0], 1),
            "model": model_digest(),
            "rows": rows,
            **({"error": error} if error else {}),
        }
        path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(
            f"{name}: {error or f'{len(rows)} rows'}, {result['parts'][name]['seconds']:.0f} s",
            flush=True,
        )
        shutil.rmtree(work)
    for row in missed(result):
        print(f"BELOW AIM: {row['what']} beside {row['beside']}: {row['aim']}")
    return result


def machine(hardware: str) -> dict[str, Any]:
    """What it is measured with: device, cores, Python and packages."""
    import torch

    return {
        "hardware": hardware,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": package_versions(PACKAGES),
    }


def all_rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of every part."""
    return [row for part in result["parts"].values() for row in part["rows"]]


def missed(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows below their aim."""
    return [row for row in all_rows(result) if not row["met"]]


def markdown(result: dict[str, Any]) -> str:
    """The table of a result with the machine and the dates below it."""
    dates = sorted(part["date"] for part in result["parts"].values())
    made = ", ".join(f"{name} {number}" for name, number in result["packages"].items() if number)
    rows = table(all_rows(result))
    failed = {name: part["error"] for name, part in result["parts"].items() if "error" in part}
    for name, error in failed.items():
        rows += f"\n\n{name} failed: {error}"
    return (
        f"{rows}\n\n{result['device']}, {result['cores']} cores, {dates[-1][:10]}, Python "
        f"{result['python']}, {made}. Ratios are medians over rounds in which both sides take "
        "turns, with the lowest and the highest in brackets."
    )
