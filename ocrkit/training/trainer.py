"""OCRTrainer: the kit's loss in TRL's SFTTrainer, and predictions in its evaluations.

Imports trl and transformers, so it is imported only after a backend has been chosen (Unsloth has
to come first).
"""

import math
from collections.abc import Sequence
from typing import Any, cast

import datasets
import numpy as np
import torch
from accelerate.utils import gather_object
from tqdm.auto import tqdm
from transformers.trainer_utils import EvalLoopOutput

from ocrkit.config import TrainConfig
from ocrkit.data.load import without_bars
from ocrkit.data.order import SLOT, TrainRows, TrainSampler
from ocrkit.errors import ConfigError, TrainingError
from ocrkit.evaluation.evaluate import records_of
from ocrkit.evaluation.records import Record, scored_text
from ocrkit.models.backend import autocast
from ocrkit.models.read import Reader
from ocrkit.run_folder import SKIPPED, append_skipped
from ocrkit.training.callbacks import ConfusionWeights, LogFile
from ocrkit.training.losses import heaviest, label_mass, label_weights, loss_terms, supervised_loss
from ocrkit.training.probe import free_step, out_of_memory
from ocrkit.training.resumable_trainer import ResumableTrainer
from ocrkit.training.schedule import check_schedule
from ocrkit.training.validation import cross_entropy_of_rows, scores

# Steps in a row without one readable picture after which a run ends: their disk is probably gone.
MOST_EMPTY_STEPS = 5


class OCRTrainer(ResumableTrainer):
    """SFTTrainer with a loss at supervised positions only, and evaluations that generate.

    One loss for both backends: TRL's own needs a GPU kernel, and Unsloth's returns no logits.
    An evaluation adds every metric of the report to its loss, as `eval_cer` and so on. With a
    confusion-weighted loss the collator has to return `label_characters`.
    """

    eval_dataset: datasets.Dataset | None

    def __init__(self, *args: Any, train_dataset: Any, config: TrainConfig, **kwargs: Any) -> None:
        model = kwargs["model"]
        exact = {n: w.data for n, w in model.named_parameters() if w.requires_grad}
        if config.streaming:
            # SFTTrainer accepts only datasets of Hugging Face, and inspects one row.
            inspected = datasets.IterableDataset.from_generator(train_dataset.__iter__)
            super().__init__(*args, train_dataset=inspected, config=config, **kwargs)
        else:
            # It inspects the first row, whose picture may be one that cannot be decoded.
            stored = datasets.List(datasets.Image(decode=False))
            with without_bars():
                inspected = train_dataset.select(range(1)).cast_column("images", stored)
            super().__init__(*args, train_dataset=inspected, config=config, **kwargs)
        self.train_dataset = train_dataset
        # SFTTrainer rounds adapters over a 4-bit base to bfloat16, where small steps get lost, and
        # whose gradients cannot be unscaled on a GPU that has only float16.
        for name, weight in model.named_parameters():
            if name in exact and weight.dtype != exact[name].dtype:
                weight.data = exact[name]
        # Keeps the batch size that fits the memory from evaluation to evaluation.
        self.reader: Reader | None = None
        # Training rows whose pictures could not be decoded, and steps in a row without any other.
        self.unreadable: set[str] = set()
        self.empty_steps = 0
        # Step of the checkpoint that is resumed.
        self.first_step = 0
        # A training panel shows samples of evaluations instead of printing them.
        self.quiet = False
        # compute_loss divides by the labels of all accumulated batches, so Trainer must not.
        self.model_accepts_loss_kwargs = True
        self.confusions: ConfusionWeights | None = None
        if "confusion" in config.loss:
            self.confusions = ConfusionWeights(
                config.confusion_max_weight, config.confusion_smoothing
            )
            self.add_callback(self.confusions)

    def get_train_dataloader(self) -> Any:
        """Batches of training rows; only these carry `epoch`, so only these are augmented."""
        stored = rows = self.train_dataset
        batch = self._train_batch_size * self.args.world_size
        if isinstance(rows, datasets.Dataset):
            # SFTTrainer accepted only a Dataset in its constructor.
            slots = rows[SLOT][:] if SLOT in rows.column_names else None
            self.train_dataset = rows = TrainRows(rows, slots)
        known = isinstance(rows, TrainRows)
        if self.args.dataloader_drop_last and known and len(rows) < batch:
            raise ConfigError(
                f"dataloader_drop_last leaves out a batch that is not full, and {len(rows)} rows "
                f"do not fill one of {batch}: nothing would be trained; set a smaller "
                "per_device_train_batch_size, or take dataloader_drop_last out of sft_kwargs."
            )
        try:
            return super().get_train_dataloader()
        finally:
            self.train_dataset = stored

    def _get_train_sampler(self, train_dataset: Any = None) -> TrainSampler:
        """The sampler `order.TrainSampler`: batches of like length, easy rows first if asked."""
        rows, args, config = train_dataset, self.args, self.config
        strategy = args.train_sampling_strategy
        if strategy not in ("group_by_length", "random", "sequential"):
            raise ConfigError(
                f"train_sampling_strategy={strategy!r} is not one of group_by_length, random, "
                "sequential."
            )
        batch = self._train_batch_size * args.gradient_accumulation_steps * args.world_size
        epochs = args.num_train_epochs
        if args.max_steps > 0:
            epochs = args.max_steps / math.ceil(len(rows) / batch)
        difficulty = rows.column("difficulty") if config.curriculum else None
        if config.curriculum and epochs < 1 and self.is_world_process_zero():
            print(
                f"The run is {epochs:.2f} epochs long, so about {1 - epochs:.0%} of the "
                f"{len(rows)} training rows are never seen."
            )
        self.train_sampler = TrainSampler(
            len(rows),
            batch,
            config.seed,
            epoch=lambda: int(self.state.epoch or 0),
            lengths=rows.column("length") if strategy == "group_by_length" else None,
            shuffle=strategy != "sequential",
            difficulty=difficulty,
            start=config.curriculum_start,
            # A resumed run may be longer, but the order of its rows is that of its beginning.
            growth=self.description.setdefault(
                "curriculum_growth", config.curriculum_steps * epochs * len(rows)
            ),
        )
        return self.train_sampler

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        """As Trainer, but autocast is applied in `compute_loss` and not wrapped around the model.

        accelerate's wrapper converts the logits to float32, which doubles the largest tensor of a
        step, and stays on the model after the run.
        """
        accelerator = self.accelerator
        mixed, accelerator.native_amp = accelerator.native_amp, False
        try:
            return super()._prepare_for_training(*args, **kwargs)
        finally:
            accelerator.native_amp = mixed

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """As Trainer; settings that the optimizer does not take become a ConfigError."""
        try:
            return super().create_optimizer(*args, **kwargs)
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            raise ConfigError(
                f"optim={self.config.optim!r} cannot be created ({' '.join(str(error).split())}): "
                "correct its settings in sft_kwargs, or take optim=adamw_torch."
            ) from None

    def create_scheduler(self, num_training_steps: int, *args: Any, **kwargs: Any) -> Any:
        """As Trainer; a schedule that cannot be computed to its end becomes a ConfigError."""
        name, options = self.config.lr_scheduler_type, self.args.lr_scheduler_kwargs
        try:
            scheduler = super().create_scheduler(num_training_steps, *args, **kwargs)
            check_schedule(scheduler, num_training_steps)
        except (TypeError, ValueError, AttributeError, KeyError, ArithmeticError) as error:
            raise ConfigError(
                f"lr_scheduler_type={name!r} cannot be computed with lr_scheduler_kwargs="
                f"{options!r} ({' '.join(str(error).split())}): give its arguments as "
                "sft_kwargs={lr_scheduler_kwargs: {name: value}}, or take "
                "lr_scheduler_type=cosine."
            ) from None
        return scheduler

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        if self.config.streaming:
            # In a run of unknown length Trainer counts from the last start or resume.
            self.state.epoch = self.state.global_step / self.state.max_steps
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As Trainer, and with a curriculum the rows that the steps since the last log took.

        The mean loss at the end is that of the steps since the start or resume, where Trainer
        divides their sum by all steps; a resume without a step has no such end.
        """
        step = self.state.global_step
        if "train_loss" in logs:
            if step == self.first_step:
                return
            logs = {**logs, "train_loss": logs["train_loss"] * step / (step - self.first_step)}
        if self.config.curriculum and "loss" in logs:
            before = max(0, step - int(self.args.logging_steps))
            logs = {**logs, **self.train_sampler.seen(before, step)}
        super().log(logs, *args, **kwargs)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        # A batch carries its rows' ids for error messages; the model does not take them.
        self.batch_ids = inputs.pop("ids", [])
        self._list_unreadable(inputs.pop("unreadable", []))
        return super()._prepare_inputs(inputs)

    def _list_unreadable(self, entries: Sequence[dict[str, str]]) -> None:
        """List training rows whose pictures could not be decoded, each once."""
        for entry in entries:
            if entry["where"] not in self.unreadable:
                append_skipped(self.config.output_dir, entry)
                if not self.unreadable:
                    tqdm.write(
                        f"{entry['where']} is left out ({entry['reason']}: {entry['detail']}); "
                        f"it and others like it are listed in {self.config.output_dir}/{SKIPPED}"
                    )
                self.unreadable.add(entry["where"])

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As Trainer; out of memory outside a batch becomes a TrainingError.

        Raises:
            TrainingError: the optimizer's state or an evaluation does not fit the memory.
        """
        try:
            return super().train(*args, **kwargs)
        except torch.cuda.OutOfMemoryError as error:
            free_step(error, self.model)
            raise TrainingError(
                f"Out of GPU memory after step {self.state.global_step}, outside a batch: take "
                "optim=adamw_8bit, a smaller lora_r, or lower max_pixels, and train anew, since a "
                "checkpoint is resumed with those that it was made with."
            ) from error

    def training_step(
        self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """One forward and backward pass; a loss of NaN or infinity, or out of memory, ends the run.

        Raises:
            TrainingError: before any weight has changed.
        """
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        try:
            loss = super().training_step(model, inputs, *args, **kwargs)
        except torch.cuda.OutOfMemoryError as error:
            free_step(error, model)
            where = f"at step {self.state.global_step + 1}"
            raise out_of_memory(where, lengths, self.batch_ids) from error
        if not torch.isfinite(loss):
            rate = self._get_learning_rate()
            raise TrainingError(
                f"The loss is {loss.item()} at step {self.state.global_step + 1} (learning rate "
                f"{rate:.3g}) on the rows {', '.join(self.batch_ids)}: lower learning_rate or "
                "max_grad_norm, take a dtype of wider range, or look at these rows; checkpoints "
                "in the run folder are from before."
            )
        return loss

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write no card: `export` writes one with the data and the metrics, which TRL's lacks."""

    def _label_weights(self, batch: dict[str, torch.Tensor]) -> torch.Tensor | None:
        if self.confusions is None:
            return None
        characters = batch["label_characters"]
        self.confusions.table = self.confusions.table.to(characters.device)
        return label_weights(characters, self.confusions.table)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list, Any]:
        """The batches of a step and the divisor of their losses: labels, or sum of weights.

        Raises:
            TrainingError: the last steps had no row whose picture could be decoded.
        """
        batches, count = super().get_batch_samples(*args, **kwargs)
        if self.confusions is not None and batches:
            masses = [label_mass(batch["labels"], self._label_weights(batch)) for batch in batches]
            count = sum(masses[1:], masses[0]).to(self.args.device)
            if self.args.average_tokens_across_devices:
                count = self.accelerator.gather(count).sum()
        if batches and not count:
            count, self.empty_steps = 1, self.empty_steps + 1
            if self.empty_steps >= MOST_EMPTY_STEPS:
                problems = [problem for batch in batches for problem in batch.get("unreadable", [])]
                raise TrainingError(
                    f"No picture of the last {self.empty_steps} steps could be decoded (the last: "
                    f"{problems[-1]['where']}, {problems[-1]['detail']}): see whether "
                    f"{self.config.dataset} is still there and whole, and resume the run."
                )
        elif batches:
            self.empty_steps = 0
        return batches, count

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | float | None = None,
    ) -> Any:
        """`config.loss` per supervised token, averaged over all accumulated batches."""
        weights, terms = self._label_weights(inputs), loss_terms(self.config)
        # Not accelerate's: Unsloth's trainer asks for bfloat16 wherever neither 16-bit type is set.
        with autocast(self.config, self.args.device.type):
            loss = supervised_loss(model, inputs, num_items_in_batch, weights, **terms)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes
        return (loss, {}) if return_outputs else loss

    def evaluation_loop(
        self, dataloader: Any, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        """Predict the rows and score them as a report does; every process takes its share of them.

        `loss` is the plain cross entropy per label, whatever the run trains on, so that it
        compares between evaluations and between runs.
        """
        rows, process = dataloader.dataset, self.accelerator.process_index
        share = rows.select(range(process, len(rows), self.accelerator.num_processes))
        if self.reader is None:
            # `model` and `processing_class` may be None in Trainer's types.
            model, processor = cast(Any, self.model), cast(Any, self.processing_class)
            self.reader = Reader(model, processor, self.config)
        predictions = list(self.reader.read(share, progress_bar=not self.quiet))
        self.reader.warn_of_nan()
        nats, labels = cross_entropy_of_rows(
            self.model,
            share,
            lambda rows: self._prepare_inputs(self.data_collator(rows)),
            self.args.per_device_eval_batch_size,
        )
        gathered = gather_object([(predictions, nats, labels)])
        readings = {reading["id"]: reading for share, _, _ in gathered for reading in share}
        records = [record | readings.get(record["id"], {}) for record in records_of(rows)]
        nats, labels = (sum(process[n] for process in gathered) for n in (1, 2))
        metrics = {"loss": nats / labels if labels else math.nan}
        metrics |= scores(records, self.config)
        if self.confusions is not None:
            # A row that failed was not read, so no character in it was confused.
            read = [record for record in records if not record["error"]]
            self.confusions.update([r["reference"] for r in read], [scored_text(r) for r in read])
        self._show(records[: self.config.num_completions_to_print], metrics)
        named = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return EvalLoopOutput(np.empty(0), None, metrics=named, num_samples=len(records))

    def _show(self, records: Sequence[Record], metrics: dict[str, float]) -> None:
        """Print and log the truths and predictions of a few rows, the same at each evaluation."""
        if not self.is_world_process_zero():
            return
        step = self.state.global_step
        entry: dict[str, Any] = {"step": step}
        if records:
            texts = [
                line
                for record in records
                for line in (
                    f"  TRU {_line(record['reference'])}",
                    f"  PRE {_line(scored_text(record))}",
                )
            ]
            head = f"step {step}: CER {metrics['cer']:.1%}, exact match "
            head += f"{metrics['exact_match']:.1%}"
            if not self.quiet:
                tqdm.write("\n".join([head, *texts]))
            entry["samples"] = [
                {"id": r["id"], "reference": r["reference"], "prediction": scored_text(r)}
                for r in records
            ]
        if self.confusions is not None:
            entry["confusion_weights"] = heaviest(self.confusions.weights)
        if len(entry) > 1:
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, LogFile):
                    callback.write(entry)


def _line(text: str, longest: int = 160) -> str:
    text = text.replace("\n", "⏎")
    return f"{text[:longest]}…" if len(text) > longest else text
