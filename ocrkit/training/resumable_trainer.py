"""ResumableTrainer: TRL's SFTTrainer whose checkpoints are sealed and resumed as they were saved.

Imports trl and transformers, so it is imported only after a backend has been chosen (Unsloth has
to come first).
"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from trl import SFTTrainer

from data_prep.dataset.files import DiskError, naming
from ocrkit.config import TrainConfig
from ocrkit.environment import broadcast_from_main
from ocrkit.errors import ConfigError
from ocrkit.models.backend import gathered_weights
from ocrkit.models.read import weights_fingerprint
from ocrkit.run_folder import describe_changes, read_run, write_run
from ocrkit.training.checkpoints import SEAL, damage, rotate, seal, unseal
from ocrkit.training.resume import (
    EVALUATION_SETTINGS,
    changed_settings,
    save_description,
)
from ocrkit.training.schedule import SavedSchedule, hyperparameters, restore

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# accelerate names the CPU of one of several processes "cpu:0", which torch.load does not know.
torch.serialization.register_package(
    50, lambda storage: None, lambda storage, at: storage if at.startswith("cpu:") else None
)


class ResumableTrainer(SFTTrainer):
    """SFTTrainer that seals its checkpoints, and resumes with settings that may have changed.

    Args:
        config: the settings of the run; the others are SFTTrainer's.
    """

    model: "PreTrainedModel"

    def __init__(self, *args: Any, config: TrainConfig, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.config = config
        # `resume.run_description`, saved with every checkpoint, and the settings that a resumed
        # run changes, as {name: [before, after]}.
        self.description: dict[str, Any] = {}
        self.changed: dict[str, list] = {}

    def resume_with_changes(self, saved: dict[str, Any], checkpoint: Path) -> dict[str, list]:
        """The settings that this run changes, which are recorded from the checkpoint's step on.

        Args:
            saved: description of the run that saved the checkpoint (`resume.saved_description`).

        Raises:
            ConfigError: the checkpoint was trained on other rows or another model.
        """
        self.changed = changed_settings(saved, self.description, checkpoint)
        self.description["changes"] = [*saved["changes"]]
        if self.changed:
            self.description["changes"].append({"step": saved["step"], "changed": self.changed})
            if self.is_world_process_zero():
                print(f"Changed from step {saved['step']} on: {describe_changes(self.changed)}")
        for name in ("curriculum_growth", "wandb_run"):
            if name in saved:
                self.description[name] = saved[name]
        return self.changed

    def _init_training_state(self, max_steps: int, *args: Any, **kwargs: Any) -> Any:
        """As Trainer, but a resumed run keeps its own logging steps and batch size."""
        result = super()._init_training_state(max_steps, *args, **kwargs)
        self.state.compute_steps(self.args, max_steps)
        self.state.train_batch_size = self._train_batch_size
        if EVALUATION_SETTINGS & self.changed.keys() and self.state.best_metric is not None:
            if self.is_world_process_zero():
                print(
                    "Settings of the evaluations changed, so earlier ones do not compare: the best "
                    "checkpoint is chosen among those from here on."
                )
            self.state.best_metric = self.state.best_global_step = None
            self.state.best_model_checkpoint = None
        return result

    def _load_from_checkpoint(self, resume_from_checkpoint: str, *args: Any, **kwargs: Any) -> None:
        """As Trainer; weights that do not fit the model become a ConfigError.

        Raises:
            ConfigError: names or shapes of the checkpoint's weights are others.
        """
        try:
            super()._load_from_checkpoint(resume_from_checkpoint, *args, **kwargs)
        except torch.cuda.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(
                f"The weights in {resume_from_checkpoint} do not fit this model ({reason}): resume "
                "with the model and the settings that it was trained with."
            ) from None

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """As Trainer, but with this run's learning rate, decay and schedule, at the saved step.

        Trainer restores those of the checkpoint: a new rate would be ignored, and a finished run
        that is extended would continue at the rate of its end, 0.
        """
        if checkpoint is None or self.is_deepspeed_enabled or self.optimizer is None:
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
        """As Trainer, unless the best checkpoint is damaged."""
        best = self.state.best_model_checkpoint
        problem = broadcast_from_main(lambda: damage(best) if best else None)
        if problem is None:
            super()._load_best_model()
        elif self.is_world_process_zero():
            print(
                f"The best checkpoint, {best}, is damaged ({problem}): the run ends with the "
                "weights of its last step instead."
            )

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """As Trainer, but without a further step if the checkpoint was the run's last."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _save_checkpoint(self, model: Any, trial: object) -> None:
        """As Trainer, then write the seal; older checkpoints are deleted only after that."""
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
            # A partial checkpoint would only fill the disk further.
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save and limit is not None:
            rotate(run, limit, self.state.best_model_checkpoint)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """As Trainer, with the seal, so that a checkpoint on the Hub can be resumed."""
        self._seal(Path(checkpoint_folder))
        super()._push_from_checkpoint(checkpoint_folder)

    def _seal(self, folder: Path) -> None:
        """Seal a checkpoint once all processes have written their files."""
        self.accelerator.wait_for_everyone()
        gathered = gathered_weights(self.accelerator, self.model_wrapped)
        if self.args.should_save and not (folder / SEAL).is_file():
            save_description(folder, self.description, self.state.global_step)
            if run := read_run(folder.parent):
                trained = self.accelerator.unwrap_model(self.model)
                weights = weights_fingerprint(trained, gathered)
                write_run(folder, {**run, "weights": weights})
            seal(folder)

    def _determine_best_metric(self, metrics: dict[str, float], trial: object) -> bool:
        best = super()._determine_best_metric(metrics, trial)
        if best and self.args.load_best_model_at_end:
            # Trainer would save only at the next multiple of save_steps, with other weights.
            self.control.should_save = True
        return best
