"""The recipe of receipts, one setting at a time in place of its own, on drawn receipts.

Drawn ones, so that a choice between them has not seen the lines that give the recipe's figure.
"""

import random
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from data_prep.dataset.pictures import fit_height
from data_prep.dataset.schema import PROMPTS, Item, Picture
from data_prep.dataset.write import write_dataset
from data_prep.synthetic.receipts import TILL_FONTS, printed_receipts, receipt_line
from data_prep.synthetic.render import degrade_thermal, draw_line, load_font, shipped_fonts
from tests.benchmarks.measure import limit_row

if TYPE_CHECKING:
    from ocrkit import TrainConfig
    from ocrkit.evaluation.records import Record

RECIPE = "the recipe"
STEPS = 120
SEEDS = (42,)
RECEIPTS = 48
LINES = 10  # of a receipt
# Of the recipe's kind of real receipts 95 % of the lines have up to 30 characters.
LONGEST, PAIR = 30, 48
# Rows to read: {kind: (fewest and most characters, most degrees)}.
TESTS = {
    "lines up to 30 characters": (1, LONGEST, 0.0),
    "the same, tilted by up to 3 degrees": (1, LONGEST, 3.0),
    "lines of 32 to 48 characters": (32, PAIR, 0.0),
}
CLEAN = "clean lines of print"  # read as well, for what a training forgets


def augmenting(
    work: Path, steps: int = STEPS, seeds: Sequence[int] = SEEDS, receipts: int = RECEIPTS
) -> list[dict[str, Any]]:
    """Row of the recipe's CER on drawn receipts; its figures hold every variant.

    Args:
        work: a folder for datasets and runs.
        steps: of a training; fewer than the recipe's, so that variants take minutes.
        seeds: of the trainings.
        receipts: drawn ones to train on; a third as many are read.
    """
    from ocrkit import TrainConfig

    draw_receipts(work / "plain", receipts, seed=1)
    draw_receipts(work / "longer", receipts, seed=1, paired=0.25)
    tests = -(-receipts // 3)
    for number, (low, high, degrees) in enumerate(TESTS.values()):
        draw_receipts(work / f"test-{number}", tests, 2, 0, low, high, degrees)
    printed_receipts(work / f"test-{len(TESTS)}", tests, 2, progress=False, split=(1.0, 0.0, 0.0))
    kinds = [*TESTS, CLEAN]
    recipe = TrainConfig.from_recipe("receipts", dataset=str(work / "plain"), eval_steps=None)
    ways: dict[str, dict[str, Any]] = {
        RECIPE: {},
        "rotation up to 1 degree": {"augmentation": recipe.augmentation | {"rotation": 1.0}},
        "no replay": {"replay": None},
        "no weight averaging": {"weight_averaging": 0.0},
        "a quarter of the rows two lines long": {"dataset": str(work / "longer")},
    }
    records: dict[str, list[list[Record]]] = {way: [[] for _ in kinds] for way in ways}
    for way, settings in ways.items():
        for seed in seeds:
            folder = work / f"{list(ways).index(way)}-{seed}"
            own = {"dataset": str(work / "plain"), "eval_steps": None, "max_steps": steps}
            own |= {"output_dir": str(folder), "seed": seed, **settings}
            read = trained_and_read(TrainConfig.from_recipe("receipts", **own), work)
            for kind, several in zip(records[way], read):
                kind += several
            print(f"{way}, seed {seed}: trained and read", flush=True)
    variants = {
        way: [compared(*both) for both in zip(columns, records[RECIPE])]
        for way, columns in records.items()
    }
    figures = {"steps": steps, "seeds": list(seeds), "train": receipts * LINES}
    figures |= {"tests": {kind: len(r) // len(seeds) for kind, r in zip(kinds, records[RECIPE])}}
    rate = variants[RECIPE][0]["CER"]["value"]
    drawn = ", ".join(map(str, seeds))
    inputs = f"{figures['train']} drawn lines, {steps} steps, seed {drawn}"
    row = limit_row("drawn receipts, CER after a short training", 100 * rate, "%", inputs=inputs)
    return [{**row, "figures": {**figures, "variants": variants}}]


def trained_and_read(config: "TrainConfig", work: Path) -> list[list["Record"]]:
    """Train, and read each kind of `TESTS` and the clean lines; the records of each."""
    from dataclasses import replace

    from ocrkit import evaluate, load_data, load_model, train

    model, processor = load_model(config)
    train(model, processor, load_data(config), config)
    read = []
    for number in range(len(TESTS) + 1):
        test = replace(config, dataset=str(work / f"test-{number}"), replay=None)
        rows = load_data(test)["train"]
        read.append(evaluate(model, processor, rows, config, name=f"test-{number}").records)
    return read


def compared(records: Sequence["Record"], recipe: Sequence["Record"]) -> dict[str, dict]:
    """CER of the records, and CER minus the recipe's, paired, with intervals over receipts."""
    from ocrkit.evaluation.analysis import folded_cer, with_intervals
    from ocrkit.metrics.intervals import resample

    groups = [record["group"] for record in records]
    own, theirs = (folded_cer(of)["CER"] for of in (records, recipe))
    sums = resample(np.column_stack([own.part, own.whole, theirs.part, theirs.whole]), groups)
    low, high = np.percentile(sums[:, 0] / sums[:, 1] - sums[:, 2] / sums[:, 3], [2.5, 97.5])
    difference = {"value": own.rate - theirs.rate, "low": float(low), "high": float(high)}
    return {**with_intervals({"CER": own}, groups), "difference": difference}


def draw_receipts(
    out: Path,
    receipts: int,
    seed: int,
    paired: float = 0.0,
    low: int = 1,
    high: int = LONGEST,
    degrees: float = 0.0,
) -> None:
    """A dataset of worn till receipts, all rows in the split train.

    Args:
        paired: share of the rows that show two lines side by side, up to `PAIR` characters.
        low, high: fewest and most characters of a line.
        degrees: most by which a line is tilted; its box grows with the tilt, as an annotated one.
    """

    def items() -> Iterator[Item]:
        for receipt in range(receipts):
            rng = random.Random(f"{seed}/{receipt}")
            font = str(rng.choice(shipped_fonts(*TILL_FONTS)))
            for line in range(LINES):
                text, chance = text_of(rng, low, high), random.Random(f"{seed}/{receipt}/{line}")
                if chance.random() < paired:
                    text = " ".join(f"{text} {text_of(chance, 1, high)}"[:PAIR].split())
                tilt = chance.uniform(-degrees, degrees)
                load = partial(tilted_line, text, font, rng.randint(19, 22), tilt, rng.random())
                key, group = f"{receipt:03d}-{line}", f"{receipt:03d}"
                prompt = PROMPTS["transcription"]
                yield Item(key, key, text, [Picture(load)], group, "en", prompt=prompt)

    settings = {"receipts": receipts, "seed": seed, "layout": "prompt_completion"}
    write_dataset(items, out, "bench-receipts", [], settings, (1.0, 0.0, 0.0), progress=False)


def text_of(rng: random.Random, low: int, high: int) -> str:
    """Text of a receipt's line, or of several, `low` to `high` characters long."""
    text = receipt_line(rng)
    while len(text := " ".join(text.split())[:high].strip()) < low:
        text += " " + receipt_line(rng)
    return text


def tilted_line(text: str, font: str, size: int, degrees: float, damage: float) -> Image.Image:
    """Picture of a line on worn thermal paper, 32 pixels high with all its corners."""
    line = draw_line(text, load_font(font, size))
    turned = line.rotate(degrees, Image.Resampling.BICUBIC, expand=True, fillcolor=255)
    return degrade_thermal(fit_height(turned, line.height), random.Random(f"{damage}"))
