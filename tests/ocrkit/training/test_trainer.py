import json
import random
import weakref
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerCallback

from data_prep.dataset.schema import DataError
from ocrkit import evaluate
from ocrkit.config import TrainConfig
from ocrkit.data.load import load_data
from ocrkit.errors import ConfigError, TrainingError
from ocrkit.evaluation.evaluation import score
from ocrkit.metrics.names import METRICS
from ocrkit.models.load import load_model
from ocrkit.models.read import predict
from ocrkit.run_folder import read_log
from ocrkit.training import losses, probe, trainer, validation
from ocrkit.training.callbacks import EarlyStopping
from ocrkit.training.losses import supervised_loss
from ocrkit.training.plan import plan
from ocrkit.training.train import make_trainer, train
from ocrkit.training.validation import check_validation


class _StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop |= state.global_step >= self.step
        return control


class _Keep(TrainerCallback):
    """The trained weights after each step."""

    def __init__(self):
        self.after = {}

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.after[state.global_step] = _trained(model)


def _trained(model):
    return {n: w.detach().clone() for n, w in model.named_parameters() if w.requires_grad}


def _same(weights, other):
    return all(torch.equal(weights[name], other[name]) for name in weights)


def _run(config, callbacks=None, **changes):
    for name, value in changes.items():
        setattr(config, name, value)
    model, processor = load_model(config)
    result = train(model, processor, load_data(config), config, callbacks=callbacks)
    return result, model


def test_mixed_precision_keeps_logits_in_half_and_off_the_model(config, monkeypatch):
    """accelerate's wrapper would make them float32, and stay on the model after the run."""
    seen, cross_entropy = [], losses.cross_entropy

    def watched(logits, *args, **terms):
        seen.append(logits.dtype)
        return cross_entropy(logits, *args, **terms)

    monkeypatch.setattr(losses, "cross_entropy", watched)
    monkeypatch.setattr(trainer, "autocast", lambda *args: torch.autocast("cpu", torch.bfloat16))
    model, processor = load_model(config)
    data = load_data(config)
    before = model.forward
    train(model, processor, data, config)
    assert len(seen) == config.max_steps and set(seen) == {torch.bfloat16}
    assert model.forward == before and not hasattr(model, "_original_forward")
    config.model_name_or_path = config.output_dir
    reloaded, _ = load_model(config)
    rows = [data["test"][i] for i in range(4)]
    assert predict(model, processor, rows, config) == predict(reloaded, processor, rows, config)


def test_the_precision_of_a_step_is_dtypes_whatever_the_trainer_asks_for(config, monkeypatch):
    """Unsloth's generated trainer sets bf16 on every GPU that has it, for dtype=float32 too."""
    seen, cross_entropy = set(), losses.cross_entropy

    def watched(logits, *args, **terms):
        seen.add(logits.dtype)
        return cross_entropy(logits, *args, **terms)

    monkeypatch.setattr(losses, "cross_entropy", watched)
    data = load_data(config)
    model, processor = load_model(config)
    made = make_trainer(model, processor, data, config, [])
    made.accelerator.autocast = lambda: torch.autocast("cpu", torch.bfloat16)
    batch = made.data_collator([data["train"][0]])
    made.compute_loss(model, {k: v for k, v in batch.items() if k != "ids"})
    assert seen == {torch.float32}
    with pytest.raises(ConfigError, match="the precision of a step is dtype's"):
        replace(config, sft_kwargs={"bf16": True})


def test_a_step_out_of_memory_leaves_no_tensor_behind(config, monkeypatch):
    """The error is kept, as a notebook keeps it in sys.last_value."""
    kept, freed_before_cache = [], []

    def fails(model, batch, *args, **terms):
        activations = torch.ones(1000)
        kept.append(weakref.ref(activations))
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(
        torch.cuda, "empty_cache", lambda: freed_before_cache.append(kept[-1]() is None)
    )
    data = load_data(config)
    model, processor = load_model(config)
    monkeypatch.setattr(trainer, "supervised_loss", fails)
    monkeypatch.setattr(probe, "supervised_loss", fails)
    with pytest.raises(TrainingError, match="Out of GPU memory at step 1") as in_training:
        train(model, processor, data, config)
    with pytest.raises(TrainingError, match="Out of GPU memory in a trial") as in_plan:
        plan(config, data, model, processor)
    assert in_training.value and in_plan.value and len(kept) == 2
    assert [reference() for reference in kept] == [None, None]
    assert all(freed_before_cache) and len(freed_before_cache) >= 2
    assert all(weight.grad is None for weight in model.parameters())


def test_adapters_over_four_bits_stay_exact(config, monkeypatch):
    model, processor = load_model(config)
    # What TRL asks before it rounds them to bfloat16.
    model.is_loaded_in_4bit = True
    before = _trained(model)
    make_trainer(model, processor, load_data(config), config, [])
    assert _same(before, _trained(model))


def _read(monkeypatch, reading):
    """Stand in for generation: `reading(truth, number of the evaluation)` is what was read."""
    count = [0]

    def read(self, rows, progress_bar=True):
        count[0] += 1
        for row in rows.remove_columns("images"):
            text = reading(row["completion"][0]["content"], count[0])
            yield {"id": row["id"], "prediction": text, "finish_reason": "stop", "error": None}

    monkeypatch.setattr(trainer.Reader, "read", read)


def _zeros_as_o(truth, number):
    return truth.replace("0", "O")


def _logged(result, name):
    return [entry[name] for entry in result.history if name in entry]


# --- evaluation


def test_validation_scores_equal_the_reports(config, capsys):
    result, model = _run(config, max_steps=2, eval_steps=1, eval_samples=5)
    # The rows that were read are the seeded subset, whose first ones are shown.
    rows = load_data(config)["validation"].shuffle(seed=config.seed).select(range(5))
    report = evaluate(model, load_model(config)[1], rows, config, name="check")
    last = [entry for entry in result.history if "eval_cer" in entry][-1]
    assert {name: last[f"eval_{name}"] for name in report.metrics} == {
        name: value["value"] for name, value in report.metrics.items()
    }
    assert last["eval_failed"] == 0
    samples = _logged(result, "samples")
    assert [[sample["id"] for sample in table] for table in samples] == [rows["id"][:3]] * 2
    shown = {record["id"]: record["prediction"] for record in report.records}
    assert all(sample["prediction"] == shown[sample["id"]] for sample in samples[-1])
    output = capsys.readouterr().out
    assert output.count("  TRU ") == output.count("  PRE ") == 6
    assert f"  TRU {samples[0][0]['reference']}" in output


def test_the_loss_of_an_evaluation_is_the_mean_over_all_labels(config, monkeypatch):
    """Not a mean of the means of batches, and the plain one whatever is trained on."""
    _read(monkeypatch, _zeros_as_o)
    losses = [
        _logged(_run(config, max_steps=1, eval_steps=1, **changes)[0], "eval_loss")
        for changes in (
            {"per_device_eval_batch_size": 10, "learning_rate": 1e-9},
            {"per_device_eval_batch_size": 3},
            {"loss": "focal_confusion_weighted"},
        )
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert losses[0] == pytest.approx(losses[2], abs=1e-5)


def test_loss_out_of_memory_is_computed_in_halves(config, monkeypatch, capsys):
    _read(monkeypatch, _zeros_as_o)
    whole, _ = _run(config, max_steps=1, eval_steps=1, eval_samples=6)

    def narrow(limit):
        def loss(model, batch, *args, **terms):
            if not model.training and len(batch["input_ids"]) > limit:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
            return supervised_loss(model, batch, *args, **terms)

        monkeypatch.setattr(validation, "supervised_loss", loss)

    narrow(2)
    halves, _ = _run(config, per_device_eval_batch_size=8)
    assert "Out of memory: going on with 2 samples at once" in capsys.readouterr().out
    assert _logged(halves, "eval_loss") == pytest.approx(_logged(whole, "eval_loss"), abs=1e-5)
    narrow(0)
    with pytest.raises(TrainingError, match="after step 1, outside a batch: take optim"):
        _run(config)


def test_validation_changes_nothing_of_the_run(config, tmp_path):
    plain, with_evaluation = _run(config, output_dir=str(tmp_path / "one"))
    evaluated, other = _run(config, output_dir=str(tmp_path / "two"), eval_steps=1, eval_samples=3)
    assert _logged(plain, "loss") == _logged(evaluated, "loss")
    assert _same(_trained(with_evaluation), _trained(other))


def test_validation_scores_of_fields_tables_and_questions_equal_the_reports(config):
    cells = "<table><tr><td>1</td></tr></table>"
    texts = [
        ('{"total": "9.00", "date": "2020"}', '{"total": "9.00", "date": "2021"}', "extraction"),
        ('{"total": "1.00"}', "{", "extraction"),
        (cells, cells.replace("1", "2"), "transcription"),
        ("the red car", "Red car!", "vqa"),
        ("红车", "红", "transcription"),
    ]
    records = [
        {
            "id": str(n),
            "reference": truth,
            "prediction": read,
            "task": task,
            "language": "en",
            "error": None,
        }
        for n, (truth, read, task) in enumerate(texts)
    ]
    records[3]["answers"] = ["the red car", "a red car"]
    scores = trainer.scores(records, TrainConfig(normalization_profile="squad"))
    report = score(records, profile="squad")
    assert scores == {name: value["value"] for name, value in report.metrics.items()} | {
        "failed": 0
    }
    assert scores["field_accuracy"] == pytest.approx(1 / 3)
    assert scores["numeric_accuracy"] < 1
    assert 0 < scores["teds"] < 1
    assert scores["anls"] == pytest.approx(1 - 3 / 9)
    assert scores["normalized_match"] == pytest.approx(1 / 5)
    records[4]["language"] = "zh"
    everything = trainer.scores(records, TrainConfig())
    assert {*scores, *everything} - {"failed"} == {*METRICS} - {"loss"}


# --- best model and early stop


def test_the_run_ends_with_the_checkpoint_that_read_best(config, monkeypatch, tmp_path):
    """Though no checkpoint was due at that step, and worse ones followed."""
    _read(monkeypatch, lambda truth, number: truth if number == 2 else "")
    keep = _Keep()
    result, model = _run(
        config,
        [keep],
        eval_steps=1,
        save_steps=4,
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="exact_match",
    )
    assert result.global_step == 4
    assert _logged(result, "eval_exact_match") == [0, 1, 0, 0]
    assert _same(_trained(model), keep.after[2])
    assert not _same(_trained(model), keep.after[4])
    settings = {**config.to_dict(), "model_name_or_path": str(tmp_path / "run")}
    again, _ = load_model(TrainConfig.from_dict(settings))
    assert _same(keep.after[2], dict(again.named_parameters()))


def test_a_run_that_no_longer_improves_is_stopped(config, monkeypatch, capsys):
    _read(monkeypatch, lambda truth, number: truth[: 3 * min(number, 2)])
    settings = {"eval_steps": 1, "max_steps": 8, "metric_for_best_model": "eval_cer"}
    result, _ = _run(config, early_stopping_patience=2, **settings)
    # The second evaluation is the best one; two more were no better.
    assert result.global_step == 4
    assert "Early stop at step 4: cer was not better than" in capsys.readouterr().out


def test_early_stopping_patience_continues_after_a_resume(config, monkeypatch):
    _read(monkeypatch, lambda truth, number: truth[:3])
    settings = {"eval_steps": 1, "save_steps": 1, "max_steps": 8, "early_stopping_patience": 3}
    _run(config, [_StopAt(3)], metric_for_best_model="cer", **settings)
    result, _ = _run(config, resume_from_checkpoint="auto")
    assert result.global_step == 4


@pytest.mark.parametrize(("patience", "expected"), [(0.25, 3), (0.01, 1), (1.0, 1.0), (4.0, 4.0)])
def test_a_patience_below_one_is_a_share_of_the_steps(patience, expected):
    state = SimpleNamespace(max_steps=100, eval_steps=10, stateful_callbacks={})
    callback = EarlyStopping(patience, 0.0)
    callback.on_train_begin(None, state, None)
    assert callback.early_stopping_patience == expected


def test_a_metric_that_is_not_read_is_refused_before_training(config):
    with pytest.raises(
        ConfigError, match="'cer_graphem' is no metric; did you mean 'cer_grapheme'"
    ):
        TrainConfig(metric_for_best_model="eval_cer_graphem")
    config.eval_steps, config.metric_for_best_model = 2, "teds"
    data = load_data(config)
    model, processor = load_model(config)
    with pytest.raises(ConfigError, match=r"'teds' cannot be read .* one of loss, cer, "):
        train(model, processor, data, config)
    config.metric_for_best_model, config.normalization_profile = "cer", "squad"
    bangla = data["validation"].map(lambda row: {**row, "language": "bn"})
    with pytest.raises(ValueError, match="cannot serve language 'bn'"):
        train(model, processor, {**data, "validation": bangla}, config)
    del data["validation"]
    config.loss = "confusion_weighted"
    with pytest.raises(DataError, match="no validation split, which loss=confusion_weighted needs"):
        train(model, processor, data, config)


def test_greater_is_better_follows_the_metric(config):
    from ocrkit.training.arguments import sft_config

    for name, better in (("eval_cer", False), ("wer", False), ("loss", False), ("teds", True)):
        config.metric_for_best_model = name
        assert sft_config(config, evaluated=True).greater_is_better is better


# --- confusion weights


def test_a_planted_confusion_raises_its_weight_and_the_loss_follows(config, monkeypatch):
    _read(monkeypatch, _zeros_as_o)
    settings = {"eval_steps": 2, "learning_rate": 1e-9, "loss": "confusion_weighted"}
    result, _ = _run(config, confusion_max_weight=5.0, **settings)
    weights = _logged(result, "confusion_weights")
    assert [set(table) for table in weights] == [{"0", "O"}] * 2
    assert 1 < weights[0]["0"] < weights[1]["0"] < 5
    plain, _ = _run(config, loss="cross_entropy")
    ours, theirs = _logged(result, "loss"), _logged(plain, "loss")
    # The weights are there from the first evaluation on, and the weights of the model stay.
    assert ours[:2] == pytest.approx(theirs[:2], abs=1e-6)
    assert all(abs(a - b) > 1e-4 for a, b in zip(ours[2:], theirs[2:]))


def test_resumed_run_keeps_its_confusion_weights(config, monkeypatch, tmp_path):
    noise = random.Random(0)
    table = {char: noise.choice("abc0189") for char in map(chr, range(32, 127))}
    _read(monkeypatch, lambda truth, number: "".join(table.get(c, c) for c in truth))
    settings = {"eval_steps": 1, "save_steps": 1, "loss": "focal_confusion_weighted"}
    whole, unbroken = _run(config, output_dir=str(tmp_path / "whole"), **settings)
    _run(config, [_StopAt(2)], output_dir=str(tmp_path / "stopped"))
    saved = json.loads((tmp_path / "stopped" / "checkpoint-2" / "trainer_state.json").read_text())
    assert len(saved["stateful_callbacks"]["ConfusionWeights"]["attributes"]["weights"]) > 20
    rest, other = _run(config, resume_from_checkpoint="auto")
    assert _logged(rest, "confusion_weights") == _logged(whole, "confusion_weights")
    assert _logged(rest, "loss") == _logged(whole, "loss")
    assert _same(_trained(unbroken), _trained(other))


@pytest.mark.parametrize("max_weight", [1.0, 4.0])
def test_weighted_batches_accumulate_as_one_and_weights_of_one_change_nothing(
    config, tmp_path, max_weight
):
    """From the same weights of characters, whatever the batches that make up a step."""
    planted = {char: min(max_weight, 1 + number / 5) for number, char in enumerate("0123456789TOA")}
    losses, ends = [], []
    loss = "focal_confusion_weighted"
    data = load_data(config)
    config.focal_gamma, config.max_steps = 0.0, 2
    runs = [(loss, 4, 1), (loss, 2, 2), ("cross_entropy", 4, 1)]
    for number, (config.loss, size, accumulated) in enumerate(runs):
        config.per_device_train_batch_size = size
        config.gradient_accumulation_steps = accumulated
        config.eval_steps, config.output_dir = 100, str(tmp_path / str(number))
        config.eval_samples = 1
        model, processor = load_model(config)
        run = make_trainer(model, processor, data, config, [])
        if run.confusions:
            run.confusions.weights = dict(planted)
        run.train()
        losses.append([entry["loss"] for entry in run.state.log_history if "loss" in entry])
        ends.append(_trained(model))
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert all(torch.allclose(ends[0][n], ends[1][n], atol=1e-4) for n in ends[0])
    if max_weight == 1:
        assert losses[0] == pytest.approx(losses[2], abs=1e-6)
        assert all(torch.allclose(ends[0][n], ends[2][n], atol=1e-6) for n in ends[0])
    else:
        assert abs(losses[0][0] - losses[2][0]) > 1e-4


def test_a_tokenizer_that_does_not_know_its_offsets_is_refused(config):
    config.loss, config.eval_steps = "confusion_weighted", 2
    slow = SimpleNamespace(tokenizer=SimpleNamespace(is_fast=False))
    with pytest.raises(ConfigError, match="SimpleNamespace does not; take loss=focal"):
        check_validation(load_data(config)["validation"], slow, config)


def test_a_run_without_evaluations_logs_none(config, tmp_path):
    _run(config, max_steps=1)
    assert not any("samples" in entry for entry in read_log(tmp_path / "run" / "train_log.jsonl"))


@pytest.mark.parametrize("writer", ["safetensors.torch.save_file", "torch.save"])
def test_a_full_disk_leaves_the_last_whole_checkpoint(writer, config, monkeypatch):
    """The second checkpoint does not fit: it is gone, the disk is named, and the run resumes."""
    from importlib import import_module
    from pathlib import Path

    from ocrkit.training.checkpoints import whole_checkpoints

    module, _, name = writer.rpartition(".")
    real = getattr(import_module(module), name)

    def save(content, file, *args, **kwargs):
        if "checkpoint-4" in str(file):
            raise OSError(28, "No space left on device")
        return real(content, file, *args, **kwargs)

    monkeypatch.setattr(writer, save)
    if module == "safetensors.torch":
        monkeypatch.setattr("peft.peft_model.safe_save_file", save)
    config.save_steps = 2
    run = Path(config.output_dir)
    with pytest.raises(OSError, match=r"No space left on the disk of .* writing .*checkpoint-4; "):
        train(*load_model(config), load_data(config), config)
    assert [path.name for path in whole_checkpoints(run)] == ["checkpoint-2"]
    assert not (run / "checkpoint-4").exists()


def test_a_full_disk_under_the_log_is_named(config, monkeypatch):
    def full(path, entry):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ocrkit.training.callbacks.append_log", full)
    with pytest.raises(OSError, match=f"No space left on the disk of .*{config.output_dir}; free"):
        train(*load_model(config), load_data(config), config)


def test_fewer_rows_than_a_batch_that_must_be_full_are_refused(config, processor):
    kept = replace(
        config,
        max_train_samples=3,
        per_device_train_batch_size=4,
        sft_kwargs={"dataloader_drop_last": True},
    )
    with pytest.raises(ConfigError, match="3 rows do not fill one of 4: nothing would be trained"):
        train(*load_model(kept), load_data(kept), kept)
