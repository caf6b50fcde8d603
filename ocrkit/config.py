"""TrainConfig: one flat list of settings under the names of TRL, PEFT and transformers.

The same names serve a YAML recipe, the command line (`--learning_rate 1e-4`), a notebook's
parameters cell and papermill's `-p`.
"""

import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from data_prep.files import write_whole
from ocrkit.augmentation_ranges import augmentation_ranges
from ocrkit.config_error import ConfigError, choice
from ocrkit.metric_names import METRICS
from ocrkit.text import LOCALES

RECIPES = Path(__file__).parent / "recipes"
# Tasks whose prompt may be set for all rows; in the others (vqa) every row asks for itself.
PROMPTED_TASKS = ("transcription", "extraction")
LOSSES = (
    "cross_entropy",
    "label_smoothing",
    "focal",
    "confusion_weighted",
    "focal_confusion_weighted",
)

# Names that people bring from older versions and other kits, and what they are called now.
_HEIRS = {
    "warmup_ratio": "warmup_steps (a fraction under 1 is a share of all steps)",
    "max_seq_length": "max_length",
    "group_by_length": "train_sampling_strategy in sft_kwargs (length grouping is on by default)",
    "evaluation_strategy": "eval_steps",
    "eval_strategy": "eval_steps",
    "model_name": "model_name_or_path",
    "model": "model_name_or_path",
    "r": "lora_r",
    "batch_size": "per_device_train_batch_size",
    "epochs": "num_train_epochs",
    "lr": "learning_rate",
    "target_modules": "lora_target_modules",
    "use_gradient_checkpointing": "gradient_checkpointing",
    "tokenizer": "model_name_or_path",
    "data": "dataset",
}

_AT_LEAST_1 = (
    "per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps "
    "logging_steps save_steps save_total_limit lora_r lora_alpha max_new_tokens eval_samples "
    "min_pixels max_pixels max_image_tiles image_height max_length max_train_samples "
    "max_eval_samples eval_steps shuffle_buffer_size confusion_max_weight learning_rate_batch_size"
).split()
_NOT_NEGATIVE = (
    "focal_gamma focal_alpha early_stopping_threshold warmup_steps weight_decay max_grad_norm "
    "dataloader_num_workers num_completions_to_print seed"
).split()
_SHARES = "curriculum_start curriculum_steps confusion_smoothing label_smoothing_factor".split()


def _setting(default: Any, help: str) -> Any:
    if isinstance(default, dict | list):
        return field(default_factory=lambda: type(default)(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


@dataclass
class TrainConfig:
    """Everything that decides a run; see each field's help in `python -m ocrkit train --help`."""

    # Model
    model_name_or_path: str = _setting(
        "tiny", "model id, folder or run folder; 'tiny' is the embedded model"
    )
    backend: str = _setting("auto", "auto, unsloth (needs CUDA) or transformers")
    load_in_4bit: bool = _setting(True, "quantize the base to 4-bit NF4 (needs CUDA)")
    dtype: str = _setting(
        "auto",
        "auto, float32, float16 or bfloat16; auto is 16 bits on a GPU, and float32 on a CPU and "
        "for weights that are trained whole, whose products a GPU makes in 16 bits",
    )
    attn_implementation: str | None = _setting(None, "attention kernel; none leaves the choice")
    device_map: str | None = _setting(None, "where to put the model's parts, e.g. auto")
    trust_remote_code: bool = _setting(False, "run code that a model repository brings along")
    min_pixels: int | None = _setting(None, "enlarge pictures of fewer pixels")
    max_pixels: int | None = _setting(None, "shrink pictures of more pixels; counted and reported")
    max_image_tiles: int | None = _setting(
        None, "most tiles of a picture, for models that count tiles (Llama-3.2-Vision: 4)"
    )
    image_height: int | None = _setting(None, "scale every picture to this height first (lines)")
    max_length: int | None = _setting(
        None, "longest sample in tokens, image included; longer ones are left out and counted"
    )
    # LoRA
    use_peft: bool = _setting(True, "train LoRA adapters; false trains every weight")
    lora_r: int = _setting(16, "rank of the adapters")
    lora_alpha: int = _setting(16, "scale of the adapters")
    lora_dropout: float = _setting(0.0, "dropout in the adapters")
    use_rslora: bool = _setting(False, "scale by alpha/sqrt(r) instead of alpha/r")
    lora_target_modules: list[str] | None = _setting(
        None, "leaf module names instead of finetune_*"
    )
    finetune_vision_layers: bool = _setting(True, "adapters on the vision tower")
    finetune_language_layers: bool = _setting(True, "adapters on the language model")
    finetune_attention_modules: bool = _setting(True, "adapters on attention")
    finetune_mlp_modules: bool = _setting(True, "adapters on the feed-forward layers")
    # Data
    dataset: str = _setting("", "dataset folder as data_prep.convert writes it")
    prompts: dict = _setting(
        {}, "what to ask for instead of the rows' own prompts, by task: {transcription: 'OCR:'}"
    )
    max_train_samples: int | None = _setting(None, "use only the first N training rows")
    max_eval_samples: int | None = _setting(None, "use only the first N validation and test rows")
    streaming: bool = _setting(False, "read training rows as they are needed (needs max_steps)")
    shuffle_buffer_size: int = _setting(1000, "rows that a stream is shuffled among")
    augmentation: dict = _setting(
        {}, "damage to training pictures: {name: strength or [low, high], probability: 0.5}"
    )
    curriculum: str | None = _setting(
        None, "easy first by length, density, base_cer or a column; none: all rows at once"
    )
    curriculum_start: float = _setting(0.3, "share of the rows, the easiest, to begin with")
    curriculum_steps: float = _setting(0.5, "share of the steps after which all rows take part")
    # Training
    loss: str = _setting("cross_entropy", ", ".join(LOSSES))
    label_smoothing_factor: float = _setting(0.1, "probability spread over all tokens")
    focal_gamma: float = _setting(2.0, "how far the focal loss turns away from easy tokens")
    focal_alpha: float = _setting(1.0, "factor of the focal loss")
    confusion_max_weight: float = _setting(3.0, "largest weight of a character that is mixed up")
    confusion_smoothing: float = _setting(0.5, "share of the old weights kept at an evaluation")
    output_dir: str = _setting(
        "runs/ocrkit", "run folder: checkpoints, adapter, evaluations, report"
    )
    num_train_epochs: float = _setting(1.0, "passes over the training split")
    max_steps: int = _setting(-1, "stop after N steps; -1 lets num_train_epochs decide")
    per_device_train_batch_size: int | str = _setting(
        2, "training samples a step and device; auto finds the largest that fits"
    )
    per_device_eval_batch_size: int = _setting(8, "samples generated at once")
    gradient_accumulation_steps: int = _setting(1, "batches added up before a step")
    learning_rate: float = _setting(2e-4, "peak learning rate")
    learning_rate_batch_size: int | None = _setting(
        None, "samples a step that learning_rate is meant for; it is scaled by the square root"
    )
    lr_scheduler_type: str = _setting("cosine", "transformers' schedule name")
    warmup_steps: float = _setting(0.03, "steps, or under 1 a share of all steps, of warm-up")
    weight_decay: float = _setting(0.0, "decoupled weight decay")
    max_grad_norm: float = _setting(1.0, "clip the gradient's norm")
    adam_beta2: float = _setting(0.999, "AdamW's second decay rate")
    optim: str = _setting("adamw_torch", "transformers' optimizer name, e.g. adamw_8bit")
    gradient_checkpointing: bool = _setting(True, "recompute activations to save memory")
    logging_steps: int = _setting(10, "log the loss every N steps")
    eval_steps: int | None = _setting(
        None, "evaluate on validation rows every N steps; none: never"
    )
    eval_samples: int = _setting(100, "validation rows read at each of these evaluations")
    num_completions_to_print: int = _setting(3, "rows of the table of truths and predictions")
    load_best_model_at_end: bool = _setting(False, "end with the checkpoint that read best")
    metric_for_best_model: str | None = _setting(
        None, "cer (where none is given), exact_match, loss and what else is read"
    )
    early_stopping_patience: float | None = _setting(
        None, "evaluations without a better one before the run stops; under 1 a share of all steps"
    )
    early_stopping_threshold: float = _setting(0.0, "how much better counts as better")
    save_steps: int = _setting(100, "checkpoint every N steps")
    save_total_limit: int = _setting(2, "checkpoints kept")
    resume_from_checkpoint: str | None = _setting(None, "auto, or a checkpoint folder")
    dataloader_num_workers: int = _setting(0, "processes that prepare batches")
    report_to: str = _setting("none", "none, tensorboard, wandb, or tensorboard,wandb")
    project: str = _setting("ocrkit", "project that a tracker files the run under")
    run_name: str | None = _setting(None, "the run's name in a tracker; none: the run folder's")
    tags: list[str] | None = _setting(None, "labels of the run in a tracker")
    seed: int = _setting(42, "seed of everything random")
    # Evaluation
    max_new_tokens: int = _setting(256, "longest prediction in tokens")
    normalization_profile: str = _setting("lenient", "strict, lenient or squad, for matches")
    locale: str = _setting("en", "how amounts in extracted JSON are written: en, de, ko, en-in...")
    sft_kwargs: dict = _setting({}, "whatever else TRL's SFTConfig takes")

    def __post_init__(self) -> None:
        for spec in fields(self):
            setattr(self, spec.name, _checked(spec.name, getattr(self, spec.name)))
        choice("backend", self.backend, ("auto", "unsloth", "transformers"))
        choice("dtype", self.dtype, ("auto", "float32", "float16", "bfloat16"))
        choice("normalization_profile", self.normalization_profile, ("strict", "lenient", "squad"))
        choice("loss", self.loss, LOSSES)
        if re.split("[-_]", self.locale.lower())[0] not in LOCALES:
            choice("locale", self.locale, tuple(LOCALES))
        self._check_numbers()
        if isinstance(self.per_device_train_batch_size, str):
            choice(
                "per_device_train_batch_size",
                self.per_device_train_batch_size,
                ("a number", "auto"),
            )
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise ConfigError(
                f"min_pixels={self.min_pixels} is above max_pixels={self.max_pixels}, "
                "so no picture fits; lower one or raise the other."
            )
        if not self.use_peft and self.load_in_4bit:
            raise ConfigError(
                "load_in_4bit=True cannot train every weight (use_peft=False); "
                "set load_in_4bit=False or use_peft=True."
            )
        for task, prompt in self.prompts.items():
            choice("prompts: task", task, PROMPTED_TASKS)
            if not isinstance(prompt, str) or not prompt.strip():
                raise ConfigError(f"prompts: {task}={prompt!r} must be a text that asks for it.")
        self._check_training()
        self._check_trackers()
        augmentation_ranges(self.augmentation)
        if self.augmentation.get("device") == "cuda" and self.dataloader_num_workers:
            raise ConfigError(
                f"augmentation on device=cuda cannot run in dataloader_num_workers="
                f"{self.dataloader_num_workers} processes; set it to 0, or device=cpu."
            )
        for name in self.sft_kwargs:
            if name in {spec.name for spec in fields(self)}:
                raise ConfigError(f"{name} is set in sft_kwargs; set it as a field of its own.")
            if name in ("packing", "eval_packing", "padding_free") and self.sft_kwargs[name]:
                raise ConfigError(
                    f"sft_kwargs has {name}, which joins texts and cannot join rows with pictures; "
                    "leave it out: batches hold rows of like length as it is."
                )

    def _check_numbers(self) -> None:
        """Refuse numbers out of range; text, as a batch size may be, is checked elsewhere."""
        numbers = {n: v for n, v in vars(self).items() if isinstance(v, int | float)}
        for name, value in numbers.items():
            if not math.isfinite(value):
                raise ConfigError(f"{name}={value} must be a finite number.")
            if name in _AT_LEAST_1 and value < 1:
                raise ConfigError(f"{name}={value} must be at least 1.")
            if name in _SHARES and not 0 <= value <= 1:
                raise ConfigError(f"{name}={value} must lie between 0 and 1.")
            if name in ("lora_dropout", "adam_beta2") and not 0 <= value < 1:
                raise ConfigError(f"{name}={value} must be at least 0 and below 1.")
            if name in _NOT_NEGATIVE and value < 0:
                raise ConfigError(f"{name}={value} must not be negative.")
            if name in ("learning_rate", "num_train_epochs") and value <= 0:
                raise ConfigError(f"{name}={value} must be above 0.")
        if self.max_steps < 1 and self.max_steps != -1:
            raise ConfigError(
                f"max_steps={self.max_steps} must be at least 1, or -1 for num_train_epochs to "
                "decide."
            )

    def _check_training(self) -> None:
        """Refuse what contradicts itself before a model is loaded."""
        never = "eval_steps is none, so nothing is evaluated; set eval_steps."
        metric = (self.metric_for_best_model or "loss").removeprefix("eval_")
        if metric not in METRICS:
            nearest = get_close_matches(metric, METRICS, n=1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"take {', '.join(METRICS)}."
            raise ConfigError(f"metric_for_best_model={metric!r} is no metric; {hint}")
        if self.load_best_model_at_end and not self.eval_steps:
            raise ConfigError(f"load_best_model_at_end needs evaluations: {never}")
        if self.load_best_model_at_end and self.save_steps % (self.eval_steps or 1):
            raise ConfigError(
                f"load_best_model_at_end needs a checkpoint at evaluations only: "
                f"save_steps={self.save_steps} is no multiple of eval_steps={self.eval_steps}."
            )
        if self.early_stopping_patience is not None:
            if not self.eval_steps:
                raise ConfigError(f"early_stopping_patience needs evaluations: {never}")
            if not self.metric_for_best_model:
                raise ConfigError(
                    "early_stopping_patience needs a metric: set metric_for_best_model, e.g. cer."
                )
            if self.early_stopping_patience <= 0:
                raise ConfigError(
                    f"early_stopping_patience={self.early_stopping_patience} must be above 0."
                )
        if "confusion" in self.loss and not self.eval_steps:
            raise ConfigError(f"loss={self.loss!r} takes its weights from evaluations: {never}")
        if self.streaming and self.max_steps < 1:
            raise ConfigError("streaming=True has no known length; set max_steps.")
        if self.streaming and self.curriculum:
            raise ConfigError(
                f"curriculum={self.curriculum!r} orders all rows and streaming=True never sees "
                "them together; set one of the two."
            )

    @property
    def trackers(self) -> list[str]:
        """The trackers that `report_to` names."""
        return [n for n in map(str.strip, self.report_to.split(",")) if n not in ("none", "")]

    def _check_trackers(self) -> None:
        for name in self.trackers:
            choice("report_to", name, ("none", "tensorboard", "wandb"))
            try:
                # Not whether it can be imported: W&B's run folder `wandb` passes for a package.
                metadata.version(name)
            except metadata.PackageNotFoundError:
                raise ConfigError(
                    f"report_to={name!r} needs the package {name}, which is not installed: "
                    f"`pip install {name}`, or set report_to=none."
                ) from None

    @classmethod
    def from_recipe(cls, recipe: str, **overrides: Any) -> "TrainConfig":
        """Read a recipe, by its name or as a YAML file, and replace what is given.

        Raises:
            ConfigError: no such recipe, or a key that is no setting.
        """
        path = (
            Path(recipe) if str(recipe).endswith((".yaml", ".yml")) else RECIPES / f"{recipe}.yaml"
        )
        if not path.is_file():
            nearest = get_close_matches(str(recipe), recipes(), n=1)
            hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
            raise ConfigError(f"No recipe {recipe!r}; there are {', '.join(recipes())}.{hint}")
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
                raise ConfigError(f"{path} must hold settings as `name: value`, one a line.")
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
        return cls.from_dict({**values, **overrides})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainConfig":
        """Build a config from names and values.

        Raises:
            ConfigError: a name that is no setting; the message names the nearest.
        """
        for name in values:
            check_name(name)
        return cls(**values)

    @classmethod
    def from_parameters(
        cls, namespace: Mapping[str, Any], also: Iterable[str] = ()
    ) -> "TrainConfig":
        """Build a config from a notebook's globals, right after its parameters cell.

        `recipe` names the recipe that the parameters override; None leaves the recipe's value.
        `also` declares parameters that the notebook itself uses.

        Raises:
            ConfigError: a plain value under a name that nothing uses, such as a misspelt `-p`.
        """
        also = {*also, "recipe"}
        values = {}
        for name, value in namespace.items():
            if name.startswith("_") or name in _NOTEBOOK_NAMES or name in also:
                continue
            if not isinstance(value, str | int | float | bool | list | dict | None):
                continue
            check_name(name, also)
            if value is not None:
                values[name] = value
        recipe = namespace.get("recipe")
        return cls.from_recipe(recipe, **values) if recipe else cls.from_dict(values)

    def to_dict(self) -> dict[str, Any]:
        """Plain names and values."""
        return asdict(self)

    def save(self, path: str | Path) -> None:
        """Write the settings as YAML, which `from_recipe` reads again."""
        text = yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)
        write_whole(path, text)


# What IPython itself puts among a notebook's globals.
_NOTEBOOK_NAMES = {"In", "Out", "exit", "quit", "get_ipython", "open"}


def recipes() -> list[str]:
    """Names of the recipes that come with the kit."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def check_name(name: str, also: Iterable[str] = ()) -> None:
    """Refuse a name that is no setting, with the one that is meant.

    Args:
        also: names that are known besides.

    Raises:
        ConfigError: nothing has this name.
    """
    names = [spec.name for spec in fields(TrainConfig)]
    if name in names:
        return
    if name in _HEIRS:
        raise ConfigError(f"{name!r} is no setting; it is called {_HEIRS[name]}.")
    nearest = get_close_matches(name, [*names, *also], n=1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else "see `python -m ocrkit train --help`."
    raise ConfigError(f"{name!r} is no setting; {hint}")


@cache
def _types() -> dict[str, Any]:
    """{setting: its type}, which takes a millisecond to find out."""
    return typing.get_type_hints(TrainConfig)


def _checked(name: str, value: Any) -> Any:
    """The value in the field's type; text, as shells and papermill pass it, is converted."""
    kind = _types()[name]
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if types.NoneType in options and (value is None or str(value).lower() in ("none", "null", "")):
        return None
    target = next(option for option in options if option is not types.NoneType)
    plain = typing.get_origin(target) or target
    if isinstance(value, str) and plain is not str:
        with suppress(ValueError, yaml.YAMLError):
            # YAML takes 1e-4 for text, which people write more often than 1.0e-4.
            value = float(value) if plain is float else yaml.safe_load(value)
    if plain is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if plain is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if plain is str and isinstance(value, int | float) and not isinstance(value, bool):
        # A run called 2024 is a number to papermill and to YAML.
        value = str(value)
    if str in options and isinstance(value, str):
        return value
    if not isinstance(value, plain) or (plain is not bool and isinstance(value, bool)):
        raise ConfigError(f"{name}={value!r} must be of type {plain.__name__}.")
    return value
