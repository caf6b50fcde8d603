"""Write what was trained: as it is, or whole in 16 bits, then held against each other."""

import copy
import math
import shutil
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from data_prep.dataset.files import naming, write_whole
from data_prep.dataset.manifest import check_own, publish, staged, write_folder
from ocrkit.config import TrainConfig
from ocrkit.data.rows import drawn_rows, text_of
from ocrkit.errors import ConfigError, ModelError, choice
from ocrkit.models.base import EXPORT_FORMATS, check_memory, in_16_bits, settings_of_run
from ocrkit.models.budget import fit_tiles
from ocrkit.models.gguf import WITHOUT_GGUF, llama_cpp_reader, read_gguf, write_gguf
from ocrkit.models.hub import card, push, reserve
from ocrkit.models.load import load_model
from ocrkit.models.read import predict, weights_fingerprint
from ocrkit.run_folder import run_id_of_model, write_run


def export(
    model: Any,
    processor: Any,
    output_dir: str | Path,
    format: str = "adapter",
    rows: Any = None,
    config: TrainConfig | None = None,
    samples: int = 20,
    min_equal: float = 0.5,
    push_to_hub: str | None = None,
    hub_private_repo: bool | None = None,
    overwrite: bool = False,
) -> Path:
    """Write what was trained, with its processor and a model card, and return the folder.

    What was rounded is loaded again and reads some rows; the share that it reads as the trained
    model does is printed and stands in the card.

    Args:
        format: "adapter" (small; needs the base to load; of a model without adapters, all of it as
            it was trained), "merged_16bit" (the base with the adapters added to its weights, in 16
            bits, loadable by any transformers or vLLM), "merged_4bit" (the same of a base that was
            loaded in 4 bits, which merges `model` itself: do it last) or "gguf" (the .gguf files
            of llama.cpp and Ollama in 8 bits, without the weights they are made from, compared by
            llama.cpp itself where its program that reads pictures is at hand); the last two by
            Unsloth only.
        rows: what both read, the first `samples` of them; None draws lines of print.
        config: settings of the run; None takes those of the run folder that `output_dir` lies in,
            if it lies in one.
        samples: rows to compare; 0 compares nothing.
        min_equal: share of the rows that both have to read alike. Rounding to 16 bits tips close
            decisions, and a model that hardly reads its rows makes many of them.
        push_to_hub: "user/name" of a new or empty repository of the Hub that the folder is
            uploaded to; what would refuse it is found first. None pushes nothing.
        hub_private_repo: whether that repository is private; None leaves it to the account.
        overwrite: replace files of `output_dir` that the kit did not write, too.

    Raises:
        ConfigError: a format that is unknown, `samples` or `min_equal` out of range.
        FileExistsError: `output_dir` holds such a file.
        OSError: the disk is full or cannot be written; what was exported before is as it was.
        ModelError: a format that needs Unsloth or needs a model in 4 bits, a disk or
            a memory that cannot hold the model, a folder that holds an adapter where a whole model
            is to be written, a model that reads other than the trained one did, or an adapter to
            be pushed whose base is a folder of this machine.
        HubError: no token, no network, no right to write, or a repository that holds files.
    """
    output_dir = Path(output_dir)
    if samples < 0 or not 0 <= min_equal <= 1:
        raise ConfigError(
            f"samples={samples} must be at least 0 and min_equal={min_equal} a share from 0 to 1."
        )
    _check(model, output_dir, format, pushed=bool(push_to_hub))
    run = output_dir.parent if config is None else Path(config.output_dir)
    if config is None and (run / "config.yaml").is_file():
        config = TrainConfig.from_dict(settings_of_run(run))
    # Before the work; all names are checked when they are written.
    check_own(output_dir, ("README.md", "config.json", "adapter_config.json"), overwrite)
    hub = reserve(push_to_hub, hub_private_repo) if push_to_hub else None
    # Before a merge into 4 bits changes the model.
    made_by = {"id": run_id_of_model(model, config.model_name_or_path if config else "")}
    made_by["weights"] = weights_fingerprint(model)
    rounded = format != "adapter"
    base, adapters = _base_name(model), format == "adapter" and hasattr(model, "peft_config")
    question = text_of(rows[0]["prompt"][-1:]) if rows is not None and len(rows) else None
    texts: list[str] = []
    if rounded and samples:
        if rows is None:
            rows = drawn_rows(samples)
        rows = [rows[i] for i in range(min(samples, len(rows)))]
        settings = config or TrainConfig(max_new_tokens=64)
        # Before it is written: a merge into 4 bits is done in the model itself.
        texts = predict(model, processor, rows, settings)
    title = push_to_hub or output_dir.resolve().name
    known = {"made_by": made_by, "question": question}
    make_card = partial(card, title, format, adapters, base, run, config, **known)
    with staged(output_dir) as staging:
        with naming(output_dir):
            _write(model, processor, staging, format)
        write_run(staging, made_by)
        write_whole(staging / "README.md", make_card(check=""))
        publish(staging, output_dir, overwrite)
    equal, compared = 0, len(texts)
    if compared and format == "gguf":
        # It came with the llama.cpp that made the files, as a rule.
        program = llama_cpp_reader()
        again = read_gguf(program, output_dir, processor, rows, settings) if program else []
        compared = len(again)
        equal = sum(a.strip() == b for a, b in zip(texts, again))
    elif compared:
        settings = replace(
            settings,
            model_name_or_path=str(output_dir),
            backend=model.ocrkit_backend,
            trust_remote_code=_trusted(model),
            # Unsloth takes a model without adapters for one that trains every weight, and changes
            # settings of the whole process; adapters that were never trained change no reading.
            use_peft=model.ocrkit_backend == "unsloth",
            load_in_4bit=format == "merged_4bit",
            # As the trained one is, not as weights that are to be trained whole.
            dtype=str(model.dtype).removeprefix("torch."),
        )
        equal = _read_alike(texts, rows, settings)
    check = f"{equal} of {compared} rows are read the same by the exported and the trained model."
    check = check if compared else ""
    if rounded:
        print(check or f"{output_dir} was not compared with the trained model.")
    write_folder(output_dir, {"README.md": make_card(check=check)})
    if compared and equal < min_equal * compared:
        raise ModelError(
            f"The model in {output_dir} reads only {equal} of {compared} rows as the trained one "
            f"does, and min_equal={min_equal} asks for more; evaluate both before you use it, or "
            "lower min_equal where the base was in 4 bits or the model hardly reads these rows."
        )
    if hub:
        print(f"Pushed to {push(hub, push_to_hub, output_dir)}")
    return output_dir


def _adapted_tied_layer(model: Any) -> str | None:
    """The name of an embedding that has adapters and shares its weights with the other one."""
    if not hasattr(model, "peft_config"):
        return None
    ends = model.get_input_embeddings(), model.get_output_embeddings()
    plain = [getattr(end, "base_layer", end) for end in ends]
    if None in plain or plain[0].weight.data_ptr() != plain[1].weight.data_ptr():
        return None
    adapted = [end for end in ends if hasattr(end, "base_layer")]
    names = (name for name, module in model.named_modules() if module in adapted)
    return next(names).rpartition(".")[2] if adapted else None


def _check(model: Any, output_dir: Path, format: str, pushed: bool) -> None:
    """Refuse what cannot be written, or what nobody else could load, before the work.

    Raises:
        ModelError: as `export`.
    """
    choice("format", format, EXPORT_FORMATS)
    if format in ("merged_4bit", "gguf") and getattr(model, "ocrkit_backend", "") != "unsloth":
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
    if format == "merged_4bit" and not (hasattr(model, "peft_config") and in_4_bits):
        raise ModelError(
            "format='merged_4bit' merges adapters into a base that was loaded in 4 bits, and this "
            f"model {'was not' if hasattr(model, 'peft_config') else 'has no adapters'}; load it "
            "with load_in_4bit=True, or export merged_16bit."
        )
    if format != "adapter" and (name := _adapted_tied_layer(model)):
        raise ModelError(
            f"The adapters on {name} cannot be merged: this model's input and output embeddings "
            "share their weights, so a merge would change both; export format=adapter, or train "
            "with lora_target_modules that leave embed_tokens and lm_head out."
        )
    whole = format != "adapter" or not hasattr(model, "peft_config")
    if whole and (output_dir / "adapter_config.json").exists():
        raise ModelError(
            f"{output_dir} holds an adapter, and a whole model beside it would be loaded as that "
            "adapter; choose another folder."
        )
    base = _base_name(model)
    if pushed and format == "adapter" and hasattr(model, "peft_config") and Path(base).exists():
        raise ModelError(
            f"The adapter's base is a folder of this machine ({base}), so nobody else could load "
            "it; push format=merged_16bit, or train on a model of the Hub."
        )
    _check_disk(model, output_dir, format)
    merged_here = format == "merged_16bit" and hasattr(model, "peft_config")
    if merged_here and getattr(model, "ocrkit_backend", "") != "unsloth":
        check_memory(base, 4, "or merge on a machine with more of it")


def _write(model: Any, processor: Any, output_dir: Path, format: str) -> None:
    """Write weights and processor; the model itself stays as it is, but for merged_4bit."""
    if format == "adapter":
        model.save_pretrained(output_dir)
    elif format == "merged_16bit" and not hasattr(model, "peft_config"):
        _in_16_bits(model).save_pretrained(output_dir)
    elif format == "gguf":
        write_gguf(model, processor, output_dir)
    elif getattr(model, "ocrkit_backend", "") == "unsloth":
        # Unsloth wants to be told twice to merge into 4 bits, which loses accuracy.
        method = "merged_4bit_forced" if format == "merged_4bit" else format
        model.save_pretrained_merged(str(output_dir), processor, save_method=method)
    else:
        _merge(model).save_pretrained(output_dir)
    processor.save_pretrained(output_dir)


def _base_name(model: Any) -> str:
    """The model that adapters are on, in 16 bits, or that a whole model was made from."""
    if hasattr(model, "peft_config"):
        return in_16_bits(str(model.peft_config["default"].base_model_name_or_path))
    return in_16_bits(str(getattr(model.config, "_name_or_path", "") or "unknown"))


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


def _read_alike(texts: list[str], rows: list[dict], config: TrainConfig) -> int:
    """How many rows the config's model, which was exported, reads as the trained one did.

    Raises:
        ModelError: it cannot be loaded, for want of memory for a second model above all.
    """
    try:
        alone, beside = load_model(config)
    except ModelError as error:
        raise ModelError(
            f"The model is in {config.model_name_or_path}, but it was not compared with the "
            f"trained one ({error}) Evaluate it by itself, or export with samples=0."
        ) from None
    again = predict(alone, beside, rows, config)
    return sum(a == b for a, b in zip(texts, again))


def _trusted(model: Any) -> bool:
    """Return whether the user let the model's own code run when it was loaded."""
    return getattr(model, "ocrkit_trust_remote_code", False)


def _in_16_bits(model: Any) -> Any:
    """A model without adapters, rounded where its weights have more; the model stays as it is."""
    import torch

    return copy.deepcopy(model).to(torch.bfloat16) if model.dtype == torch.float32 else model


def _merge(model: Any) -> Any:
    """The base in 16 bits with the model's adapters merged; the model itself stays as it is."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    # Merged in float32 and rounded once: adding in 16 bits would lose small updates.
    base = AutoModelForImageTextToText.from_pretrained(
        _base_name(model), dtype=torch.float32, trust_remote_code=_trusted(model)
    )
    vision = getattr(model.config, "vision_config", None)
    fit_tiles(base, getattr(vision, "max_num_tiles", None))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        merged = PeftModel.from_pretrained(base, folder).merge_and_unload()
    return merged.to(torch.bfloat16)
