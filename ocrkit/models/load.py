"""Load a model with Unsloth or transformers, add LoRA adapters, and explain a load that failed."""

import logging
import os
import pickle
import re
from dataclasses import replace
from importlib import metadata
from typing import TYPE_CHECKING, Any, cast

import torch
from PIL import Image

from data_prep.dataset.command import import_problem, requirements
from data_prep.dataset.files import error_chain
from ocrkit.config import TrainConfig
from ocrkit.data.collate import Collator
from ocrkit.data.conversation import STOP_IDS, ConversationTokenizer, fix_template_variables
from ocrkit.data.read_rows import drawn_rows
from ocrkit.environment import is_main_process, load_secret, notebook_host, process_count
from ocrkit.errors import ConfigError, ModelError
from ocrkit.models.adapters import add_lora, describe_adapters
from ocrkit.models.backend import (
    check_launcher,
    choose_backend,
    inference_mode,
    load_with_unsloth,
    refuse_eager_in_float16,
    strict_adapter_loading,
    supports_4bit,
    weights_dtype,
    why_no_gpu,
)
from ocrkit.models.base import TINY, check_memory, in_16_bits, resolve_model
from ocrkit.models.budget import apply_pixel_budget, fit_tiles
from ocrkit.models.kernels import (
    batch_windows,
    checkpoint_vision_layers,
    clamp_float16,
    convert_patch_embedding,
    try_kernels,
)
from ocrkit.models.read import read_batch

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PretrainedConfig, PreTrainedModel, ProcessorMixin

# Patterns of modules that stay in 16 bits in a 4-bit model, the same as Unsloth's: adapters that
# were trained with one backend also load with the other.
IN_16_BITS = ["lm_head", r".*\.(visual|vision_tower|multi_modal_projector)(\.|$)"]


def load_model(config: TrainConfig) -> "tuple[PreTrainedModel, ProcessorMixin]":
    """Load model and processor, ready to predict and, with `use_peft`, to train adapters.

    Unsloth's FastVisionModel loads them where there is a GPU, transformers and PEFT elsewhere; the
    backend and the reason for it are printed. Both apply the config's pixel budget to the
    processor, so that training, prediction and `plan` see the same picture sizes.

    Raises:
        ModelError: the model does not exist or does not fit.
        ConfigError: settings that do not suit this model, machine or launcher.
    """
    if process_count() > 1 and config.device_map:
        raise ConfigError(
            f"device_map={config.device_map!r} spreads one model over the devices, and "
            f"{process_count()} processes want a device each; leave device_map out, or start "
            "without torchrun and accelerate launch."
        )
    check_launcher(config)
    base, adapter = resolve_model(config.model_name_or_path)
    backend, reason = choose_backend(config)
    if backend == "unsloth" and (no_gpu := why_no_gpu()):
        if config.backend == "unsloth":
            raise ModelError(
                f"backend=unsloth needs a GPU, and {no_gpu}; or set backend=transformers to go on "
                "with the CPU."
            )
        backend, reason = "transformers", no_gpu
    if is_main_process():
        print(f"Backend: {backend} ({reason}); model: {config.model_name_or_path}")
    if notebook_host() == "kaggle":  # on Colab huggingface_hub reads the secret by itself
        load_secret("HF_TOKEN")
    dtype = weights_dtype(config, embedded=base == str(TINY))
    load = load_with_unsloth if backend == "unsloth" else _load_with_transformers
    try:
        return _prepare(*load(config, base, adapter, dtype), config, base, adapter, backend)
    except (ConfigError, ModelError):
        raise
    except Exception as error:  # model code, Unsloth and the Hub raise errors of any type
        message = " ".join(str(error).split())[:300]
        cause = _load_failure(error, base, adapter)
        if cause is None and backend == "unsloth" and config.backend == "auto":
            print(
                f"Unsloth cannot load it ({message}): transformers and PEFT do it instead, slower."
            )
        else:
            if type(error).__name__ == "SafetensorError":
                cause = f"a file of weights is cut off or damaged ({message}); download it again."
            if cause is None and isinstance(error, ImportError):
                cause = import_problem(error)
            if isinstance(error, pickle.UnpicklingError):
                cause = "its weights are a pickle that holds more than numbers, which is not run."
            known = OSError | ValueError | RuntimeError | UserWarning | ImportError
            if cause is None and not isinstance(error, known):
                raise
            name = f"model_name_or_path={config.model_name_or_path!r}"
            if adapter and base != str(TINY):
                name += f", an adapter of {base},"
            raise ModelError(f"{name} cannot be loaded: {cause or message}") from None
    # Outside the except block, whose traceback would keep the model that failed in memory.
    return load_model(replace(config, backend="transformers"))


def _prepare(
    model: "PreTrainedModel",
    processor: "ProcessorMixin",
    config: TrainConfig,
    base: str,
    adapter: str | None,
    backend: str,
) -> "tuple[PreTrainedModel, ProcessorMixin]":
    """Apply the pixel budget, set a pad token, and check the kernels of a loaded model."""
    _prepare_processor(processor, model.config, config, base)
    # By vars(): torch's types allow only tensors and modules as attributes of a module.
    vars(model).update(ocrkit_backend=backend, ocrkit_trust_remote_code=config.trust_remote_code)
    variables = fix_template_variables(processor, config.chat_template_kwargs)
    vars(model).update(ocrkit_template_variables=variables)
    _stop_at_end_of_turn(model, processor, base)
    convert_patch_embedding(model)
    batch_windows(model)
    clamp_float16(model)
    if hasattr(model, "peft_config") and is_main_process():
        print(describe_adapters(model, config, new=adapter is None))
    if config.processor_kwargs:
        _try_processor_kwargs(model, processor, config)
    if backend == "unsloth":
        try_kernels(lambda: _read_one_line(model, processor, config))
    return model, processor


def _prepare_processor(
    processor: "ProcessorMixin", settings: "PretrainedConfig", config: TrainConfig, base: str
) -> None:
    """Apply the pixel budget to a processor and set its pad token; `settings` is the model's."""
    if not hasattr(processor, "image_processor"):
        raise ModelError(
            f"model_name_or_path={base!r} is a model that reads no pictures, or whose processor "
            f"transformers {_version()} does not have; take a vision-language model, such as those "
            "of `python -m ocrkit recipes`."
        )
    if not getattr(processor, "chat_template", None):
        raise ModelError(
            f"model_name_or_path={base!r} has no chat template, so it does not say how a question "
            "is asked; take the model that was trained on instructions, or put its "
            "chat_template.jinja beside the weights."
        )
    refuse_encoder_decoder(settings, base)
    apply_pixel_budget(processor, config)
    tokenizer = processor.tokenizer
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token


def load_configs(base: str, config: TrainConfig) -> "tuple[PretrainedConfig, ProcessorMixin]":
    """Load a base model's config and its processor, with the pixel budget; no weights.

    Raises:
        ModelError: they do not exist, or the Hub cannot be reached.
    """
    from transformers import AutoConfig, AutoProcessor

    base = in_16_bits(base)
    trust = {"trust_remote_code": config.trust_remote_code}
    try:
        settings = AutoConfig.from_pretrained(base, **trust)
        processor = AutoProcessor.from_pretrained(base, **trust)
    except (OSError, ValueError, RuntimeError, ImportError, KeyError) as error:
        cause = _load_failure(error, base, None) or " ".join(str(error).split())[:300]
        raise ModelError(
            f"The config and processor of model_name_or_path={base!r} cannot be loaded: {cause}"
        ) from None
    _prepare_processor(processor, settings, config, base)
    fix_template_variables(processor, config.chat_template_kwargs)
    return settings, processor


def _stop_at_end_of_turn(model: "PreTrainedModel", processor: "ProcessorMixin", base: str) -> None:
    """Tell the tokenizer where generation stops, and stop it where the template ends a turn."""
    stops = model.generation_config.eos_token_id
    stops = [*stops] if isinstance(stops, list) else [] if stops is None else [stops]
    # By vars(): a tokenizer takes attributes whose names end like this for special tokens.
    vars(processor.tokenizer)[STOP_IDS] = stops
    try:
        end = ConversationTokenizer(processor).end_of_turn()
    except Exception as error:  # a template may fail in any way
        raise ModelError(
            f"model_name_or_path={base!r} has a chat template that cannot render a question with a "
            f"picture and its answer ({' '.join(str(error).split())}); put one that can beside the "
            "model, as chat_template.jinja."
        ) from None
    if end not in stops:
        model.generation_config.eos_token_id = [*stops, end]


def _read_one_line(
    model: "PreTrainedModel", processor: "ProcessorMixin", config: TrainConfig
) -> None:
    collate = Collator(processor, config.image_height, generation=True)
    with inference_mode(model):
        read_batch(model, collate, drawn_rows(1), replace(config, max_new_tokens=2))


def _try_processor_kwargs(
    model: "PreTrainedModel", processor: "ProcessorMixin", config: TrainConfig
) -> None:
    """Read a line as long as the settings allow: a ConfigError if the model cannot take it."""
    collate = Collator(processor, config.image_height, generation=True)
    line = drawn_rows(1)[0]
    line["images"] = [Image.new("RGB", (8192, 64), "white")]
    try:
        with inference_mode(model):
            read_batch(model, collate, [line], replace(config, max_new_tokens=2))
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # models raise errors of any type
        raise ConfigError(
            f"processor_kwargs={config.processor_kwargs} makes pictures that the model cannot take "
            f"({' '.join(str(error).split())[:200]}); set other values."
        ) from None


def refuse_encoder_decoder(settings: "PretrainedConfig", base: str) -> None:
    """Raise a ModelError for an encoder-decoder, whose answer does not go on from a prompt."""
    if settings.is_encoder_decoder:
        kind = (settings.architectures or [settings.model_type])[0]
        raise ModelError(
            f"model_name_or_path={base!r} is an encoder-decoder ({kind}), which is asked by no "
            "conversation; take a vision-language model with a decoder alone, such as those of "
            "`python -m ocrkit recipes`."
        )


def _version() -> str:
    return metadata.version("transformers")


def _load_failure(error: BaseException, base: str, adapter: str | None) -> str | None:
    """Cause of a failed load and the way out, in one sentence; None where it is not known."""
    # By name: huggingface_hub must not be imported before Unsloth.
    kinds = {type(link).__name__ for link in error_chain(error)}
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
            "it brings code of its own, which runs only with your consent: read that code, then "
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
    unknown = re.search(r"does not recognize this architecture|Unrecognized \w*\s?processor", text)
    if unknown:
        name = re.search(r"model type `([^`]+)`", text)
        return (
            f"transformers {_version()} does not have its {name[1] if name else 'processor'}: the "
            "model is newer, or brings code of its own, which trust_remote_code=True runs; take a "
            "model of that version, or wait for one of the kit that takes a newer transformers."
        )
    wanted = re.search(r"pip install ([\w.-]*\w)", text)
    if "ImportError" in kinds and wanted and wanted[1].lower() not in requirements():
        return (
            f"its processor wants the package {wanted[1]}, which is not installed; install it with "
            f"`pip install {wanted[1]}`."
        )
    if "Can't load image processor" in text:
        return (
            "it has no image processor beside its weights; take a vision-language model, or copy "
            "processor_config.json or preprocessor_config.json from the model that it came from."
        )
    if "Unrecognized configuration class" in text:
        name = re.search(r"configuration class <class '[\w.]*?(\w+)'>", text)
        return (
            f"its architecture ({name[1] if name else 'unknown'}) reads no pictures; take a "
            "vision-language model, such as those of `python -m ocrkit recipes`."
        )
    return None


def _load_with_transformers(
    config: TrainConfig, base: str, adapter: str | None, dtype: str | None
) -> "tuple[PreTrainedModel, ProcessorMixin]":
    # Silence two warnings that no user can act on: torch's about pytrees when transformers imports
    # torchao, and bitsandbytes' about CPU kernels when peft imports it.
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    cuda = torch.cuda.is_available()
    device = int(os.environ.get("LOCAL_RANK", "0"))
    if cuda:
        torch.cuda.set_device(device)
    half = "bfloat16" if cuda and torch.cuda.is_bf16_supported(False) else "float16"
    dtype = dtype or (half if cuda else "float32")
    refuse_eager_in_float16(base, config, dtype)
    options: dict[str, Any] = {"dtype": getattr(torch, dtype)}
    if config.attn_implementation:
        options["attn_implementation"] = config.attn_implementation
    if config.device_map:
        options["device_map"] = config.device_map
    elif cuda:
        options["device_map"] = {"": device}
    if config.load_in_4bit and supports_4bit():
        options["quantization_config"] = quantization(options["dtype"])
    elif config.load_in_4bit:
        print(f"4-bit needs CUDA; the model is loaded in {dtype}.")
    trust = {"trust_remote_code": config.trust_remote_code}
    if "quantization_config" not in options:
        base = in_16_bits(base)
    if not cuda:
        way_out = "set dtype=bfloat16, or take a smaller model"
        check_memory(base, options["dtype"].itemsize, way_out)
    processor = AutoProcessor.from_pretrained(base, **trust)
    refuse_encoder_decoder(AutoConfig.from_pretrained(base, **trust), base)
    # transformers' types leave out that `output_loading_info` returns a pair.
    model, loading_info = cast(
        "tuple[PreTrainedModel, dict[str, Any]]",
        AutoModelForImageTextToText.from_pretrained(
            base, output_loading_info=True, **options, **trust
        ),
    )
    if missing := sorted(loading_info["missing_keys"]):
        raise ModelError(
            f"The weights in {base} are another architecture's than its config.json says "
            f"({type(model).__name__}): they lack {len(missing)} tensors, {missing[0]} among "
            "them; put the config.json there that belongs to the weights."
        )
    for module in model.modules():
        # On some CPUs bitsandbytes repacks 4-bit weights in place, and no gradient passes then.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            vars(module)["support_avx512bf16_for_cpu"] = False
    fit_tiles(model, config.max_image_tiles)
    checkpoint_vision_layers(model)
    if adapter:
        from peft import PeftModel

        with strict_adapter_loading():
            adapted = PeftModel.from_pretrained(model, adapter, is_trainable=config.use_peft)
        # The base on this machine, for merges, model cards and adapters that are saved again.
        adapted.peft_config["default"].base_model_name_or_path = base
        return cast("PreTrainedModel", adapted), processor
    if config.use_peft:
        model = add_lora(model, config)
    return model, processor


def quantization(dtype: torch.dtype) -> "BitsAndBytesConfig":
    """Settings of weights in 4 bits (NF4), multiplied in `dtype`."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=IN_16_BITS,
    )
