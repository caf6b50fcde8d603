"""Losses and order of rows: confusion-weighted loss and curriculum beside plain training."""

import shutil
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tests.benchmarks.measure import limit_row

ROOT = Path(__file__).parents[2]
SEEDS = (42, 43, 44)
CHANGES = {
    "plain": {},
    "confusion-weighted": {"loss": "confusion_weighted"},
    "curriculum by length": {"curriculum": "length"},
}
# What is read: {name: (recipe, metrics)}.
EXPERIMENTS = {
    "lines": ("quickstart", ("cer",)),
    "documents": ("tiny", ("numeric_accuracy", "teds")),
}


def losses(
    work: Path, steps: int = 40, seeds: tuple[int, ...] = SEEDS, receipts: int = 150
) -> list[dict[str, Any]]:
    """Row of plain training's CER on worn lines; its figures hold every experiment and change.

    On worn receipt lines and on the shipped sample of receipts and tables. The runs use the same
    rows and differ in one setting; two run in parallel, each on one core.

    Args:
        work: a folder for datasets and runs.
        steps: of a training.
        seeds: of the trainings.
        receipts: drawn ones, whose lines are trained on and read.
    """
    from data_prep.synthetic.receipts import thermal_receipts

    thermal_receipts(work / "lines", receipts=receipts, seed=7, progress=False)
    shutil.copytree(ROOT / "ocrkit" / "assets" / "samples" / "financial", work / "documents")
    jobs = [(e, c, seed) for e in EXPERIMENTS for seed in seeds for c in CHANGES]
    figures: dict[str, dict] = {
        experiment: {"steps": steps, "metrics": metrics, "runs": {change: {} for change in CHANGES}}
        for experiment, (_, metrics) in EXPERIMENTS.items()
    }
    with ProcessPoolExecutor(2, get_context("spawn"), one_core) as pool:
        done = pool.map(partial(trained, work, steps), jobs)
        for (experiment, change, seed), metrics in zip(jobs, done):
            figures[experiment]["runs"][change][str(seed)] = metrics
            print(f"{experiment}, {change}, seed {seed}: trained and read", flush=True)
    plain = figures["lines"]["runs"]["plain"]
    rates = [100 * run["cer"]["value"] for run in plain.values()]
    inputs = f"{next(iter(plain.values()))['rows']:,} worn lines, {steps} steps, {len(seeds)} seeds"
    row = limit_row("worn lines, CER after a short plain training", rates, "%", inputs=inputs)
    return [{**row, "figures": figures}]


def one_core() -> None:
    """Limit a worker process to one thread."""
    import torch

    torch.set_num_threads(1)


def trained(work: Path, steps: int, job: tuple[str, str, int]) -> dict[str, Any]:
    """Train one of `EXPERIMENTS` with one of `CHANGES` and a seed; returns its test metrics."""
    from ocrkit import TrainConfig, evaluate, load_data, load_model, train

    experiment, change, seed = job
    recipe, metrics = EXPERIMENTS[experiment]
    config = TrainConfig.from_recipe(
        recipe,
        dataset=str(work / experiment),
        output_dir=str(work / f"{experiment}-{change}-{seed}"),
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
    evaluation = evaluate(model, processor, data["test"], config, name="tuned")
    return {"rows": len(data["train"]), **{name: evaluation.metrics[name] for name in metrics}}
