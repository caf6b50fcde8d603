"""Times and sizes beside what others use, in one run each; tests/check.py puts them in check.json.

Ratios are medians over rounds in which both take turns, so that a busy machine slows both alike.
"""

import os
import random
import shutil
import statistics
import struct
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

ROUNDS = 3


def in_turns(measures: dict[str, Callable], rounds: int, clock: Callable) -> dict[str, float]:
    """The median seconds of every measure, each taken once a round."""
    seconds: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            began = clock()
            measure()
            seconds[name].append(clock() - began)
    return {name: statistics.median(found) for name, found in seconds.items()}


# --- metrics beside jiwer ---


def metrics_beside_jiwer(rate: float, count: int = 100_000, rounds: int = ROUNDS) -> dict:
    """CER, NED, exact match and confusions of pairs of 30 characters in four scripts, in seconds.

    `rate` is the share of characters with an error; texts are NFC, and none comes twice.
    """
    import jiwer
    from test_metrics import ALPHABETS, noisy

    from ocrkit import metrics

    chance = random.Random(0)
    references, predictions = [], []
    for alphabet in ALPHABETS.values():
        for _ in range(count // len(ALPHABETS)):
            text = "".join(chance.choices(unicodedata.normalize("NFC", alphabet), k=30))
            references.append(unicodedata.normalize("NFC", text))
            predictions.append(unicodedata.normalize("NFC", noisy(text, alphabet, chance, rate)))

    def one_pass() -> None:
        edits = metrics.process_edits(references, predictions)
        assert edits.cer.rate and edits.ned_similarity.rate and edits.confusions
        assert edits.exact_match.rate < 1

    def verbs() -> None:
        for verb in (metrics.cer, metrics.ned_similarity, metrics.exact_match):
            verb(references, predictions)
        metrics.char_confusions(references, predictions)

    measures = {
        "one pass": one_pass,
        "four verbs": verbs,
        "jiwer": lambda: jiwer.process_characters(references, predictions),
    }
    found = in_turns(measures, rounds, time.process_time)
    tally = metrics.process_edits(references, predictions).cer
    replicates = {"1,000 replicates": lambda: metrics.bootstrap_ci(*tally, n=1000)}
    return found | in_turns(replicates, rounds, time.process_time)


# --- conversion beside a naive parser ---


def handwriting(count: int, seed: int = 0) -> list[np.ndarray]:
    """Signs of grey strokes on pure white, as scans of HWDB are: 8 bits, 60 to 90 pixels high."""
    chance = random.Random(seed)
    signs = []
    for _ in range(count):
        size = chance.randint(60, 90)
        image = Image.new("L", (size, size), 255)
        pen = ImageDraw.Draw(image)
        for _ in range(chance.randint(3, 9)):
            points = [(chance.uniform(4, size - 4), chance.uniform(4, size - 4))]
            for _ in range(chance.randint(1, 3)):
                x, y = points[-1]
                points.append((x + chance.gauss(0, size / 3), y + chance.gauss(0, size / 5)))
            pen.line(
                points, fill=chance.randint(20, 110), width=chance.randint(3, 6), joint="curve"
            )
        pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(1.1))).astype(np.int16)
        grain = np.random.default_rng(chance.randrange(2**32)).normal(0, 9, pixels.shape)
        signs.append(np.where(pixels < 235, np.clip(pixels + grain, 0, 254), 255).astype(np.uint8))
    return signs


def write_pages(folder: Path, lines: int, seed: int = 0) -> None:
    """Pages of ten .dgrl lines each, a line of 15 to 30 signs."""
    from test_sources_hwdb_dgrl import line, page

    chance = random.Random(seed)
    signs = handwriting(400, seed)
    folder.mkdir(parents=True)
    for number in range(lines // 10):
        body = []
        for _ in range(10):
            chosen = [chance.choice(signs) for _ in range(chance.randint(15, 30))]
            pixels = np.full((100, sum(sign.shape[1] + 6 for sign in chosen)), 255, np.uint8)
            at = 0
            for sign in chosen:
                top = chance.randint(0, 100 - len(sign))
                pixels[top : top + len(sign), at : at + len(sign)] = sign
                at += len(sign) + chance.randint(-6, 6)
            text = "".join(chr(chance.randint(0x4E00, 0x9FA5)) for _ in chosen)
            body.append(line(text, pixels[:, :at]))
        (folder / f"{number % 97:03d}-P{number:04d}.dgrl").write_bytes(page(*body))


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


def conversion(folder: Path, lines: int = 4000, rounds: int = ROUNDS) -> dict:
    """Lines a second of the converter with one and two workers beside `naive`, and bytes of each.

    `busy` is the load of the machine beforehand: the wall is what counts, and others bend it.
    """
    from data_prep.convert import convert

    shutil.rmtree(folder, ignore_errors=True)
    source = folder / "pages"
    write_pages(source, lines)
    busy = os.getloadavg()[0]

    def ours(workers: int) -> None:
        shutil.rmtree(folder / "ours", ignore_errors=True)
        convert("hwdb-dgrl", source, folder / "ours", workers=workers, progress=False)

    def theirs() -> None:
        shutil.rmtree(folder / "naive", ignore_errors=True)
        naive(source, folder / "naive")

    measures = {"naive": theirs, "one worker": lambda: ours(1), "two workers": lambda: ours(2)}
    wall = in_turns(measures, rounds, time.perf_counter)
    cpu = in_turns({name: measures[name] for name in ("naive", "one worker")}, 1, time.process_time)
    sizes = {
        name: sum(path.stat().st_size for path in (folder / name).rglob("*.png"))
        for name in ("naive", "ours")
    }
    shutil.rmtree(folder)
    return {
        "lines": lines,
        "busy": round(busy, 1),
        "lines a second": {name: round(lines / seconds, 1) for name, seconds in wall.items()},
        "CPU seconds": {name: round(seconds, 2) for name, seconds in cpu.items()},
        "bytes": sizes,
    }


# --- memory ---


def write_gnt(path: Path, size: int) -> None:
    """A .gnt file of at least `size` bytes, in signs three times as large as CASIA's."""
    signs = [np.kron(sign, np.ones((3, 3), np.uint8)) for sign in handwriting(100)]
    tags = [chr(0x4E00 + number).encode("gb18030") for number in range(len(signs))]
    with path.open("wb") as file:
        while file.tell() < size:
            for tag, sign in zip(tags, signs):
                height, width = sign.shape
                file.write(struct.pack("<I", 10 + sign.size) + tag)
                file.write(struct.pack("<HH", width, height) + sign.tobytes())


def peak_memory(folder: Path, gnt_bytes: int = 10**9, lines: int = 20_000) -> dict[str, float]:
    """MB resident at most while one process converts a large .gnt file, and many .dgrl lines."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_gnt(folder / "C001-f.gnt", gnt_bytes)
    found = {"hwdb-gnt": _peak("hwdb-gnt", folder / "C001-f.gnt", folder / "out")}
    (folder / "C001-f.gnt").unlink()
    write_pages(folder / "pages", lines)
    found["hwdb-dgrl"] = _peak("hwdb-dgrl", folder / "pages", folder / "out")
    shutil.rmtree(folder)
    return found


# The peak of the process itself: a parent's size at the fork would count in `ru_maxrss`.
_CONVERT = """
import sys
from data_prep.convert import main
code = main(sys.argv[1:])
print([line for line in open("/proc/self/status") if line.startswith("VmHWM")][0])
sys.exit(code)
"""


def _peak(source: str, data: Path, out: Path) -> float:
    command = [sys.executable, "-c", _CONVERT, source, str(data), "--out", str(out)]
    done = subprocess.run(
        [*command, "--workers", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    shutil.rmtree(out)
    return int(done.stdout.rpartition("VmHWM:")[2].split()[0]) / 1024
