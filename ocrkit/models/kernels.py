"""Kernels that do not compile on a card: noticed on one drawn line, and gone round.

Unsloth compiles parts of a model with torch.compile, and has kernels in Triton of its own. On some
cards and drivers some of them do not compile (`apply_rotary_pos_emb_vision` is a known one), which
would otherwise show in the first batch of a run, or as rows that cannot be read.
"""

import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from ocrkit.config import TrainConfig
from ocrkit.data.collate import Collator
from ocrkit.data.rows import drawn_rows
from ocrkit.errors import ModelError
from ocrkit.models.backend import inference_mode
from ocrkit.models.read import read_batch
from ocrkit.training.probe import probe_step, training_mode


def try_kernels(model: Any, processor: Any, config: TrainConfig, training: bool = False) -> None:
    """Read one drawn line; turn compilation off for this process if a kernel fails.

    What fails for another reason is raised as it is.

    Args:
        training: try the forward and backward pass of a training step instead; no weight changes.

    Raises:
        ModelError: kernels fail without compilation as well.
    """
    attempt = _step if training else _read
    try:
        attempt(model, processor, config)
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
        attempt(model, processor, config)
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
    # Its for_inference and for_training put the stance back to "default", unless torch has none.
    if vision := sys.modules.get("unsloth.models.vision"):
        vision.torch_compiler_set_stance = None
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


def _read(model: Any, processor: Any, config: TrainConfig) -> None:
    collate = Collator(processor, config.image_height, generation=True)
    with _own_random_numbers(), inference_mode(model):
        read_batch(model, collate, drawn_rows(1), replace(config, max_new_tokens=2))


def _step(model: Any, processor: Any, config: TrainConfig) -> None:
    # Unsloth notices this pass and clears what was compiled in it, and says so at length.
    warnings.filterwarnings("ignore", message="Unsloth: detected a manual forward")
    batch = Collator(processor, config.image_height)(drawn_rows(1))
    try:
        with _own_random_numbers(), training_mode(model, config):
            probe_step(model, batch, config)
    except torch.cuda.OutOfMemoryError:
        # The first step of the run says this of its own batch, with the way out.
        model.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()


def _own_random_numbers() -> Any:
    """Nothing that is drawn at random in here, such as dropout, moves the seeds of a run."""
    return torch.random.fork_rng(range(torch.cuda.device_count()))


class _PatchConv2d(torch.nn.Conv2d):
    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return _product(self, patches) if _fits(self, patches) else super().forward(patches)


class _PatchConv3d(torch.nn.Conv3d):
    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return _product(self, patches) if _fits(self, patches) else super().forward(patches)


def _fits(layer: Any, patches: torch.Tensor) -> bool:
    return patches.shape[2:] == layer.kernel_size


def _product(layer: Any, patches: torch.Tensor) -> torch.Tensor:
    """(patches, channels, *kernel) to (patches, vector, 1, ...), as the convolution gives it."""
    vectors = torch.nn.functional.linear(patches.flatten(1), layer.weight.flatten(1), layer.bias)
    return vectors.unflatten(1, (-1, *[1] * len(layer.kernel_size)))


def patches_as_products(model: torch.nn.Module) -> None:
    """Compute convolutions over single patches as matrix products; weights and names stay."""
    kinds = {torch.nn.Conv2d: _PatchConv2d, torch.nn.Conv3d: _PatchConv3d}
    for layer in model.modules():
        kind = kinds.get(type(layer))
        if kind is None or layer.kernel_size != layer.stride or layer.groups != 1:
            continue
        if layer.padding in ("valid", (0,) * len(layer.kernel_size)):
            # The class, not the method: what wraps `forward` from outside finds it as before.
            layer.__class__ = kind
