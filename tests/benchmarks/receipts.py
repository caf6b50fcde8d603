"""Real receipts read by cross-validation: every line once, by a reader that never saw its receipt.

RapidOCR, Tesseract and the reader before training read the same lines. Folds that are finished stay
on the disk, so an interrupted cross-validation goes on where it was.
"""

import hashlib
import json
import os
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.convert import convert
from data_prep.synthetic.receipts import printed_receipts
from tests.benchmarks.measure import limit_row

if TYPE_CHECKING:
    from ocrkit import TrainConfig

FOLDS = 5
RECIPE = "receipts"
SEED = 42
# Names of readers, as they stand in the table, and the folders of their evaluations.
READERS = {
    "the embedded reader": "base",
    "the embedded reader after training": "tuned",
    "RapidOCR": "rapidocr",
    "Tesseract 5": "tesseract",
}
BASE, TUNED = "the embedded reader", "the embedded reader after training"
# What the recipe said before it had `replay`, `weight_averaging` and three degrees of rotation.
EARLIER = {
    "max_steps": 800,
    "replay": None,
    "weight_averaging": 0.0,
    "augmentation": {
        "rotation": 1.0,
        "perspective": 0.02,
        "brightness": [0.8, 1.2],
        "contrast": [0.7, 1.2],
        "noise": 0.03,
        "blur": 0.7,
        "erosion": 0.4,
        "dilation": 0.4,
        "probability": 0.5,
    },
}


def receipts(work: Path, folds: int = FOLDS) -> list[dict[str, Any]]:
    """Rows of the cross-validation on the receipts in OCRKIT_TEST_DATA; the first has all figures.

    Args:
        work: unused; folds are kept elsewhere.
        folds: how many of the `FOLDS` are trained and read.
    """
    data = Path(os.environ["OCRKIT_TEST_DATA"]) / "finance_sroie"
    figures = cross_validate(data, kept_folds(), folds)
    first, *others = rows_of(figures)
    return [{**first, "figures": figures}, *others]


def earlier_receipts(work: Path, folds: int = FOLDS) -> list[dict[str, Any]]:
    """Row of the same cross-validation with the recipe's `EARLIER` settings, which have no aim.

    Arguments as in `receipts`.
    """
    data = Path(os.environ["OCRKIT_TEST_DATA"]) / "finance_sroie"
    figures = cross_validate(data, kept_folds(**EARLIER), folds, beside=False, **EARLIER)
    rate = figures["readers"][TUNED]["CER without case"]
    inputs = f"{figures['lines']} lines of {figures['receipts']} receipts, {folds} of {FOLDS} folds"
    what = "real receipts, CER without case, earlier recipe"
    row = limit_row(what, 100 * rate["value"], "%", inputs=inputs)
    row |= {end: round(100 * rate[end], 2) for end in ("low", "high")}
    return [{**row, "figures": figures}]


def rows_of(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the figures that have an aim."""
    lines, receipts, folds = (figures[name] for name in ("lines", "receipts", "folds"))
    inputs = f"{lines} lines of {receipts} receipts, {folds} of {FOLDS} folds"
    clean, minutes = figures["clean"]["after"], figures["cpu minutes"]
    rates = {name: reader["CER without case"] for name, reader in figures["readers"].items()}
    ours = rates[TUNED]
    row = limit_row("real receipts, CER without case", 100 * ours["value"], "%", 7.8, inputs)
    row |= {end: round(100 * ours[end], 2) for end in ("low", "high")}
    if "RapidOCR" in rates:
        theirs = round(100 * rates["RapidOCR"]["value"], 2)
        row |= {"beside": "RapidOCR", "theirs": theirs}
    what = "clean lines after training on real receipts, CER"
    rows = [row, limit_row(what, 100 * clean["value"], "%", 4, inputs)]
    if minutes:
        what = "training on a fold of real receipts"
        rows.append(limit_row(what, minutes, "minutes of CPU", 20, inputs))
    return rows


def kept_folds(**settings: Any) -> Path:
    """The folder for folds of this recipe, of what it replays, and of this embedded model.

    Args:
        settings: in place of the recipe's.
    """
    from ocrkit.config import PRINT, TrainConfig
    from ocrkit.models.base import TINY

    config = TrainConfig.from_recipe(RECIPE, **settings).to_dict()
    text = json.dumps(config, sort_keys=True).encode()
    files = [(PRINT / "dataset.json").read_bytes(), (TINY / "model.safetensors").read_bytes()]
    digest = hashlib.sha256(b"".join([text, *files])).hexdigest()[:12]
    return Path(__file__).parents[2] / "runs" / "bench" / f"receipts-{digest}"


def folds_of(groups: Sequence[str], count: int = FOLDS) -> list[list[int]]:
    """Numbers of the rows in each fold; rows of a group are in one fold."""
    names = sorted(set(groups))
    random.Random(SEED).shuffle(names)
    fold = {name: number % count for number, name in enumerate(names)}
    return [[n for n, group in enumerate(groups) if fold[group] == k] for k in range(count)]


def cross_validate(
    data: Path, kept: Path, folds: int = FOLDS, beside: bool = True, **settings: Any
) -> dict[str, Any]:
    """Train and read the first `folds` of `FOLDS` folds; figures of every reader on their lines.

    Args:
        data: receipts in SROIE's format.
        kept: a folder for dataset, runs and evaluations; what is finished there is taken.
        beside: read the lines also before training and with engines.
        settings: in place of the recipe's.
    """
    from ocrkit import TrainConfig, load_data
    from ocrkit.data.rows import select_rows
    from ocrkit.evaluation.baseline import figures_of

    convert("sroie", data, kept / "lines", task="lines", split="1,0,0", workers=1, progress=False)
    printed_receipts(kept / "clean", seed=SEED, progress=False)
    config = TrainConfig.from_recipe(
        RECIPE,
        dataset=str(kept / "lines"),
        output_dir=str(kept / "all"),
        # A fold has no rows to validate on.
        eval_steps=None,
        resume_from_checkpoint="auto",
        **settings,
    )
    rows = load_data(config)["train"]
    clean = load_data(replace(config, dataset=str(kept / "clean")))["test"]
    read: dict[str, list] = {}
    minutes = []
    for number, test in enumerate(folds_of(rows["group"])[:folds]):
        own = replace(config, output_dir=str(kept / f"fold-{number}"))
        others = sorted(set(range(len(rows))) - set(test))
        spent = _trained(own, select_rows(rows, others), select_rows(rows, test), clean)
        if spent is not None:
            minutes.append(round(spent, 2))
        for name, records in _readings(own, select_rows(rows, test), clean, beside).items():
            read.setdefault(name, []).extend(records)
        print(f"fold {number + 1} of {FOLDS} is read", flush=True)
    return {
        "folds": folds,
        "of": FOLDS,
        "lines": len(read["tuned"]),
        "receipts": len({record["group"] for record in read["tuned"]}),
        "steps": config.max_steps,
        "readers": {n: figures_of(read[of]) for n, of in READERS.items() if of in read},
        "clean": {
            when: figures_of(read[f"clean-{of}"])["CER"]
            for when, of in (("before", "base"), ("after", "tuned"))
            if f"clean-{of}" in read
        },
        "cpu minutes": minutes,
    }


def _trained(config: "TrainConfig", train_rows: Any, test_rows: Any, clean: Any) -> float | None:
    """Train on the other folds and read this one, unless it is done.

    Returns:
        Minutes of CPU to train; None where training was interrupted and went on.
    """
    from datasets import DatasetDict

    from ocrkit import evaluate, load_model, train

    done = Path(config.output_dir) / "fold.json"
    if not done.is_file():
        goes_on = any(done.parent.glob("checkpoint-*"))
        model, processor = load_model(config)
        began = time.process_time()
        train(model, processor, DatasetDict({"train": train_rows}), config)
        spent = None if goes_on else (time.process_time() - began) / 60
        evaluate(model, processor, test_rows, config, name="tuned")
        evaluate(model, processor, clean, config, name="clean-tuned")
        done.write_text(json.dumps({"cpu minutes": spent}), encoding="utf-8")
    return json.loads(done.read_text(encoding="utf-8"))["cpu minutes"]


def _readings(config: "TrainConfig", test_rows: Any, clean: Any, beside: bool) -> dict[str, list]:
    """Records of a fold by evaluation: after training, and `beside` it the base and engines."""
    from ocrkit import evaluate, load_model
    from ocrkit.evaluation.baseline import evaluate_engines
    from ocrkit.evaluation.evaluation import Evaluation

    evaluations = []
    if beside:
        model, processor = load_model(config)
        evaluations = [
            evaluate(model, processor, test_rows, config, name="base"),
            evaluate(model, processor, clean, config, name="clean-base"),
            *evaluate_engines(test_rows, config),
        ]
    for name in ("tuned", "clean-tuned"):
        evaluations.append(Evaluation.load(Path(config.output_dir) / "eval" / name))
    return {evaluation.name: evaluation.records for evaluation in evaluations}
