"""Kernels that do not compile on a card: noticed on one drawn line before a run, and gone round.

Unsloth compiles parts of a model with torch.compile, and has kernels in Triton of its own. On some
cards and drivers some of them do not compile (`apply_rotary_pos_emb_vision` is a known one), which
would otherwise show in the first batch of a run, or as rows that cannot be read.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from ocrkit.batch_size import probe_step
from ocrkit.collate import Collator
from ocrkit.config import TrainConfig
from ocrkit.data import drawn_rows
from ocrkit.model import ModelError, inference_mode
from ocrkit.predict import read_batch


def try_kernels(model: Any, processor: Any, config: TrainConfig) -> None:
    """Train on and read one drawn line; turn compilation off for this process if a kernel fails.

    No weight changes. What fails for another reason is raised as it is.

    Raises:
        ModelError: kernels fail without compilation as well.
    """
    try:
        _try(model, processor, config)
        return
    except Exception as error:
        cause = not_compiled(error)
        if cause is None:
            raise
    print(
        f"A kernel does not compile on this machine ({cause}): compilation is turned off for this "
        "process, which goes on slower."
    )
    turn_off_compilation()
    try:
        _try(model, processor, config)
    except Exception as error:
        cause = not_compiled(error)
        if cause is None:
            raise
        raise ModelError(
            f"A kernel of Unsloth's does not compile on this machine, with compilation turned off "
            f"neither ({cause}); Unsloth has patched this process, so start a new one with "
            "backend=transformers."
        ) from None


def turn_off_compilation() -> None:
    """Run everything that torch.compile was asked to compile, in this process, as it is written."""
    # For models that Unsloth has yet to load, and for functions that it has compiled already.
    os.environ["UNSLOTH_COMPILE_DISABLE"] = "1"
    torch.compiler.set_stance("force_eager")


def not_compiled(error: BaseException) -> str | None:
    """What a compiler said, in one line; None for an error that is not a compiler's."""
    from torch._dynamo.exc import TorchDynamoException

    kinds: tuple[type, ...] = (TorchDynamoException,)
    try:
        from triton.errors import TritonError

        kinds += (TritonError,)
    except ImportError:
        # A build of torch for CPUs comes without Triton.
        pass
    chain = list(_chain(error))
    if not any(isinstance(link, kinds) for link in chain):
        return None
    cause = chain[-1]
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    # Triton quotes the source first and says what is wrong last, torch the other way round.
    said = (lines or [""])[-1 if "triton" in type(cause).__module__ else 0]
    return f"{type(cause).__name__}: {said[:200]}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what caused it, the root last."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = getattr(link, "inner_exception", None) or link.__cause__ or link.__context__


def _try(model: Any, processor: Any, config: TrainConfig) -> None:
    rows, training = drawn_rows(1), model.training
    # Nothing that is drawn at random here, such as dropout, may move the seeds of a run.
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        if any(weight.requires_grad for weight in model.parameters()):
            model.train()
            probe_step(model, Collator(processor, config.image_height)(rows), config)
            model.train(training)
        with inference_mode(model):
            collate = Collator(processor, config.image_height, generation=True)
            read_batch(model, collate, rows, replace(config, max_new_tokens=2))
