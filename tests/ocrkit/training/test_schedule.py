import math

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from ocrkit.training.schedule import check_schedule, hyperparameters, restore


def optimizer(rate=0.1):
    return torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))], lr=rate, weight_decay=0.3)


def linear(of, steps=10):
    return LambdaLR(of, lambda step: 1 - step / steps)


@pytest.mark.parametrize("factor", [math.nan, math.inf, 1j])
def test_a_schedule_without_a_real_factor_is_refused(factor):
    check_schedule(linear(optimizer()), 10)
    wrong = LambdaLR(optimizer(), lambda step: 1.0)
    wrong.lr_lambdas = [lambda step: factor if step == 10 else 1.0]
    with pytest.raises(ValueError, match="at step 10"):
        check_schedule(wrong, 10)


def test_hyperparameters_are_those_of_the_settings():
    (values,) = hyperparameters(optimizer())
    assert values["lr"] == 0.1 and values["weight_decay"] == 0.3
    assert "params" not in values and "foreach" not in values


def test_a_resumed_schedule_goes_on_at_the_step_of_its_checkpoint():
    own = optimizer(0.2)
    scheduler, values = linear(own), hyperparameters(own)
    own.param_groups[0].update(lr=0.05, weight_decay=0.0)  # the state of the checkpoint
    restore(own, values, scheduler, linear(optimizer()).state_dict() | {"last_epoch": 4}, 4, {})
    assert own.param_groups[0]["lr"] == pytest.approx(0.2 * 0.6)
    assert own.param_groups[0]["weight_decay"] == 0.3
    own.step()
    scheduler.step()
    assert scheduler.last_epoch == 5
    assert own.param_groups[0]["lr"] == pytest.approx(0.2 * 0.5)


def test_plateau_schedule_keeps_its_rate_in_proportion():
    own = optimizer(0.2)
    values, scheduler = hyperparameters(own), ReduceLROnPlateau(own, patience=1)
    saved = scheduler.state_dict() | {"best": 0.5}
    own.param_groups[0]["lr"] = 0.01  # lowered once, from 0.1
    restore(own, values, scheduler, saved, 4, {"learning_rate": [0.1, 0.2]})
    assert own.param_groups[0]["lr"] == pytest.approx(0.02) and scheduler.best == 0.5
