"""Learning rate schedule: check it before a run, and continue it at the step of a checkpoint."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch.optim.lr_scheduler import LambdaLR

if TYPE_CHECKING:
    from torch.optim import Optimizer

# Keys of an optimizer's parameter groups that come from the settings; the others are its state.
_HYPERPARAMETERS = ("lr", "initial_lr", "weight_decay", "betas", "eps")


def check_schedule(scheduler: Any, steps: int) -> None:
    """Compute a schedule's factors over a run, so that a wrong argument fails before step 1.

    Args:
        steps: of the run.

    Raises:
        ValueError: a factor is NaN, infinite or no real number. Any other error of the schedule's
            own function is raised as it is.
    """
    if not isinstance(scheduler, LambdaLR):
        return
    middle = range(0, steps, max(1, steps // 100))
    for step in sorted({*middle, 1, max(0, steps - 1), steps}):
        for function in scheduler.lr_lambdas:
            factor = function(step)
            if not isinstance(factor, int | float) or not math.isfinite(factor):
                raise ValueError(f"the factor of the learning rate is {factor} at step {step}")


class SavedSchedule:
    """Placeholder for a scheduler while a checkpoint is loaded; it keeps the saved state."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keep the state as it is."""
        self.state = state


def hyperparameters(optimizer: "Optimizer") -> list[dict[str, Any]]:
    """Learning rate, weight decay, betas and eps of each of the optimizer's groups."""
    groups = optimizer.param_groups
    return [{name: group[name] for name in _HYPERPARAMETERS if name in group} for group in groups]


def restore(
    optimizer: "Optimizer",
    own: Sequence[dict[str, Any]],
    scheduler: Any,
    saved: dict[str, Any],
    step: int,
    changed: dict[str, list],
) -> None:
    """Set this run's hyperparameters, and the learning rate of a step, in a loaded optimizer.

    Args:
        optimizer: with the state of the checkpoint.
        own: the hyperparameters before that state was loaded.
        scheduler: this run's, at its first step.
        saved: state of the checkpoint's scheduler.
        step: of the checkpoint.
        changed: settings that the run changes, as {name: [before, after]}.
    """
    loaded = [group["lr"] for group in optimizer.param_groups]
    for group, values in zip(optimizer.param_groups, own):
        group.update(values)
    if isinstance(scheduler, LambdaLR):
        # The saved count leaves out steps that a gradient scaler skipped.
        scheduler.last_epoch = saved["last_epoch"] if "lr_lambdas" in saved else step
        factors = [factor(scheduler.last_epoch) for factor in scheduler.lr_lambdas]
        rates = [rate * factor for rate, factor in zip(scheduler.base_lrs, factors)]
        scheduler._last_lr = rates
    elif {"lr_scheduler_type", "sft_kwargs lr_scheduler_kwargs"} & changed.keys():
        rates = [values["lr"] for values in own]
    else:
        # A schedule that follows the evaluations, as reduce_lr_on_plateau does, keeps its state.
        scheduler.load_state_dict(saved)
        before, after = changed.get("learning_rate", (1.0, 1.0))
        rates = [rate * after / before for rate in loaded]
    for group, rate in zip(optimizer.param_groups, rates):
        group["lr"] = rate
