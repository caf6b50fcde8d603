"""Measure how fast a setting trains, one change at a time, before a long run is started."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import psutil
import torch

from ocrkit.batch_size import as_in_training, probe_step, resolve_batch
from ocrkit.collate import Collator, token_lengths
from ocrkit.config import TrainConfig
from ocrkit.train import STREAM_SAMPLE

# The first batches start workers and warm caches up.
_WARM = 1


def measure(
    name: str,
    data: Any,
    model: Any,
    processor: Any,
    config: TrainConfig,
    batches: int = 6,
    **settings: Any,
) -> dict[str, Any]:
    """Train a few batches with some settings changed, and say how fast that was.

    Forward and backward passes over batches that the run's own workers prepare, as training does
    them; no weight changes.

    Args:
        name: what the step is called in the table.
        data: as `load_data` gives it; rows are taken from its train split, the first ones.
        config: of the run.
        batches: to time, after one that is not timed.
        settings: of the config, changed for this measurement.

    Returns:
        {step, batch, learning rate, workers, samples/s, waiting, memory GiB}: the learning rate as
        scaled for the batch where `learning_rate_batch_size` is set, `waiting` the share of the
        time spent waiting for pictures, memory the most that torch held on a GPU and that this
        process and its workers hold elsewhere.
    """
    config = replace(config, **settings)
    rows = data["train"].take(STREAM_SAMPLE) if config.streaming else data["train"]
    images, texts = token_lengths(rows, processor, config)
    lengths = [image + text for image, text in zip(images, texts)]
    usable = [i for i, length in enumerate(lengths) if math.isfinite(length)]
    rows, lengths = rows.select(usable), [lengths[i] for i in usable]
    config = resolve_batch(config, model, processor, rows, lengths)
    size = int(config.per_device_train_batch_size)
    order = [n % len(rows) for n in range(size * (batches + _WARM))]
    loader = torch.utils.data.DataLoader(
        torch.utils.data.Subset(rows, order),
        batch_size=size,
        num_workers=config.dataloader_num_workers,
        collate_fn=Collator(processor, config.image_height),
    )
    cuda = model.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    waited = worked = memory = 0.0
    last = time.perf_counter()
    with as_in_training(model, config):
        for number, batch in enumerate(loader):
            taken = time.perf_counter()
            probe_step(model, batch, config)
            done = time.perf_counter()
            if number >= _WARM:
                waited, worked = waited + taken - last, worked + done - taken
            if number == _WARM and not cuda:
                memory = _resident()
            last = time.perf_counter()
    if cuda:
        memory = torch.cuda.max_memory_allocated() / 2**30
    return {
        "step": name,
        "batch": size,
        "learning rate": config.learning_rate,
        "workers": config.dataloader_num_workers,
        "samples/s": size * batches / (waited + worked),
        "waiting": f"{waited / (waited + worked):.0%}",
        "memory GiB": memory,
    }


def fastest(steps: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Batch and workers of the step of `measure` with the most samples a second, as settings."""
    best = max(steps, key=lambda step: step["samples/s"])
    return {
        "per_device_train_batch_size": best["batch"],
        "dataloader_num_workers": best["workers"],
    }


def _resident() -> float:
    """GiB that this process and its workers hold; pages that they share count for each."""
    process = psutil.Process()
    family = [process, *process.children(recursive=True)]
    return sum(one.memory_info().rss for one in family) / 2**30
