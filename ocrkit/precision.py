"""The precision of weights, and of a step's products in a run and in what is probed before it."""

from contextlib import AbstractContextManager

import torch

from ocrkit.config import TrainConfig


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


def half_precision(config: TrainConfig) -> torch.dtype | None:
    """What a step on a GPU multiplies in, bfloat16 or float16; None: in float32."""
    if config.dtype in ("auto", "bfloat16") and torch.cuda.is_bf16_supported(False):
        return torch.bfloat16
    return torch.float16 if config.dtype in ("auto", "float16") else None


def products(config: TrainConfig, device: str) -> AbstractContextManager:
    """Around a step's loss: its products in `half_precision`; weights and gradients stay.

    Args:
        device: its type. A CPU multiplies in the weights' own precision: bfloat16 takes it longer
            where every batch has another shape, for which its kernels are made anew.
    """
    half = half_precision(config) if device == "cuda" else None
    return torch.autocast(device, half or torch.bfloat16, enabled=half is not None)
