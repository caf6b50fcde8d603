import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerCallback

from data_prep.dataset.schema import DataError
from ocrkit.data.load import load_data
from ocrkit.errors import ConfigError, TrainingError
from ocrkit.models.load import load_model
from ocrkit.run_folder import read_log, skipped_counts
from ocrkit.training.arguments import sft_config
from ocrkit.training.checkpoints import whole_checkpoints
from ocrkit.training.rows import context_length
from ocrkit.training.train import train


class _StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step
        return control


def _run(config, **changes):
    for name, value in changes.items():
        setattr(config, name, value)
    data = load_data(config)
    model, processor = load_model(config)
    callbacks = [_StopAt(2)] if config.resume_from_checkpoint == "stop" else None
    if callbacks:
        config.resume_from_checkpoint = None
    result = train(model, processor, data, config, callbacks=callbacks)
    weights = {n: w.detach().clone() for n, w in model.named_parameters() if w.requires_grad}
    return result, weights


def _losses(result):
    return [entry["loss"] for entry in result.history if "loss" in entry]


def test_run_folder_of_a_run_is_complete(config, tmp_path):
    result, _ = _run(config, eval_steps=2, eval_samples=4)
    folder = tmp_path / "run"
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()
    assert (folder / "checkpoint-4").is_dir()
    assert not (folder / "README.md").exists()
    assert "seed: 42" in (folder / "config.yaml").read_text()
    versions = json.loads((folder / "versions.json").read_text())
    assert versions["packages"]["transformers"] and versions["dataset"]
    log = read_log(folder / "train_log.jsonl")
    assert result.history == log
    assert [entry["step"] for entry in log if "loss" in entry] == [1, 2, 3, 4]
    evaluated = [entry for entry in log if "eval_cer" in entry]
    assert [entry["step"] for entry in evaluated] == [2, 4]
    assert all(0 <= entry["eval_exact_match"] <= 1 for entry in evaluated)


def test_training_reduces_the_loss(config):
    result, _ = _run(config, max_steps=30, per_device_train_batch_size=8)
    losses = _losses(result)
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_a_run_that_trained_every_weight_is_loaded_by_its_folder(config, tmp_path):
    config.use_peft = False
    model, processor = load_model(config)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    adapter = tmp_path / "run" / "adapter"  # of an earlier run, in the same folder
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "tiny"}')
    (tmp_path / "run" / "versions.json").write_text("{}")
    train(model, processor, load_data(config), config)
    trained = dict(model.named_parameters())
    assert not any(torch.equal(weight, trained[name]) for name, weight in before.items())
    config.model_name_or_path = str(tmp_path / "run")
    again, _ = load_model(config)
    for name, weight in again.named_parameters():
        torch.testing.assert_close(weight, trained[name], rtol=0, atol=0)


def test_resumed_run_equals_an_uninterrupted_one(config, tmp_path):
    config.save_steps = 2
    whole, weights = _run(config)
    config.output_dir = str(tmp_path / "stopped")
    first, _ = _run(config, resume_from_checkpoint="stop")
    assert first.global_step == 2
    rest, resumed = _run(config, resume_from_checkpoint="auto")
    assert _losses(rest) == _losses(whole)
    # The mean loss is that of the two steps after the resume, in the log too.
    ends = [entry["train_loss"] for entry in rest.history if "train_loss" in entry]
    assert rest.training_loss == ends[-1] == pytest.approx(sum(_losses(whole)[2:]) / 2)
    assert whole.training_loss == pytest.approx(sum(_losses(whole)) / 4)
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)


def test_another_run_in_the_same_folder_goes_on_from_its_own_checkpoints(config, tmp_path):
    _run(config, save_steps=2)
    _run(config, learning_rate=1e-3, resume_from_checkpoint="stop")
    second, weights = _run(config, resume_from_checkpoint="auto")
    _, expected = _run(config, output_dir=str(tmp_path / "alone"), resume_from_checkpoint=None)
    assert len(_losses(second)) == 4
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.parametrize("steps", [3, 4])
def test_a_finished_run_that_is_resumed_trains_nothing(config, steps):
    # Ten steps are an epoch: the run ends within it.
    run, weights = _run(config, max_steps=steps, save_steps=steps, lr_scheduler_type="constant")
    again, resumed = _run(config, resume_from_checkpoint="auto")
    assert again.global_step == steps
    # Log, mean loss and seconds are those of the run that trained.
    assert again == run
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)


def test_the_same_seed_gives_the_same_run(config, tmp_path):
    first, weights = _run(config)
    second, again = _run(config, output_dir=str(tmp_path / "second"))
    assert _losses(first) == _losses(second)
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_accumulated_batches_count_as_one(config, tmp_path):
    """The loss is per supervised token over all accumulated batches, not a mean of means."""
    result, weights = _run(config, max_steps=2)
    two, again = _run(
        config,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        output_dir=str(tmp_path / "two"),
    )
    assert _losses(result) == pytest.approx(_losses(two), abs=1e-4)
    assert all(torch.allclose(weights[n], again[n], atol=1e-4) for n in weights)


def test_samples_longer_than_the_context_are_left_out_and_counted(config, capsys):
    data = load_data(config)
    model, processor = load_model(config)
    config.max_length = 50
    assert context_length(model, config) == 50
    train(model, processor, data, config)
    left_out = skipped_counts(config.output_dir)["longer than the context"]
    assert 0 < left_out < len(data["train"])
    assert f"{left_out} rows left out" in capsys.readouterr().out
    config.max_length = 10
    with pytest.raises(DataError, match="No train row fits the context of 10 tokens"):
        train(model, processor, data, config)


def test_invalid_training_requests_are_refused(config):
    data = load_data(config)
    model, processor = load_model(config)
    config.sft_kwargs = {"packking": True}
    with pytest.raises(ConfigError, match="packking"):
        train(model, processor, data, config)
    config.sft_kwargs, config.resume_from_checkpoint = {}, "nowhere"
    with pytest.raises(ConfigError, match="is no folder"):
        train(model, processor, data, config)
    config.resume_from_checkpoint, config.dtype, config.use_peft = None, "float16", False
    with pytest.raises(ConfigError, match="set dtype=auto, which keeps weights in float32"):
        train(model, processor, data, config)
    config.dtype = "float32"
    del data["train"]
    with pytest.raises(DataError, match="no train split"):
        train(model, processor, data, config)


@pytest.mark.parametrize(
    ("schedule", "sft_kwargs", "message"),
    [
        ("warmup_stable_decay", {}, "lr_scheduler_type='warmup_stable_decay' cannot be computed"),
        ("cosine_with_min_lr", {}, "lr_scheduler_type='cosine_with_min_lr' cannot be computed"),
        ("cosine", {"lr_scheduler_kwargs": {"cycles": 2}}, "unexpected keyword argument 'cycles'"),
        # Fails only after the warm-up.
        ("polynomial", {"lr_scheduler_kwargs": {"power": "x"}}, "cannot be computed with lr_sch"),
        # Fails only at the last step.
        ("polynomial", {"lr_scheduler_kwargs": {"power": -1}}, "cannot be computed with lr_sched"),
        ("cosine", {"lr_scheduler_kwargs": 3}, "lr_scheduler_kwargs=3 must be of type dict"),
        ("cosine", {"adam_epsilon": "tiny"}, "adam_epsilon='tiny' must be of type float"),
        ("cosine", {"logging_strategy": "now"}, "does not make an SFTConfig"),
        ("cosine", {"neftune_noise": 5.0}, "did you mean 'neftune_noise_alpha'"),
        ("cosine", {"optim_args": "betas"}, "optim='adamw_torch' cannot be created"),
    ],
)
def test_settings_that_transformers_refuses_are_one_sentence_before_the_first_step(
    schedule, sft_kwargs, message, config
):
    config.lr_scheduler_type, config.sft_kwargs = schedule, sft_kwargs
    with pytest.raises(ConfigError, match=message) as refused:
        train(*load_model(config), load_data(config), config)
    assert "\n" not in str(refused.value)
    assert not (Path(config.output_dir) / "config.yaml").exists()


def test_a_schedule_takes_its_arguments_from_sft_kwargs(config):
    config.lr_scheduler_type, config.warmup_steps = "warmup_stable_decay", 0
    config.sft_kwargs = {"lr_scheduler_kwargs": {"num_decay_steps": 2, "min_lr_ratio": 0.5}}
    result, _ = _run(config)
    rates = [e["learning_rate"] / config.learning_rate for e in result.history if "loss" in e]
    assert rates[:2] == [1, 1] and 0.5 <= rates[-1] < 1


def test_a_run_without_validation_rows_says_that_nothing_is_evaluated(config, capsys):
    config.eval_steps, config.max_steps, data = 1, 1, load_data(config)
    del data["validation"]
    train(*load_model(config), data, config)
    assert "has no validation split, so nothing is evaluated" in capsys.readouterr().out


def test_run_stopped_by_a_signal_can_be_resumed(config, tmp_path):
    whole, weights = _run(config)
    config.output_dir = str(tmp_path / "stopped")

    class Signal(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    data = load_data(config)
    with pytest.raises(KeyboardInterrupt):
        train(*load_model(config), data, config, callbacks=[Signal()])
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    saved = [path.name for path in whole_checkpoints(config.output_dir)]
    assert saved in (["checkpoint-2"], ["checkpoint-3"])
    rest, resumed = _run(config, resume_from_checkpoint="auto")
    assert _losses(rest) == _losses(whole)
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)


def test_a_loss_that_is_no_number_names_the_step_and_the_rows(config):
    data = load_data(config)
    model, processor = load_model(config)
    name = next(n for n, w in model.named_parameters() if w.requires_grad)
    before = {n: w.detach().clone() for n, w in model.named_parameters()}

    class Poison(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 1:
                before.update({n: w.detach().clone() for n, w in model.named_parameters()})
                model.get_output_embeddings().weight.data[0, 0] = float("nan")

    with pytest.raises(
        TrainingError, match=r"loss is nan at step 2 .learning rate .*receipt-"
    ) as e:
        train(model, processor, data, config, callbacks=[Poison()])
    assert str(e.value).count("receipt-") == config.per_device_train_batch_size
    assert torch.equal(dict(model.named_parameters())[name], before[name])


def test_out_of_memory_says_what_to_change(config, monkeypatch):
    data = load_data(config)
    model, processor = load_model(config)

    def refuse(*args, **kwargs):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(model.get_base_model(), "forward", refuse)
    with pytest.raises(TrainingError, match=r"step 1 with a batch of 4, the longest sample") as e:
        train(model, processor, data, config)
    for way_out in ("per_device_train_batch_size", "max_pixels", "gradient_checkpointing"):
        assert way_out in str(e.value)


def test_a_card_that_emulates_bfloat16_trains_in_float16(config, monkeypatch):
    """As a T4 does: torch counts emulation unless it is told not to."""
    import trl

    def settings(**changes):
        return SimpleNamespace(n_gpu=1, **changes)

    monkeypatch.setattr(trl, "SFTConfig", settings)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda emulated=True: emulated)
    arguments = sft_config(replace(config, dtype="auto"), evaluated=False)
    assert arguments.fp16 and not arguments.bf16
