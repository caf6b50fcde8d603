"""The learning rate schedule of a resumed run: its own settings at the checkpoint's step."""

from collections.abc import Sequence
from typing import Any

from torch.optim.lr_scheduler import LambdaLR

# What settings decide in an optimizer's groups; the rest is its state.
_HYPERPARAMETERS = ("lr", "initial_lr", "weight_decay", "betas", "eps")


class SavedSchedule:
    """Stands in for a scheduler while a checkpoint is loaded, and keeps the saved state."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keep the state as it is."""
        self.state = state


def hyperparameters(optimizer: Any) -> list[dict[str, Any]]:
    """Rates, decays and the like of each of the optimizer's groups."""
    groups = optimizer.param_groups
    return [{name: group[name] for name in _HYPERPARAMETERS if name in group} for group in groups]


def restore(
    optimizer: Any,
    own: Sequence[dict[str, Any]],
    scheduler: Any,
    saved: dict[str, Any],
    step: int,
    changed: dict[str, list],
) -> None:
    """Give an optimizer whose state was loaded this run's hyperparameters, and the rate of a step.

    Args:
        own: the hyperparameters before the state was loaded.
        scheduler: this run's, as it was made for the first step.
        saved: state of the checkpoint's scheduler.
        step: the checkpoint's.
        changed: settings that the run changes, as {name: [before, after]}.
    """
    loaded = [group["lr"] for group in optimizer.param_groups]
    for group, values in zip(optimizer.param_groups, own):
        group.update(values)
    if isinstance(scheduler, LambdaLR):
        # Without the steps that a gradient scaler skipped, which are no steps of a schedule.
        scheduler.last_epoch = saved["last_epoch"] if "lr_lambdas" in saved else step
        factors = [factor(scheduler.last_epoch) for factor in scheduler.lr_lambdas]
        rates = [rate * factor for rate, factor in zip(scheduler.base_lrs, factors)]
        scheduler._last_lr = rates
    elif {"lr_scheduler_type", "sft_kwargs lr_scheduler_kwargs"} & changed.keys():
        rates = [values["lr"] for values in own]
    else:
        # A schedule that follows the evaluations: what they have come to is kept.
        scheduler.load_state_dict(saved)
        before, after = changed.get("learning_rate", (1.0, 1.0))
        rates = [rate * after / before for rate in loaded]
    for group, rate in zip(optimizer.param_groups, rates):
        group["lr"] = rate
