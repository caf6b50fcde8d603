"""Export a trained model: adapters, merged in 16 or 4 bits, or GGUF; compare it with the model."""

import copy
import math
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from data_prep.dataset.files import existing_folder, naming, write_whole
from data_prep.dataset.manifest import check_own, publish, staged, write_folder
from ocrkit.config import TrainConfig
from ocrkit.data.read_rows import drawn_rows
from ocrkit.data.rows import Row, text_of
from ocrkit.errors import ConfigError, ModelError, choice
from ocrkit.metrics import ned_similarity
from ocrkit.models.backend import strict_adapter_loading
from ocrkit.models.base import EXPORT_FORMATS, check_memory, in_16_bits, settings_of_run
from ocrkit.models.budget import fit_tiles
from ocrkit.models.gguf import WITHOUT_GGUF, llama_cpp_reader, read_gguf, write_gguf
from ocrkit.models.hub import card, push, reserve
from ocrkit.models.load import load_model
from ocrkit.models.read import predict, weights_fingerprint
from ocrkit.run_folder import run_id_of_model, write_run

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedModel, ProcessorMixin


def export(
    model: "PreTrainedModel",
    processor: "ProcessorMixin",
    output_dir: str | Path,
    format: str = "adapter",
    rows: "Dataset | Sequence[Row] | None" = None,
    config: TrainConfig | None = None,
    samples: int = 20,
    min_equal: float = 0.8,
    push_to_hub: str | None = None,
    hub_private_repo: bool | None = None,
    overwrite: bool = False,
    gathered: "dict[str, torch.Tensor] | None" = None,
) -> Path:
    """Write a trained model with its processor and a model card, and return the folder.

    A model with rounded weights is loaded again and reads some rows, in the trained model's dtype
    and in its own (bfloat16), in which people load it; how far it reads like the trained model is
    printed and stands in the card.

    Args:
        model: from `load_model`, or trained.
        processor: from `load_model`.
        output_dir: folder to write to.
        format: "adapter" (small; needs the base to load; a model without adapters is written whole,
            in the dtype that it was trained in), "merged_16bit" (adapters merged into the base, in
            16 bits, for transformers or vLLM), "merged_4bit" (the same of a base that was loaded in
            4 bits; merges into `model` itself, so do it last) or "gguf" (the .gguf files of
            llama.cpp and Ollama in 8 bits, without the weights they are made from, compared by
            llama.cpp where its program that reads pictures is installed); the last two by Unsloth
            only.
        rows: rows for the comparison, the first `samples` of them; None draws lines of print.
        config: settings of the run; None takes those of the run folder that `output_dir` lies in,
            if it lies in a run folder.
        samples: number of rows to compare; 0 compares nothing.
        min_equal: share of the characters that both have to read alike (`ned_similarity`), since
            rounding to 16 bits tips close decisions: of long readings hardly any is equal in all.
        push_to_hub: "user/name" of a new or empty repository of the Hub to upload the folder to,
            which is checked before the work. None uploads nothing.
        hub_private_repo: whether that repository is private; None takes the account's default.
        overwrite: whether files in `output_dir` that the kit did not write are replaced as well.
        gathered: weights of a model that is sharded over processes (FSDP), for format "adapter".

    Raises:
        ConfigError: a format that is unknown, `samples` or `min_equal` out of range.
        FileExistsError: `output_dir` holds such a file.
        OSError: the disk is full or cannot be written; an earlier export stays as it was.
        ModelError: a format that needs Unsloth or needs a model in 4 bits, a disk or a memory that
            cannot hold the model, a folder that holds an adapter where a whole model is to be
            written, a model that reads fewer than `min_equal` of the characters alike, or an
            adapter to be pushed whose base is a folder of this machine.
        HubError: no token, no network, no right to write, or a repository that holds files.
    """
    output_dir = Path(output_dir)
    if samples < 0 or not 0 <= min_equal <= 1:
        raise ConfigError(
            f"samples={samples} must be at least 0 and min_equal={min_equal} a share from 0 to 1."
        )
    _check_export(model, output_dir, format, pushed=bool(push_to_hub))
    run = output_dir.parent if config is None else Path(config.output_dir)
    if config is None and (run / "config.yaml").is_file():
        config = TrainConfig.from_dict(settings_of_run(run))
    # Checked before the work; every file name is checked again when it is written.
    check_own(output_dir, ("README.md", "config.json", "adapter_config.json"), overwrite)
    hub = reserve(push_to_hub, hub_private_repo) if push_to_hub else None
    # Computed before a merge into 4 bits changes the model.
    made_by = {
        "id": run_id_of_model(model, config.model_name_or_path if config else ""),
        "weights": weights_fingerprint(model, gathered),
    }
    rounded = format != "adapter"
    base, adapters = _base_name(model), format == "adapter" and hasattr(model, "peft_config")
    question = text_of(rows[0]["prompt"][-1:]) if rows is not None and len(rows) else None
    texts: list[str] = []
    sample_rows: Sequence[Row] = []
    settings = config or TrainConfig(max_new_tokens=64)
    if rounded and samples:
        if rows is None:
            rows = drawn_rows(samples)
        sample_rows = [cast("Row", rows[i]) for i in range(min(samples, len(rows)))]
        # Read before it is written: a merge into 4 bits changes the model.
        texts = predict(model, processor, sample_rows, settings)
    title = push_to_hub or output_dir.resolve().name
    make_card = partial(
        card, title, format, adapters, base, run, config, made_by=made_by, question=question
    )
    with staged(output_dir) as staging:
        with naming(output_dir):
            _write(model, processor, staging, format, gathered)
        write_run(staging, made_by)
        write_whole(staging / "README.md", make_card(check=""))
        publish(staging, output_dir, overwrite)
    read: list[tuple[str, list[str]]] = []
    if texts and format == "gguf":
        # The program usually comes with the llama.cpp that made the files.
        if program := llama_cpp_reader():
            again = read_gguf(program, output_dir, processor, sample_rows, settings)
            texts = [text.strip() for text in texts]
            read.append(("8 bits", again))
    elif texts:
        unsloth = _is_unsloth(model)
        settings = replace(
            settings,
            model_name_or_path=str(output_dir),
            backend="unsloth" if unsloth else "transformers",
            trust_remote_code=_trusts_remote_code(model),
            # Unsloth trains every weight of a model without adapters, and changes settings of the
            # whole process for that; new adapters change no reading.
            use_peft=unsloth,
            load_in_4bit=format == "merged_4bit",
        )
        trained = str(model.dtype).removeprefix("torch.")
        for dtype in dict.fromkeys([trained, "bfloat16" if trained == "float32" else trained]):
            read.append((dtype, _read_again(sample_rows, replace(settings, dtype=dtype))))
    check = " ".join(_agreement(texts, again, dtype) for dtype, again in read)
    if rounded:
        print(check or f"{output_dir} was not compared with the trained model.")
    write_folder(output_dir, {"README.md": make_card(check=check)})
    # The first is in the trained model's dtype; what another rounds away is no fault of the export.
    for dtype, again in read[:1]:
        if (similar := ned_similarity(texts, again)) < min_equal:
            raise ModelError(
                f"The model in {output_dir} reads in {dtype} only {similar:.0%} of the characters "
                f"as the trained model does, and min_equal={min_equal} asks for more; evaluate "
                "both before you use it, or lower min_equal where the base was in 4 bits or the "
                "model hardly reads these rows."
            )
    if hub and push_to_hub:
        print(f"Pushed to {push(hub, push_to_hub, output_dir)}")
    return output_dir


def _check_export(model: "PreTrainedModel", output_dir: Path, format: str, pushed: bool) -> None:
    """Check before the work that the format can be written, and that others can load it.

    Raises:
        ModelError: as `export`.
    """
    choice("format", format, EXPORT_FORMATS)
    adapted = hasattr(model, "peft_config")
    if format in ("merged_4bit", "gguf") and not _is_unsloth(model):
        raise ModelError(
            f"format={format!r} is written by Unsloth only, and this model was loaded by "
            "transformers; load it with backend=unsloth on a machine with CUDA, or export "
            "merged_16bit and convert that."
        )
    if format == "gguf" and (lack := WITHOUT_GGUF.get(model.config.model_type)):
        raise ModelError(
            f"{lack}, so format='gguf' cannot be written for this model; export merged_16bit."
        )
    in_4_bits = getattr(model.config, "quantization_config", None)
    if format == "merged_4bit" and not (adapted and in_4_bits):
        raise ModelError(
            "format='merged_4bit' merges adapters into a base that was loaded in 4 bits, and this "
            f"model {'was not' if adapted else 'has no adapters'}; load it with "
            "load_in_4bit=True, or export merged_16bit."
        )
    if format != "adapter" and (name := _adapted_tied_layer(model)):
        raise ModelError(
            f"The adapters on {name} cannot be merged: this model's input and output embeddings "
            "share their weights, so a merge would change both; export format=adapter, or train "
            "with lora_target_modules that leave embed_tokens and lm_head out."
        )
    writes_whole_model = format != "adapter" or not adapted
    if writes_whole_model and (output_dir / "adapter_config.json").exists():
        raise ModelError(
            f"{output_dir} holds an adapter, and a whole model beside it would be loaded as that "
            "adapter; choose another folder."
        )
    base = _base_name(model)
    if pushed and not writes_whole_model and Path(base).exists():
        raise ModelError(
            f"The adapter's base is a folder of this machine ({base}), so nobody else could load "
            "it; push format=merged_16bit, or train on a model of the Hub."
        )
    _check_disk(model, output_dir, format)
    if format == "merged_16bit" and adapted and not _is_unsloth(model):
        check_memory(base, 4, "or merge on a machine with more of it")


def _adapted_tied_layer(model: "PreTrainedModel") -> str | None:
    """Name of an embedding that has adapters and shares its weights with the other embedding."""
    if not hasattr(model, "peft_config"):
        return None
    embeddings = [model.get_input_embeddings(), model.get_output_embeddings()]
    layers = [getattr(layer, "base_layer", layer) for layer in embeddings]
    first, second = (getattr(layer, "weight", None) for layer in layers)
    if first is None or second is None or first.data_ptr() != second.data_ptr():
        return None
    adapted = [layer for layer in embeddings if hasattr(layer, "base_layer")]
    names = (name for name, module in model.named_modules() if module in adapted)
    return next(names).rpartition(".")[2] if adapted else None


def _check_disk(model: "PreTrainedModel", output_dir: Path, format: str) -> None:
    """Raise a ModelError, with the bytes needed and free, if the disk is too small."""
    needed = 0
    for weight in model.parameters():
        if format == "adapter" and hasattr(model, "peft_config"):
            needed += weight.requires_grad * weight.numel() * weight.element_size()
            continue
        # Weights in 4 bits are packed; `quant_state` holds their shape when unpacked.
        state = getattr(weight, "quant_state", None)
        count = weight.numel() if state is None else math.prod(state.shape)
        # A GGUF of 8 bits is made from a merge in 16, which needs room meanwhile.
        needed += count * {"merged_16bit": 2, "merged_4bit": 1, "gguf": 3}.get(
            format, weight.element_size()
        )
    free = shutil.disk_usage(existing_folder(output_dir)).free
    if free < 1.05 * needed:
        raise ModelError(
            f"{output_dir} needs {needed / 1e9:.2f} GB for format={format} and its disk has "
            f"{free / 1e9:.2f} GB free; free some, or give a folder on another disk."
        )


def _write(
    model: "PreTrainedModel",
    processor: "ProcessorMixin",
    output_dir: Path,
    format: str,
    gathered: "dict[str, torch.Tensor] | None",
) -> None:
    """Write weights and processor; merged_4bit alone changes the model itself."""
    if format == "adapter":
        model.save_pretrained(output_dir, state_dict=gathered)
    elif format == "merged_16bit" and not hasattr(model, "peft_config"):
        _rounded(model).save_pretrained(output_dir)
    elif format == "gguf":
        write_gguf(model, processor, output_dir)
    elif _is_unsloth(model):
        # "forced" confirms to Unsloth that a merge into 4 bits may lose accuracy.
        method = "merged_4bit_forced" if format == "merged_4bit" else format
        # Unsloth adds this method to the models that it loads.
        save = cast(Any, model).save_pretrained_merged
        save(str(output_dir), processor, save_method=method)
    else:
        _merge(model).save_pretrained(output_dir)
    processor.save_pretrained(output_dir)


def _rounded(model: "PreTrainedModel") -> "PreTrainedModel":
    """Copy in bfloat16 of a model in float32 without adapters; other models as they are."""
    import torch

    return copy.deepcopy(model).to(torch.bfloat16) if model.dtype == torch.float32 else model


def _merge(model: "PreTrainedModel") -> "PreTrainedModel":
    """Base in bfloat16 with the model's adapters merged; the model itself does not change."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    # Merged in float32 and rounded once: adding in 16 bits would lose small updates.
    base = AutoModelForImageTextToText.from_pretrained(
        _base_name(model), dtype=torch.float32, trust_remote_code=_trusts_remote_code(model)
    )
    vision = getattr(model.config, "vision_config", None)
    fit_tiles(base, getattr(vision, "max_num_tiles", None))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        with strict_adapter_loading():
            merged = PeftModel.from_pretrained(base, folder).merge_and_unload()
    return cast("PreTrainedModel", merged).to(torch.bfloat16)


def _read_again(rows: Sequence[Row], config: TrainConfig) -> list[str]:
    """Read rows with an exported model.

    Args:
        config: settings to load and read with; `model_name_or_path` is the export.

    Raises:
        ModelError: the export cannot be loaded, as where memory lacks for a second model.
    """
    try:
        exported, processor = load_model(config)
    except ModelError as error:
        raise ModelError(
            f"The model is in {config.model_name_or_path}, but it was not compared with the "
            f"trained model ({error}) Evaluate it by itself, or export with samples=0."
        ) from None
    return predict(exported, processor, rows, config)


def _agreement(texts: Sequence[str], again: Sequence[str], dtype: str) -> str:
    """A sentence on how far an exported model reads like the trained one."""
    equal = sum(a == b for a, b in zip(texts, again))
    return (
        f"{equal} of {len(texts)} rows are read the same by the exported model in {dtype} and the "
        f"trained model, {ned_similarity(texts, again):.1%} of the characters."
    )


def _base_name(model: "PreTrainedModel") -> str:
    """Name of the base under adapters, in 16 bits, or of the model that was trained whole."""
    if hasattr(model, "peft_config"):
        return in_16_bits(str(model.peft_config["default"].base_model_name_or_path))
    return in_16_bits(str(getattr(model.config, "_name_or_path", "") or "unknown"))


def _is_unsloth(model: "PreTrainedModel") -> bool:
    return getattr(model, "ocrkit_backend", "") == "unsloth"


def _trusts_remote_code(model: "PreTrainedModel") -> bool:
    """Whether the model was loaded with `trust_remote_code`."""
    return getattr(model, "ocrkit_trust_remote_code", False)
