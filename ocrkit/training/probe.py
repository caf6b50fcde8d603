"""Probe steps: forward and backward passes that change no weight, timed and measured in memory.

The plan, the search for a batch size and the comparison of throughputs run these before a run.
"""

import resource
import time
import warnings
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import psutil
import torch

from ocrkit.config import TrainConfig
from ocrkit.data.collate import Collator
from ocrkit.data.read_rows import drawn_rows
from ocrkit.environment import is_main_process
from ocrkit.errors import ConfigError, TrainingError, clear_frames
from ocrkit.models.backend import autocast
from ocrkit.models.checks import (
    conversation_difference,
    leaks_labels,
    trains_alike_in_batches,
)
from ocrkit.models.sizes import budget_setting
from ocrkit.training.losses import loss_terms, supervised_loss

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

GIB = 2**30


def out_of_memory(where: str, lengths: Sequence[float], ids: Sequence[str] = ()) -> TrainingError:
    """The error for a batch that does not fit the GPU's memory.

    Args:
        where: place in the run, e.g. "at step 3".
        lengths: tokens of each sample.
        ids: of the samples; none where they are not known.
    """
    length, longest = max(zip(lengths, ids or [""] * len(lengths)))
    return TrainingError(
        f"Out of GPU memory {where} with a batch of {len(lengths)}, the longest sample "
        f"{longest} of {length} tokens: lower per_device_train_batch_size (raising "
        "gradient_accumulation_steps as much), lower max_pixels, or set "
        "gradient_checkpointing=True."
    )


def cannot_compute(
    pictures: str, error: Exception, model: "PreTrainedModel", processor: "ProcessorMixin"
) -> TrainingError:
    """The error for pictures with which a model's own code fails.

    Args:
        pictures: what they are, e.g. "a drawn line".
        error: of that code.
    """
    cause = " ".join(str(error).split())[:200] or type(error).__name__
    setting = budget_setting(processor)
    lower = f"set {setting} lower, or " if setting else ""
    return TrainingError(
        f"{model.config.model_type}: this model cannot compute {pictures} ({cause}); {lower}take "
        "another model."
    )


def free_step(error: BaseException, model: "PreTrainedModel") -> None:
    """Free what a step that ran out of GPU memory holds: tensors in its frames, and gradients.

    An exception keeps the frames that it went through, and a notebook keeps the exception.
    """
    clear_frames(error)
    model.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()


@contextmanager
def training_mode(model: "PreTrainedModel", config: TrainConfig) -> Generator[None]:
    """Put the model into training mode, with gradient checkpointing if set; restore it after."""
    training = model.training
    model.train()
    # transformers turns checkpointing on when a run begins, Unsloth when it loads a model.
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


def probe_step(model: "PreTrainedModel", batch: dict[str, Any], config: TrainConfig) -> None:
    """Run one forward and backward pass with the run's loss and precision, and drop the gradients.

    Args:
        model: in `training_mode`.
        batch: as the collator makes it.
    """
    inputs = {name: v.to(model.device) for name, v in batch.items() if torch.is_tensor(v)}
    with autocast(config, model.device.type):
        loss = supervised_loss(model, inputs, **loss_terms(config))
    loss.backward()
    model.zero_grad(set_to_none=True)
    if model.device.type == "cuda":
        torch.cuda.synchronize()


def timed_steps(
    model: "PreTrainedModel", batches: Iterable[dict[str, Any]], config: TrainConfig
) -> Generator[tuple[float, float]]:
    """Run a probe step on each batch; yields (seconds until the batch came, seconds of the step).

    Raises:
        torch.cuda.OutOfMemoryError: a batch does not fit; what the step held is freed.
    """
    with training_mode(model, config):
        last = time.perf_counter()
        for batch in batches:
            arrived = time.perf_counter()
            try:
                probe_step(model, batch, config)
            except torch.cuda.OutOfMemoryError as error:
                free_step(error, model)
                raise
            done = time.perf_counter()
            yield arrived - last, done - arrived
            last = time.perf_counter()


def try_step(model: "PreTrainedModel", processor: "ProcessorMixin", config: TrainConfig) -> None:
    """Run a probe step on one drawn line, as an attempt of `ocrkit.models.kernels.try_kernels`."""
    # Unsloth notices this pass, clears what was compiled in it, and prints a long warning.
    warnings.filterwarnings("ignore", message="Unsloth: detected a manual forward")
    batch = Collator(processor, config.image_height)(drawn_rows(1))
    # The first step of the run raises this for its own batch, with the way out.
    with suppress(torch.cuda.OutOfMemoryError), training_mode(model, config):
        for _ in timed_steps(model, [batch], config):
            pass


def check_training(
    model: "PreTrainedModel", processor: "ProcessorMixin", batch_size: int, config: TrainConfig
) -> None:
    """Refuse a model that would learn from the answer itself, or from other rows of a batch.

    A difference between the ids of a row and those of its whole conversation is printed.

    Raises:
        TrainingError: a later label changes earlier logits, or the model takes no drawn line.
        ConfigError: padding changes logits, and batches hold several rows.
    """
    collate = Collator(processor, config.image_height)
    name = model.config.model_type
    if is_main_process() and (different := conversation_difference(collate)):
        print(f"WARNING: {name}: {different} of a row differ from those of its conversation.")
    with training_mode(model, config), autocast(config, model.device.type):
        try:
            leaks = leaks_labels(model, collate)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # models raise errors of any type
            raise cannot_compute("a drawn line", error, model, processor) from None
        if leaks:
            raise TrainingError(
                f"{name}: this model's earlier logits change with a later label, so it would learn "
                "to copy labels and not to read them; take another model."
            )
        if batch_size > 1 and not trains_alike_in_batches(model, collate):
            raise ConfigError(
                f"{name}: this model computes a padded batch otherwise than its rows; set "
                f"per_device_train_batch_size=1 and gradient_accumulation_steps="
                f"{batch_size * config.gradient_accumulation_steps}."
            )


def peak_memory(device: torch.device) -> int:
    """Bytes at the highest point so far: of torch on a GPU, of this process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident_memory() -> float:
    """GiB that this process and its workers hold; pages that they share count for each."""
    resident, this = 0, psutil.Process()
    for process in (this, *this.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            resident += process.memory_info().rss
    return resident / GIB
