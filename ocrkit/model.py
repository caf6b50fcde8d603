"""Load, wrap in LoRA and export a model. The only module that imports unsloth."""

import ctypes.util
import json
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ocrkit.config import ConfigError, TrainConfig
from ocrkit.processes import is_main_process, process_count

TINY = Path(__file__).parent / "assets" / "tiny"


class ModelError(RuntimeError):
    """A model that cannot be loaded or written: value, cause and way out in one sentence."""


def choose_backend(config: TrainConfig) -> tuple[str, str]:
    """Which backend a run takes, ("unsloth" or "transformers", why), decided without torch.

    Unsloth patches transformers for the whole process and has to be imported before it, so the
    choice looks at the machine, not at torch.
    """
    if config.backend != "auto":
        return config.backend, f"backend={config.backend}"
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return "transformers", "CUDA_VISIBLE_DEVICES hides every GPU"
    if ctypes.util.find_library("cuda") is None and not Path("/proc/driver/nvidia").exists():
        return "transformers", "no CUDA driver on this machine"
    return "unsloth", "a CUDA driver is present"


def resolve_model(name: str) -> tuple[str, str | None]:
    """Base model and adapter folder behind a name: an id, a folder, a run folder or "tiny".

    Raises:
        ModelError: an adapter whose base is missing, or a path that does not exist.
    """
    if name == "tiny":
        return str(TINY), None
    path = Path(name)
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1 or path.exists()
    if looks_local and not path.exists():
        raise ModelError(
            f"model_name_or_path={name!r} does not exist; give a model folder, a run folder or a "
            "model id of the Hub."
        )
    for folder in (path, path / "adapter"):
        adapter = folder / "adapter_config.json"
        if adapter.is_file():
            base = json.loads(adapter.read_text())["base_model_name_or_path"]
            # The embedded model lies elsewhere on another machine.
            is_tiny = Path(base).parts[-3:] == TINY.parts[-3:]
            return resolve_model("tiny" if is_tiny else base)[0], str(folder)
    return name, None


def load_model(config: TrainConfig) -> tuple[Any, Any]:
    """Load model and processor, ready to predict and, with `use_peft`, to train adapters.

    Unsloth's FastVisionModel where there is CUDA, transformers and PEFT elsewhere; which one, and
    why, is printed. Both apply the config's pixel budget to the processor, so training,
    prediction and `plan` see the same sizes.

    Raises:
        ModelError: the model does not exist or does not fit.
        ConfigError: settings that this model, machine or launcher cannot do.
    """
    if config.device_map and process_count() > 1:
        raise ConfigError(
            f"device_map={config.device_map!r} spreads one model over the devices, and "
            f"{process_count()} processes want a device each; leave device_map out, or start "
            "without torchrun and accelerate launch."
        )
    base, adapter = resolve_model(config.model_name_or_path)
    backend, reason = choose_backend(config)
    if is_main_process():
        print(f"Backend: {backend} ({reason}); model: {config.model_name_or_path}")
    load = _load_unsloth if backend == "unsloth" else _load_transformers
    try:
        model, processor = load(config, base, adapter)
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        cause = " ".join(str(error).split())[:300]
        raise ModelError(f"model_name_or_path={base!r} cannot be loaded: {cause}") from None
    apply_pixel_budget(processor, config)
    tokenizer = processor.tokenizer
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.ocrkit_backend = backend
    return model, processor


def apply_pixel_budget(processor: Any, config: TrainConfig) -> None:
    """Set `min_pixels` and `max_pixels` on the processor's picture part.

    Raises:
        ConfigError: the model's pictures are not budgeted in pixels.
    """
    if config.min_pixels is None and config.max_pixels is None:
        return
    pictures = processor.image_processor
    size = dict(pictures.size)
    if "shortest_edge" not in size or "longest_edge" not in size:
        raise ConfigError(
            f"{type(pictures).__name__} does not count pixels (its size is {size}), so min_pixels "
            "and max_pixels cannot bound it; leave them out."
        )
    if config.min_pixels is not None:
        size["shortest_edge"] = config.min_pixels
    if config.max_pixels is not None:
        size["longest_edge"] = config.max_pixels
    pictures.size = {key: size[key] for key in ("shortest_edge", "longest_edge")}


def _load_transformers(config: TrainConfig, base: str, adapter: str | None) -> tuple[Any, Any]:
    import torch

    # torchao, which transformers imports, makes torch warn twice about a matter of its own.
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
    from transformers import AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig

    cuda = torch.cuda.is_available()
    device = int(os.environ.get("LOCAL_RANK", "0"))
    if cuda:
        torch.cuda.set_device(device)
    dtype = config.dtype
    if dtype == "auto":
        half = "bfloat16" if cuda and torch.cuda.is_bf16_supported() else "float16"
        dtype = half if cuda else "float32"
    options: dict[str, Any] = {"dtype": getattr(torch, dtype)}
    if config.attn_implementation:
        options["attn_implementation"] = config.attn_implementation
    if config.device_map:
        options["device_map"] = config.device_map
    elif cuda:
        options["device_map"] = {"": device}
    if config.load_in_4bit and cuda:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=options["dtype"],
        )
    elif config.load_in_4bit:
        print(f"4-bit needs CUDA; the model is loaded in {dtype}.")
    trust = {"trust_remote_code": config.trust_remote_code}
    processor = AutoProcessor.from_pretrained(base, **trust)
    model = AutoModelForImageTextToText.from_pretrained(base, **options, **trust)
    if adapter:
        from peft import PeftModel

        return PeftModel.from_pretrained(model, adapter, is_trainable=config.use_peft), processor
    if config.use_peft:
        model = _add_lora(model, config)
    return model, processor


def _add_lora(model: Any, config: TrainConfig) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    if getattr(model, "is_loaded_in_4bit", False):
        model = prepare_model_for_kbit_training(
            model, use_gradient_checkpointing=config.gradient_checkpointing
        )
    torch.manual_seed(config.seed)
    return get_peft_model(
        model,
        LoraConfig(
            r=config.lora_r,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            use_rslora=config.use_rslora,
            target_modules=lora_targets(model, config),
            task_type="CAUSAL_LM",
        ),
    )


def lora_targets(model: Any, config: TrainConfig) -> str | list[str]:
    """What adapters go on: the config's own list, or a pattern made of the finetune_* flags.

    The pattern selects linear layers of attention and feed-forward blocks, in the vision tower
    and in the language model: what Unsloth selects for the same flags.

    Raises:
        ConfigError: the flags select nothing.
    """
    import torch

    if config.lora_target_modules:
        return config.lora_target_modules
    towers = ["vision|visual|image|patch"] * config.finetune_vision_layers
    towers += ["language|text"] * config.finetune_language_layers
    blocks = ["attn|attention"] * config.finetune_attention_modules
    blocks += ["mlp|feed_forward|ffn"] * config.finetune_mlp_modules
    pattern = rf".*(?:{'|'.join(towers)}).*(?:{'|'.join(blocks)}).*\."
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    leaves = {
        name.rpartition(".")[2] for name in linear if towers and blocks and re.match(pattern, name)
    }
    if not leaves:
        raise ConfigError(
            "The finetune_* settings select no layer of this model; set at least one of "
            "finetune_vision_layers and finetune_language_layers, and one of "
            "finetune_attention_modules and finetune_mlp_modules."
        )
    return rf"{pattern}(?:{'|'.join(sorted(leaves))})"


def _load_unsloth(config: TrainConfig, base: str, adapter: str | None) -> tuple[Any, Any]:
    patched = [name for name in ("transformers", "trl", "peft") if name in sys.modules]
    if patched and "unsloth" not in sys.modules:
        print(
            f"{', '.join(patched)} was imported before unsloth, which then runs slower; restart "
            "and call load_model before anything else."
        )
    import torch
    from unsloth import FastVisionModel

    model, processor = FastVisionModel.from_pretrained(
        adapter or base,
        load_in_4bit=config.load_in_4bit,
        load_in_16bit=not config.load_in_4bit,
        full_finetuning=not config.use_peft,
        dtype=None if config.dtype == "auto" else getattr(torch, config.dtype),
        max_seq_length=config.max_length or 4096,
        use_gradient_checkpointing="unsloth" if config.gradient_checkpointing else False,
        trust_remote_code=config.trust_remote_code,
        random_state=config.seed,
        **({"device_map": config.device_map} if config.device_map else {}),
        **(
            {"attn_implementation": config.attn_implementation}
            if config.attn_implementation
            else {}
        ),
    )
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
            use_gradient_checkpointing="unsloth" if config.gradient_checkpointing else False,
            random_state=config.seed,
        )
    return model, processor


@contextmanager
def inference_mode(model: Any) -> Iterator[None]:
    """Prepare the model for generation, and put it back into the mode it was in."""
    training = model.training
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


def export(model: Any, processor: Any, output_dir: str | Path, format: str = "adapter") -> Path:
    """Write what was trained, with its processor, and return the folder.

    Args:
        format: "adapter" (small; needs the base to load) or "merged_16bit" (the base with the
            adapters added to its weights, in 16 bits, loadable by any transformers or vLLM).

    Raises:
        ModelError: an unknown format, or a model without adapters to merge.
    """
    output_dir = Path(output_dir)
    if format not in ("adapter", "merged_16bit"):
        raise ModelError(f"format={format!r} is not one of adapter, merged_16bit.")
    if format == "adapter" or not hasattr(model, "peft_config"):
        model.save_pretrained(output_dir)
    elif getattr(model, "ocrkit_backend", "") == "unsloth":
        model.save_pretrained_merged(str(output_dir), processor, save_method="merged_16bit")
    else:
        _merge(model).save_pretrained(output_dir)
    processor.save_pretrained(output_dir)
    return output_dir


def _merge(model: Any) -> Any:
    """The base in 16 bits with the model's adapters merged; the model itself stays as it is."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    base_name = model.peft_config["default"].base_model_name_or_path
    # Merged in float32 and rounded once: adding in 16 bits would lose small updates.
    base = AutoModelForImageTextToText.from_pretrained(base_name, dtype=torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        merged = PeftModel.from_pretrained(base, folder).merge_and_unload()
    return merged.to(torch.bfloat16)
