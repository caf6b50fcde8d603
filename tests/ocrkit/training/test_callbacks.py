import json
import signal
from types import SimpleNamespace

import pytest
import torch

from ocrkit.run_folder import read_log
from ocrkit.training.callbacks import (
    ConfusionWeights,
    EarlyStopping,
    LogFile,
    StopOnSignal,
    WeightAveraging,
)

ARGS = SimpleNamespace(world_size=1, metric_for_best_model="eval_cer", greater_is_better=False)


def state(step=0, **more):
    values = {"global_step": step, "is_world_process_zero": True, "max_steps": 100}
    values |= {"eval_steps": 10, "best_metric": 0.5, "stateful_callbacks": {}}
    return SimpleNamespace(**{**values, **more})


def control():
    return SimpleNamespace(should_save=False, should_training_stop=False)


def test_a_log_waits_until_the_folder_belongs_to_the_run(tmp_path):
    path, begun = tmp_path / "train_log.jsonl", []
    path.write_text('{"step": 9, "loss": 1.0}\n')
    log = LogFile(path, begin=lambda: begun.append(path.read_text()))
    log.on_train_begin(ARGS, state(), control())
    log.on_log(ARGS, state(0), control(), logs={"loss": 3.0})
    assert begun == [] and read_log(path) == [{"step": 9, "loss": 1.0}]
    log.on_step_end(ARGS, state(1), control())
    log.on_step_end(ARGS, state(2), control())
    log.on_log(ARGS, state(2), control(), logs={"loss": 2.0})
    assert len(begun) == 1
    assert read_log(path) == [{"step": 0, "loss": 3.0}, {"step": 2, "loss": 2.0}]


def test_a_resumed_run_drops_entries_after_its_checkpoint(tmp_path):
    path = tmp_path / "train_log.jsonl"
    entries = [{"step": step, "loss": 1.0} for step in (1, 2, 3)]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    log = LogFile(path)
    log.changed = {"learning_rate": [0.1, 0.2]}
    log.on_train_begin(ARGS, state(2), control())
    log.take_over()
    changed = {"step": 2, "changed": {"learning_rate": [0.1, 0.2]}}
    assert read_log(path) == [*entries[:2], changed]


def test_a_signal_saves_after_the_step_and_a_second_one_stops(capsys):
    before = signal.getsignal(signal.SIGTERM)
    with StopOnSignal() as stop:
        assert not stop.on_step_end(ARGS, state(), control()).should_save
        signal.raise_signal(signal.SIGTERM)
        decision = stop.on_step_end(ARGS, state(), control())
        assert decision.should_save and decision.should_training_stop
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
    assert "SIGTERM: saving a checkpoint" in capsys.readouterr().out


def test_confusion_weights_come_back_from_a_checkpoint():
    weights = ConfusionWeights(max_weight=4.0, smoothing=0.5)
    weights.update(["aaab"] * 20, ["aaac"] * 20)
    assert weights.weights["b"] > 1 and "a" not in weights.weights
    saved = state(stateful_callbacks={"ConfusionWeights": weights.state()})
    resumed = ConfusionWeights(max_weight=4.0, smoothing=0.5)
    resumed.on_train_begin(ARGS, saved, control())
    assert resumed.weights == weights.weights


def test_patience_may_be_a_share_of_all_steps():
    stopping = EarlyStopping(0.25)
    stopping.on_train_begin(ARGS, state(), control())
    assert stopping.early_stopping_patience == 3  # 25 of 100 steps, evaluated every 10


def test_evaluations_without_an_improvement_stop_a_run(capsys):
    stopping, decision = EarlyStopping(2), control()
    stopping.on_train_begin(ARGS, state(), decision)
    for step in (10, 20):
        assert not decision.should_training_stop
        stopping.on_evaluate(ARGS, state(step), decision, {"eval_cer": 0.6})
    assert decision.should_training_stop
    assert "Early stop at step 20: cer was not better than 0.5 in 2" in capsys.readouterr().out


def _averaged_run(share, steps, interrupted_at=None):
    """Weights after each step of a small run, and its final weights; resumed where it is asked."""

    def start():
        layer = torch.nn.Linear(2, 1)
        torch.nn.init.constant_(layer.weight, 1.0)
        torch.nn.init.zeros_(layer.bias)
        return layer, torch.optim.AdamW(layer.parameters(), lr=0.1)

    (layer, optimizer), callback, after = start(), WeightAveraging(share), []
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        layer(torch.tensor([[float(step), 1.0]])).square().sum().backward()
        optimizer.step()
        after.append(layer.weight.detach().clone())
        callback.on_step_end(ARGS, state(step, max_steps=steps), control(), optimizer=optimizer)
        if step == interrupted_at:
            saved = layer.state_dict(), optimizer.state_dict()
            (layer, optimizer), callback = start(), WeightAveraging(share)
            layer.load_state_dict(saved[0])
            optimizer.load_state_dict(saved[1])
            now = state(step, max_steps=steps)
            callback.on_train_begin(ARGS, now, control(), optimizer=optimizer)
    end = state(steps, max_steps=steps)
    callback.on_train_end(ARGS, end, control(), optimizer=optimizer)
    return after, layer.weight.detach(), optimizer


@pytest.mark.parametrize(("share", "counted"), [(0.5, 5), (0.01, 1), (1.0, 10)])
def test_a_run_ends_with_the_mean_of_its_last_weights(share, counted):
    after, final, _ = _averaged_run(share, 10)
    assert torch.allclose(final, torch.stack(after[-counted:]).mean(dim=0))
    _, resumed, _ = _averaged_run(share, 10, interrupted_at=8)
    assert torch.equal(final, resumed)


def test_a_finished_run_that_is_longer_now_averages_anew():
    *_, optimizer = _averaged_run(0.5, 10)
    now = state(10, max_steps=100)
    WeightAveraging(0.5).on_train_begin(ARGS, now, control(), optimizer=optimizer)
    assert not any("average" in values for values in optimizer.state.values())
    stopped = state(9, max_steps=10)
    WeightAveraging(0.5).on_train_end(ARGS, stopped, control(), optimizer=optimizer)
