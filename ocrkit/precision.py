"""The precision of weights, and of a step's products in a run and in what is probed before it."""

from contextlib import AbstractContextManager

import torch

from ocrkit.config import TrainConfig


def cpu_has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 itself; where it does not, float32 is faster."""
    # torch 2.9 does not tell.
    can = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(can.get("avx512_bf16") or can.get("amx_bf16"))


def weights_dtype(config: TrainConfig, embedded: bool) -> str | None:
    """The dtype that weights have to be loaded in; None: half precision where there is a GPU.

    With `auto`, weights that are trained whole are float32, and mixed precision does the products:
    small steps of an optimizer get lost in 16 bits, and gradients in float16 cannot be unscaled.

    Args:
        embedded: whether it is the embedded model, so small that 16 bits would save nothing.
    """
    if config.dtype != "auto":
        return config.dtype
    return "float32" if embedded or not config.use_peft else None


def half_precision(config: TrainConfig, device: str) -> torch.dtype | None:
    """What a step multiplies in, bfloat16 or float16; None: in the weights' own precision.

    Args:
        device: its type. A CPU takes bfloat16 with `dtype: auto` alone, where it has it.
    """
    if device != "cuda":
        wanted = device == "cpu" and config.dtype == "auto"
        return torch.bfloat16 if wanted and cpu_has_bfloat16() else None
    if config.dtype in ("auto", "bfloat16") and torch.cuda.is_bf16_supported(False):
        return torch.bfloat16
    return torch.float16 if config.dtype in ("auto", "float16") else None


def products(config: TrainConfig, device: str) -> AbstractContextManager:
    """Around a step's loss: its products in `half_precision`; weights and gradients stay."""
    half = half_precision(config, device)
    return torch.autocast(device, half or torch.bfloat16, enabled=half is not None)
