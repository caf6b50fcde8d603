"""Resuming a run: its settings are held against those that its checkpoint was made with.

Every checkpoint holds the latter in settings.json, since the run folder's config.yaml may have been
written again by then.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from data_prep.dataset.files import write_whole
from ocrkit.config import TrainConfig
from ocrkit.environment import is_main_process, process_count
from ocrkit.errors import ConfigError
from ocrkit.run_folder import dataset_hash
from ocrkit.training.checkpoints import step_of

SETTINGS = "settings.json"

# Each setting of TrainConfig is in one of the next five sets.
# Weights, optimizer and the order of the rows depend on these: another value is refused.
KEPT = set(
    "max_image_tiles min_pixels max_pixels image_height max_length use_peft lora_r lora_alpha "
    "lora_dropout use_rslora lora_target_modules finetune_vision_layers finetune_language_layers "
    "finetune_attention_modules finetune_mlp_modules prompts max_train_samples streaming "
    "shuffle_buffer_size curriculum curriculum_start curriculum_steps loss label_smoothing_factor "
    "focal_gamma focal_alpha confusion_max_weight confusion_smoothing optim seed".split()
)
# Another value takes effect from the checkpoint's step on, and the step is put on record.
CHANGEABLE = set(
    "backend load_in_4bit dtype attn_implementation device_map trust_remote_code augmentation "
    "output_dir num_train_epochs max_steps per_device_eval_batch_size learning_rate "
    "learning_rate_batch_size lr_scheduler_type warmup_steps weight_decay max_grad_norm adam_beta2 "
    "gradient_checkpointing logging_steps eval_steps num_completions_to_print save_steps "
    "save_total_limit load_best_model_at_end early_stopping_patience early_stopping_threshold "
    "dataloader_num_workers report_to project run_name tags".split()
)
# As CHANGEABLE; besides, evaluations before and after do not compare, so the best is sought anew.
JUDGING = set(
    "metric_for_best_model max_eval_samples eval_samples max_new_tokens normalization_profile "
    "locale".split()
)
# Names of folders or of the Hub, which may change where what they hold is the same; and two numbers
# whose product with the number of processes is kept.
BY_CONTENT = {"model_name_or_path", "dataset"}
BY_PRODUCT = {"per_device_train_batch_size", "gradient_accumulation_steps"}
# Neither compared nor recorded, or compared by their own names.
UNCOMPARED = {"resume_from_checkpoint", "sft_kwargs"}

# Names in sft_kwargs that begin so are as CHANGEABLE, all others as KEPT.
_SFT_CHANGEABLE = (
    "adam_ bf16 dataloader_ ddp_ disable_tqdm eval_ fp16 full_determinism gradient_checkpointing_ "
    "hub_ log_ logging_ lr_scheduler_kwargs push_to_hub save_ skip_memory_metrics tf32 torch_"
).split()
_SFT_KEPT = {"dataloader_drop_last"}

# What the adapters themselves say, by the names of PEFT's LoraConfig.
_LORA = {
    "lora_r": "r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "use_rslora": "use_rslora",
}


def made_with(config: TrainConfig, rows: Any, model: Any) -> dict[str, Any]:
    """What the checkpoints of a run are saved with, for a resumed run to be held against.

    Args:
        config: the settings, with batch size and learning rate resolved.
        rows: the training rows, with `length` and, for a curriculum, `difficulty`; or a stream.
        model: the model as it was loaded.
    """
    return {
        "settings": _plain(config),
        "processes": process_count(),
        "dataset": dataset_hash(config.dataset),
        "rows": None if config.streaming else _rows_hash(rows),
        "base": _base(model),
        "lora": _lora(model),
        "changes": [],
    }


def save_settings(checkpoint: Path, made: Mapping[str, Any], step: int) -> None:
    """Write what a checkpoint was made with into its folder."""
    text = json.dumps({**made, "step": step}, indent=1, ensure_ascii=False)
    write_whole(checkpoint / SETTINGS, text)


def saved_settings(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint was made with, as `made_with` returned it, and its `step`.

    A checkpoint of ocrkit 0.1.0 has no such file: its own files say a part, and its run folder's
    config.yaml and versions.json the rest, as far as they are there.
    """
    path = checkpoint / SETTINGS
    if path.is_file():
        saved = json.loads(path.read_text(encoding="utf-8"))
        # A setting that is younger than the checkpoint had its default then.
        return {**saved, "settings": _plain(TrainConfig()) | saved["settings"]}
    return _saved_by_0_1_0(checkpoint)


def _plain(config: TrainConfig) -> dict[str, Any]:
    """Settings as JSON reads them again."""
    return json.loads(json.dumps(config.to_dict(), default=str))


def _saved_by_0_1_0(checkpoint: Path) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    config, versions = (checkpoint.parent / name for name in ("config.yaml", "versions.json"))
    with suppress(OSError, ValueError, yaml.YAMLError, TypeError):
        settings = _plain(TrainConfig()) | yaml.safe_load(config.read_text("utf-8"))
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    # Settings that were not read are not compared.
    incomplete = not settings
    settings["per_device_train_batch_size"] = state["train_batch_size"]
    adapter, lora = checkpoint / "adapter_config.json", None
    settings["use_peft"] = adapter.is_file()
    if adapter.is_file():
        adapted = json.loads(adapter.read_text(encoding="utf-8"))
        lora = {name: adapted[of] for name, of in _LORA.items() if of in adapted}
        settings = {name: value for name, value in settings.items() if name not in _LORA}
    print(
        f"{checkpoint} was saved by ocrkit 0.1.0 without its settings: they are taken from its own "
        f"files and, where these say nothing, from {config}"
        + (", which cannot be read, so most of them cannot be compared." if incomplete else ".")
    )
    described = json.loads(versions.read_text("utf-8")) if versions.is_file() else {}
    return {
        "settings": settings,
        # One file of each process, numbered where there were several.
        "processes": len(list(checkpoint.glob("rng_state*.pth"))) or 1,
        "dataset": described.get("dataset"),
        "rows": None,
        "base": None,
        "lora": lora,
        "changes": [],
        "step": step_of(checkpoint),
    }


def checked_settings(
    config: TrainConfig, saved: Mapping[str, Any], checkpoint: Path
) -> TrainConfig:
    """The settings of a resumed run, with the checkpoint's batch size in place of `auto`.

    Raises:
        ConfigError: a setting that a resumed run has to keep is another one than the checkpoint's.
    """
    before, after = saved["settings"], _plain(config)
    kept = {name for name in KEPT if name in before and before[name] != after[name]}
    if saved["base"] is None and before.get("curriculum"):
        # The order of the rows follows from the run's length, which 0.1.0 did not save.
        kept |= {n for n in ("max_steps", "num_train_epochs") if before[n] != after[n]}
    differing = {name: (before[name], after[name]) for name in sorted(kept)}
    differing |= {
        f"sft_kwargs {name}": values
        for name, values in _sft_changes(before, after).items()
        if not _sft_changeable(name)
    }
    _refuse(checkpoint, differing)
    digest = dataset_hash(config.dataset)
    if saved["dataset"] and digest and saved["dataset"] != digest:
        raise ConfigError(
            f"{checkpoint} was trained on {before.get('dataset')!r}, whose dataset.json has the "
            f"hash {saved['dataset']}, and that of dataset={config.dataset!r} is {digest}: give "
            "the dataset that it was trained on, or leave resume_from_checkpoint out."
        )
    return _checked_batch(config, saved, checkpoint)


def _refuse(checkpoint: Path, differing: Mapping[str, tuple]) -> None:
    """Refuse settings that differ, {name: (the checkpoint's, this run's)}, if there are any."""
    was, wanted = (
        ", ".join(f"{name}={values[side]!r}" for name, values in differing.items())
        for side in (0, 1)
    )
    if differing:
        raise ConfigError(
            f"{checkpoint} was trained with {was} and this run has {wanted}, which cannot change "
            "on resume: set what it was trained with, or leave resume_from_checkpoint out and "
            "train anew."
        )


def _checked_batch(config: TrainConfig, saved: Mapping[str, Any], checkpoint: Path) -> TrainConfig:
    """The settings with a batch size, where a step has as many samples as the checkpoint's had."""
    before, processes = saved["settings"], process_count()
    accumulated = before.get("gradient_accumulation_steps", config.gradient_accumulation_steps)
    was = (before["per_device_train_batch_size"], accumulated, saved["processes"])
    samples = was[0] * was[1] * was[2]
    steps = config.gradient_accumulation_steps
    size = config.per_device_train_batch_size
    if size == "auto" and samples % (steps * processes) == 0:
        size = samples // (steps * processes)
    now = (size, steps, processes)
    if size == "auto" or size * steps * processes != samples:
        per_batch = processes if size == "auto" else size * processes
        way_out = f"start it with {_processes(was[2])}"
        if samples % per_batch == 0:
            way_out = f"set gradient_accumulation_steps={samples // per_batch}"
        elif samples % processes == 0:
            way_out = (
                f"set per_device_train_batch_size={samples // processes} and "
                "gradient_accumulation_steps=1"
            )
        raise ConfigError(
            f"{checkpoint} was trained with {samples} samples a step ({_product(was)}) and this "
            f"run would take {_product(now)}, so rows would be read twice or never: {way_out}."
        )
    sides = [(before, was), (_plain(config), now)] if "streaming" in before else []
    order = [_order(settings, batch) for settings, batch in sides]
    if len(set(order)) > 1:
        raise ConfigError(
            f"{checkpoint} read its rows with {order[0]} and this run would with {order[1]}, in "
            "whose order rows would be read twice or never: set what it was trained with."
        )
    if config.per_device_train_batch_size == "auto":
        config = replace(config, per_device_train_batch_size=size)
    return config


def _product(batch: tuple[int | str, int, int]) -> str:
    size, steps, processes = batch
    return (
        f"per_device_train_batch_size={size} × gradient_accumulation_steps={steps} × "
        f"{_processes(processes)}"
    )


def _processes(count: int) -> str:
    return f"{count} process{'es' * (count > 1)}"


def _order(settings: Mapping[str, Any], batch: tuple[int, int, int]) -> str:
    """What the order of the rows depends on besides the samples of a step."""
    workers = settings["dataloader_num_workers"]
    if settings["streaming"] and workers > 1:
        # Each worker reads its own share of the rows, and batches come from them in turn.
        unit = batch[0] * batch[2]
        return f"streaming=True, dataloader_num_workers={workers} and batches of {unit} rows"
    if settings["sft_kwargs"].get("dataloader_drop_last"):
        return f"dataloader_drop_last=True and {_product(batch)}"
    return "one order of all rows"


def changed_settings(
    saved: Mapping[str, Any], made: Mapping[str, Any], checkpoint: Path
) -> dict[str, list]:
    """Settings that a resumed run changes, as {name: [before, after]}, after `checked_settings`.

    Args:
        saved: what the checkpoint was made with.
        made: what the resumed run's checkpoints will be saved with.

    Raises:
        ConfigError: the training rows, the base model or the shape of its adapters are not those
            of the checkpoint.
    """
    before, after = saved["settings"], made["settings"]
    old, new = saved["lora"] or {}, made["lora"] or {}
    _refuse(checkpoint, {n: (old[n], new[n]) for n in old if n in new and old[n] != new[n]})
    if saved["rows"] and made["rows"] and saved["rows"] != made["rows"]:
        raise ConfigError(
            f"{checkpoint} was trained on other training rows than those of "
            f"dataset={after['dataset']!r}: ids, texts, number or lengths in tokens differ (hash "
            f"{saved['rows']} and {made['rows']}), so rows would be read twice or never; give the "
            "rows that it was trained on, or leave resume_from_checkpoint out."
        )
    if before.get("model_name_or_path", "") not in ("", after["model_name_or_path"]):
        _check_base(saved, made, checkpoint)
    names = (CHANGEABLE | JUDGING | BY_CONTENT | BY_PRODUCT) & before.keys()
    changed = {n: [before[n], after[n]] for n in sorted(names) if before[n] != after[n]}
    changed |= {f"sft_kwargs {n}": [*v] for n, v in _sft_changes(before, after).items()}
    if saved["processes"] != made["processes"]:
        changed["processes"] = [saved["processes"], made["processes"]]
    return changed


def _check_base(saved: Mapping[str, Any], made: Mapping[str, Any], checkpoint: Path) -> None:
    """Refuse another base under adapters; weights that are trained whole are the checkpoint's."""
    names = [of["settings"]["model_name_or_path"] for of in (saved, made)]
    old, new = saved["base"], made["base"]
    if old is None or old["dtypes"] != new["dtypes"]:
        if is_main_process():
            print(
                f"{checkpoint} was trained on model_name_or_path={names[0]!r}; whether "
                f"{names[1]!r} holds the same weights cannot be told."
            )
    elif old["weights"] != new["weights"]:
        raise ConfigError(
            f"{checkpoint} was trained on model_name_or_path={names[0]!r}, and {names[1]!r} holds "
            "other weights: give the model that it was trained on, or leave "
            "resume_from_checkpoint out."
        )


def described(changed: Mapping[str, list]) -> str:
    """Changed settings in words: `learning_rate 0.005 -> 1e-05, save_steps 100 -> 50`."""
    return ", ".join(f"{name} {before} -> {after}" for name, (before, after) in changed.items())


def _sft_changeable(name: str) -> bool:
    return name.startswith(tuple(_SFT_CHANGEABLE)) and name not in _SFT_KEPT


def _sft_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple]:
    if "sft_kwargs" not in before:
        return {}
    old, new = before["sft_kwargs"], after["sft_kwargs"]
    names = sorted({*old, *new})
    return {n: (old.get(n), new.get(n)) for n in names if old.get(n) != new.get(n)}


def _rows_hash(rows: Any) -> str:
    """A hash of the rows' ids and texts and of all that their order depends on."""
    names = [n for n in ("id", "completion", "length", "difficulty") if n in rows.column_names]
    digest = hashlib.sha256()
    for name in names:
        digest.update(json.dumps([name, list(rows[name])]).encode())
    return digest.hexdigest()[:16]


def _lora(model: Any) -> dict[str, Any] | None:
    """Rank and scale of the model's adapters, which need not be those that its settings ask for."""
    adapted = getattr(model, "peft_config", {}).get("default")
    return adapted and {name: getattr(adapted, of) for name, of in _LORA.items()}


def _base(model: Any) -> dict[str, Any]:
    """A hash of a sample of the weights that training leaves alone, and their data types."""
    import torch

    digest, dtypes = hashlib.sha256(), set()
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            values = weight.detach().flatten()
            sample = values[:: max(1, values.numel() // 64)].to("cpu", torch.float32)
            digest.update(name.encode() + sample.numpy().tobytes())
            dtypes.add(str(weight.dtype))
    return {"weights": digest.hexdigest()[:16], "dtypes": sorted(dtypes)}
