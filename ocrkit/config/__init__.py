"""TrainConfig: one flat list of settings under the names of TRL, PEFT and transformers.

The same names serve a YAML recipe, the command line (`--learning_rate 1e-4`), a notebook's
parameters cell and papermill's `-p`.
"""

import typing
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from data_prep.dataset.command import LARGEST_INT, MOST_WORKERS, expand_home
from data_prep.dataset.files import write_whole
from ocrkit.config.augmentation import augmentation_ranges
from ocrkit.config.checks import check_settings
from ocrkit.config.names import LOSSES, OPTIMIZERS, RENAMED, SCHEDULES
from ocrkit.config.parameters import parameters
from ocrkit.config.values import parse_setting, read_settings, setting
from ocrkit.errors import ConfigError, NotRunError, choice, nearest_hint

RECIPES = Path(__file__).parents[1] / "recipes"
# What `replay: print` stands for.
PRINT = Path(__file__).parents[1] / "assets" / "samples" / "print"


@dataclass
class TrainConfig:
    """All settings of a run; `python -m ocrkit train --help` explains each.

    Raises:
        ConfigError: a setting has another type, lies out of bounds, or contradicts another.
    """

    # Model
    model_name_or_path: str = setting(
        "tiny", "model id, folder or run folder; 'tiny' is the embedded model"
    )
    backend: str = setting(
        "auto",
        "auto, unsloth (needs CUDA) or transformers",
        choices=("auto", "unsloth", "transformers"),
    )
    load_in_4bit: bool = setting(True, "quantize the base to 4-bit NF4 (needs CUDA)")
    dtype: str = setting(
        "auto",
        "auto, float32, float16 or bfloat16; auto is 16 bits on a GPU, and float32 on a CPU and "
        "for weights that are trained whole, whose products a GPU makes in 16 bits",
        choices=("auto", "float32", "float16", "bfloat16"),
    )
    attn_implementation: str | None = setting(None, "attention kernel; none leaves the choice")
    device_map: str | None = setting(None, "where to put the model's parts, e.g. auto")
    chat_template_kwargs: dict = setting(
        {},
        "variables of the chat template; enable_thinking and its like are false unless set here: "
        "{enable_thinking: true}",
    )
    trust_remote_code: bool = setting(False, "run code that a model repository brings along")
    min_pixels: int | None = setting(None, "enlarge pictures of fewer pixels", at_least=1)
    max_pixels: int | None = setting(
        None, "shrink pictures of more pixels; counted and reported", at_least=1
    )
    max_image_tiles: int | None = setting(
        None,
        "most tiles of a picture, for models that count tiles (Llama-3.2-Vision: 4)",
        at_least=1,
    )
    processor_kwargs: dict = setting(
        {},
        "numbers and booleans of the image processor, for models whose pictures max_pixels cannot "
        "bound: {max_patches: 6}, {max_soft_tokens: 560}, {longest_edge: 1024}",
    )
    image_height: int | None = setting(
        None, "scale every picture to this height first (lines)", at_least=1, at_most=16384
    )
    max_length: int | None = setting(
        None,
        "longest sample in tokens, image included; longer ones are left out and counted",
        at_least=1,
    )
    # LoRA
    use_peft: bool = setting(True, "train LoRA adapters; false trains every weight")
    lora_r: int = setting(16, "rank of the adapters", at_least=1, at_most=8192)
    lora_alpha: int = setting(16, "scale of the adapters", at_least=1, at_most=65536)
    lora_dropout: float = setting(0.0, "dropout in the adapters", at_least=0, below=1)
    use_rslora: bool = setting(False, "scale by alpha/sqrt(r) instead of alpha/r")
    lora_target_modules: list[str] | None = setting(None, "leaf module names instead of finetune_*")
    finetune_vision_layers: bool = setting(True, "adapters on the vision tower")
    finetune_language_layers: bool = setting(True, "adapters on the language model")
    finetune_attention_modules: bool = setting(True, "adapters on attention")
    finetune_mlp_modules: bool = setting(True, "adapters on the feed-forward layers")
    # Data
    dataset: str = setting("", "dataset folder as data_prep.convert writes it", may_be_empty=True)
    prompts: dict = setting(
        {}, "prompts instead of the rows' own, by task: {transcription: 'OCR:'}"
    )
    max_train_samples: int | None = setting(None, "use only the first N training rows", at_least=1)
    max_eval_samples: int | None = setting(
        None, "use only the first N validation and test rows", at_least=1
    )
    streaming: bool = setting(False, "read training rows as they are needed (needs max_steps)")
    shuffle_buffer_size: int = setting(1000, "rows that a stream is shuffled among", at_least=1)
    augmentation: dict = setting(
        {}, "changes to training pictures: {name: strength or [low, high], probability: 0.5}"
    )
    replay: str | None = setting(
        None,
        "a second dataset folder whose training rows are mixed in, so that what the base could "
        "read is not forgotten; print: clean English lines that ship with the kit; none: nothing",
    )
    replay_share: float = setting(
        0.25, "share of the training samples that are rows of replay", above=0, below=1
    )
    curriculum: str | None = setting(
        None, "easy first by length, density, base_cer or a column; none: all rows at once"
    )
    curriculum_start: float = setting(
        0.3, "share of the rows, the easiest, to begin with", at_least=0, at_most=1
    )
    curriculum_steps: float = setting(
        0.5, "share of the steps after which all rows take part", at_least=0, at_most=1
    )
    # Training
    loss: str = setting("cross_entropy", ", ".join(LOSSES), choices=LOSSES)
    label_smoothing_factor: float = setting(
        0.1, "probability spread over all tokens", at_least=0, at_most=1
    )
    focal_gamma: float = setting(
        2.0, "how far the focal loss turns away from easy tokens", at_least=0
    )
    focal_alpha: float = setting(1.0, "factor of the focal loss", at_least=0)
    confusion_max_weight: float = setting(
        3.0, "largest weight of a character that is mixed up", at_least=1
    )
    confusion_smoothing: float = setting(
        0.5, "share of the old weights kept at an evaluation", at_least=0, at_most=1
    )
    output_dir: str = setting(
        "runs/ocrkit", "run folder: checkpoints, adapter, evaluations, report"
    )
    num_train_epochs: float = setting(
        1.0, "passes over the training split", above=0, at_most=1_000_000
    )
    max_steps: int = setting(
        -1, "stop after N steps, whatever num_train_epochs says; -1 lets it decide"
    )
    per_device_train_batch_size: int | str = setting(
        2, "training samples a step and device; auto finds the largest that fits", at_least=1
    )
    per_device_eval_batch_size: int = setting(8, "samples generated at once", at_least=1)
    gradient_accumulation_steps: int = setting(1, "batches added up before a step", at_least=1)
    learning_rate: float = setting(2e-4, "peak learning rate", above=0)
    learning_rate_batch_size: int | None = setting(
        None,
        "samples a step that learning_rate is meant for; it is scaled by the square root",
        at_least=1,
    )
    lr_scheduler_type: str = setting("cosine", "transformers' schedule name", choices=SCHEDULES)
    warmup_steps: float = setting(
        0.03, "steps, or under 1 a share of all steps, of warm-up", at_least=0, at_most=LARGEST_INT
    )
    weight_decay: float = setting(0.0, "decoupled weight decay", at_least=0)
    max_grad_norm: float = setting(1.0, "clip the gradient's norm", at_least=0)
    adam_beta2: float = setting(0.999, "AdamW's second decay rate", at_least=0, below=1)
    optim: str = setting(
        "adamw_torch", "transformers' optimizer name, e.g. adamw_8bit", choices=OPTIMIZERS
    )
    weight_averaging: float = setting(
        0.0,
        "share of the steps, the last ones, whose weights are averaged at the end; 0: none",
        at_least=0,
        at_most=1,
    )
    gradient_checkpointing: bool = setting(True, "recompute activations to save memory")
    logging_steps: int = setting(10, "log the loss every N steps", at_least=1)
    eval_steps: int | None = setting(
        None, "evaluate on validation rows every N steps; none: never", at_least=1
    )
    eval_samples: int = setting(
        100, "validation rows read at each of these evaluations", at_least=1
    )
    num_completions_to_print: int = setting(
        3, "rows of the table of truths and predictions", at_least=0
    )
    load_best_model_at_end: bool = setting(False, "end with the checkpoint that read best")
    metric_for_best_model: str | None = setting(
        None, "cer (where none is given), exact_match, loss and what else is read"
    )
    early_stopping_patience: float | None = setting(
        None,
        "evaluations without a better one before the run stops; under 1 a share of all steps",
        above=0,
        at_most=LARGEST_INT,
    )
    early_stopping_threshold: float = setting(0.0, "how much better counts as better", at_least=0)
    save_steps: int = setting(100, "checkpoint every N steps", at_least=1)
    save_total_limit: int = setting(2, "checkpoints kept", at_least=1)
    resume_from_checkpoint: str | None = setting(None, "auto, or a checkpoint folder")
    dataloader_num_workers: int = setting(
        0, "processes that prepare batches", at_least=0, at_most=MOST_WORKERS
    )
    report_to: str = setting(
        "none", "none, tensorboard, wandb, or tensorboard,wandb", may_be_empty=True
    )
    project: str = setting("ocrkit", "project that a tracker files the run under")
    run_name: str | None = setting(None, "the run's name in a tracker; none: the run folder's")
    tags: list[str] | None = setting(None, "labels of the run in a tracker")
    seed: int = setting(42, "seed of everything random", at_least=0, at_most=2**32 - 1)
    # Evaluation
    max_new_tokens: int = setting(256, "longest prediction in tokens", at_least=1, at_most=2**20)
    normalization_profile: str = setting(
        "lenient", "strict, lenient or squad, for matches", choices=("strict", "lenient", "squad")
    )
    locale: str = setting("en", "how amounts in extracted JSON are written: en, de, ko, en-in...")
    sft_kwargs: dict = setting({}, "whatever else TRL's SFTConfig takes")

    def __post_init__(self) -> None:
        types = _types()
        for spec in fields(self):
            name, value = spec.name, expand_home(getattr(self, spec.name))
            setattr(self, name, parse_setting(name, types[name], value, spec.metadata["limits"]))
        augmentation_ranges(self.augmentation)
        check_settings(self)

    @property
    def replay_folder(self) -> str:
        """The dataset folder that `replay` names."""
        return str(PRINT) if self.replay == "print" else self.replay or ""

    @property
    def trackers(self) -> list[str]:
        """The trackers that `report_to` names."""
        return [n for n in map(str.strip, self.report_to.split(",")) if n not in ("none", "")]

    @classmethod
    def from_recipe(cls, recipe: str, **overrides: Any) -> "TrainConfig":
        """Read a recipe, by its name or as a YAML file; overrides replace its settings.

        A `num_train_epochs` among the overrides beats a `max_steps` of the recipe.

        Raises:
            ConfigError: no such recipe, a key that is no setting, or a file that sets
                `trust_remote_code`, which is the user's to decide.
        """
        path = (
            Path(recipe) if str(recipe).endswith((".yaml", ".yml")) else RECIPES / f"{recipe}.yaml"
        )
        if not path.is_file():
            choice("recipe", str(recipe), recipes())
        values = read_settings(path)
        if "trust_remote_code" in values and "trust_remote_code" not in overrides:
            # No file may decide that a model's code runs on this machine.
            trust = values.pop("trust_remote_code")
            if cls.from_dict({"trust_remote_code": trust}).trust_remote_code:
                raise ConfigError(
                    f"{path} sets trust_remote_code={trust}, which no file decides: read the "
                    "model's code, then give --trust_remote_code true (in Python "
                    "trust_remote_code=True) beside the file."
                )
        if "num_train_epochs" in overrides and "max_steps" not in overrides:
            # The recipe's max_steps would overrule the user's num_train_epochs.
            values.pop("max_steps", None)
        return cls.from_dict({**values, **overrides})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainConfig":
        """Build a config from names and values.

        Raises:
            ConfigError: an unknown name, with the nearest setting; a wrong value.
        """
        for name in values:
            check_name(name)
        return cls(**values)

    @classmethod
    def from_parameters(
        cls, namespace: Mapping[str, Any], also: Iterable[str] = ()
    ) -> "TrainConfig":
        """Build a config from a notebook's globals, in a cell after its parameters cell.

        Only names that the parameters cell and papermill's `-p` assigned count, so the cell may be
        run again, whatever other cells have assigned since. A parameter named `recipe` chooses the
        recipe; the others override its settings, but None keeps the recipe's value.

        Args:
            also: parameters that the notebook itself uses.

        Raises:
            ConfigError: a parameter under a name that nothing uses, such as a misspelt `-p`.
            NotRunError: the kernel of a notebook has run no parameters cell.
        """
        also = {*also, "recipe"}
        values = {}
        given = parameters(namespace)
        if "In" in namespace and not given:
            raise NotRunError(
                "There are no parameters, as this kernel has run no cell that assigns any since it "
                "was started: run the parameters cell above, then this cell again."
            )
        for name, value in given.items():
            if name not in also:
                check_name(name, also)
                if value is not None:
                    values[name] = value
        recipe = namespace.get("recipe")
        return cls.from_recipe(recipe, **values) if recipe else cls.from_dict(values)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain names and values."""
        return asdict(self)

    def save(self, path: str | Path) -> None:
        """Write the settings as YAML, which `from_recipe` reads again."""
        text = yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)
        write_whole(path, text)


def recipes() -> list[str]:
    """List the names of the kit's recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def check_name(name: str, also: Iterable[str] = ()) -> None:
    """Refuse an unknown name of a setting.

    Args:
        also: further allowed names.

    Raises:
        ConfigError: the name is unknown; the message has the nearest setting.
    """
    names = [spec.name for spec in fields(TrainConfig)]
    if name in names:
        return
    if name in RENAMED:
        raise ConfigError(f"{name!r} is no setting; it is called {RENAMED[name]}.")
    hint = nearest_hint(name, [*names, *also], "see `python -m ocrkit train --help`.")
    raise ConfigError(f"{name!r} is no setting; {hint}")


@cache
def _types() -> dict[str, Any]:
    """{setting: its type}, cached because it takes a millisecond."""
    return typing.get_type_hints(TrainConfig)
