"""Checks of TrainConfig: settings that contradict each other, before a model is loaded."""

import re
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from ocrkit.config.names import ATTENTION, PROMPTED_TASKS
from ocrkit.errors import ConfigError, choice, nearest_hint
from ocrkit.metrics.names import METRICS
from ocrkit.metrics.text import LOCALES

if TYPE_CHECKING:
    from ocrkit.config import TrainConfig

_DEVICE_MAP = re.compile(
    r"auto|balanced|balanced_low_0|sequential|(cpu|cuda|mps|xpu|npu|hpu|mlu)(:\d+)?", re.ASCII
)


def check_settings(config: "TrainConfig") -> None:
    """Check settings against each other; types and bounds of each were checked before.

    Raises:
        ConfigError: a setting has a value that cannot be, alone or beside another.
    """
    if re.split("[-_]", config.locale.lower())[0] not in LOCALES:
        choice("locale", config.locale, tuple(LOCALES))
    for task, prompt in config.prompts.items():
        choice("prompts: task", task, PROMPTED_TASKS)
        if not isinstance(prompt, str) or not prompt.strip():
            raise ConfigError(f"prompts: {task}={prompt!r} must be a text that asks for it.")
    _check_model(config)
    _check_training(config)
    _check_evaluations(config)
    _check_trackers(config)
    if config.augmentation.get("device") == "cuda" and config.dataloader_num_workers:
        raise ConfigError(
            f"augmentation on device=cuda cannot run in dataloader_num_workers="
            f"{config.dataloader_num_workers} processes; set it to 0, or device=cpu."
        )
    for name in config.sft_kwargs:
        if name in {spec.name for spec in fields(config)}:
            raise ConfigError(f"{name} is set in sft_kwargs; set it as a field of its own.")
        if name == "deepspeed" and config.sft_kwargs[name]:
            raise ConfigError(
                "sft_kwargs has deepspeed, whose sharded weights the kit cannot export; leave it "
                "out, and take FSDP by `accelerate launch --use_fsdp`."
            )
        if name in ("bf16", "fp16"):
            raise ConfigError(
                f"sft_kwargs has {name}={config.sft_kwargs[name]!r}, and the precision of a step "
                "is dtype's; set dtype=auto, float32, float16 or bfloat16."
            )
        if name in ("packing", "eval_packing", "padding_free") and config.sft_kwargs[name]:
            raise ConfigError(
                f"sft_kwargs has {name}, which joins texts and cannot join rows with pictures; "
                "leave it out: batches hold rows of like length as it is."
            )


def _check_model(config: "TrainConfig") -> None:
    """Check the settings of the model's loading and of pictures' sizes."""
    if config.device_map and not _DEVICE_MAP.fullmatch(config.device_map):
        raise ConfigError(
            f"device_map={config.device_map!r} is unknown; give auto, balanced, sequential, or a "
            "device such as cuda:0."
        )
    kernel = config.attn_implementation
    if kernel and "/" in kernel and not config.trust_remote_code:
        raise ConfigError(
            f"attn_implementation={kernel!r} is code of the Hub, which runs only by your own "
            f"word: give --trust_remote_code true too, or one of {', '.join(ATTENTION)}."
        )
    if kernel and "/" not in kernel:
        choice("attn_implementation", kernel, ATTENTION)
    if config.min_pixels and config.max_pixels and config.min_pixels > config.max_pixels:
        raise ConfigError(
            f"min_pixels={config.min_pixels} is above max_pixels={config.max_pixels}, "
            "so no picture fits; lower one or raise the other."
        )
    for name, value in config.processor_kwargs.items():
        if name in {spec.name for spec in fields(config)}:
            raise ConfigError(f"{name} is set in processor_kwargs; set it as a field of its own.")
        if not isinstance(value, bool | int | float):
            raise ConfigError(
                f"processor_kwargs: {name}={value!r} must be a number, true or false."
            )
    if not config.use_peft and config.load_in_4bit:
        raise ConfigError(
            "load_in_4bit=True cannot train every weight (use_peft=False); "
            "set load_in_4bit=False or use_peft=True."
        )


def _check_training(config: "TrainConfig") -> None:
    """Check the settings of steps, batches and order."""
    if config.max_steps < 1 and config.max_steps != -1:
        raise ConfigError(
            f"max_steps={config.max_steps} must be at least 1, or -1 for num_train_epochs to "
            "decide."
        )
    batch = config.per_device_train_batch_size
    if isinstance(batch, str) and batch != "auto":
        raise ConfigError(f"per_device_train_batch_size={batch!r} is not one of a number, auto.")
    if config.streaming and config.max_steps < 1:
        raise ConfigError("streaming=True has no known length; set max_steps.")
    if config.weight_averaging and config.load_best_model_at_end:
        raise ConfigError(
            f"weight_averaging={config.weight_averaging:g} ends with averaged weights and "
            "load_best_model_at_end with those of one checkpoint; set one of the two."
        )
    if config.replay and Path(config.replay_folder).resolve() == Path(config.dataset).resolve():
        raise ConfigError(
            f"replay={config.replay!r} is the dataset itself; give another dataset folder, such as "
            "one of what the base reads well."
        )
    if config.streaming and config.curriculum:
        raise ConfigError(
            f"curriculum={config.curriculum!r} orders all rows and streaming=True never sees "
            "them together; set one of the two."
        )


def _check_evaluations(config: "TrainConfig") -> None:
    """Check the settings that need evaluations during training."""
    never = "eval_steps is none, so nothing is evaluated; set eval_steps."
    metric = (config.metric_for_best_model or "loss").removeprefix("eval_")
    if metric not in METRICS:
        hint = nearest_hint(metric, METRICS, f"take {', '.join(METRICS)}.")
        raise ConfigError(f"metric_for_best_model={metric!r} is no metric; {hint}")
    if config.load_best_model_at_end and not config.eval_steps:
        raise ConfigError(f"load_best_model_at_end needs evaluations: {never}")
    if config.load_best_model_at_end and config.save_steps % (config.eval_steps or 1):
        raise ConfigError(
            f"load_best_model_at_end needs a checkpoint at evaluations only: "
            f"save_steps={config.save_steps} is no multiple of eval_steps={config.eval_steps}."
        )
    if config.early_stopping_patience is not None:
        if not config.eval_steps:
            raise ConfigError(f"early_stopping_patience needs evaluations: {never}")
        if not config.metric_for_best_model:
            raise ConfigError(
                "early_stopping_patience needs a metric: set metric_for_best_model, e.g. cer."
            )
    if "confusion" in config.loss and not config.eval_steps:
        raise ConfigError(f"loss={config.loss!r} takes its weights from evaluations: {never}")


def _check_trackers(config: "TrainConfig") -> None:
    """Check that the trackers of `report_to` are known and installed."""
    for name in config.trackers:
        choice("report_to", name, ("none", "tensorboard", "wandb"))
        try:
            # By metadata, not by import: W&B's run folder `wandb` passes for a package.
            metadata.version(name)
        except metadata.PackageNotFoundError:
            raise ConfigError(
                f"report_to={name!r} needs the package {name}, which is not installed: "
                f"`pip install {name}`, or set report_to=none."
            ) from None
