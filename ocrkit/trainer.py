"""OCRTrainer: TRL's SFTTrainer with the kit's loss, and reading as its evaluation.

Imports trl and transformers, so it is imported only after a backend has been chosen (Unsloth has
to come first).
"""

import math
from pathlib import Path
from typing import Any

import datasets
import torch
from trl import SFTTrainer

from ocrkit import metrics
from ocrkit.checkpoint import rotate, seal, unseal
from ocrkit.collate import text_of
from ocrkit.config import ConfigError, TrainConfig
from ocrkit.curriculum import TrainRows, TrainSampler
from ocrkit.losses import supervised_loss
from ocrkit.predict import predict

# accelerate calls the CPU of one of several processes "cpu:0", which torch.load does not know.
torch.serialization.register_package(
    50, lambda storage: None, lambda storage, at: storage if at.startswith("cpu:") else None
)


class TrainingError(RuntimeError):
    """A run that cannot go on: the message states where, the cause and the way out."""


class OCRTrainer(SFTTrainer):
    """SFTTrainer whose loss takes logits at supervised positions only.

    One loss for both backends: TRL's own needs a GPU kernel, and Unsloth's returns no logits.
    An evaluation reads `read_dataset` and adds `eval_cer` and `eval_exact_match` to its metrics.
    """

    def __init__(self, *args: Any, config: TrainConfig, read_dataset: Any = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.config, self.read_dataset = config, read_dataset
        # compute_loss divides by the labels of all accumulated batches, so Trainer must not.
        self.model_accepts_loss_kwargs = True

    def get_train_dataloader(self) -> Any:
        """Batches of training rows, which alone carry `epoch`, so that they alone are augmented."""
        rows = self.train_dataset
        if isinstance(rows, datasets.Dataset):
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
            growth=config.curriculum_steps * epochs * len(rows),
        )
        return self.train_sampler

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

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any) -> torch.Tensor:
        """One forward and backward pass; a loss that is no number, or no memory, ends the run.

        Raises:
            TrainingError: before any weight has changed.
        """
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        try:
            loss = super().training_step(model, inputs, *args)
        except torch.cuda.OutOfMemoryError as error:
            longest = max(zip(lengths, self.batch_ids or [""] * len(lengths)))
            raise TrainingError(
                f"Out of GPU memory at step {self.state.global_step + 1} with a batch of "
                f"{len(lengths)}, the longest sample {longest[1]} of {longest[0]} tokens: lower "
                "per_device_train_batch_size (raising gradient_accumulation_steps as much), lower "
                "max_pixels, or set gradient_checkpointing=True."
            ) from error
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
        run, step = Path(self._get_output_dir(trial)), self.state.global_step
        folder = run / f"checkpoint-{step}"
        unseal(folder)
        self.accelerator.wait_for_everyone()
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            seal(folder)
            rotate(run, limit, self.state.best_model_checkpoint)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Cross entropy per supervised token, averaged over all accumulated batches."""
        loss = supervised_loss(model, inputs, num_items_in_batch)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes
        return (loss, {}) if return_outputs else loss

    def prediction_step(self, model: Any, inputs: Any, prediction_loss_only: bool, **kwargs: Any):
        """Loss only: what an evaluation reads is generated by `predict`."""
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, self._prepare_inputs(inputs))
        return loss.detach(), None, None

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """The usual loop, and the rows of `read_dataset` read and scored."""
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if self.read_dataset is not None:
            processor = self.processing_class
            texts = predict(self.model, processor, self.read_dataset, self.config)
            truths = [text_of(completion) for completion in self.read_dataset["completion"]]
            output.metrics[f"{metric_key_prefix}_cer"] = metrics.cer(truths, texts)
            output.metrics[f"{metric_key_prefix}_exact_match"] = metrics.exact_match(truths, texts)
        return output
