"""Load, wrap in LoRA and export a model. The only module that imports unsloth."""

import ctypes.util
import json
import logging
import math
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ocrkit.config import ConfigError, TrainConfig
from ocrkit.processes import is_main_process, process_count

TINY = Path(__file__).parent / "assets" / "tiny"
FORMATS = ("adapter", "merged_16bit", "merged_4bit", "gguf")


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
            try:
                return resolve_model("tiny" if is_tiny else base)[0], str(folder)
            except ModelError:
                raise ModelError(
                    f"The adapter in {folder} was trained on {base!r}, which does not exist; put "
                    "that model back, or name where it is now under base_model_name_or_path in "
                    f"{adapter}."
                ) from None
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
        raise ModelError(f"model_name_or_path={base!r} cannot be loaded: {_why(error)}") from None
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
    return model, processor


def _why(error: BaseException) -> str:
    """The cause of a failed load and the way out, in one sentence."""
    chain: list[BaseException] = [error]
    while chain[-1].__cause__ is not None or chain[-1].__context__ is not None:
        chain.append(chain[-1].__cause__ or chain[-1].__context__)
    # By name: huggingface_hub must not be imported before Unsloth.
    kinds = {type(link).__name__ for link in chain}
    text = " ".join(str(error).split())
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
    return text[:300]


def apply_pixel_budget(processor: Any, config: TrainConfig) -> None:
    """Set `min_pixels` and `max_pixels`, or `max_image_tiles`, on the processor's picture part.

    Raises:
        ConfigError: a budget in another unit than the model's pictures are counted in.
    """
    pictures = processor.image_processor
    tiled = hasattr(pictures, "max_image_tiles")
    if config.max_image_tiles is not None:
        if not tiled:
            raise ConfigError(
                f"{type(pictures).__name__} counts pixels, so max_image_tiles="
                f"{config.max_image_tiles} cannot bound it; set max_pixels instead."
            )
        pictures.max_image_tiles = config.max_image_tiles
    if config.min_pixels is None and config.max_pixels is None:
        return
    size = dict(pictures.size)
    if "shortest_edge" not in size or "longest_edge" not in size:
        raise ConfigError(
            f"{type(pictures).__name__} does not count pixels (its size is {size}), so "
            f"min_pixels={config.min_pixels} and max_pixels={config.max_pixels} cannot bound it; "
            + ("set max_image_tiles instead." if tiled else "leave them out.")
        )
    if config.min_pixels is not None:
        size["shortest_edge"] = config.min_pixels
    if config.max_pixels is not None:
        size["longest_edge"] = config.max_pixels
    pictures.size = {key: size[key] for key in ("shortest_edge", "longest_edge")}


def fit_tiles(model: Any, most: int | None) -> None:
    """Narrow a model that lays pictures out in tiles (Mllama) to `most` of them; None: as it is.

    Its vision tower computes the largest layout for every picture, empty tiles included, and its
    embeddings are numbered by the layouts of that size: with fewer tiles a processor numbers
    layouts anew, and the model would take one for another. So the embeddings of the layouts that
    remain are moved to their new numbers, and the others are dropped. What the model reads changes
    a little, since pictures no longer see the tiles that are gone.

    Raises:
        ConfigError: more tiles than the model has.
    """
    import torch

    vision = getattr(model.config, "vision_config", None)
    have = getattr(vision, "max_num_tiles", None)
    if most is None or have is None or most == have:
        return
    if most > have:
        raise ConfigError(
            f"max_image_tiles={most} is more than the {have} tiles that the model was made with; "
            f"set at most {have}."
        )
    # The order in which the processor numbers layouts; number 0 stands for no picture.
    ratios = [[w, h] for w in range(1, most + 1) for h in range(1, most // w + 1)]
    kept = [0] + [1 + list(map(list, vision.supported_aspect_ratios)).index(r) for r in ratios]
    for module in model.modules():
        if getattr(module, "max_num_tiles", None) != have:
            continue
        for embedding in (getattr(module, n, None) for n in ("embedding", "tile_embedding")):
            if isinstance(embedding, torch.nn.Embedding):
                layouts = embedding.weight.data.unflatten(1, (have, -1))[kept, :most]
                embedding.weight.data = layouts.flatten(1).contiguous()
                embedding.num_embeddings, embedding.embedding_dim = embedding.weight.shape
        module.max_num_tiles = most
    vision.supported_aspect_ratios = ratios
    vision.max_num_tiles = most


def _load_transformers(config: TrainConfig, base: str, adapter: str | None) -> tuple[Any, Any]:
    import torch

    # torchao, which transformers imports, makes torch warn twice about a matter of its own.
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
    # And bitsandbytes, which peft imports, misses 4-bit kernels that no CPU run uses.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
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
    fit_tiles(model, config.max_image_tiles)
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

    if config.max_image_tiles is not None:
        raise ConfigError(
            f"max_image_tiles={config.max_image_tiles} changes the model's weights, which the kit "
            "does on the transformers path only; set backend=transformers, or leave it out."
        )
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


def export(
    model: Any,
    processor: Any,
    output_dir: str | Path,
    format: str = "adapter",
    rows: Any = None,
    config: TrainConfig | None = None,
    samples: int = 20,
    min_equal: float = 0.5,
) -> Path:
    """Write what was trained, with its processor and a model card, and return the folder.

    What was merged is loaded again and reads some rows; the share that it reads as the model with
    its adapters does is printed and stands in the card.

    Args:
        format: "adapter" (small; needs the base to load), "merged_16bit" (the base with the
            adapters added to its weights, in 16 bits, loadable by any transformers or vLLM),
            "merged_4bit" or "gguf" (both by Unsloth only).
        rows: what both read, the first `samples` of them; None draws lines of print.
        config: settings of the run; None takes those of the run folder that `output_dir` lies in,
            if it lies in one.
        samples: rows to compare; 0 compares nothing.
        min_equal: share of the rows that both have to read alike. Rounding to 16 bits tips close
            decisions, and a model that hardly reads its rows makes many of them.

    Raises:
        ModelError: a format that is unknown or needs Unsloth, a disk that cannot hold the model,
            or a merged model that reads other than the adapters did.
    """
    output_dir = Path(output_dir)
    backend = getattr(model, "ocrkit_backend", "")
    if format not in FORMATS:
        raise ModelError(f"format={format!r} is not one of {', '.join(FORMATS)}.")
    if format in ("merged_4bit", "gguf") and backend != "unsloth":
        raise ModelError(
            f"format={format!r} is written by Unsloth only, and this model was loaded by "
            "transformers; load it with backend=unsloth on a machine with CUDA, or export "
            "merged_16bit and convert that."
        )
    _check_disk(model, output_dir, format)
    run = output_dir.parent if config is None else Path(config.output_dir)
    if config is None and (run / "config.yaml").is_file():
        config = TrainConfig.from_recipe(str(run / "config.yaml"))
    merged = format != "adapter" and hasattr(model, "peft_config")
    if not merged:
        model.save_pretrained(output_dir)
    elif format == "gguf":
        model.save_pretrained_gguf(str(output_dir), processor, quantization_method="q8_0")
    elif backend == "unsloth":
        # Unsloth wants to be told twice to merge into 4 bits, which loses accuracy.
        method = "merged_4bit_forced" if format == "merged_4bit" else format
        model.save_pretrained_merged(str(output_dir), processor, save_method=method)
    else:
        _merge(model).save_pretrained(output_dir)
    processor.save_pretrained(output_dir)
    equal, compared = 0, 0
    if merged and format != "gguf" and samples:
        if rows is None:
            rows = _drawn_rows(samples)
        rows = [rows[i] for i in range(min(samples, len(rows)))]
        settings = config or TrainConfig(max_new_tokens=64)
        equal, compared = _read_alike(model, processor, output_dir, rows, settings), len(rows)
    check = f"{equal} of {compared} rows are read the same by the merged model and the adapter."
    check = check if compared else ""
    if merged:
        print(check or f"{output_dir} was not compared with the adapter.")
    from ocrkit.card import card

    text = card(output_dir.resolve().name, format, _base_name(model), run, config, check)
    (output_dir / "README.md").write_text(text, encoding="utf-8")
    if compared and equal < min_equal * compared:
        raise ModelError(
            f"The model in {output_dir} reads only {equal} of {compared} rows as the adapter does, "
            f"and min_equal={min_equal} asks for more; evaluate both before you use it, or lower "
            "min_equal where the base was in 4 bits or the model hardly reads these rows."
        )
    return output_dir


def _base_name(model: Any) -> str:
    if hasattr(model, "peft_config"):
        return str(model.peft_config["default"].base_model_name_or_path)
    return str(getattr(model.config, "_name_or_path", "") or "unknown")


def _check_disk(model: Any, output_dir: Path, format: str) -> None:
    """Refuse a folder whose disk has no room for what will be written.

    Raises:
        ModelError: with the bytes that are there and those that are needed.
    """
    place = output_dir.resolve()
    while not place.exists():
        place = place.parent
    needed = 0
    for weight in model.parameters():
        if format == "adapter" and hasattr(model, "peft_config"):
            needed += weight.requires_grad * weight.numel() * weight.element_size()
            continue
        # Four-bit weights are packed; this is what they are when unpacked.
        state = getattr(weight, "quant_state", None)
        count = weight.numel() if state is None else math.prod(state.shape)
        # A GGUF of 8 bits is made from the merge in 16, which lies beside it meanwhile.
        needed += count * {"merged_16bit": 2, "merged_4bit": 1, "gguf": 3}.get(
            format, weight.element_size()
        )
    free = shutil.disk_usage(place).free
    if free < 1.05 * needed:
        raise ModelError(
            f"{output_dir} needs {needed / 1e9:.2f} GB for format={format} and its disk has "
            f"{free / 1e9:.2f} GB free; free some, or give a folder on another disk."
        )


def _drawn_rows(count: int) -> list[dict[str, Any]]:
    """Rows with pictures of printed lines, for models whose data is not at hand."""
    from data_prep.render import draw_line, load_font, shipped_fonts

    font = load_font(shipped_fonts("DejaVuSans")[0], 21)
    prompt = [{"role": "user", "content": "Transcribe the text in the image."}]
    return [
        {"id": f"line-{n}", "prompt": prompt, "images": [draw_line(f"No. {37 * n} of 9", font)]}
        for n in range(count)
    ]


def _read_alike(
    model: Any, processor: Any, folder: Path, rows: list[dict], config: TrainConfig
) -> int:
    """How many rows the model in `folder` reads as `model` does.

    Raises:
        ModelError: there is no memory for a second model.
    """
    import torch

    from ocrkit.predict import predict

    texts = predict(model, processor, rows, config)
    settings = {
        "model_name_or_path": str(folder),
        "backend": model.ocrkit_backend,
        # Unsloth takes a model without adapters for one that trains every weight, and changes
        # settings of the whole process; adapters that were never trained change no reading.
        "use_peft": model.ocrkit_backend == "unsloth",
        "load_in_4bit": False,
    }
    try:
        alone, beside = load_model(replace(config, **settings))
        again = predict(alone, beside, rows, config)
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        raise ModelError(
            f"The merged model is in {folder}, but there is no memory to load it beside the "
            "adapter's and compare them; evaluate it by itself, or export with samples=0."
        ) from None
    return sum(a == b for a, b in zip(texts, again))


def _merge(model: Any) -> Any:
    """The base in 16 bits with the model's adapters merged; the model itself stays as it is."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    base_name = model.peft_config["default"].base_model_name_or_path
    # Merged in float32 and rounded once: adding in 16 bits would lose small updates.
    base = AutoModelForImageTextToText.from_pretrained(base_name, dtype=torch.float32)
    vision = getattr(model.config, "vision_config", None)
    fit_tiles(base, getattr(vision, "max_num_tiles", None))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        merged = PeftModel.from_pretrained(base, folder).merge_and_unload()
    return merged.to(torch.bfloat16)
