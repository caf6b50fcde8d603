"""The largest batch that fits the memory, and the learning rate that goes with it."""

import math
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psutil
import torch

from ocrkit.config import TrainConfig
from ocrkit.data.collate import Collator
from ocrkit.environment import is_main_process, process_count
from ocrkit.errors import TrainingError
from ocrkit.models.backend import products
from ocrkit.training.losses import loss_terms, supervised_loss

LARGEST = 256
# What is left free: the probe has no optimizer step, and memory is never used to its last byte.
_SHARE = 0.85


def does_not_fit(where: str, lengths: Sequence[int], ids: Sequence[str]) -> TrainingError:
    """What to say of a batch that ran out of memory.

    Args:
        where: in the run, e.g. "at step 3".
        lengths: tokens of each sample.
        ids: of the samples, or none where they are not known.
    """
    longest = max(zip(lengths, ids or [""] * len(lengths)))
    return TrainingError(
        f"Out of GPU memory {where} with a batch of {len(lengths)}, the longest sample "
        f"{longest[1]} of {longest[0]} tokens: lower per_device_train_batch_size (raising "
        "gradient_accumulation_steps as much), lower max_pixels, or set "
        "gradient_checkpointing=True."
    )


@contextmanager
def as_in_training(model: Any, config: TrainConfig) -> Iterator[None]:
    """The model as a run has it, with activations recomputed if set; afterwards as it was."""
    training = model.training
    model.train()
    # transformers turns it on when a run begins, Unsloth when it loads a model.
    turned_on = config.gradient_checkpointing and not model.is_gradient_checkpointing
    if turned_on:
        model.gradient_checkpointing_enable()
    try:
        yield
    finally:
        if turned_on:
            model.gradient_checkpointing_disable()
            model.disable_input_require_grads()
        model.train(training)


def probe_step(model: Any, batch: dict[str, Any], config: TrainConfig) -> None:
    """A step's forward and backward pass; no weight changes and no gradient stays.

    With the run's loss and precision; `as_in_training` does the rest.

    Args:
        batch: as the collator makes it.
    """
    inputs = {key: value.to(model.device) for key, value in batch.items()}
    with products(config, model.device.type):
        loss = supervised_loss(model, inputs, **loss_terms(config))
    loss.backward()
    model.zero_grad(set_to_none=True)
    if model.device.type == "cuda":
        torch.cuda.synchronize()


def largest_batch(
    model: Any, processor: Any, rows: Any, lengths: list[int], config: TrainConfig
) -> int:
    """The largest power of two, up to 256, of the longest rows that train without running out.

    On a GPU sizes double until memory runs out or 85 % of it are used, with room kept for the
    optimizer's state. A CPU has no such error to catch, so the growth of the process from one
    size to the next decides whether another doubling would fit what is free.

    Args:
        lengths: tokens of each row.
    """
    collate = Collator(processor, config.image_height)
    order = sorted(range(len(rows)), key=lambda i: -lengths[i])
    size, peaks = 0, [_used(model)]
    try:
        with as_in_training(model, config):
            while 2 * size <= min(LARGEST, len(order)):
                wanted = 2 * size or 1
                if not _fits(model, peaks):
                    break
                probe_step(model, collate([rows[i] for i in order[:wanted]]), config)
                peaks.append(_used(model))
                if model.device.type == "cuda" and peaks[-1] > _limit(model):
                    break
                size = wanted
    except torch.cuda.OutOfMemoryError:
        model.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
    return max(1, size)


def _used(model: Any) -> int:
    """Bytes at the highest point so far."""
    if model.device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _limit(model: Any) -> float:
    trained = sum(w.numel() for w in model.parameters() if w.requires_grad)
    total = torch.cuda.get_device_properties(model.device).total_memory
    return _SHARE * total - 8 * trained


def _fits(model: Any, peaks: list[int]) -> bool:
    """Whether twice the last size will fit, as far as can be told before it is tried."""
    if model.device.type == "cuda" or len(peaks) < 2:
        return True
    # A doubled batch adds about as much again as the last one took in all.
    return 2 * (peaks[-1] - peaks[0]) < _SHARE * psutil.virtual_memory().available


def resolve_batch(
    config: TrainConfig,
    model: Any,
    processor: Any,
    rows: Any,
    lengths: list[int],
) -> TrainConfig:
    """The settings with `"auto"` replaced by a number, and the learning rate scaled if asked.

    With `learning_rate_batch_size` the rate is multiplied by the square root of (samples per step
    / that size).
    """
    size = config.per_device_train_batch_size
    if size == "auto":
        size = _agreed(largest_batch(model, processor, rows, lengths, config))
    rate, reference = config.learning_rate, config.learning_rate_batch_size
    per_step = size * config.gradient_accumulation_steps * process_count()
    if reference:
        rate *= math.sqrt(per_step / reference)
    found = replace(
        config,
        per_device_train_batch_size=size,
        learning_rate=rate,
        learning_rate_batch_size=None,
    )
    if found != config and is_main_process():
        print(f"per_device_train_batch_size={size}, learning_rate={rate:.3g}")
    return found


def _agreed(size: int) -> int:
    """The smallest size of all processes."""
    if process_count() == 1:
        return size
    from accelerate import PartialState
    from accelerate.utils import gather_object

    PartialState(cpu=not torch.cuda.is_available())
    return min(gather_object([size]))
