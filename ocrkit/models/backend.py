"""Backends: choose Unsloth or transformers, load with Unsloth, inference mode, dtypes, shards.

The only module that imports unsloth.
"""

import ctypes.util
import importlib.util
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch

from ocrkit.config import TrainConfig
from ocrkit.errors import ConfigError

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel, ProcessorMixin


def has_driver() -> bool:
    """Whether this machine has a CUDA driver, whether or not torch can use it."""
    has_library = ctypes.util.find_library("cuda") is not None
    return has_library or Path("/proc/driver/nvidia").exists()


def supports_4bit() -> bool:
    """Whether weights are loaded in 4 bits: on GPUs only, as bitsandbytes is slow on a CPU."""
    return torch.cuda.is_available()


def choose_backend(config: TrainConfig) -> tuple[str, str]:
    """Backend of a run, "unsloth" or "transformers", and the reason for the choice.

    Unsloth patches transformers for the whole process and has to be imported before it, so the
    choice depends on the machine and on settings, and loads nothing.
    """
    if config.backend != "auto":
        return config.backend, f"backend={config.backend}"
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return "transformers", "CUDA_VISIBLE_DEVICES hides every GPU"
    if not has_driver():
        return "transformers", "no CUDA driver on this machine"
    if importlib.util.find_spec("unsloth") is None:
        return "transformers", "a CUDA driver is present, but unsloth is not installed"
    if shards():
        return "transformers", "FSDP shards the model over the GPUs, which Unsloth cannot do"
    if config.max_image_tiles is not None:
        return "transformers", "max_image_tiles changes weights, which Unsloth cannot do"
    return "unsloth", "a CUDA driver is present"


def shards() -> bool:
    """Whether `accelerate launch` was asked for FSDP, which shards a model over the GPUs."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def check_launcher(config: TrainConfig) -> None:
    """Refuse what `accelerate launch` cannot do with the kit, before a model is loaded.

    Raises:
        ConfigError: DeepSpeed, FSDP with weights in 4 bits or through Unsloth.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true":
        raise ConfigError(
            "accelerate launch was given DeepSpeed, whose sharded weights the kit cannot export; "
            "take FSDP (accelerate launch --use_fsdp), or one process a GPU without either."
        )
    if not shards():
        return
    if config.load_in_4bit:
        raise ConfigError(
            "accelerate launch was given FSDP, which cannot shard weights in 4 bits; set "
            "load_in_4bit=False, or start without FSDP."
        )
    if config.backend == "unsloth":
        raise ConfigError(
            "accelerate launch was given FSDP, which Unsloth cannot do; set backend=transformers, "
            "or start without FSDP."
        )


def why_no_gpu() -> str:
    """Why torch sees no GPU although a driver is present; empty where it sees one."""
    # UNSLOTH_ALLOW_CPU lets Unsloth run without a GPU, as tests do.
    if torch.cuda.is_available() or os.environ.get("UNSLOTH_ALLOW_CPU") == "1":
        return ""
    return (
        f"torch {torch.__version__} (CUDA {torch.version.cuda}) sees none: install a torch "
        "that was built for this machine's driver"
    )


def load_with_unsloth(
    config: TrainConfig, base: str, adapter: str | None, dtype: str | None
) -> "tuple[PreTrainedModel, ProcessorMixin]":
    """Load model and processor with Unsloth's FastVisionModel, with new adapters if asked.

    Args:
        config: settings of the run.
        base: folder or Hub id of the base model.
        adapter: folder of trained adapters; None adds new ones where `use_peft` is set.
        dtype: of the weights, from `weights_dtype`.

    Raises:
        ConfigError: settings that Unsloth cannot load with.
    """
    patched = [name for name in ("transformers", "trl", "peft") if name in sys.modules]
    if patched and "unsloth" not in sys.modules:
        print(
            f"{', '.join(patched)} was imported before unsloth, which then runs slower; restart "
            "and call load_model before anything else."
        )
    from unsloth import FastVisionModel  # before transformers
    from transformers import AutoConfig  # isort: skip

    if config.max_image_tiles is not None:
        raise ConfigError(
            f"max_image_tiles={config.max_image_tiles} changes the model's weights, which only "
            "the transformers backend can do; set backend=transformers, or leave it out."
        )
    trust = {"trust_remote_code": config.trust_remote_code}
    eager = config.attn_implementation == "eager"
    if eager and AutoConfig.from_pretrained(base, **trust).model_type == "mllama":
        raise ConfigError(
            "attn_implementation='eager' adds attention masks, which Unsloth makes boolean for "
            "Llama-3.2-Vision, so that they would mask nothing; set attn_implementation=sdpa, "
            "or backend=transformers."
        )
    half = dtype or ("bfloat16" if torch.cuda.is_bf16_supported(False) else "float16")
    refuse_eager_in_float16(base, config, half)
    options = {
        name: value
        for name in ("device_map", "attn_implementation")
        if (value := getattr(config, name))
    }
    checkpointing = "unsloth" if config.gradient_checkpointing else False
    with (
        strict_adapter_loading(),
        adapter_on(adapter, base) if adapter else nullcontext(base) as name,
    ):
        model, processor = FastVisionModel.from_pretrained(
            name,
            load_in_4bit=config.load_in_4bit,
            load_in_16bit=not config.load_in_4bit,
            full_finetuning=not config.use_peft and not adapter,
            dtype=dtype and getattr(torch, dtype),
            max_seq_length=config.max_length or 4096,
            use_gradient_checkpointing=checkpointing,
            random_state=config.seed,
            **trust,
            **options,
        )
    if adapter and checkpointing:
        # As `get_peft_model` does for new adapters: checkpointed layers give those of the vision
        # tower no gradient where nothing before them has one.
        from unsloth_zoo.peft_utils import requires_grad_for_gradient_checkpointing

        requires_grad_for_gradient_checkpointing(model)
    if config.use_peft and not adapter:
        model = FastVisionModel.get_peft_model(
            model,
            r=config.lora_r,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            use_rslora=config.use_rslora,
            target_modules=config.lora_target_modules,
            finetune_vision_layers=config.finetune_vision_layers,
            finetune_language_layers=config.finetune_language_layers,
            finetune_attention_modules=config.finetune_attention_modules,
            finetune_mlp_modules=config.finetune_mlp_modules,
            use_gradient_checkpointing=checkpointing,
            random_state=config.seed,
        )
        # Full names instead of Unsloth's pattern, which plain PEFT takes for other layers where a
        # model wraps its linear ones (Gemma 4).
        adapted = [name for name, module in model.named_modules() if hasattr(module, "lora_A")]
        model.peft_config["default"].target_modules = {
            name.removeprefix("base_model.model.") for name in adapted
        }
    return model, processor


def refuse_eager_in_float16(base: str, config: TrainConfig, dtype: str) -> None:
    """Refuse Qwen2-VL in float16 with eager attention, whose scores overflow.

    Raises:
        ConfigError: with the ways out.
    """
    from transformers import AutoConfig

    if dtype != "float16" or config.attn_implementation != "eager":
        return
    trust = {"trust_remote_code": config.trust_remote_code}
    if AutoConfig.from_pretrained(base, **trust).model_type == "qwen2_vl":
        raise ConfigError(
            "attn_implementation='eager' overflows in float16 for Qwen2-VL (NaN logits, and "
            "'!!!!' as reading); leave attn_implementation out, or set dtype=float32."
        )


@contextmanager
def adapter_on(adapter: str, base: str) -> Iterator[str]:
    """Adapter folder whose config names `base`: the folder itself, or a temporary copy of links."""
    settings = json.loads((Path(adapter) / "adapter_config.json").read_text())
    if settings["base_model_name_or_path"] == base:
        yield adapter
        return
    with tempfile.TemporaryDirectory() as folder:
        for path in Path(adapter).iterdir():
            if path.name != "adapter_config.json":
                (Path(folder) / path.name).symlink_to(path.resolve())
        settings["base_model_name_or_path"] = base
        (Path(folder) / "adapter_config.json").write_text(json.dumps(settings))
        yield folder


@contextmanager
def strict_adapter_loading() -> Iterator[None]:
    """Load adapters under the names that they were saved with; a missing one is an error.

    PEFT renames the keys of an adapter as transformers renames those of a checkpoint, and only
    warns of those that it does not find afterwards. A pattern of such a renaming may fit a name
    that is right already (`language_model.layers` of DeepSeek-OCR-2).
    """
    from peft.utils import transformers_weight_conversion as conversion

    name = "convert_peft_adapter_state_dict_for_transformers"
    convert = getattr(conversion, name)

    def converted(
        model: "PreTrainedModel",
        peft_config: object,
        adapter_state_dict: dict[str, torch.Tensor],
        adapter_name: str = "default",
    ) -> dict[str, torch.Tensor]:
        own = {key.replace(f".{adapter_name}.", ".") for key, _ in model.named_parameters()}
        if own.issuperset(adapter_state_dict):
            return adapter_state_dict
        return convert(model, peft_config, adapter_state_dict, adapter_name)

    with warnings.catch_warnings(), patch.object(conversion, name, converted):
        warnings.filterwarnings("error", message="Found missing adapter keys")
        yield


@contextmanager
def inference_mode(model: "PreTrainedModel") -> Iterator[None]:
    """Switch the model to generation, and afterwards back to the mode that it was in."""
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
            vars(module)["gradient_checkpointing"] = True


def weights_dtype(config: TrainConfig, embedded: bool) -> str | None:
    """Dtype to load weights in; None: 16 bits where there is a GPU.

    With `auto`, weights that are trained without adapters are float32, with mixed precision:
    small optimizer steps get lost in 16 bits, and float16 gradients cannot be unscaled.

    Args:
        config: settings of the run.
        embedded: whether this is the embedded model, so small that 16 bits would save nothing.
    """
    if config.dtype != "auto":
        return config.dtype
    return "float32" if embedded or not config.use_peft else None


def half_precision(config: TrainConfig) -> torch.dtype | None:
    """Dtype of mixed precision on a GPU, bfloat16 or float16; None: float32 throughout."""
    if config.dtype in ("auto", "bfloat16") and torch.cuda.is_bf16_supported(False):
        return torch.bfloat16
    return torch.float16 if config.dtype in ("auto", "float16") else None


def autocast(config: TrainConfig, device: str) -> AbstractContextManager:
    """Autocast context for the loss: matmuls in half precision on a GPU.

    Args:
        config: settings of the run.
        device: type of the device. On a CPU autocast is off: bfloat16 is slower there when every
            batch has another shape, since kernels are compiled for each shape.
    """
    dtype = half_precision(config) if device == "cuda" else None
    return torch.autocast(device, dtype or torch.bfloat16, enabled=dtype is not None)


def gathered_weights(
    accelerator: "Accelerator", model: torch.nn.Module | None
) -> dict[str, torch.Tensor] | None:
    """Weights of a model that FSDP shards, whole, on the main process; None for any other model.

    All processes have to call it: each holds a part of every weight.
    """
    from accelerate import DistributedType
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    if model is None or accelerator.distributed_type != DistributedType.FSDP:
        return None
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights: dict[str, Any] = get_model_state_dict(model, options=options)
    return weights
