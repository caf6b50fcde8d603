"""The precision of weights, and of a step's products in a run and in what is probed before it."""

import ctypes.util
import importlib.util
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

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


def has_driver() -> bool:
    """Whether this machine has a driver for CUDA, whatever torch makes of it."""
    found = ctypes.util.find_library("cuda") is not None
    return found or Path("/proc/driver/nvidia").exists()


def holds_four_bits() -> bool:
    """Whether weights are held in 4 bits here; on a CPU bitsandbytes is slower than float32."""
    import torch

    return torch.cuda.is_available()


def choose_backend(config: TrainConfig) -> tuple[str, str]:
    """Which backend a run takes, ("unsloth" or "transformers", why), decided without torch.

    Unsloth patches transformers for the whole process and has to be imported before it, so the
    choice looks at the machine, not at torch.
    """
    if config.backend != "auto":
        return config.backend, f"backend={config.backend}"
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return "transformers", "CUDA_VISIBLE_DEVICES hides every GPU"
    if not has_driver():
        return "transformers", "no CUDA driver on this machine"
    if importlib.util.find_spec("unsloth") is None:
        return "transformers", "a CUDA driver is present, but unsloth is not installed"
    if config.max_image_tiles is not None:
        return "transformers", "max_image_tiles changes weights that Unsloth loads as they are"
    return "unsloth", "a CUDA driver is present"


def _blind() -> str:
    """Why torch sees no GPU although a driver is present; empty where it sees one."""
    import torch

    # Unsloth's own word for a machine without a GPU, which its tests and ours run on.
    if torch.cuda.is_available() or os.environ.get("UNSLOTH_ALLOW_CPU") == "1":
        return ""
    return (
        f"torch {torch.__version__} (CUDA {torch.version.cuda}) sees none: install a torch "
        "that was built for this machine's driver"
    )


@contextmanager
def inference_mode(model: Any) -> Iterator[None]:
    """Prepare the model for generation, and put it back into the mode it was in."""
    training = model.training
    # Unsloth turns checkpointing off for generation, and on again only in training mode.
    checkpointed = [m for m in model.modules() if vars(m).get("gradient_checkpointing")]
    unsloth = getattr(model, "ocrkit_backend", "") == "unsloth"
    if unsloth:
        from unsloth import FastVisionModel

        FastVisionModel.for_inference(model)
    model.eval()
    try:
        yield
    finally:
        if training:
            if unsloth:
                FastVisionModel.for_training(model)
            model.train()
        for module in checkpointed:
            module.gradient_checkpointing = True
