"""Whole models on a GPU: the kit beside TRL with PEFT and bitsandbytes, and beside Unsloth.

The models have random weights of published geometries: speed and memory do not depend on what the
weights are, and nothing has to be downloaded. Every side is measured in processes of its own, in
turns, since Unsloth changes the others for good.
"""

import json
import shutil
import statistics
from pathlib import Path
from typing import Any

from tests.benchmarks.drawn import street_signs, write_pages
from tests.benchmarks.measure import UNFIT, in_own_process, limit_row, ratio_row

# The recipe of each geometry.
RECIPES = {"qwen2_vl_2b": "korean", "qwen3_vl_2b": "bangla"}
LEGIBLE = 16
# Of each side, what its rounds came to; nothing where it does not fit the memory.
Timings = dict[str, list[dict]]


def signs(
    folder: Path,
    rounds: int = 3,
    pictures: int = 512,
    steps: int = 12,
    geometries: tuple[str, ...] = ("qwen2_vl_2b", "qwen3_vl_2b"),
    sides: tuple[str, ...] = ("trl", "unsloth", "kit", "kit at the stock budget", "kit as on a T4"),
) -> list[dict[str, Any]]:
    """Street signs of 1280x960: samples per second, memory, waiting and FLOPs of every side.

    - `trl`: TRL, PEFT and bitsandbytes with stock collator, settings and pixel budget.
    - `unsloth`: Unsloth with its stock collator and settings.
    - `kit`: the recipe; `kit at the stock budget`: with the pixel budget of `trl`.
    - `kit as on a T4`: the recipe in float16 without flash attention.

    The kit's sides draw no augmentation, since the others have none.

    Args:
        steps: optimizer steps that are measured, after three that are not.
    """
    street_signs(folder / "data", pictures)
    rows = []
    for geometry in geometries:
        model = _built(geometry, folder)
        job = {"model": str(model), "dataset": str(folder / "data"), "steps": steps, "warm": 3}
        job |= {"recipe": RECIPES.get(geometry, "korean"), "output": str(folder / "run")}
        timings = measured(job, sides, rounds)
        inputs = f"{geometry}, random weights, {pictures} photographs of 1280x960, {steps} steps, "
        inputs += "no augmentation"
        rows += sign_rows(geometry, timings, inputs)
        shutil.rmtree(model)
    return rows


def handwriting(
    folder: Path,
    rounds: int = 3,
    lines: int = 2048,
    steps: int = 12,
    geometry: str = "qwen2_vl_2b",
    recipe: str = "chinese",
) -> list[dict[str, Any]]:
    """Lines of handwriting: the recipe beside batch 8, float32 and 4 workers."""
    from data_prep.convert import convert

    write_pages(folder / "pages", lines)
    convert("hwdb-dgrl", folder / "pages", folder / "data", split="1,0,0", progress=False)
    model = _built(geometry, folder)
    job = {"model": str(model), "dataset": str(folder / "data"), "steps": steps, "warm": 3}
    job |= {"recipe": recipe, "output": str(folder / "run")}
    timings = measured(job, ("naive", "kit"), rounds)
    inputs = f"{geometry}, random weights, {lines} lines of handwriting, {steps} steps, "
    inputs += "no augmentation"
    what = f"training on handwriting, {geometry}"
    row = _rates(what, "TRL in float32, batch 8, 4 workers", timings, "kit", "naive", 24, inputs)
    return [{**row, "sides": _medians(timings)}]


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
