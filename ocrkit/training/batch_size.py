"""Batch size: find the largest batch that fits the memory, and scale the learning rate to it."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import psutil
import torch

from ocrkit.config import TrainConfig
from ocrkit.data.collate import Collator
from ocrkit.data.order import TrainRows
from ocrkit.environment import is_main_process, process_count
from ocrkit.errors import ConfigError
from ocrkit.training.probe import free_step, peak_memory, probe_step, training_mode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasets import Dataset
    from transformers import PreTrainedModel

LARGEST = 256
# Share of the memory that may be used: the probe has no optimizer step, and needs some slack.
_SHARE = 0.85


def largest_batch(
    model: "PreTrainedModel",
    collator: Collator,
    rows: "Dataset",
    lengths: "Sequence[float]",
    config: TrainConfig,
) -> int:
    """The largest power of two, up to 256, of the longest rows that train without running out.

    On a GPU sizes double until memory runs out or 85 % of it are used, with room kept for the
    optimizer's state. A CPU has no such error to catch, so the growth of the process from one
    size to the next decides whether another doubling would fit what is free.

    Args:
        lengths: tokens of each row.
    """
    order = sorted(range(len(rows)), key=lambda i: -lengths[i])
    cuda = model.device.type == "cuda"
    size, peaks = 0, [peak_memory(model.device)]
    try:
        with training_mode(model, config):
            while 2 * size <= min(LARGEST, len(order)):
                if not cuda and not _doubled_batch_fits(peaks):
                    break
                tried = 2 * size or 1
                batch = collator(TrainRows(rows).__getitems__(order[:tried]))
                probe_step(model, batch, config)
                peaks.append(peak_memory(model.device))
                if cuda and peaks[-1] > _gpu_limit(model):
                    break
                size = tried
    except torch.cuda.OutOfMemoryError as error:
        free_step(error, model)
    return max(1, size)


def _gpu_limit(model: "PreTrainedModel") -> float:
    """Bytes that a probe step may use, with 8 bytes a trained weight left to the optimizer."""
    trained = sum(w.numel() for w in model.parameters() if w.requires_grad)
    total = torch.cuda.get_device_properties(model.device).total_memory
    return _SHARE * total - 8 * trained


def _doubled_batch_fits(peaks: list[int]) -> bool:
    """Whether twice the last size is expected to fit a CPU's free memory."""
    if len(peaks) < 2:
        return True
    # A doubled batch adds about as much again as the last one took in all.
    return 2 * (peaks[-1] - peaks[0]) < _SHARE * psutil.virtual_memory().available


def resolved_batch_size(config: TrainConfig) -> int:
    """The training batch size of a config whose `"auto"` has been resolved.

    Raises:
        ConfigError: it is still "auto".
    """
    size = config.per_device_train_batch_size
    if isinstance(size, str):
        raise ConfigError(
            f"per_device_train_batch_size={size!r} has not been resolved yet; `train` and `plan` "
            "do that, or set a number."
        )
    return size


def resolve_batch(
    config: TrainConfig,
    model: "PreTrainedModel",
    collator: Collator,
    rows: "Dataset",
    lengths: "Sequence[float]",
) -> TrainConfig:
    """The settings with a batch size in place of `"auto"`, and the learning rate scaled if asked.

    With `learning_rate_batch_size` the rate is multiplied by the square root of (samples per step
    / that size). `resolved_batch_size` reads the size from the settings that are returned.
    """
    size = config.per_device_train_batch_size
    if isinstance(size, str):
        size = _smallest_of_all_processes(largest_batch(model, collator, rows, lengths, config))
    rate = config.learning_rate
    if reference := config.learning_rate_batch_size:
        per_step = size * config.gradient_accumulation_steps * process_count()
        rate *= math.sqrt(per_step / reference)
    resolved = replace(
        config,
        per_device_train_batch_size=size,
        learning_rate=rate,
        learning_rate_batch_size=None,
    )
    if resolved != config and is_main_process():
        print(f"per_device_train_batch_size={size}, learning_rate={rate:.3g}")
    return resolved


def _smallest_of_all_processes(size: int) -> int:
    if process_count() == 1:
        return size
    from accelerate import PartialState
    from accelerate.utils import gather_object

    PartialState(cpu=not torch.cuda.is_available())
    return min(gather_object([size]))
