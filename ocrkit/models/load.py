"""Load a model and wrap it in LoRA. The only module that imports unsloth."""

import logging
import os
import pickle
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

from data_prep.dataset.command import import_problem
from ocrkit.config import TrainConfig
from ocrkit.environment import is_main_process, load_secret, process_count, where
from ocrkit.errors import ConfigError, ModelError
from ocrkit.models.backend import _blind, choose_backend, holds_four_bits
from ocrkit.models.base import TINY, adapter_on, check_memory, in_16_bits, resolve_model
from ocrkit.models.budget import apply_pixel_budget, fit_tiles

# Patterns of what stays in 16 bits when the rest is in 4, as Unsloth has it: adapters that were
# trained over one backend's weights are read with the other's.
_IN_16_BITS = ["lm_head", r".*\.(visual|vision_tower|multi_modal_projector)(\.|$)"]


def load_model(config: TrainConfig) -> tuple[Any, Any]:
    """Load model and processor, ready to predict and, with `use_peft`, to train adapters.

    Unsloth's FastVisionModel where there is CUDA, transformers and PEFT elsewhere; which one, and
    why, is printed. Both apply the config's pixel budget to the processor, so training,
    prediction and `plan` see the same sizes.

    Raises:
        ModelError: the model does not exist or does not fit.
        ConfigError: settings that this model, machine or launcher cannot do.
    """
    if process_count() > 1 and config.device_map:
        raise ConfigError(
            f"device_map={config.device_map!r} spreads one model over the devices, and "
            f"{process_count()} processes want a device each; leave device_map out, or start "
            "without torchrun and accelerate launch."
        )
    base, adapter = resolve_model(config.model_name_or_path)
    backend, reason = choose_backend(config)
    if backend == "unsloth" and (blind := _blind()):
        if config.backend == "unsloth":
            raise ModelError(
                f"backend=unsloth needs a GPU, and {blind}; or set backend=transformers to go on "
                "with the CPU."
            )
        backend, reason = "transformers", blind
    if is_main_process():
        print(f"Backend: {backend} ({reason}); model: {config.model_name_or_path}")
    if where() == "kaggle":  # huggingface_hub finds Colab's secret by itself
        load_secret("HF_TOKEN")
    load = _load_unsloth if backend == "unsloth" else _load_transformers
    loaded = None
    try:
        loaded = _ready(*load(config, base, adapter), config, base, backend)
    except (ConfigError, ModelError):
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        cause = _cause(error, base, adapter)
        if cause is None and backend == "unsloth" and config.backend == "auto":
            print(f"Unsloth cannot load it ({said}): transformers and PEFT do it instead, slower.")
        else:
            if type(error).__name__ == "SafetensorError":
                cause = f"a file of weights is cut off or damaged ({said}); download it again."
            if cause is None and isinstance(error, ImportError):
                cause = import_problem(error)
            if isinstance(error, pickle.UnpicklingError):
                cause = "its weights are a pickle that holds more than numbers, which is not run."
            known = OSError | ValueError | RuntimeError | UserWarning | ImportError
            if cause is None and not isinstance(error, known):
                raise
            raise ModelError(
                f"model_name_or_path={config.model_name_or_path!r} cannot be loaded: "
                f"{cause or said}"
            ) from None
    # Out here nothing holds the memory of a model that failed.
    return loaded or load_model(replace(config, backend="transformers"))


def _ready(
    model: Any, processor: Any, config: TrainConfig, base: str, backend: str
) -> tuple[Any, Any]:
    """Model and processor with the config's budget, a pad token, and kernels that were tried."""
    if not hasattr(processor, "image_processor"):
        raise ModelError(
            f"model_name_or_path={base!r} is a model that reads no pictures; take a "
            "vision-language model, such as those of `python -m ocrkit recipes`."
        )
    apply_pixel_budget(processor, config)
    tokenizer = processor.tokenizer
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.ocrkit_backend = backend
    model.ocrkit_trust_remote_code = config.trust_remote_code
    from ocrkit.models.kernels import patches_as_products

    patches_as_products(model)
    if backend == "unsloth":
        from ocrkit.models.kernels import try_kernels

        try_kernels(model, processor, config)
    return model, processor


@contextmanager
def _whole_adapter() -> Iterator[None]:
    """Make an error of what PEFT only warns of: layers that an adapter holds nothing for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Found missing adapter keys")
        yield


def _cause(error: BaseException, base: str, adapter: str | None) -> str | None:
    """The cause of a failed load and the way out, in one sentence; None where it is not known."""
    chain: list[BaseException] = [error]
    while chain[-1].__cause__ is not None or chain[-1].__context__ is not None:
        chain.append(chain[-1].__cause__ or chain[-1].__context__)
    # By name: huggingface_hub must not be imported before Unsloth.
    kinds = {type(link).__name__ for link in chain}
    text = " ".join(str(error).split())
    if "OutOfMemoryError" in kinds:
        return (
            "it does not fit the memory of the GPU; close what else uses it (`nvidia-smi`), set "
            "load_in_4bit=True, or take a smaller model."
        )
    if adapter and re.search("missing adapter keys|Target modules|size mismatch", text):
        return (
            f"the adapter in {adapter} was made for another model than {base} ({text[:120]}...); "
            "name its own base under base_model_name_or_path in its adapter_config.json."
        )
    if "trust_remote_code" in text:
        return (
            "it brings code of its own, which runs only by your own word: read that code, then "
            "give --trust_remote_code true (in Python trust_remote_code=True)."
        )
    if "ignore_mismatched_sizes" in text:
        return (
            "its weights have other shapes than its config.json says, so they are another "
            "architecture's; put the config.json there that belongs to them."
        )
    if "GatedRepoError" in kinds or "gated repo" in text:
        return (
            "it is gated; accept its terms on its page of the Hub and set HF_TOKEN to a token of "
            "that account."
        )
    if kinds & {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectError"} or (
        "couldn't connect" in text
    ):
        return (
            "it is not on this machine and the Hub cannot be reached; check the network (and "
            "HF_HUB_OFFLINE), or give a folder that holds the model."
        )
    if "RepositoryNotFoundError" in kinds or "valid model identifier" in text:
        return (
            "the Hub has no model of this name, or it is private; check the spelling, or set "
            "HF_TOKEN to a token that may read it."
        )
    if "Can't load image processor" in text:
        return (
            "it has no image processor beside its weights; take a vision-language model, or copy "
            "processor_config.json or preprocessor_config.json from the model that it came from."
        )
    if "Unrecognized configuration class" in text:
        found = re.search(r"configuration class <class '[\w.]*?(\w+)'>", text)
        return (
            f"its architecture ({found[1] if found else 'unknown'}) reads no pictures; take a "
            "vision-language model, such as those of `python -m ocrkit recipes`."
        )
    return None


def _load_transformers(config: TrainConfig, base: str, adapter: str | None) -> tuple[Any, Any]:
    import torch

    # torchao, which transformers imports, makes torch warn twice about a matter of its own.
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
    # And bitsandbytes, which peft imports, misses 4-bit kernels that no CPU run uses.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    from transformers import AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig

    from ocrkit.models.backend import weights_dtype

    cuda = torch.cuda.is_available()
    device = int(os.environ.get("LOCAL_RANK", "0"))
    if cuda:
        torch.cuda.set_device(device)
    half = "bfloat16" if cuda and torch.cuda.is_bf16_supported(False) else "float16"
    dtype = weights_dtype(config, base == str(TINY)) or (half if cuda else "float32")
    options: dict[str, Any] = {"dtype": getattr(torch, dtype)}
    if config.attn_implementation:
        options["attn_implementation"] = config.attn_implementation
    if config.device_map:
        options["device_map"] = config.device_map
    elif cuda:
        options["device_map"] = {"": device}
    if config.load_in_4bit and holds_four_bits():
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=options["dtype"],
            llm_int8_skip_modules=_IN_16_BITS,
        )
    elif config.load_in_4bit:
        print(f"4-bit needs CUDA; the model is loaded in {dtype}.")
    trust = {"trust_remote_code": config.trust_remote_code}
    if "quantization_config" not in options:
        base = in_16_bits(base)
    if not cuda:
        way_out = "set dtype=bfloat16, or take a smaller model"
        check_memory(base, options["dtype"].itemsize, way_out)
    processor = AutoProcessor.from_pretrained(base, **trust)
    model, loaded = AutoModelForImageTextToText.from_pretrained(
        base, output_loading_info=True, **options, **trust
    )
    if missing := sorted(loaded["missing_keys"]):
        raise ModelError(
            f"The weights in {base} are another architecture's than its config.json says "
            f"({type(model).__name__}): they hold nothing for {len(missing)} tensors, {missing[0]} "
            "among them; put the config.json there that belongs to the weights."
        )
    for module in model.modules():
        # On some CPUs bitsandbytes repacks 4-bit weights in place, which then give no gradient.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    fit_tiles(model, config.max_image_tiles)
    if adapter:
        from peft import PeftModel

        with _whole_adapter():
            model = PeftModel.from_pretrained(model, adapter, is_trainable=config.use_peft)
        # What it is on here, for a merge, a card and what is saved again.
        model.peft_config["default"].base_model_name_or_path = base
        return model, processor
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
    from unsloth import FastVisionModel  # before transformers
    from transformers import AutoConfig  # isort: skip

    from ocrkit.models.backend import weights_dtype

    if config.max_image_tiles is not None:
        raise ConfigError(
            f"max_image_tiles={config.max_image_tiles} changes the model's weights, which the kit "
            "does on the transformers path only; set backend=transformers, or leave it out."
        )
    trust = {"trust_remote_code": config.trust_remote_code}
    eager = config.attn_implementation == "eager"
    if eager and AutoConfig.from_pretrained(base, **trust).model_type == "mllama":
        raise ConfigError(
            "attn_implementation='eager' adds up masks, which Unsloth makes true and false for "
            "Llama-3.2-Vision, so it would not see what it should; set attn_implementation=sdpa, "
            "or backend=transformers."
        )
    named = adapter_on(adapter, base) if adapter else nullcontext(base)
    dtype = weights_dtype(config, base == str(TINY))
    with _whole_adapter(), named as name:
        model, processor = FastVisionModel.from_pretrained(
            name,
            load_in_4bit=config.load_in_4bit,
            load_in_16bit=not config.load_in_4bit,
            full_finetuning=not config.use_peft and not adapter,
            dtype=dtype and getattr(torch, dtype),
            max_seq_length=config.max_length or 4096,
            use_gradient_checkpointing="unsloth" if config.gradient_checkpointing else False,
            random_state=config.seed,
            **trust,
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
