"""Train a model: from rows to adapters or whole weights, resumable, with left-out rows counted."""

import math
import pickle
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.dataset.files import naming
from data_prep.dataset.manifest import check_own
from ocrkit.config import TrainConfig
from ocrkit.data.collate import UNREADABLE, Collator
from ocrkit.data.stream import RowStream
from ocrkit.environment import broadcast_from_main, is_main_process
from ocrkit.errors import DataError
from ocrkit.models.backend import gathered_weights
from ocrkit.models.kernels import try_kernels
from ocrkit.models.write import export
from ocrkit.run_folder import (
    LOG,
    begin_run,
    continues_run,
    discard_skipped,
    holds_run,
    locked,
    moved_path,
    next_run_id,
    paths_of_run,
    read_log,
    read_run,
    record_skipped,
    replacing_run,
    skipped_counts,
    write_run,
)
from ocrkit.training.arguments import sft_config
from ocrkit.training.batch_size import resolved_batch_size
from ocrkit.training.checkpoints import checkpoint_to_resume, set_aside_later
from ocrkit.training.difficulty import with_difficulty
from ocrkit.training.probe import check_training, try_step
from ocrkit.training.resume import checked_settings, run_description, saved_description
from ocrkit.training.rows import fit_context, train_rows, validation_rows
from ocrkit.training.validation import check_validation

if TYPE_CHECKING:
    from datasets import DatasetDict
    from transformers import PreTrainedModel, ProcessorMixin, TrainerCallback

    from ocrkit.training.trainer import OCRTrainer


@dataclass
class TrainResult:
    """Result of a run: its steps, mean loss, seconds, log, and the folder of its weights.

    Loss and seconds are those of the steps since the start or a resume. `stopped` is True where the
    panel's button ended the run before its last step.
    """

    global_step: int
    training_loss: float
    seconds: float
    history: list[dict[str, Any]] = field(repr=False)  # long; a cell would print it
    adapter_dir: Path
    stopped: bool = False


class Stopped(KeyboardInterrupt):
    """A run that was stopped and saved, and can be resumed; a notebook shows it in one line."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def train(
    model: "PreTrainedModel",
    processor: "ProcessorMixin",
    data: "DatasetDict",
    config: TrainConfig,
    callbacks: "list[TrainerCallback] | None" = None,
    panel: bool = True,
) -> TrainResult:
    """Train on `data["train"]`; the run folder gets weights, checkpoints, log and versions.

    The weights lie in `adapter/`: LoRA adapters, or with `use_peft: false` the whole model.

    Files of an earlier run in the folder move to `replaced/<its id>/` when the first step of this
    run is done. If this run ends before, the folder is as it was.

    Samples longer than the context (`max_length`, or the model's own) are left out, counted and
    listed, never cut. Batches hold samples of like length. Ctrl+C, a notebook's interrupt and
    SIGTERM save a checkpoint and raise `Stopped`; the stop button of a notebook's panel saves one
    and returns what was reached, so that the cells below can evaluate it.
    `resume_from_checkpoint="auto"` continues from the latest whole checkpoint, as if the run had
    never stopped.

    Args:
        model: as `load_model` returned it.
        processor: likewise.
        data: splits as `load_data` returns them.
        config: the settings of the run.
        callbacks: transformers' TrainerCallbacks to add.
        panel: show progress in a notebook as `panel.TrainingPanel`, not as transformers' own bar.

    Raises:
        DataError: no training row, none that fits the context, or a checkpoint with unsafe pickles.
        ConfigError: settings that contradict each other or that SFTConfig does not take.
        TrainingError: the loss is NaN or infinite, or a batch does not fit the memory.
        OSError: the disk is full or cannot be written; the checkpoints that are whole stay.
        BlockingIOError: another run is training in this folder.
        Stopped: the run was stopped and can be resumed; a KeyboardInterrupt.
    """
    with ExitStack() as stack:
        # The main process locks the folder for all processes.
        broadcast_from_main(lambda: stack.enter_context(locked(Path(config.output_dir))))
        # Those of a run that ends before its first step; of others there are none by then.
        stack.callback(discard_skipped, config.output_dir)
        return _train(model, processor, data, config, callbacks or [], panel)


def _train(
    model: "PreTrainedModel",
    processor: "ProcessorMixin",
    data: "DatasetDict",
    config: TrainConfig,
    callbacks: "list[TrainerCallback]",
    panel: bool,
) -> TrainResult:
    """Train in a folder that is locked."""
    from ocrkit.display.notebook import kernel
    from ocrkit.models.read import weights_fingerprint
    from ocrkit.training.callbacks import LogFile, StopOnSignal
    from ocrkit.training.tracking import tracked

    folder = Path(config.output_dir)
    if not (folder / "versions.json").is_file():  # no run folder yet
        written = ("README.md", "config.json", "adapter_config.json")
        check_own(folder / "adapter", written, way_out="move it, or give another output_dir")
    checkpoint, saved = broadcast_from_main(lambda: _checkpoint_and_description(config))
    if checkpoint and saved:
        config = checked_settings(config, saved, checkpoint)
    stop = StopOnSignal()
    panels = []
    if panel and kernel():
        from ocrkit.training.panel import TrainingPanel

        panels = [TrainingPanel(folder, stop)]
    log = LogFile(folder / LOG)
    if holds_run(folder):
        # Rows left out are listed beside the earlier run's, which a resumed run goes on with.
        record_skipped(folder, [], place="" if checkpoint else UNREADABLE)
    all_callbacks = [log, *panels, stop, *callbacks]
    trainer = make_trainer(model, processor, data, config, all_callbacks, saved)
    if checkpoint and saved:
        log.changed = trainer.resume_with_changes(saved, checkpoint)
        trainer.first_step = saved["step"]
    if panels:
        from transformers.trainer import DEFAULT_PROGRESS_CALLBACK

        trainer.remove_callback(DEFAULT_PROGRESS_CALLBACK)
        trainer.quiet = True
    run: dict[str, Any] = {}
    if is_main_process():
        resumed = continues_run(folder, checkpoint)
        run = read_run(folder) if resumed else {}
        run |= {"id": next_run_id(checkpoint)}
        run.setdefault("start", weights_fingerprint(model))
        # Listed before trackers write files of this run into the folder.
        used = [config.dataset, config.replay_folder]
        names = [] if resumed else paths_of_run(folder, run["start"], used)
        step = saved["step"] if saved else 0
        log.begin = lambda: _begin(trainer, model, run, names, step)
    try:
        with naming(folder), stop, tracked(trainer), panels[0] if panels else nullcontext():
            output = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except pickle.UnpicklingError:
        raise DataError(
            f"{checkpoint} holds a pickle of more than numbers, which could run code and is not "
            "loaded; give a checkpoint that this kit wrote."
        ) from None
    log.take_over()  # for a run without a step
    if config.streaming or trainer.unreadable:
        left_out = sum(skipped_counts(folder).values())
        listed = f"; see {folder / 'skipped.jsonl'}" if left_out else ""
        print(f"{left_out} rows left out so far{listed}")
    resume_hint = "resume_from_checkpoint='auto' goes on from there."
    if stop.caught and not stop.requested:
        raise Stopped(f"Stopped at step {output.global_step}; {resume_hint}")
    adapter = folder / "adapter"
    gathered = gathered_weights(trainer.accelerator, trainer.model_wrapped)
    if trainer.is_world_process_zero():
        # Adapters of an earlier run there would be loaded instead of a whole model.
        (adapter / "adapter_config.json").unlink(missing_ok=True)
        # While the export is written, run.json names no weights, so that no evaluation of the
        # earlier weights is shown beside the new ones.
        write_run(folder, {**run, "weights": None})
        trained = trainer.accelerator.unwrap_model(trainer.model)
        export(trained, processor, adapter, overwrite=True, gathered=gathered)
        write_run(folder, {**run, "weights": weights_fingerprint(trained, gathered)})
    trainer.accelerator.wait_for_everyone()
    if stop.requested:
        print(
            f"Stopped at step {output.global_step} and saved; the cells below evaluate what was "
            f"reached. With config.{resume_hint.replace(' goes', ', running this cell again goes')}"
        )
    history = read_log(folder / LOG)
    # Of a resume without a step it is the entry of the run that had ended.
    ended: dict[str, Any] = next((e for e in reversed(history) if "train_loss" in e), {})
    return TrainResult(
        global_step=output.global_step,
        training_loss=ended.get("train_loss", math.nan),
        seconds=ended.get("train_runtime", 0.0),
        history=history,
        adapter_dir=adapter,
        stopped=stop.requested,
    )


def _checkpoint_and_description(
    config: TrainConfig,
) -> tuple[Path | None, dict[str, Any] | None]:
    """The checkpoint that a run resumes, and the description of the run that saved it."""
    checkpoint = checkpoint_to_resume(config.output_dir, config.resume_from_checkpoint)
    return checkpoint, saved_description(checkpoint) if checkpoint else None


def _begin(
    trainer: "OCRTrainer",
    model: "PreTrainedModel",
    run: dict[str, Any],
    names: list[str],
    step: int,
) -> None:
    """Make the run folder this run's: set an earlier run aside and write settings and versions.

    Args:
        names: paths in the folder that belong to the earlier run.
        step: of the checkpoint that is resumed, or 0.
    """
    config = trainer.config
    folder = Path(config.output_dir)
    with replacing_run(folder, names) as moved_to:
        path = moved_path(config.model_name_or_path, folder, names, moved_to)
        trainer.config = replace(config, model_name_or_path=path)
        trainer.description["settings"]["model_name_or_path"] = path
        for adapters in getattr(model, "peft_config", {}).values():
            base = adapters.base_model_name_or_path or ""
            adapters.base_model_name_or_path = moved_path(base, folder, names, moved_to)
        set_aside_later(folder, step)
        begin_run(folder, trainer.config, run, trainer.description["changes"])
    model.ocrkit_run = run["id"]


def make_trainer(
    model: "PreTrainedModel",
    processor: "ProcessorMixin",
    data: "DatasetDict",
    config: TrainConfig,
    callbacks: "list[TrainerCallback]",
    saved: dict[str, Any] | None = None,
) -> "OCRTrainer":
    """The OCRTrainer of a run, with the rows that fit the context and a fixed validation subset.

    Its `config` has the batch size and the learning rate resolved. Its collator also counts the
    tokens and makes the batches of evaluations.

    Args:
        saved: description of the run that saved the checkpoint to resume (`saved_description`).

    Raises:
        DataError, ConfigError: as `train`.
    """
    from ocrkit.training.callbacks import EarlyStopping, WeightAveraging
    from ocrkit.training.trainer import OCRTrainer

    if "train" not in data:
        raise DataError(f"{config.dataset} has no train split; it has {', '.join(map(str, data))}.")
    if getattr(model, "ocrkit_backend", "") == "unsloth":
        try_kernels(lambda: try_step(model, processor, config))
    augment = None
    if config.augmentation:
        from ocrkit.data.augment import augmenter

        augment = augmenter(config)
    collator = Collator(
        processor,
        config.image_height,
        characters="confusion" in config.loss,
        with_ids=True,
        augment=augment,
    )
    rows, config = train_rows(data["train"], model, collator, config, saved)
    check_training(model, processor, resolved_batch_size(config), config)
    validation = validation_rows(data, config)
    if validation is None and config.eval_steps and is_main_process():
        print(f"{config.dataset} has no validation split, so nothing is evaluated while it trains.")
    if validation is not None:
        validation = fit_context(validation, "validation", model, collator, config)
    check_validation(validation, processor, config)
    if config.early_stopping_patience is not None:
        patience = config.early_stopping_patience
        callbacks = [*callbacks, EarlyStopping(patience, config.early_stopping_threshold)]
    if config.weight_averaging:
        callbacks = [*callbacks, WeightAveraging(config.weight_averaging)]
    arguments = sft_config(config, evaluated=validation is not None)
    if config.curriculum and not isinstance(rows, RowStream):
        rows = with_difficulty(rows, model, processor, config)
    trainer = OCRTrainer(
        model=model,
        args=arguments,
        processing_class=processor,
        data_collator=collator,
        train_dataset=rows,
        eval_dataset=validation,
        config=config,
        callbacks=callbacks,
    )
    trainer.description = run_description(config, rows, model)
    return trainer
