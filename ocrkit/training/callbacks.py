"""Callbacks of a run: log file, stop on a signal, confusion weights and early stopping."""

import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import get_swa_multi_avg_fn
from transformers import (
    EarlyStoppingCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import ExportableState

from ocrkit.environment import broadcast_from_main
from ocrkit.run_folder import append_log, read_log
from ocrkit.training.losses import update_weights, weight_table

average_weights = get_swa_multi_avg_fn()


class LogFile(TrainerCallback):
    """Appends every log to train_log.jsonl at once, so that a stopped run keeps its curve.

    The run folder may hold an earlier run. It is left as it is until the first step is done; then
    `begin` makes it this run's, and the entries that were waiting are written.

    Args:
        path: the train_log.jsonl.
        begin: called once, on the main process, after the first step.
    """

    def __init__(self, path: Path, begin: Callable[[], None] = lambda: None) -> None:
        self.path, self.begin = path, begin
        # Settings that a resumed run changes, as {name: [before, after]}.
        self.changed: dict[str, list] = {}
        self.waiting: list[dict[str, Any]] | None = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Drop entries that an interrupted run logged after the checkpoint that is resumed."""
        step = state.global_step
        kept = [entry for entry in read_log(self.path) if entry["step"] <= step] if step else []
        # An earlier resume at this step may have recorded other changes.
        kept = [e for e in kept if not ("changed" in e and e["step"] == step)]
        if self.changed and step:
            kept.append({"step": step, "changed": self.changed})
        self.waiting = kept

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take the folder over after the first step, before any process saves a checkpoint."""
        self.take_over()

    def take_over(self) -> None:
        """Make the folder this run's, if it is not yet; all processes have to call this."""
        if self.waiting is None:
            return
        # `broadcast_from_main` lets an error end all processes, and makes them wait for it.
        broadcast_from_main(self._begin)
        self.waiting = None

    def _begin(self) -> None:
        self.begin()
        text = "".join(json.dumps(entry) + "\n" for entry in self.waiting or ())
        self.path.write_text(text, encoding="utf-8")

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the log as one entry."""
        if state.is_world_process_zero and (logs := kwargs.get("logs")):
            self.write({"step": state.global_step, **logs})

    def write(self, entry: dict[str, Any]) -> None:
        """Write one entry, or keep it until the folder is this run's."""
        if self.waiting is None:
            append_log(self.path, entry)
        else:
            self.waiting.append(entry)


class StopOnSignal(TrainerCallback):
    """Turns Ctrl+C, a notebook's interrupt and SIGTERM into a checkpoint after the current step.

    An interrupt within a step would leave weights and optimizer at different steps. A second one
    stops at once. Use as a context around `trainer.train`; it restores the signal handlers.

    Attributes:
        caught: the signal, or SIGINT for a request; None while the run goes on.
        requested: whether the stop was asked for by `request`, and what follows shall still run.
    """

    def __init__(self) -> None:
        self.caught: signal.Signals | None = None
        self.requested = False

    def __enter__(self) -> "StopOnSignal":
        """Set the signal handlers, which Python allows in the main thread only."""
        self.before = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self.before[number] = signal.signal(number, self._catch)
            except ValueError:
                break
        return self

    def __exit__(self, *error: Any) -> None:
        """Restore the signal handlers."""
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def request(self) -> None:
        """Request a stop as the first Ctrl+C does, but for what follows to be run."""
        self.requested = self.caught is None or self.requested
        self.caught = self.caught or signal.SIGINT

    def _catch(self, number: int, frame: object) -> None:
        if self.caught:
            raise KeyboardInterrupt
        self.caught = signal.Signals(number)
        print(f"{self.caught.name}: saving a checkpoint after this step, then stopping.")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Save and stop, in all processes at the same step.

        An evaluation that is due at this step still takes place: confusion weights and the counter
        of early stopping depend on it, and a resumed run would not repeat it.
        """
        caught = self.caught is not None
        if args.world_size > 1:
            # A signal reaches the processes at different steps; a process that waits for the
            # others' gradients while they save would wait forever.
            flag = torch.tensor(int(caught), device=args.device)
            torch.distributed.all_reduce(flag)
            caught = bool(flag)
        if caught:
            self.caught = self.caught or signal.SIGTERM
            control.should_save = control.should_training_stop = True
        return control


class WeightAveraging(TrainerCallback):
    """Averages the trained weights over the last steps of a run, and ends it with the averages.

    The averages lie in the optimizer's state, so a checkpoint holds them and a resumed run goes on
    with them. Stochastic weight averaging (Izmailov et al. 2018, arXiv:1803.05407), with the mean
    of torch.optim.swa_utils, but without a phase of its own.

    Args:
        share: of the run's steps, the last ones, that are averaged.
    """

    def __init__(self, share: float) -> None:
        self.share = share

    def _first(self, state: TrainerState) -> int:
        """The first step whose weights count."""
        return state.max_steps - max(1, round(self.share * state.max_steps)) + 1

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Forget the averages of a run that was finished and is now longer."""
        if state.global_step + 1 < self._first(state):
            for values in kwargs["optimizer"].state.values():
                values.pop("average", None)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Add the weights of a step to the averages."""
        if state.global_step < self._first(state):
            return
        # An optimizer sets its own state of a weight at the weight's first step.
        for weight, values in kwargs["optimizer"].state.items():
            if "average" not in values:
                values |= {"average": weight.detach().clone(), "averaged": 1}
            else:
                average_weights([values["average"]], [weight.detach()], values["averaged"])
                values["averaged"] += 1

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Replace the weights by their averages, unless the run was stopped before its end."""
        averaged = 0
        for weight, values in kwargs["optimizer"].state.items():
            if "average" in values and state.global_step >= state.max_steps:
                weight.data.copy_(values["average"])
                averaged = values["averaged"]
        if averaged and state.is_world_process_zero:
            print(f"The weights are the mean of those after the last {averaged} steps.")


def _restore(callback: Any, state: Any) -> None:
    """Restore the attributes that a callback had when the checkpoint was saved."""
    name = type(callback).__name__
    # Trainer expects an entry of every callback, and a checkpoint of other settings has none.
    saved = state.stateful_callbacks.setdefault(name, callback.state())
    for attribute, value in saved["attributes"].items():
        setattr(callback, attribute, value)


class ConfusionWeights(TrainerCallback, ExportableState):
    """Weights of characters that were confused, saved in every checkpoint's trainer state.

    `weights` maps a character to its weight, above 1; `table` holds the same by code point.
    """

    def __init__(self, max_weight: float, smoothing: float) -> None:
        self.max_weight, self.smoothing = max_weight, smoothing
        self.weights: dict[str, float] = {}
        self.table = weight_table({})

    def state(self) -> dict[str, Any]:
        """The state that Trainer saves."""
        return {"args": {}, "attributes": {"weights": dict(self.weights)}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Restore the weights of the checkpoint that is resumed."""
        _restore(self, state)
        self.table = weight_table(self.weights)

    def update(self, references: list[str], predictions: list[str]) -> None:
        """Update the weights from the predictions of an evaluation."""
        self.weights = update_weights(
            self.weights, references, predictions, self.max_weight, self.smoothing
        )
        self.table = weight_table(self.weights)


class EarlyStopping(EarlyStoppingCallback):
    """transformers' early stopping, with a patience in evaluations or as a share of all steps.

    The counter of evaluations without an improvement is restored on resume.

    Args:
        patience: evaluations, or under 1 a share of all steps.
        threshold: smallest change that counts as an improvement.
    """

    def __init__(self, patience: float, threshold: float = 0.0) -> None:
        super().__init__(early_stopping_threshold=threshold)
        # transformers declares a whole number, which a share becomes when training begins.
        self.early_stopping_patience: float = patience

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Convert a share of the steps into evaluations, now that the steps are known."""
        if self.early_stopping_patience < 1:
            steps = self.early_stopping_patience * state.max_steps
            self.early_stopping_patience = max(1, math.ceil(steps / state.eval_steps))
        _restore(self, state)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **kwargs: object,
    ) -> None:
        """Stop after too many evaluations without an improvement, and print that."""
        super().on_evaluate(args, state, control, metrics, **kwargs)
        exhausted = self.early_stopping_patience_counter >= self.early_stopping_patience
        if exhausted and state.is_world_process_zero and state.global_step < state.max_steps:
            print(
                f"Early stop at step {state.global_step}: "
                f"{(args.metric_for_best_model or '').removeprefix('eval_')} was not better than "
                f"{state.best_metric:.4g} in {self.early_stopping_patience_counter} evaluations."
            )
