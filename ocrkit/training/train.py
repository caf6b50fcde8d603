"""Train: from rows to adapters or a model, resumable, with everything that was left out counted."""

import math
import pickle
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_prep.dataset.files import check_own, naming
from ocrkit.config import TrainConfig
from ocrkit.data.collate import Collator, refusal, token_lengths
from ocrkit.data.load import without_bars
from ocrkit.environment import decided_by_main, is_main_process, process_count
from ocrkit.errors import ConfigError, DataError
from ocrkit.evaluation.evaluate import records_of
from ocrkit.metrics.names import METRICS
from ocrkit.models.kernels import try_kernels
from ocrkit.models.write import export
from ocrkit.run_folder import (
    LOG,
    begin_run,
    belongings,
    holds_run,
    id_of_run,
    locked,
    path_after,
    read_log,
    read_run,
    record_skipped,
    resumes,
    skipped_counts,
    taken_over,
    write_run,
)
from ocrkit.training.batch_size import resolve_batch
from ocrkit.training.checkpoints import checkpoint_to_resume, set_aside
from ocrkit.training.difficulty import with_difficulty
from ocrkit.training.resume import checked_settings, made_with, saved_settings

# Rows of a stream that are looked at before it is read.
STREAM_SAMPLE = 256


@dataclass
class TrainResult:
    """What a run came to: steps done, final mean loss, seconds, and its log."""

    global_step: int
    training_loss: float
    seconds: float
    history: list[dict[str, Any]]
    adapter_dir: Path


class Stopped(KeyboardInterrupt):
    """A run that was stopped, saved, and can be resumed; one line where a notebook shows it."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def train(
    model: Any,
    processor: Any,
    data: Any,
    config: TrainConfig,
    callbacks: list | None = None,
    panel: bool = True,
) -> TrainResult:
    """Train on `data["train"]`; weights, checkpoints, log and versions are left in the run folder.

    The weights lie in `adapter/`: LoRA adapters, or with `use_peft: false` the whole model.

    What an earlier run left in the folder moves to `replaced/<its id>/` when the first step of this
    one is done. Where this one ends before, the folder is as it was.

    Samples longer than the context (`max_length`, or the model's own) are left out, counted and
    listed, never cut. Batches hold samples of like length. Ctrl+C, a notebook's interrupt, the stop
    button of its panel and SIGTERM save a checkpoint and raise `Stopped`;
    `resume_from_checkpoint="auto"` goes on from the latest that is whole, as if the run had never
    stopped.

    Args:
        model: what `load_model` returned.
        processor: likewise.
        data: splits as `load_data` gives them.
        config: the settings of the run.
        callbacks: transformers' TrainerCallbacks to add.
        panel: show progress in a notebook as `panel.TrainingPanel`, not as transformers' own bar.

    Raises:
        DataError: no training row, none that fits the context, or a checkpoint that is no data.
        ConfigError: settings that contradict each other or that SFTConfig does not know.
        TrainingError: the loss is no number, or a batch does not fit the memory.
        OSError: the disk is full or cannot be written; the checkpoints that are whole stay.
        BlockingIOError: another run is training in this folder.
        Stopped: the run was stopped and can be resumed; a KeyboardInterrupt.
    """
    with ExitStack() as held:
        # By the main process alone, for all.
        decided_by_main(lambda: held.enter_context(locked(Path(config.output_dir))))
        return _train(model, processor, data, config, callbacks or [], panel)


def _train(
    model: Any, processor: Any, data: Any, config: TrainConfig, callbacks: list, panel: bool
) -> TrainResult:
    """As `train`, in a folder that is locked."""
    from ocrkit.display.notebook import kernel
    from ocrkit.models.read import weights_fingerprint
    from ocrkit.training.callbacks import LogFile, StopOnSignal
    from ocrkit.training.tracking import tracked

    folder = Path(config.output_dir)
    if not (folder / "versions.json").is_file():  # no run folder yet
        written = ("README.md", "config.json", "adapter_config.json")
        check_own(folder / "adapter", written, way_out="move it, or give another output_dir")
    checkpoint, saved = decided_by_main(lambda: _resumed(config))
    if saved:
        config = checked_settings(config, saved, checkpoint)
    stop = StopOnSignal()
    shown = []
    if panel and kernel():
        from ocrkit.training.panel import TrainingPanel

        shown = [TrainingPanel(folder, stop)]
    log = LogFile(folder / LOG)
    watchers = [log, *shown, stop, *callbacks]
    if holds_run(folder):
        record_skipped(folder, [])  # rows left out are listed beside those of the earlier run
    trainer = make_trainer(model, processor, data, config, watchers, saved)
    if saved:
        log.changed = trainer.go_on_from(saved, checkpoint)
    if shown:
        from transformers.trainer import DEFAULT_PROGRESS_CALLBACK

        trainer.remove_callback(DEFAULT_PROGRESS_CALLBACK)
        trainer.quiet = True
    run: dict[str, Any] = {}
    if is_main_process():
        resumed = resumes(folder, checkpoint)
        run = read_run(folder) if resumed else {}
        run |= {"id": id_of_run(checkpoint)}
        run.setdefault("start", weights_fingerprint(model))
        names = [] if resumed else belongings(folder, run["start"], [config.dataset])

        def begin() -> None:
            with taken_over(folder, names) as place:
                at = path_after(trainer.config.model_name_or_path, folder, names, place)
                trainer.config = replace(trainer.config, model_name_or_path=at)
                trainer.made_with["settings"]["model_name_or_path"] = at
                for adapters in getattr(model, "peft_config", {}).values():
                    base = adapters.base_model_name_or_path or ""
                    adapters.base_model_name_or_path = path_after(base, folder, names, place)
                set_aside(folder, saved["step"] if saved else 0)
                begin_run(folder, trainer.config, run, trainer.made_with["changes"])
            model.ocrkit_run = run["id"]

        log.begin = begin
    try:
        with naming(folder), stop, tracked(trainer), shown[0] if shown else nullcontext():
            output = trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
    except pickle.UnpicklingError:
        raise DataError(
            f"{checkpoint} holds a pickle of more than numbers, which could run code and is not "
            "loaded; give a checkpoint that this kit wrote."
        ) from None
    log.take_over()  # where there was no step to do
    if config.streaming:
        left_out = sum(skipped_counts(folder).values())
        print(
            f"{left_out} rows left out so far"
            + f"; see {folder / 'skipped.jsonl'}" * bool(left_out)
        )
    if stop.caught:
        done = output.global_step
        raise Stopped(f"Stopped at step {done}; resume_from_checkpoint='auto' goes on from there.")
    adapter = folder / "adapter"
    if trainer.is_world_process_zero():
        # Adapters of an earlier run there would be loaded instead of a whole model.
        (adapter / "adapter_config.json").unlink(missing_ok=True)
        # Evaluations are of the weights that run.json names: never of those that it named before.
        write_run(folder, {**run, "weights": None})
        trained = trainer.accelerator.unwrap_model(trainer.model)
        export(trained, processor, adapter, overwrite=True)
        write_run(folder, {**run, "weights": weights_fingerprint(trained)})
    trainer.accelerator.wait_for_everyone()
    return TrainResult(
        global_step=output.global_step,
        training_loss=output.training_loss,
        seconds=output.metrics["train_runtime"],
        history=read_log(folder / "train_log.jsonl"),
        adapter_dir=adapter,
    )


def make_trainer(
    model: Any,
    processor: Any,
    data: Any,
    config: TrainConfig,
    callbacks: list,
    saved: dict[str, Any] | None = None,
) -> Any:
    """The OCRTrainer of a run, with the rows that fit the context and a fixed validation subset.

    Its `config` is the given one with batch size and learning rate resolved.

    Args:
        saved: what the checkpoint that the run goes on from was made with, of `saved_settings`.

    Raises:
        DataError, ConfigError: as `train`.
    """
    from ocrkit.training.callbacks import EarlyStopping
    from ocrkit.training.trainer import OCRTrainer

    if "train" not in data:
        raise DataError(f"{config.dataset} has no train split; it has {', '.join(data)}.")
    if getattr(model, "ocrkit_backend", "") == "unsloth":
        try_kernels(model, processor, config, training=True)
    rows, config = _train_rows(data["train"], model, processor, config, saved)
    validation = evaluation_rows(data, config)
    if validation is None and config.eval_steps and is_main_process():
        print(f"{config.dataset} has no validation split, so nothing is evaluated while it trains.")
    if validation is not None:
        validation = fit_context(validation, "validation", model, processor, config)
    check_evaluation(validation, processor, config)
    if config.early_stopping_patience is not None:
        patience = config.early_stopping_patience
        callbacks = [*callbacks, EarlyStopping(patience, config.early_stopping_threshold)]
    weighted = "confusion" in config.loss
    args = _sft_config(config, evaluated=validation is not None)
    if config.curriculum:
        rows = with_difficulty(rows, model, processor, config)
    augment = None
    if config.augmentation:
        from ocrkit.data.augment import augmenter

        augment = augmenter(config)
    trainer = OCRTrainer(
        model=model,
        args=args,
        processing_class=processor,
        data_collator=Collator(
            processor, config.image_height, characters=weighted, with_ids=True, augment=augment
        ),
        train_dataset=rows,
        eval_dataset=validation,
        config=config,
        callbacks=callbacks,
    )
    trainer.made_with = made_with(config, rows, model)
    return trainer


def _resumed(config: TrainConfig) -> tuple[Path | None, dict[str, Any] | None]:
    """The checkpoint that a run goes on from, and what it was made with."""
    checkpoint = checkpoint_to_resume(config.output_dir, config.resume_from_checkpoint)
    return checkpoint, checkpoint and saved_settings(checkpoint)


def evaluation_rows(data: Any, config: TrainConfig) -> Any:
    """The validation rows that every evaluation of a run reads; None: nothing is evaluated."""
    if "validation" not in data or not config.eval_steps:
        return None
    rows = data["validation"]
    if len(rows) <= config.eval_samples:
        return rows
    return rows.shuffle(seed=config.seed).select(range(config.eval_samples))


def _train_rows(
    rows: Any, model: Any, processor: Any, config: TrainConfig, saved: dict[str, Any] | None
) -> tuple[Any, TrainConfig]:
    """The rows that fit the context, or the stream of them, and the settings with a batch size."""
    if not config.streaming:
        rows = fit_context(rows, "train", model, processor, config)
        config = resolve_batch(config, model, processor, rows, rows["length"])
        return rows, config
    stream = rows.fitting(processor, context_length(model, config))
    sample = stream.take(STREAM_SAMPLE)
    if not len(sample):
        raise DataError(
            f"No train row of {config.dataset} can be used: each is unreadable or longer than the "
            f"context of {context_length(model, config)} tokens; raise max_length or lower "
            "max_pixels."
        )
    images, texts = token_lengths(sample, processor, config)
    lengths = [image + text for image, text in zip(images, texts)]
    config = resolve_batch(config, model, processor, sample, lengths)
    rows_per_batch = config.per_device_train_batch_size * process_count()
    batches = saved["step"] * config.gradient_accumulation_steps if saved else 0
    return stream.after(batches, rows_per_batch), config


def check_evaluation(rows: Any, processor: Any, config: TrainConfig) -> None:
    """Refuse, before the first step, settings that the evaluations of this run cannot serve.

    Args:
        rows: the validation rows, or None where nothing is evaluated.

    Raises:
        DataError: settings need a validation split and there is none.
        ConfigError: a best model by a metric that these rows do not have, or character weights
            with a tokenizer that does not know where its tokens lie.
        ValueError: the normalisation profile does not serve the rows' languages.
    """
    wanted = ["load_best_model_at_end"] * config.load_best_model_at_end
    wanted += ["early_stopping_patience"] * (config.early_stopping_patience is not None)
    wanted += [f"loss={config.loss}"] * ("confusion" in config.loss)
    if rows is None:
        if wanted:
            raise DataError(
                f"{config.dataset} has no validation split, which {wanted[0]} needs; split it with "
                "`python -m data_prep.convert --split`, or leave that setting out."
            )
        return
    if "confusion" in config.loss and not processor.tokenizer.is_fast:
        raise ConfigError(
            f"loss={config.loss!r} needs a tokenizer that knows where its tokens lie in a text, "
            f"and {type(processor.tokenizer).__name__} does not; take loss=focal."
        )
    from ocrkit.training.trainer import scores

    found = ["loss", *scores(records_of(rows), config)]
    metric = (config.metric_for_best_model or "loss").removeprefix("eval_")
    if metric not in found:
        raise ConfigError(
            f"metric_for_best_model={metric!r} cannot be read from the validation rows of "
            f"{config.dataset}; it is one of {', '.join(found)}."
        )


def fit_context(rows: Any, split: str, model: Any, processor: Any, config: TrainConfig) -> Any:
    """The rows that fit the context, with their token counts in a column `length`.

    The others are listed in skipped.jsonl under the split's name. So are training rows that the
    model cannot take; in another split these stay, for a row that cannot be read is a failed
    reading.

    Raises:
        DataError: no row fits.
    """
    collator = Collator(processor, config.image_height)
    images, texts = token_lengths(rows, processor, config, collator)
    lengths = [image + text for image, text in zip(images, texts)]
    context = context_length(model, config)
    kept, left_out = [], []
    for place, (name, length) in enumerate(zip(rows["id"], lengths)):
        problem = {
            "reason": "longer than the context",
            "detail": f"{length} tokens, the context holds {context}",
        }
        if math.isinf(length):
            problem = refusal(rows.remove_columns("images")[place], processor, config, collator)
            lengths[place] = 0
        if length <= context or (math.isinf(length) and split != "train"):
            kept.append(place)
        else:
            left_out.append({"where": f"{split} row {name}", **problem})
    record_skipped(config.output_dir, left_out, place=f"{split} row ")
    if not kept:
        raise DataError(
            f"No {split} row fits the context of {context} tokens ({left_out[0]['reason']}: "
            f"{left_out[0]['detail']}); raise max_length or lower max_pixels."
        )
    with without_bars():
        return rows.select(kept).add_column("length", [lengths[i] for i in kept])


def context_length(model: Any, config: TrainConfig) -> int:
    """Tokens a sample may have: `max_length`, or what the model's positions allow."""
    text = model.config.get_text_config()
    own = getattr(text, "max_position_embeddings", None) or 1 << 30
    return min(config.max_length or own, own)


def _sft_config(config: TrainConfig, evaluated: bool) -> Any:
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
    same = (
        "output_dir num_train_epochs max_steps per_device_train_batch_size "
        "per_device_eval_batch_size gradient_accumulation_steps learning_rate lr_scheduler_type "
        "warmup_steps weight_decay max_grad_norm adam_beta2 optim gradient_checkpointing "
        "logging_steps eval_steps save_steps save_total_limit dataloader_num_workers seed"
    ).split()
    settings: dict[str, Any] = {name: getattr(config, name) for name in same}
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
        # OCRTrainer stops at a loss that is no number instead of hiding it.
        "logging_nan_inf_filter": False,
        # A stream begins where a checkpoint stopped by itself, and each process reads its own.
        "ignore_data_skip": config.streaming,
        "accelerator_config": {"dispatch_batches": False if config.streaming else None},
    }
    try:
        found = SFTConfig(**{**settings, **config.sft_kwargs})
        # One process drives one device, or one model over all with device_map; Trainer would cut
        # batches between the GPUs it sees, and pictures cannot be cut along the batch.
        found._n_gpu = min(found.n_gpu, 1)
        return found
    except TypeError as error:
        raise ConfigError(
            f"sft_kwargs holds a name that SFTConfig does not know: {error}"
        ) from None
