"""What a card does with the kit, in seven parts of `python -m tests.tools.gpu`.

The models have random weights of published geometries: speed and memory do not depend on what the
weights are, and nothing has to be downloaded. Every side is measured in processes of its own, in
turns, since Unsloth changes the others for good.
"""

import json
import statistics
from pathlib import Path
from typing import Any

from tests.benchmarks.drawn import street_signs
from tests.benchmarks.measure import UNFIT, in_own_process, limit_row, ratio_row

LEGIBLE = 16
# Of each side, what its rounds came to; nothing where it does not fit the memory.
Timings = dict[str, list[dict]]


def precision(folder: Path, small: bool = False) -> list[dict[str, Any]]:
    """Train the embedded model through both backends, dtype auto and float32; losses beside."""
    from data_prep.synthetic.receipts import thermal_receipts

    thermal_receipts(folder / "data", receipts=6, seed=3, progress=False)
    steps = 2 if small else 10
    rows = []
    for dtype in ("auto", "float32"):
        results = {}
        for backend in ("unsloth", "transformers"):
            job = {"backend": backend, "dtype": dtype, "dataset": str(folder / "data")}
            job |= {"output": str(folder / f"{backend}-{dtype}"), "steps": steps}
            results[backend] = _step("precision", job)
        # On a GPU `auto` keeps the embedded model's weights in float32 and multiplies in 16 bits.
        wanted = {"float32"} if dtype == "float32" or not has_gpu() else {"bfloat16", "float16"}
        losses = [result["losses"] for result in results.values()]
        apart = max(abs(a - b) for a, b in zip(*losses))
        resumed = all(result["resumed"] == steps + 2 for result in results.values())
        right = all(set(result["dtypes"]) <= wanted for result in results.values())
        what = f"embedded model, dtype {dtype}, {steps} steps"
        # The backends draw their first adapters differently.
        row = limit_row(f"{what}: losses apart at most", apart, "nats", most=1.0)
        rows.append({**row, "met": row["met"] and resumed and right, "sides": results})
    return rows


def korean(folder: Path, small: bool = False) -> list[dict[str, Any]]:
    """The korean recipe as on a T4: peak, samples/s, the first step, seconds to read 8 rows."""
    job = _sign_job(folder, small) | {"side": "kit as on a T4", "read": 2 if small else 8}
    result = in_own_process("tests.benchmarks.gpu_side", json.dumps(job))
    peak = result and result["peak_gb"]
    rows = [limit_row("korean recipe as on a T4, peak", peak, "GB", 14)]
    return [{**row, "sides": {"kit as on a T4": result or UNFIT}} for row in rows]


def peers(folder: Path, small: bool = False) -> list[dict[str, Any]]:
    """The kit beside Unsloth's stock collator and beside TRL with PEFT, one round."""
    job = _sign_job(folder, small)
    sides = ("trl", "kit") if small else ("trl", "unsloth", "kit")
    inputs = f"{job['geometry']}, random weights, photographs of 1280x960, no augmentation"
    return sign_rows(job["geometry"], measured(job, sides, rounds=1), inputs)


def four_bits(folder: Path, small: bool = False) -> list[dict[str, Any]]:
    """Train tiny models in 4 bits, merge them and read with the merged copies."""
    from data_prep.synthetic.receipts import thermal_receipts

    thermal_receipts(folder / "data", receipts=6, seed=3, progress=False)
    rows = []
    for architecture in ("qwen3_vl", "mllama")[: 1 if small else 2]:
        job = {"architecture": architecture, "output": str(folder / architecture)}
        job |= {"dataset": str(folder / "data")}
        result = _step("four_bits", job)
        row = limit_row(f"{architecture} in 4 bits, rows read after a merge", result["read"], "", 4)
        met = result["quantized"] is has_gpu() and len(result["losses"]) == 2
        rows.append({**row, "met": row["met"] and met, "sides": {architecture: result}})
    return rows


def out_of_memory(folder: Path, small: bool = False) -> list[dict[str, Any]]:
    """Bytes that a step which ran out of memory leaves behind, its error kept."""
    from data_prep.synthetic.receipts import thermal_receipts

    thermal_receipts(folder / "data", receipts=6, seed=3, progress=False)
    job = {"dataset": str(folder / "data"), "output": str(folder / "run")}
    result = _step("out_of_memory", job)
    left = (result["after"] - result["before"]) / 1e6
    # The batch itself and the optimizer's state stay.
    row = limit_row("left behind after out of memory", left, "MB", 100)
    met = row["met"] and "Out of GPU memory" in result["error"]
    return [{**row, "met": met, "sides": {"kit": result}}]


def forecasts(folder: Path, small: bool = False) -> list[dict[str, Any]]:
    """The forecast's peak beside the measured one, of the kit's sides."""
    job = _sign_job(folder, small)
    rows = []
    for side in ("kit", "kit as on a T4")[: 1 if small else 2]:
        real = in_own_process("tests.benchmarks.gpu_side", json.dumps(job | {"side": side}))
        told = _step("simulated", job | {"side": side, "on": "80GB"})
        share = real and told["peak_gib"] * 1.0737 / real["peak_gb"]
        row = limit_row(f"forecast of {side}: share of the measured peak", share, "", least=0.8)
        rows.append({**row, "sides": {"measured": real or UNFIT, "forecast": told}})
    return rows


def windows(folder: Path, small: bool = False) -> list[dict[str, Any]]:
    """Qwen2.5-VL's vision tower on lines, attention a window beside all equal windows at once."""
    job = {"geometry": "mid_qwen2_5_vl" if small else "qwen2_5_vl_3b", "lines": 2 if small else 8}
    result = _step("windows", job)
    times = [[result[name]] for name in ("together", "each")]
    row = ratio_row("Qwen2.5-VL's vision tower", "a call a window", *times, aim=1)
    return [{**row, "sides": {"kit": result}}]


def has_gpu() -> bool:
    """Whether torch sees a CUDA device."""
    import torch

    return torch.cuda.is_available()


def _step(name: str, job: dict[str, Any]) -> dict[str, Any]:
    return in_own_process("tests.benchmarks.gpu_steps", name, json.dumps(job))


def _sign_job(folder: Path, small: bool) -> dict[str, Any]:
    """A job of `gpu_side` on street signs, with its data and a model of random weights."""
    geometry = "tiny_qwen2_vl" if small else "qwen2_vl_2b"
    size, count = ((320, 240), 10) if small else ((1280, 960), 64)
    street_signs(folder / "data", count, size=size)
    model = _built(geometry, folder)
    steps = {"steps": 1, "warm": 1} if small else {"steps": 5, "warm": 2}
    job = {"model": str(model), "dataset": str(folder / "data"), "geometry": geometry, **steps}
    return job | {"recipe": "korean", "output": str(folder / "run")}


def measured(job: dict, sides: tuple[str, ...], rounds: int) -> Timings:
    """What every side came to in every round; each round has all sides, in alternating order.

    A side that does not fit the memory of the GPU has no results, and is not tried again.
    """
    timings: Timings = {side: [] for side in sides}
    unfit = set()
    for number in range(rounds):
        for side in sides if number % 2 == 0 else sides[::-1]:
            if side in unfit:
                continue
            request = json.dumps({**job, "side": side})
            result = in_own_process("tests.benchmarks.gpu_side", request)
            if result is None:
                unfit.add(side)
            else:
                timings[side].append(result)
    return {side: [] if side in unfit else results for side, results in timings.items()}


def sign_rows(geometry: str, timings: Timings, inputs: str) -> list[dict[str, Any]]:
    """The rows that the sides which were measured allow."""
    what = f"training on signs, {geometry}"
    trl, unsloth = "TRL, PEFT, bitsandbytes, stock", "Unsloth, stock collator"
    rows = []
    if {"kit", "trl"} <= set(timings):
        rows.append(_rates(what, trl, timings, "kit", "trl", 3, inputs))
        if timings["kit"] and timings["trl"]:
            sizes = [[result["peak_gb"] for result in timings[side]] for side in ("kit", "trl")]
            rows.append(ratio_row(f"{what}, peak memory", trl, *sizes, 2, "GB", inputs=inputs))
    if {"kit", "unsloth"} <= set(timings):
        rows.append(_rates(what, unsloth, timings, "kit", "unsloth", 1.3, inputs))
    if {"kit at the stock budget", "trl"} <= set(timings):
        same = f"{what}, at the same pixel budget"
        rows.append(_rates(same, trl, timings, "kit at the stock budget", "trl", 1.3, inputs))
    if timings.get("kit"):
        height = min(result["smallest_text"] for result in timings["kit"])
        text = f"{what}, smallest line of text as the model sees it"
        rows.append(limit_row(text, height, "px", least=LEGIBLE, inputs=inputs))
    if "kit as on a T4" in timings:
        peak = max((result["peak_gb"] for result in timings["kit as on a T4"]), default=None)
        rows.append(limit_row(f"{what}, float16 as on a T4, peak", peak, "GB", 14, inputs))
    return [{**row, "sides": _medians(timings)} for row in rows]


def _rates(
    what: str,
    beside: str,
    timings: Timings,
    ours: str,
    theirs: str,
    aim: float,
    inputs: str,
) -> dict[str, Any]:
    """A row of samples per second, also where a side does not fit the memory."""
    seconds = [[1 / result["samples_per_second"] for result in timings[s]] for s in (ours, theirs)]
    return ratio_row(what, beside, *seconds, aim, "samples/s", 1, inputs=inputs)


def _medians(timings: Timings) -> dict[str, dict[str, float | None] | str]:
    """The median over rounds of everything that was measured of each side."""
    middle: dict[str, Any] = {}
    for side, results in timings.items():
        middle[side] = {} if results else UNFIT
        for key in results[0] if results else ():
            values = [result[key] for result in results if result[key] is not None]
            middle[side][key] = round(statistics.median(values), 4) if values else None
    return middle


def _built(geometry: str, folder: Path) -> Path:
    """The folder of a model of this geometry, written by a process that frees its memory again."""
    in_own_process("tests.benchmarks.geometry", geometry, folder / geometry)
    return folder / geometry
