"""OCRTrainer: TRL's SFTTrainer with the kit's loss, and reading as its evaluation.

Imports trl and transformers, so it is imported only after a backend has been chosen (Unsloth has
to come first).
"""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate.utils import gather_object
from tqdm.auto import tqdm
from transformers.trainer_utils import EvalLoopOutput
from trl import SFTTrainer

from data_prep.dataset.files import DiskError, naming
from ocrkit.config import TrainConfig
from ocrkit.data.collate import Collator
from ocrkit.data.order import TrainRows, TrainSampler
from ocrkit.environment import decided_by_main
from ocrkit.errors import ConfigError, TrainingError
from ocrkit.evaluation.evaluate import records_of
from ocrkit.evaluation.records import Record, scored_text
from ocrkit.evaluation.scoring import SampleCounts
from ocrkit.models.read import halved, predict_stream, weights_fingerprint
from ocrkit.run_folder import read_run, write_run
from ocrkit.training.batch_size import does_not_fit
from ocrkit.training.callbacks import ConfusionWeights, LogFile
from ocrkit.training.checkpoints import SEAL, damage, rotate, seal, unseal
from ocrkit.training.losses import heaviest, label_mass, label_weights, loss_terms, supervised_loss
from ocrkit.training.resume import JUDGING, changed_settings, described, save_settings
from ocrkit.training.schedule import SavedSchedule, hyperparameters, restore

# accelerate calls the CPU of one of several processes "cpu:0", which torch.load does not know.
torch.serialization.register_package(
    50, lambda storage: None, lambda storage, at: storage if at.startswith("cpu:") else None
)


class OCRTrainer(SFTTrainer):
    """SFTTrainer whose loss takes logits at supervised positions only, and whose evaluation reads.

    One loss for both backends: TRL's own needs a GPU kernel, and Unsloth's returns no logits.
    An evaluation adds every metric of the report to its loss, as `eval_cer` and so on. With a
    confusion-weighted loss the collator has to be one that gives `label_characters`.
    """

    def __init__(self, *args: Any, train_dataset: Any, config: TrainConfig, **kwargs: Any):
        model = kwargs["model"]
        exact = {n: w.data for n, w in model.named_parameters() if w.requires_grad}
        if config.streaming:
            # SFTTrainer takes nothing but datasets of Hugging Face, and looks at one row.
            is_interactive = datasets.IterableDataset.from_generator(train_dataset.__iter__)
            super().__init__(*args, train_dataset=is_interactive, **kwargs)
            self.train_dataset = train_dataset
        else:
            super().__init__(*args, train_dataset=train_dataset, **kwargs)
        # SFTTrainer rounds adapters over a 4-bit base to bfloat16: small steps get lost there, and
        # where a GPU has float16 alone, their gradients cannot be unscaled.
        for name, weight in model.named_parameters():
            if name in exact and weight.dtype != exact[name].dtype:
                weight.data = exact[name]
        self.config = config
        # A training panel shows what evaluations would print.
        self.quiet = False
        # What checkpoints are saved with (`resume.made_with`), and what a resumed run changes.
        self.made_with: dict[str, Any] = {}
        self.changed: dict[str, list] = {}
        # compute_loss divides by the labels of all accumulated batches, so Trainer must not.
        self.model_accepts_loss_kwargs = True
        self.confusions: ConfusionWeights | None = None
        if "confusion" in config.loss:
            self.confusions = ConfusionWeights(
                config.confusion_max_weight, config.confusion_smoothing
            )
            self.add_callback(self.confusions)

    def go_on_from(self, saved: dict[str, Any], checkpoint: Path) -> dict[str, list]:
        """The settings that this run changes, which go on record from the checkpoint's step on.

        Args:
            saved: what the checkpoint was made with, of `resume.saved_settings`.

        Raises:
            ConfigError: it was trained on other rows or another model.
        """
        self.changed = changed_settings(saved, self.made_with, checkpoint)
        self.made_with["changes"] = [*saved["changes"]]
        if self.changed:
            self.made_with["changes"].append({"step": saved["step"], "changed": self.changed})
            if self.is_world_process_zero():
                print(f"Changed from step {saved['step']} on: {described(self.changed)}")
        for name in ("curriculum_growth", "wandb_run"):
            if name in saved:
                self.made_with[name] = saved[name]
        return self.changed

    def get_train_dataloader(self) -> Any:
        """Batches of training rows, which alone carry `epoch`, so that they alone are augmented."""
        rows = self.train_dataset
        batch = self._train_batch_size * self.args.world_size
        known = isinstance(rows, datasets.Dataset)
        if self.args.dataloader_drop_last and known and len(rows) < batch:
            raise ConfigError(
                f"dataloader_drop_last leaves out a batch that is not full, and {len(rows)} rows "
                f"do not fill one of {batch}: nothing would be trained; set a smaller "
                "per_device_train_batch_size, or take dataloader_drop_last out of sft_kwargs."
            )
        if known:
            # SFTTrainer takes nothing but a Dataset when it is made.
            self.train_dataset = TrainRows(rows)
        try:
            return super().get_train_dataloader()
        finally:
            self.train_dataset = rows

    def _get_train_sampler(self, train_dataset: TrainRows) -> TrainSampler:
        """The order of `curriculum.TrainSampler`: batches of like length, easy first if asked."""
        rows, args, config = train_dataset.rows, self.args, self.config
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
        difficulty = rows["difficulty"] if config.curriculum else None
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
            lengths=rows["length"] if strategy == "group_by_length" else None,
            shuffle=strategy != "sequential",
            difficulty=difficulty,
            start=config.curriculum_start,
            # A resumed run may be longer, but the order of its rows is that of its beginning.
            growth=self.made_with.setdefault(
                "curriculum_growth", config.curriculum_steps * epochs * len(rows)
            ),
        )
        return self.train_sampler

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        """As Trainer does, but mixed precision is left to `compute_loss`, not put on the model.

        accelerate would turn logits into float32, which doubles what a step needs most memory for,
        and its wrapper would stay on the model after the run.
        """
        accelerator = self.accelerator
        mixed, accelerator.native_amp = accelerator.native_amp, False
        try:
            return super()._prepare_for_training(*args, **kwargs)
        finally:
            accelerator.native_amp = mixed

    def _init_training_state(self, max_steps: int, *args: Any, **kwargs: Any) -> Any:
        """As Trainer does, but a resumed run has its own cadences and batch size, not the saved."""
        done = super()._init_training_state(max_steps, *args, **kwargs)
        self.state.compute_steps(self.args, max_steps)
        self.state.train_batch_size = self._train_batch_size
        if JUDGING & self.changed.keys() and self.state.best_metric is not None:
            if self.is_world_process_zero():
                print("Evaluations are judged otherwise from here on: the best is sought anew.")
            self.state.best_metric = self.state.best_global_step = None
            self.state.best_model_checkpoint = None
        return done

    def _load_from_checkpoint(self, resume_from_checkpoint: str, *args: Any) -> None:
        """As Trainer does; weights that do not fit the model are one sentence.

        Raises:
            ConfigError: names or shapes of the checkpoint's weights are others.
        """
        try:
            super()._load_from_checkpoint(resume_from_checkpoint, *args)
        except torch.cuda.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(
                f"The weights in {resume_from_checkpoint} do not fit this model ({reason}): resume "
                "with the model and the settings that it was trained with."
            ) from None

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """As Trainer does, but with this run's rates, decays and schedule, at the saved step.

        Trainer takes over those of the checkpoint: a new rate would be ignored, and a finished run
        that is made longer would begin at the rate it ended with.
        """
        if checkpoint is None or self.is_deepspeed_enabled:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        own = hyperparameters(self.optimizer)
        scheduler, saved = self.lr_scheduler, SavedSchedule()
        self.lr_scheduler = saved
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
        finally:
            self.lr_scheduler = scheduler
        restore(self.optimizer, own, scheduler, saved.state, self.state.global_step, self.changed)

    def _load_best_model(self) -> None:
        """As Trainer does, unless the best checkpoint is damaged."""
        best = self.state.best_model_checkpoint
        problem = decided_by_main(lambda: damage(best))
        if problem is None:
            super()._load_best_model()
        elif self.is_world_process_zero():
            print(
                f"The best checkpoint, {best}, is damaged ({problem}): the run ends with the "
                "weights of its last step instead."
            )

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """As Trainer does, but no step more where the checkpoint is the run's last."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        if self.config.streaming:
            # Trainer counts the steps since the start, or the resume, of a run of unknown length.
            self.state.epoch = self.state.global_step / self.state.max_steps
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def log(self, logs: dict[str, float], *args: Any) -> None:
        """As Trainer does, and with a curriculum what the steps since the last log have seen."""
        step = self.state.global_step
        if self.config.curriculum and "loss" in logs:
            logs = {**logs, **self.train_sampler.seen(max(0, step - self.args.logging_steps), step)}
        super().log(logs, *args)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        # Rows' ids travel with a batch for error messages; the model does not take them.
        self.batch_ids = inputs.pop("ids", [])
        return super()._prepare_inputs(inputs)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As Trainer does; what does not fit the memory outside a batch is explained as well.

        Raises:
            TrainingError: the optimizer's state or an evaluation does not fit the memory.
        """
        try:
            return super().train(*args, **kwargs)
        except torch.cuda.OutOfMemoryError as error:
            raise TrainingError(
                f"Out of GPU memory after step {self.state.global_step}, outside a batch: take "
                "optim=adamw_8bit, a smaller lora_r, or lower max_pixels, and train anew, since a "
                "checkpoint is resumed with those that it was made with."
            ) from error

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any) -> torch.Tensor:
        """One forward and backward pass; a loss that is no number, or no memory, ends the run.

        Raises:
            TrainingError: before any weight has changed.
        """
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        try:
            loss = super().training_step(model, inputs, *args)
        except torch.cuda.OutOfMemoryError as error:
            where = f"at step {self.state.global_step + 1}"
            raise does_not_fit(where, lengths, self.batch_ids) from error
        if not torch.isfinite(loss):
            rate = self._get_learning_rate()
            raise TrainingError(
                f"The loss is {loss.item()} at step {self.state.global_step + 1} (learning rate "
                f"{rate:.3g}) on the rows {', '.join(self.batch_ids)}: lower learning_rate or "
                "max_grad_norm, take a dtype of wider range, or look at these rows; checkpoints "
                "in the run folder are from before."
            )
        return loss

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """As Trainer does, and sealed when whole; older ones go only after that."""
        run = Path(self._get_output_dir(trial))
        folder = run / f"checkpoint-{self.state.global_step}"
        unseal(folder)
        self.accelerator.wait_for_everyone()
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            with naming(folder):
                super()._save_checkpoint(model, trial)
                self._seal(folder)
        except DiskError:
            # Half a checkpoint only fills the disk further.
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            rotate(run, limit, self.state.best_model_checkpoint)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """As Trainer does, with the seal, so that a checkpoint on the Hub can be resumed."""
        self._seal(Path(checkpoint_folder))
        super()._push_from_checkpoint(checkpoint_folder)

    def _seal(self, folder: Path) -> None:
        """Seal a checkpoint once all processes have written their files."""
        self.accelerator.wait_for_everyone()
        if self.args.should_save and not (folder / SEAL).is_file():
            save_settings(folder, self.made_with, self.state.global_step)
            if known := read_run(folder.parent):
                weights = weights_fingerprint(self.accelerator.unwrap_model(self.model))
                write_run(folder, {**known, "weights": weights})
            seal(folder)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write none: that of `export` knows the data and the metrics, and TRL's knows neither."""

    def _weights(self, batch: dict[str, torch.Tensor]) -> torch.Tensor | None:
        if self.confusions is None:
            return None
        characters = batch["label_characters"]
        self.confusions.table = self.confusions.table.to(characters.device)
        return label_weights(characters, self.confusions.table)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list, Any]:
        """The batches of a step and what their losses are divided by: labels, or their weights."""
        batches, count = super().get_batch_samples(*args, **kwargs)
        if self.confusions is not None and batches:
            count = sum(label_mass(batch["labels"], self._weights(batch)) for batch in batches)
            count = count.to(self.args.device)
            if self.args.average_tokens_across_devices:
                count = self.accelerator.gather(count).sum()
        return batches, count

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | float | None = None,
    ) -> Any:
        """`config.loss` per supervised token, averaged over all accumulated batches."""
        weights, terms = self._weights(inputs), loss_terms(self.config)
        with self.accelerator.autocast():
            loss = supervised_loss(model, inputs, num_items_in_batch, weights, **terms)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes
        return (loss, {}) if return_outputs else loss

    def evaluation_loop(
        self, dataloader: Any, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        """Read the rows and score them as a report does; every process takes its share of them.

        `loss` is the plain cross entropy per label, whatever the run trains on, so that it
        compares between evaluations and between runs.
        """
        rows, process = dataloader.dataset, self.accelerator.process_index
        mine = rows.select(range(process, len(rows), self.accelerator.num_processes))
        read = list(
            predict_stream(self.model, self.processing_class, mine, self.config, not self.quiet)
        )
        shares = gather_object([(read, *self._cross_entropy(mine))])
        readings = {one["id"]: one for share in shares for one in share[0]}
        records = [record | readings.get(record["id"], {}) for record in records_of(rows)]
        nats, labels = (sum(share[n] for share in shares) for n in (1, 2))
        found = {"loss": nats / labels if labels else math.nan}
        found |= scores(records, self.config)
        if self.confusions is not None:
            # A row that failed was not read, so nothing in it was mixed up.
            pairs = [(r["reference"], scored_text(r)) for r in records if not r["error"]]
            self.confusions.update([true for true, _ in pairs], [read for _, read in pairs])
        self._show(records[: self.config.num_completions_to_print], found)
        named = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        return EvalLoopOutput(None, None, metrics=named, num_samples=len(records))

    def _cross_entropy(self, rows: Any) -> tuple[float, int]:
        """Nats and labels of rows, in batches of like length; out of memory halves them.

        Rows that cannot be read, and those that give no number, count in neither.
        """
        collate = Collator(self.processing_class, self.config.image_height)
        lengths = rows["length"] if "length" in rows.column_names else [0] * len(rows)
        order = sorted(range(len(rows)), key=lambda i: -lengths[i])
        size, training = self.args.per_device_eval_batch_size, self.model.training
        nats, labels, start = 0.0, 0, 0
        self.model.eval()
        while start < len(order):
            chosen = order[start : start + size]
            try:
                found, count = self._batch_loss(collate, [rows[i] for i in chosen])
            except torch.cuda.OutOfMemoryError:
                if size == 1:
                    raise
                size = halved(size)
                continue
            except (ValueError, OSError):
                found, count = math.nan, 0
            if not math.isfinite(found):
                # Rows that the model cannot take, which reading them counts as failed.
                each = [self._row_loss(collate, rows, i) for i in chosen]
                found, count = (sum(values) for values in zip(*each))
            nats, labels, start = nats + found, labels + count, start + len(chosen)
        self.model.train(training)
        return nats, labels

    def _batch_loss(self, collate: Collator, rows: list[dict]) -> tuple[float, int]:
        batch = self._prepare_inputs(collate(rows))
        with torch.no_grad():
            nats = supervised_loss(self.model, batch, num_items=1).item()
        return nats, int(label_mass(batch["labels"]))

    def _row_loss(self, collate: Collator, rows: Any, number: int) -> tuple[float, int]:
        """Nats and labels of one row; none of a row that cannot be read or gives no number."""
        try:
            nats, labels = self._batch_loss(collate, [rows[number]])
        except (ValueError, OSError):
            return 0.0, 0
        return (nats, labels) if math.isfinite(nats) else (0.0, 0)

    def _show(self, records: Sequence[Record], found: dict[str, float]) -> None:
        """Print a few rows as they were read, always the same ones, and log them."""
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
            head = f"step {step}: CER {found['cer']:.1%}, exact match {found['exact_match']:.1%}"
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

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        best = super()._determine_best_metric(metrics, trial)
        if best and self.args.load_best_model_at_end:
            # Trainer would save at the next multiple of save_steps, and the best would be lost.
            self.control.should_save = True
        return best


def scores(records: Sequence[Record], config: TrainConfig) -> dict[str, float]:
    """Every metric that an evaluation shows, without intervals, and the number that failed."""
    counts = SampleCounts(records, config.normalization_profile, config.locale)
    found = {name: tally.rate for name, tally in counts.tallies.items()}
    return found | {"failed": float(sum(bool(record.get("error")) for record in records))}


def _line(text: str, longest: int = 160) -> str:
    text = text.replace("\n", "⏎")
    return text[:longest] + "…" * (len(text) > longest)
