"""Training arguments: a TrainConfig as TRL's SFTConfig.

Imports trl and torch when it is called, since a backend has to be chosen first.
"""

import types
import typing
from typing import TYPE_CHECKING, Any

from ocrkit.config import TrainConfig
from ocrkit.errors import ConfigError, nearest_hint
from ocrkit.metrics.names import METRICS

if TYPE_CHECKING:
    from trl import SFTConfig

# Settings that have the same name and meaning in SFTConfig.
_SAME = (
    "output_dir num_train_epochs max_steps per_device_train_batch_size per_device_eval_batch_size "
    "gradient_accumulation_steps learning_rate lr_scheduler_type warmup_steps weight_decay "
    "max_grad_norm adam_beta2 optim gradient_checkpointing logging_steps eval_steps save_steps "
    "save_total_limit dataloader_num_workers seed"
).split()


def sft_config(config: TrainConfig, evaluated: bool) -> "SFTConfig":
    """TRL's training arguments for a run.

    Args:
        evaluated: whether there are validation rows.

    Raises:
        ConfigError: `sft_kwargs` holds a name or a value that SFTConfig does not take, or the
            weights cannot be trained in float16.
    """
    import torch
    from trl import SFTConfig

    from ocrkit.models.backend import half_precision

    if config.dtype == "float16" and not config.use_peft:
        raise ConfigError(
            "dtype='float16' cannot train every weight (use_peft=False): its gradients cannot be "
            "scaled; set dtype=auto, which keeps weights in float32 and multiplies in 16 bits."
        )
    cuda = torch.cuda.is_available()
    half = half_precision(config) if cuda else None
    settings: dict[str, Any] = {name: getattr(config, name) for name in _SAME}
    metric = (config.metric_for_best_model or "cer").removeprefix("eval_")
    settings |= {
        "eval_strategy": "steps" if evaluated else "no",
        "report_to": config.trackers or "none",
        "load_best_model_at_end": config.load_best_model_at_end,
        "metric_for_best_model": f"eval_{metric}",
        "greater_is_better": not METRICS[metric].lower_is_better,
        "bf16": half == torch.bfloat16,
        "fp16": half == torch.float16,
        "use_cpu": not cuda,
        # The kit's collator takes rows as they are and bounds pictures by pixels: cutting tokens
        # would cut pictures.
        "max_length": None,
        # Unsloth turns padding_free on by itself where it is not set.
        "packing": False,
        "padding_free": False,
        "remove_unused_columns": False,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "train_sampling_strategy": "group_by_length",
        "length_column_name": "length",
        "dataloader_pin_memory": cuda,
        "disable_tqdm": False,
        # Every row has a picture, so every adapter takes part in every step.
        "ddp_find_unused_parameters": False,
        # OCRTrainer stops at a loss of NaN instead of hiding it.
        "logging_nan_inf_filter": False,
        # A stream begins where a checkpoint stopped by itself, and each process reads its own.
        "ignore_data_skip": config.streaming,
        "accelerator_config": {"dispatch_batches": False if config.streaming else None},
    }
    _check_types(config.sft_kwargs, SFTConfig)
    try:
        arguments = SFTConfig(**{**settings, **config.sft_kwargs})
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"sft_kwargs={config.sft_kwargs!r} does not make an SFTConfig "
            f"({' '.join(str(error).split())}); correct it, or leave it out."
        ) from None
    # One process drives one device, or one model over all with device_map; Trainer would cut
    # batches between the GPUs it sees, and pictures cannot be cut along the batch.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _check_types(values: dict[str, Any], arguments: type) -> None:
    """Reject names that a dataclass of arguments does not have, and values of another type.

    Raises:
        ConfigError: with the name, the value and the type that it must have.
    """
    hints = typing.get_type_hints(arguments)
    for name, value in values.items():
        if name not in hints:
            hint = nearest_hint(name, hints, "see TRL's documentation of it.")
            raise ConfigError(f"sft_kwargs holds {name!r}, which SFTConfig does not have; {hint}")
        allowed = _plain_types(hints[name])
        fits = isinstance(value, allowed) and not (
            isinstance(value, bool) and int in allowed and bool not in allowed
        )
        if allowed and not fits:
            names = ", ".join("None" if t is types.NoneType else t.__name__ for t in allowed)
            raise ConfigError(
                f"sft_kwargs {name}={value!r} must be of type {names}; correct it, or leave it out."
            )


def _plain_types(hint: Any) -> tuple[type, ...]:
    """Classes of a type hint such as `dict[str, Any] | None`; () where it is no union of them."""
    options = typing.get_args(hint) if _is_union(hint) else (hint,)
    classes = [typing.get_origin(option) or option for option in options]
    if not all(isinstance(option, type) for option in classes):
        return ()
    return (*classes, int) if float in classes and int not in classes else tuple(classes)


def _is_union(hint: object) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)
