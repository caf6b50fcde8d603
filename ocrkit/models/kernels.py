"""GPU kernels: fall back to eager mode where they fail to compile; patch embedding as matmul.

Unsloth compiles parts of a model with torch.compile and has Triton kernels of its own. On some
GPUs and drivers some of these kernels do not compile (`apply_rotary_pos_emb_vision` is a known
example), which would otherwise show in the first batch of a run, or as rows that cannot be read.
"""

import os
import re
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch

from data_prep.dataset.files import error_chain
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
    chain = list(error_chain(error))
    if not any(isinstance(link, compiler_errors) for link in chain):
        return None
    cause = chain[-1]
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()] or [""]
    # Triton quotes the source first and states the fault last; torch states the fault first.
    fault = lines[-1] if "triton" in type(cause).__module__ else lines[0]
    return f"{type(cause).__name__}: {fault[:200]}"


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


def checkpoint_vision_layers(model: torch.nn.Module) -> None:
    """Let gradient checkpointing recompute layers of vision towers that transformers leaves out.

    transformers recomputes layers of the class GradientCheckpointingLayer alone, and those of some
    towers (Mllama, Siglip of some models) are none: their activations then are most of a step's
    memory (Llama-3.2-11B, two pictures: 30 of 40 GiB). Layers that lie in such a layer stay.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    for name, layers in model.named_modules():
        if not isinstance(layers, torch.nn.ModuleList) or not re.search("vision|visual", name):
            continue
        parents = [model.get_submodule(name[: dot.start()]) for dot in re.finditer(r"\.", name)]
        if any(isinstance(parent, GradientCheckpointingLayer) for parent in parents):
            continue
        for layer in layers:
            kind = type(layer)
            if kind.__name__.endswith(("Layer", "Block")) and not isinstance(
                layer, GradientCheckpointingLayer
            ):
                # The class changes and not the instance, so that names of weights stay.
                layer.__class__ = type(kind.__name__, (GradientCheckpointingLayer, kind), {})


def batch_windows(model: torch.nn.Module) -> None:
    """Compute windowed attention of Qwen2.5-VL's vision tower in a call for all equal windows.

    transformers calls attention once a window where there is no flash attention (9,504 calls for
    eight lines of handwriting). Flash attention takes all windows at once by itself.
    """
    for layer in model.modules():
        kernel = getattr(getattr(layer, "config", None), "_attn_implementation", None)
        windowed = type(layer).__name__ == "Qwen2_5_VLVisionAttention"
        if windowed and kernel in (None, "sdpa", "eager"):
            kind = type(layer)
            layer.__class__ = type(kind.__name__, (_WindowAttention, kind), {})


class _WindowAttention(torch.nn.Module):
    """Qwen2.5-VL's vision attention with the windows of equal length as a batch."""

    config: Any
    scaling: float
    num_heads: int
    qkv: torch.nn.Module
    proj: torch.nn.Module

    def forward(
        self,
        hidden_states: torch.Tensor,
        cu_seqlens: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        **kwargs: object,
    ) -> torch.Tensor:
        """Attention of tokens, (tokens, width), within windows that begin at `cu_seqlens`."""
        import transformers.models.qwen2_5_vl.modeling_qwen2_5_vl as qwen

        count = len(hidden_states)
        query, key, value = (
            self.qkv(hidden_states).view(count, 3, self.num_heads, -1).permute(1, 0, 2, 3).unbind(0)
        )
        query, key = qwen.apply_rotary_pos_emb_vision(query, key, *position_embeddings)
        attention = qwen.ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, qwen.eager_attention_forward
        )
        starts = cu_seqlens.tolist()
        by_length: dict[int, list[int]] = {}
        for start, end in pairwise(starts):
            by_length.setdefault(end - start, []).append(start)
        output, order = [], []
        for length, begins in by_length.items():
            tokens = torch.tensor(begins)[:, None] + torch.arange(length)
            order.append(tokens.flatten())
            index = tokens.to(hidden_states.device)
            # (windows, heads, length, width of a head)
            parts = [states[index].transpose(1, 2) for states in (query, key, value)]
            read, _ = attention(
                self,
                *parts,
                attention_mask=None,
                scaling=self.scaling,
                dropout=0.0,
                is_causal=False,
            )
            output.append(read.reshape(index.numel(), -1))
        places = torch.cat(order).argsort().to(hidden_states.device)
        return self.proj(torch.cat(output)[places])


# Vision towers whose numbers exceed float16's range (Qwen2.5-VL-3B in its last block: NaN logits).
_OVERFLOWS_IN_FLOAT16 = ("qwen2_5_vl",)


def clamp_float16(model: torch.nn.Module) -> None:
    """Clamp what blocks of a vision tower return to float16's range, where it is known to overflow.

    As vLLM does. Infinity in a block would be NaN in the next norm.
    """
    if getattr(model.config, "model_type", "") not in _OVERFLOWS_IN_FLOAT16:
        return
    for name, blocks in model.named_modules():
        if isinstance(blocks, torch.nn.ModuleList) and name.endswith("visual.blocks"):
            for block in blocks:
                block.register_forward_hook(_clamped)


def _clamped(block: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor | None:
    if output.dtype != torch.float16:
        return None
    largest = torch.finfo(torch.float16).max
    return output.clamp(-largest, largest)
