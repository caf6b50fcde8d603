"""Before training: conversion beside a naive parser, starts, and growth from 1k to 100k rows."""

import contextlib
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.benchmarks.drawn import handwriting, write_characters, write_pages
from tests.benchmarks.measure import in_own_process, in_turns, limit_row, ratio_row

ROOT = Path(__file__).parents[2]


# --- conversion ---


def naive(source: Path, out: Path) -> None:
    """What one writes in an afternoon: one process, every line decoded and saved by Pillow."""
    out.mkdir()
    with (out / "labels.txt").open("w", encoding="utf-8") as labels:
        for path in sorted(source.glob("*.dgrl")):
            data = path.read_bytes()
            at = struct.unpack_from("<i", data)[0]
            (code_length,) = struct.unpack_from("<h", data, at - 4)
            (lines,) = struct.unpack_from("<i", data, at + 8)
            at += 12
            for number in range(lines):
                (count,) = struct.unpack_from("<i", data, at)
                at += 4
                codes = (data[at + i * code_length :][:code_length] for i in range(count))
                text = "".join(code.decode("gb18030").rstrip("\0") for code in codes)
                at += count * code_length
                height, width = struct.unpack_from("<ii", data, at + 8)
                at += 16
                image = Image.frombytes("L", (width, height), data[at : at + width * height])
                at += width * height
                name = f"{path.stem}-{number:03d}.png"
                image.save(out / name)
                labels.write(f"{name}\t{text}\n")


def conversion(folder: Path, rounds: int = 3, lines: int = 4000) -> list[dict[str, Any]]:
    """Lines per second of .dgrl pages with one worker and with two, beside `naive`, on the clock.

    The naive parser gets a tenth of the lines: nothing of what it does takes longer with few.
    """
    from data_prep.convert import convert

    source, few = folder / "pages", folder / "few"
    write_pages(source, lines)
    few.mkdir()
    pages = sorted(source.iterdir())
    for path in pages[:: max(1, min(10, len(pages) // 2))]:
        shutil.copy(path, few)
    part = 10 * len(list(few.iterdir()))

    made: dict[str, Path] = {}

    def fresh(side: str) -> Path:
        # Never where files were removed a moment ago: there ext4 takes long to make new ones.
        made[side] = Path(tempfile.mkdtemp(dir=folder)) / "out"
        return made[side]

    def ours(workers: int) -> None:
        convert("hwdb-dgrl", source, fresh("ours"), workers=workers, progress=False)

    sides = {
        "naive": lambda: naive(few, fresh("naive")),
        "one": lambda: ours(1),
        "two": lambda: ours(2),
    }
    seconds = in_turns(sides, rounds)
    inputs = f"{lines:,} lines of .dgrl, 15 to 30 signs each, 100 pixels high"
    counted: dict[str, Any] = {"unit": "lines/s", "count": lines, "inputs": inputs}
    naively = f"a naive parser ({part:,} of the lines)"
    sizes = [_bytes(made["ours"]) / lines, _bytes(made["naive"]) / part]
    return [
        ratio_row(
            "conversion, two workers",
            naively,
            seconds["two"],
            seconds["naive"],
            3,
            their_count=part,
            **counted,
        ),
        ratio_row(
            "conversion, one worker",
            naively,
            seconds["one"],
            seconds["naive"],
            1,
            their_count=part,
            **counted,
        ),
        ratio_row(
            "conversion, two workers", "one worker", seconds["two"], seconds["one"], 1.8, **counted
        ),
        limit_row(
            "conversion, bytes of a picture beside the naive parser's",
            sizes[0] / sizes[1],
            "times",
            1.2,
            inputs,
        ),
    ]


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.png"))


def peak_memory(folder: Path, gnt_bytes: int = 10**9, lines: int = 20_000) -> dict[str, float]:
    """MB resident at most while one process converts a large .gnt file, and many .dgrl lines."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # Three times as large as CASIA's.
    signs = [np.kron(sign, np.ones((3, 3), np.uint8)) for sign in handwriting(100)]
    count = len(signs) * gnt_bytes // sum(10 + sign.size for sign in signs)
    write_characters(folder / "C001-f.gnt", signs, count)
    peaks = {"hwdb-gnt": grown("convert", folder / "C001-f.gnt", folder / "out")["MB"]}
    (folder / "C001-f.gnt").unlink()
    write_pages(folder / "pages", lines)
    peaks["hwdb-dgrl"] = grown("convert", folder / "pages", folder / "out2")["MB"]
    shutil.rmtree(folder)
    return peaks


# --- starts ---

STARTS = {
    "import ocrkit": (["-c", "import ocrkit"], 0.3),
    "python -m ocrkit --help": (["-m", "ocrkit", "--help"], 0.5),
    "python -m data_prep.convert --list": (["-m", "data_prep.convert", "--list"], 0.5),
}


def start(folder: Path, rounds: int = 7) -> list[dict[str, Any]]:
    """Seconds from the shell to the end of the process, the interpreter's own start included."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))

    def run(arguments: list[str]) -> None:
        subprocess.run(
            [sys.executable, *arguments],
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.DEVNULL,
            check=True,
        )

    sides = {name: lambda code=code: run(code) for name, (code, _) in STARTS.items()}
    seconds = in_turns(sides, rounds)
    return [
        limit_row(f"start: {name}", seconds[name], "s", most, f"{rounds} starts")
        for name, (_, most) in STARTS.items()
    ]


# --- growth ---

# What `growth_side` does -> how often; the least time counts: other work can only add to it.
TASKS = {"convert": 1, "load": 3, "plan": 3, "evaluate": 3}


def growth(folder: Path, sizes: tuple[int, ...] = (1_000, 10_000, 100_000)) -> list[dict[str, Any]]:
    """Time and memory of convert, load, plan and evaluate at growing numbers of rows.

    Of plan it is the counting of tokens, of evaluate the scoring: what else they do does not grow
    with the rows, or is a model's work. Time grows as it should where a row costs no more among the
    largest number than among the middle one; memory, where the largest takes little more than the
    smallest.
    """
    results: dict[str, list[dict]] = {task: [] for task in TASKS}
    for size in sizes:
        with _characters(folder, size) as place:
            for task, runs in TASKS.items():
                source = place / ("C001.gnt" if task == "convert" else "data")
                made = [grown(task, source, place / "data", size) for _ in range(runs)]
                results[task].append(
                    {key: min(run[key] for run in made) for key in ("seconds", "MB")}
                )
    rows = []
    for task, (small, middle, large) in results.items():
        inputs = ", ".join(f"{size:,} rows" for size in sizes)
        inputs += ": " + ", ".join(f"{r['seconds']:.2f} s, {r['MB']:.0f} MB" for r in results[task])
        each = (large["seconds"] - middle["seconds"]) / (sizes[2] - sizes[1])
        before = (middle["seconds"] - small["seconds"]) / (sizes[1] - sizes[0])
        what = f"growth of {task}"
        rows.append(
            limit_row(f"{what}: time of a further row", each / before, "times", 1.25, inputs)
        )
        memory = large["MB"] / small["MB"]
        rows.append(limit_row(f"{what}: memory", memory, "times", 1.25, inputs))
    return rows


def growth_with_a_model(
    folder: Path, sizes: tuple[int, int] = (1_000, 100_000)
) -> list[dict[str, Any]]:
    """Memory of a whole plan and of a first step, with a model, at few and at many rows."""
    peaks: dict[str, list[float]] = {"whole plan": [], "first step": []}
    for size in sizes:
        with _characters(folder, size) as place:
            grown("convert", place / "C001.gnt", place / "data", size)
            for task, measured in peaks.items():
                measured.append(grown(task, place / "data", place / "run", size)["MB"])
    return [
        limit_row(
            f"growth of a {task}: memory that the largest takes more",
            large - small,
            "MB",
            100,
            f"{sizes[0]:,} rows {small:.0f} MB, {sizes[1]:,} rows {large:.0f} MB",
        )
        for task, (small, large) in peaks.items()
    ]


@contextlib.contextmanager
def _characters(folder: Path, size: int) -> Generator[Path]:
    """A folder with a file of `size` drawn characters, removed at the end."""
    signs = [np.asarray(Image.fromarray(sign).resize((24, 24))) for sign in handwriting(100)]
    place = folder / str(size)
    place.mkdir(parents=True)
    write_characters(place / "C001.gnt", signs, size)
    yield place
    shutil.rmtree(place)


def grown(task: str, source: Path, out: Path, size: int = 0) -> dict[str, float]:
    """Seconds of a task and MB resident at most, in a process of its own."""
    return in_own_process("tests.benchmarks.growth_side", task, source, out, size)
