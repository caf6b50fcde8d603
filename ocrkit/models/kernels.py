"""GPU kernels: fall back to eager mode where they fail to compile; patch embedding as matmul.

Unsloth compiles parts of a model with torch.compile and has Triton kernels of its own. On some
GPUs and drivers some of these kernels do not compile (`apply_rotary_pos_emb_vision` is a known
example), which would otherwise show in the first batch of a run, or as rows that cannot be read.
"""

import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ocrkit.errors import ModelError


def try_kernels(attempt: Callable[[], Any]) -> None:
    """Run `attempt`; if a kernel fails to compile, turn compilation off and run it again.

    The state of the random number generators is restored, so that dropout in `attempt` does not
    change a seeded run. Errors that are not a compiler's are raised as they are.

    Args:
        attempt: reads a row or trains on it, so that the model's kernels run.

    Raises:
        ModelError: kernels fail without compilation as well.
    """
    cause = _compile_failure(attempt)
    if cause is None:
        return
    print(
        f"A kernel does not compile on this machine ({cause}): compilation is turned off for this "
        "process, which is slower."
    )
    turn_off_compilation()
    cause = _compile_failure(attempt)
    if cause is not None:
        raise ModelError(
            f"A kernel of Unsloth does not compile on this machine, even with torch.compile turned "
            f"off ({cause}); Unsloth has patched this process, so start a new one with "
            "backend=transformers."
        )


def _compile_failure(attempt: Callable[[], Any]) -> str | None:
    """Run `attempt` and return the compiler's error, or None where everything compiled."""
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            attempt()
    except Exception as error:  # the compilers of torch and Triton raise errors of many types
        cause = compiler_error(error)
        if cause is None:
            raise
        return cause
    return None


def turn_off_compilation() -> None:
    """Run in eager mode, in this process, whatever torch.compile is asked to compile."""
    # For models that Unsloth has yet to load, and for functions that it has compiled already.
    os.environ["UNSLOTH_COMPILE_DISABLE"] = "1"
    # Unsloth's for_inference and for_training set the stance back to "default" where torch has
    # `set_stance`, which Unsloth looks up under this name.
    if vision := sys.modules.get("unsloth.models.vision"):
        vars(vision)["torch_compiler_set_stance"] = None
    torch.compiler.set_stance("force_eager")


def compiler_error(error: BaseException) -> str | None:
    """A compiler's error message in one line; None for an error that is not a compiler's."""
    from torch._dynamo.exc import TorchDynamoException

    compiler_errors: tuple[type, ...] = (TorchDynamoException,)
    try:
        from triton.errors import TritonError

        compiler_errors += (TritonError,)
    except ImportError:
        # A build of torch for CPUs comes without Triton.
        pass
    chain = list(_error_chain(error))
    if not any(isinstance(link, compiler_errors) for link in chain):
        return None
    cause = chain[-1]
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()] or [""]
    # Triton quotes the source first and states the fault last; torch states the fault first.
    fault = lines[-1] if "triton" in type(cause).__module__ else lines[0]
    return f"{type(cause).__name__}: {fault[:200]}"


def _error_chain(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes, root cause last."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = getattr(link, "inner_exception", None) or link.__cause__ or link.__context__


class _PatchConv2d(torch.nn.Conv2d):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return _matmul(self, input) if _is_one_patch(self, input) else super().forward(input)


class _PatchConv3d(torch.nn.Conv3d):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return _matmul(self, input) if _is_one_patch(self, input) else super().forward(input)


Convolution = torch.nn.Conv2d | torch.nn.Conv3d


def _is_one_patch(layer: Convolution, patches: torch.Tensor) -> bool:
    return patches.shape[2:] == layer.kernel_size


def _matmul(layer: Convolution, patches: torch.Tensor) -> torch.Tensor:
    """Patch embedding as a matrix product, in the convolution's output shape.

    Args:
        layer: the convolution.
        patches: shape (patches, channels, *kernel); the result has (patches, vector, 1, ...).
    """
    vectors = torch.nn.functional.linear(patches.flatten(1), layer.weight.flatten(1), layer.bias)
    return vectors.unflatten(1, (-1, *[1] * len(layer.kernel_size)))


def convert_patch_embedding(model: torch.nn.Module) -> None:
    """Compute patch-embedding convolutions as matrix products; weights and their names stay.

    A convolution whose stride equals its kernel is one matrix product a patch, and torch 2.9 takes
    10 to 20 times longer for it as a Conv3d.
    """
    patch_classes = {torch.nn.Conv2d: _PatchConv2d, torch.nn.Conv3d: _PatchConv3d}
    for layer in model.modules():
        # None for a subclass, which may compute something else.
        patch_class = patch_classes.get(type(layer))
        if patch_class is None or not isinstance(layer, Convolution):
            continue
        covers_patch = layer.kernel_size == layer.stride and layer.groups == 1
        if covers_patch and layer.padding in ("valid", (0,) * len(layer.kernel_size)):
            # The class changes and not the instance's `forward`, which other libraries wrap.
            layer.__class__ = patch_class
