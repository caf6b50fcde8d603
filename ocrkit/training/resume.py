"""Resume a run: compare its settings with those that its checkpoint was saved with.

Every checkpoint holds its own settings.json, since the run folder's config.yaml may have been
overwritten since.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from data_prep.dataset.files import write_whole
from ocrkit.config import TrainConfig
from ocrkit.data.order import SLOT
from ocrkit.data.stream import RowStream
from ocrkit.environment import is_main_process, process_count
from ocrkit.errors import ConfigError
from ocrkit.models.read import frozen_weights_hash
from ocrkit.run_folder import dataset_hash
from ocrkit.training.checkpoints import step_of

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

SETTINGS = "settings.json"

# Each setting of TrainConfig is in one of the next six sets.
# Weights, optimizer and the order of the rows depend on these: another value is refused.
KEPT = set(
    "max_image_tiles min_pixels max_pixels processor_kwargs image_height max_length use_peft "
    "lora_r lora_alpha lora_dropout use_rslora lora_target_modules finetune_vision_layers "
    "finetune_language_layers finetune_attention_modules finetune_mlp_modules prompts "
    "max_train_samples streaming shuffle_buffer_size replay_share curriculum "
    "curriculum_start curriculum_steps loss label_smoothing_factor focal_gamma focal_alpha "
    "confusion_max_weight confusion_smoothing optim seed chat_template_kwargs".split()
)
# Another value takes effect from the checkpoint's step on, and the step is recorded.
CHANGEABLE = set(
    "backend load_in_4bit dtype attn_implementation device_map trust_remote_code augmentation "
    "output_dir num_train_epochs max_steps per_device_eval_batch_size learning_rate "
    "learning_rate_batch_size lr_scheduler_type warmup_steps weight_decay max_grad_norm adam_beta2 "
    "weight_averaging gradient_checkpointing logging_steps eval_steps num_completions_to_print "
    "save_steps save_total_limit load_best_model_at_end early_stopping_patience "
    "early_stopping_threshold dataloader_num_workers report_to project run_name tags".split()
)
# As CHANGEABLE; besides, evaluations before and after do not compare, so the best checkpoint is
# chosen among those saved after the change.
EVALUATION_SETTINGS = set(
    "metric_for_best_model max_eval_samples eval_samples max_new_tokens normalization_profile "
    "locale".split()
)
# Names of folders or of the Hub, which may change if their content is the same.
BY_CONTENT = {"model_name_or_path", "dataset", "replay"}
# Numbers whose product with the number of processes has to stay.
BY_PRODUCT = {"per_device_train_batch_size", "gradient_accumulation_steps"}
# Not compared; names in sft_kwargs are compared one by one.
UNCOMPARED = {"resume_from_checkpoint", "sft_kwargs"}

# Prefixes of names in sft_kwargs that are CHANGEABLE; all others are KEPT.
_SFT_CHANGEABLE = (
    "adam_ bf16 dataloader_ ddp_ disable_tqdm eval_ fp16 full_determinism gradient_checkpointing_ "
    "hub_ log_ logging_ lr_scheduler_kwargs push_to_hub save_ skip_memory_metrics tf32 torch_"
).split()
_SFT_KEPT = {"dataloader_drop_last"}

# Settings that adapters hold themselves, and their names in PEFT's LoraConfig.
_LORA = {
    "lora_r": "r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "use_rslora": "use_rslora",
}


def run_description(
    config: TrainConfig, rows: "Dataset | RowStream", model: "PreTrainedModel"
) -> dict[str, Any]:
    """Settings, hashes of rows and base, and LoRA ranks of a run, saved with its checkpoints.

    Args:
        config: the settings, with batch size and learning rate resolved.
        rows: the training rows, with `length` and, for a curriculum, `difficulty`; or a stream.
        model: as `load_model` returned it.
    """
    return {
        "settings": _json_settings(config),
        "processes": process_count(),
        "dataset": dataset_hash(config.dataset),
        "replay": dataset_hash(config.replay_folder) if config.replay else None,
        "rows": None if isinstance(rows, RowStream) else _rows_hash(rows),
        "base": _base(model),
        "lora": _lora(model),
        "changes": [],
    }


def save_description(checkpoint: Path, description: Mapping[str, Any], step: int) -> None:
    """Write the description of a run into the folder of its checkpoint."""
    text = json.dumps({**description, "step": step}, indent=1, ensure_ascii=False)
    write_whole(checkpoint / SETTINGS, text)


def saved_description(checkpoint: Path) -> dict[str, Any]:
    """The `run_description` that a checkpoint was saved with, and its `step`.

    A checkpoint of ocrkit 0.1.0 has no settings.json: the description is read from its own files,
    and from its run folder's config.yaml and versions.json, as far as they exist.
    """
    path = checkpoint / SETTINGS
    if path.is_file():
        saved = json.loads(path.read_text(encoding="utf-8"))
        # A setting that was added to the kit later had its default then.
        return {**saved, "settings": _json_settings(TrainConfig()) | saved["settings"]}
    return _saved_by_0_1_0(checkpoint)


def _json_settings(config: TrainConfig) -> dict[str, Any]:
    """The settings as they are after writing and reading them as JSON."""
    return json.loads(json.dumps(config.to_dict(), default=str))


def _saved_by_0_1_0(checkpoint: Path) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    config, versions = (checkpoint.parent / name for name in ("config.yaml", "versions.json"))
    with suppress(OSError, ValueError, yaml.YAMLError, TypeError):
        settings = _json_settings(TrainConfig()) | yaml.safe_load(config.read_text("utf-8"))
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    # Settings that were not read are not compared.
    incomplete = not settings
    settings["per_device_train_batch_size"] = state["train_batch_size"]
    adapter, lora = checkpoint / "adapter_config.json", {}
    settings["use_peft"] = adapter.is_file()
    if adapter.is_file():
        adapted = json.loads(adapter.read_text(encoding="utf-8"))
        lora = {name: adapted[key] for name, key in _LORA.items() if key in adapted}
        settings = {name: value for name, value in settings.items() if name not in _LORA}
    caveat = ", which cannot be read, so most of them cannot be compared" if incomplete else ""
    print(
        f"{checkpoint} was saved by ocrkit 0.1.0 without its settings: they are read from its own "
        f"files, and those that these do not hold from {config}{caveat}."
    )
    about = json.loads(versions.read_text("utf-8")) if versions.is_file() else {}
    return {
        "settings": settings,
        # Each process saved one such file.
        "processes": len(list(checkpoint.glob("rng_state*.pth"))) or 1,
        "dataset": about.get("dataset"),
        "rows": None,
        "base": None,
        "lora": lora or None,
        "changes": [],
        "step": step_of(checkpoint),
    }


def checked_settings(
    config: TrainConfig, saved: Mapping[str, Any], checkpoint: Path
) -> TrainConfig:
    """Compare a resumed run's settings with its checkpoint's, and resolve a batch size of `auto`.

    Args:
        saved: of `saved_description`.

    Raises:
        ConfigError: a setting that a resumed run has to keep differs from the checkpoint's.
    """
    before, after = saved["settings"], _json_settings(config)
    kept = {name for name in KEPT if name in before and before[name] != after[name]}
    if saved["base"] is None and before.get("curriculum"):
        # The order of the rows depends on the run's length, which 0.1.0 did not save.
        kept |= {n for n in ("max_steps", "num_train_epochs") if before[n] != after[n]}
    if saved["base"] is None and before.get("streaming") and before["dataloader_num_workers"] > 1:
        raise ConfigError(
            f"{checkpoint} was saved by ocrkit 0.1.0, whose "
            f"dataloader_num_workers={before['dataloader_num_workers']} read a stream in an order "
            "of their own: leave resume_from_checkpoint out and train anew."
        )
    differing: dict[str, tuple] = {n: (before[n], after[n]) for n in sorted(kept)}
    differing |= {
        f"sft_kwargs {name}": values
        for name, values in _sft_changes(before, after).items()
        if not _sft_changeable(name)
    }
    if bool(before.get("replay")) != bool(config.replay):
        differing["replay"] = (before.get("replay", ""), config.replay)
    _refuse(checkpoint, differing)
    digest = dataset_hash(config.dataset)
    if saved["dataset"] and digest and saved["dataset"] != digest:
        raise ConfigError(
            f"{checkpoint} was trained on {before.get('dataset')!r}, whose dataset.json has the "
            f"hash {saved['dataset']}, and that of dataset={config.dataset!r} is {digest}: give "
            "the dataset that it was trained on, or leave resume_from_checkpoint out."
        )
    if config.replay and saved.get("replay") != dataset_hash(config.replay_folder):
        raise ConfigError(
            f"{checkpoint} was trained with replay={before['replay']!r}, and the dataset.json of "
            f"replay={config.replay!r} is another: give the dataset that it was trained with, or "
            "leave resume_from_checkpoint out."
        )
    return _checked_batch(config, saved, checkpoint)


def _refuse(checkpoint: Path, differing: Mapping[str, tuple]) -> None:
    """Refuse settings that differ, {name: (the checkpoint's, this run's)}, if there are any."""
    if differing:
        before, after = (
            ", ".join(f"{name}={values[side]!r}" for name, values in differing.items())
            for side in (0, 1)
        )
        raise ConfigError(
            f"{checkpoint} was trained with {before} and this run has {after}, which cannot change "
            "on resume: set what it was trained with, or leave resume_from_checkpoint out and "
            "train anew."
        )


def _checked_batch(config: TrainConfig, saved: Mapping[str, Any], checkpoint: Path) -> TrainConfig:
    """The settings with a batch size, such that a step has as many samples as the checkpoint's.

    Raises:
        ConfigError: it has another number, or the rows would come in another order.
    """
    before, processes = saved["settings"], process_count()
    accumulated = before.get("gradient_accumulation_steps", config.gradient_accumulation_steps)
    saved_batch = (before["per_device_train_batch_size"], accumulated, saved["processes"])
    samples = saved_batch[0] * saved_batch[1] * saved_batch[2]
    steps = config.gradient_accumulation_steps
    size = config.per_device_train_batch_size
    if isinstance(size, str) and samples % (steps * processes) == 0:
        size = samples // (steps * processes)
    if isinstance(size, str) or size * steps * processes != samples:
        per_batch = processes if isinstance(size, str) else size * processes
        way_out = f"start it with {_processes(saved_batch[2])}"
        if samples % per_batch == 0:
            way_out = f"set gradient_accumulation_steps={samples // per_batch}"
        elif samples % processes == 0:
            way_out = (
                f"set per_device_train_batch_size={samples // processes} and "
                "gradient_accumulation_steps=1"
            )
        raise ConfigError(
            f"{checkpoint} was trained with {samples} samples a step ({_product(saved_batch)}) and "
            f"this run would take {_product((size, steps, processes))}, so rows would be read "
            f"twice or never: {way_out}."
        )
    if "streaming" in before:
        order = _order(before, saved_batch)
        own_order = _order(_json_settings(config), (size, steps, processes))
        if order != own_order:
            raise ConfigError(
                f"{checkpoint} read its rows with {order} and this run would with {own_order}, in "
                "whose order rows would be read twice or never: set what it was trained with."
            )
    if config.per_device_train_batch_size == size:
        return config
    return replace(config, per_device_train_batch_size=size)


def _product(batch: tuple[int | str, int, int]) -> str:
    size, steps, processes = batch
    return (
        f"per_device_train_batch_size={size} × gradient_accumulation_steps={steps} × "
        f"{_processes(processes)}"
    )


def _processes(count: int) -> str:
    return f"{count} processes" if count > 1 else "1 process"


def _order(settings: Mapping[str, Any], batch: tuple[int, int, int]) -> str:
    """The settings that the order of the rows depends on, besides the samples of a step."""
    if settings["sft_kwargs"].get("dataloader_drop_last"):
        return f"dataloader_drop_last=True and {_product(batch)}"
    return "one order of all rows"


def changed_settings(
    saved: Mapping[str, Any], description: Mapping[str, Any], checkpoint: Path
) -> dict[str, list]:
    """Settings that a resumed run changes, as {name: [before, after]}, after `checked_settings`.

    Args:
        saved: the checkpoint's description, of `saved_description`.
        description: the resumed run's, of `run_description`.

    Raises:
        ConfigError: the training rows, the base model or the shape of its adapters differ from
            those of the checkpoint.
    """
    before, after = saved["settings"], description["settings"]
    old, new = saved["lora"] or {}, description["lora"] or {}
    _refuse(checkpoint, {n: (old[n], new[n]) for n in old if n in new and old[n] != new[n]})
    if saved["rows"] and description["rows"] and saved["rows"] != description["rows"]:
        raise ConfigError(
            f"{checkpoint} was trained on other training rows than those of "
            f"dataset={after['dataset']!r}: ids, texts, number or lengths in tokens differ (hash "
            f"{saved['rows']} and {description['rows']}), so rows would be read twice or never; "
            "give the rows that it was trained on, or leave resume_from_checkpoint out."
        )
    if before.get("model_name_or_path", "") not in ("", after["model_name_or_path"]):
        _check_base(saved, description, checkpoint)
    names = (CHANGEABLE | EVALUATION_SETTINGS | BY_CONTENT | BY_PRODUCT) & before.keys()
    changed = {n: [before[n], after[n]] for n in sorted(names) if before[n] != after[n]}
    changed |= {f"sft_kwargs {n}": [*v] for n, v in _sft_changes(before, after).items()}
    if saved["processes"] != description["processes"]:
        changed["processes"] = [saved["processes"], description["processes"]]
    return changed


def _check_base(saved: Mapping[str, Any], description: Mapping[str, Any], checkpoint: Path) -> None:
    """Refuse another base under adapters; weights that are trained whole are the checkpoint's."""
    names = [run["settings"]["model_name_or_path"] for run in (saved, description)]
    old, new = saved["base"], description["base"]
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


def _sft_changeable(name: str) -> bool:
    return name.startswith(tuple(_SFT_CHANGEABLE)) and name not in _SFT_KEPT


def _sft_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple]:
    if "sft_kwargs" not in before:
        return {}
    old, new = before["sft_kwargs"], after["sft_kwargs"]
    names = sorted({*old, *new})
    return {n: (old.get(n), new.get(n)) for n in names if old.get(n) != new.get(n)}


def _rows_hash(rows: "Dataset") -> str:
    """A hash of the rows' ids and texts and of the columns that their order depends on."""
    names = [
        n for n in ("id", "completion", "length", "difficulty", SLOT) if n in rows.column_names
    ]
    digest = hashlib.sha256()
    for name in names:
        digest.update(json.dumps([name, list(rows[name])]).encode())
    return digest.hexdigest()[:16]


def _lora(model: "PreTrainedModel") -> dict[str, Any] | None:
    """Rank and scale of the model's adapters, which may differ from those in its settings."""
    adapted = getattr(model, "peft_config", {}).get("default")
    return {name: getattr(adapted, key) for name, key in _LORA.items()} if adapted else None


def _base(model: "PreTrainedModel") -> dict[str, Any]:
    """A hash of a sample of the frozen weights, and their dtypes."""
    dtypes = {str(weight.dtype) for weight in model.parameters() if not weight.requires_grad}
    return {"weights": frozen_weights_hash(model)[:16], "dtypes": sorted(dtypes)}
