"""What watches a run: its log on disk, the wish to stop it, and what it learns of itself."""

import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer_callback import ExportableState

from ocrkit.environment import decided_by_main
from ocrkit.run_folder import append_log, read_log
from ocrkit.training.losses import update_weights, weight_table


class LogFile(TrainerCallback):
    """Appends every log to train_log.jsonl as it comes, so a stopped run keeps its curve.

    The run folder may hold an earlier run. It is left as it is until the first step is done; then
    `begin` makes it this run's, and what was logged before is written.

    Args:
        path: the train_log.jsonl.
        begin: called once, on the main process.
    """

    def __init__(self, path: Path, begin: Callable[[], None] = lambda: None):
        self.path, self.begin = path, begin
        # Settings that a resumed run changes, as {name: [before, after]}.
        self.changed: dict[str, list] = {}
        self.waiting: list[dict[str, Any]] | None = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Drop what an interrupted run logged after the checkpoint that is resumed from."""
        step = state.global_step
        kept = [entry for entry in read_log(self.path) if entry["step"] <= step] if step else []
        # A run that was resumed at this step before may have changed other settings.
        kept = [e for e in kept if not ("changed" in e and e["step"] == step)]
        if self.changed and step:
            kept.append({"step": step, "changed": self.changed})
        self.waiting = kept

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the folder over after the first step, before any process saves a checkpoint."""
        self.take_over()

    def take_over(self) -> None:
        """Make the folder this run's, where it is not yet; called by all processes."""
        if self.waiting is None:
            return
        # As `decided_by_main`, so that an error ends all processes, and none goes on before.
        decided_by_main(self._begin)
        self.waiting = None

    def _begin(self) -> None:
        self.begin()
        text = "".join(json.dumps(entry) + "\n" for entry in self.waiting or ())
        self.path.write_text(text, encoding="utf-8")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Write one line."""
        if state.is_world_process_zero and logs:
            self.write({"step": state.global_step, **logs})

    def write(self, entry: dict[str, Any]) -> None:
        """Write one line, or keep it until the folder is this run's."""
        if self.waiting is None:
            append_log(self.path, entry)
        else:
            self.waiting.append(entry)


class StopOnSignal(TrainerCallback):
    """Turns Ctrl+C, a notebook's interrupt and SIGTERM into a checkpoint after the step at hand.

    An interrupt in the middle of a step would leave weights and optimizer apart. A second one
    stops at once. Use as a context around `trainer.train`: signals are as before outside it.
    """

    def __init__(self) -> None:
        self.caught: signal.Signals | None = None

    def __enter__(self) -> "StopOnSignal":
        """Take the signals, where Python allows it: in the main thread."""
        self.before = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self.before[number] = signal.signal(number, self._catch)
            except ValueError:
                break
        return self

    def __exit__(self, *error: Any) -> None:
        """Give the signals back."""
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def request(self) -> None:
        """Stop as the first Ctrl+C does."""
        self.caught = self.caught or signal.SIGINT

    def _catch(self, number: int, frame: Any) -> None:
        if self.caught:
            raise KeyboardInterrupt
        self.caught = signal.Signals(number)
        print(f"{self.caught.name}: saving a checkpoint after this step, then stopping.")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Save and stop, in all processes at the same step.

        Where the step is one of evaluation, that comes first: weights of characters and the count
        of early stopping follow from it, and a resumed run would not make up for it.
        """
        caught = self.caught is not None
        if args.world_size > 1:
            # A signal reaches the processes at different steps; one that waits for the others'
            # gradients while they save would wait forever.
            flag = torch.tensor(int(caught), device=args.device)
            torch.distributed.all_reduce(flag)
            caught = bool(flag)
        if caught:
            self.caught = self.caught or signal.SIGTERM
            control.should_save = control.should_training_stop = True
        return control


def _restore(callback: Any, state: Any) -> None:
    """Give a callback the attributes that it had when the checkpoint was saved."""
    name = type(callback).__name__
    # Trainer expects an entry of every callback there is, and a checkpoint of other settings has
    # none of this one.
    saved = state.stateful_callbacks.setdefault(name, callback.state())
    for attribute, value in saved["attributes"].items():
        setattr(callback, attribute, value)


class ConfusionWeights(TrainerCallback, ExportableState):
    """The weights of characters that were mixed up, kept in every checkpoint's trainer state.

    `weights` maps a character to its weight, above 1; `table` holds the same by code point.
    """

    def __init__(self, max_weight: float, smoothing: float):
        self.max_weight, self.smoothing = max_weight, smoothing
        self.weights: dict[str, float] = {}
        self.table = weight_table({})

    def state(self) -> dict[str, Any]:
        """What Trainer saves."""
        return {"args": {}, "attributes": {"weights": dict(self.weights)}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Go on with the weights of the checkpoint that is resumed from."""
        _restore(self, state)
        self.table = weight_table(self.weights)

    def update(self, references: list[str], predictions: list[str]) -> None:
        """Move the weights towards what an evaluation found."""
        self.weights = update_weights(
            self.weights, references, predictions, self.max_weight, self.smoothing
        )
        self.table = weight_table(self.weights)


class EarlyStopping(EarlyStoppingCallback):
    """transformers' early stopping, with a patience in evaluations or as a share of all steps.

    The evaluations without a better one are counted on after a resume.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Turn a share of the steps into evaluations, now that the steps are known."""
        if self.early_stopping_patience < 1:
            steps = self.early_stopping_patience * state.max_steps
            self.early_stopping_patience = max(1, math.ceil(steps / state.eval_steps))
        _restore(self, state)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float], **kwargs: Any
    ) -> None:
        """Stop when there was no better evaluation for too long, and say so."""
        super().on_evaluate(args, state, control, metrics, **kwargs)
        waited = self.early_stopping_patience_counter >= self.early_stopping_patience
        if waited and state.is_world_process_zero and state.global_step < state.max_steps:
            print(
                f"Early stop at step {state.global_step}: "
                f"{args.metric_for_best_model.removeprefix('eval_')} was not better than "
                f"{state.best_metric:.4g} in {self.early_stopping_patience_counter} evaluations."
            )
