import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from data_prep.dataset.schema import DataError
from ocrkit.data.load import load_data
from ocrkit.data.order import TrainRows, TrainSampler
from ocrkit.data.rows import dataset_of, text_of
from ocrkit.metrics import cer
from ocrkit.metrics.text import graphemes
from ocrkit.models.load import load_model
from ocrkit.models.read import predict
from ocrkit.run_folder import read_log
from ocrkit.training.difficulty import with_difficulty
from ocrkit.training.train import make_trainer, train


class _StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step
        return control


def test_rows_of_a_slot_alternate_by_epoch():
    rows = dataset_of([{"id": name} for name in "abcdef"])
    whole = TrainRows(rows)
    assert [whole[p]["id"] for p in (0, 5, 7)] == ["a", "f", "b"] and len(whole) == 6
    turns = TrainRows(rows, slots=[0, 1, 2, 2, 2, 3])
    seen = [(row["id"], row["epoch"]) for row in turns.__getitems__([*range(16)])]
    assert len(turns) == 4
    assert [name for name, _ in seen] == list("abcf" + "abdf" + "abef" + "abcf")
    assert len(set(seen)) == len(seen)  # no augmentation comes twice


def _run(config, *callbacks):
    data = load_data(config)
    model, processor = load_model(config)
    result = train(model, processor, data, config, callbacks=list(callbacks))
    weights = {n: w.detach().clone() for n, w in model.named_parameters() if w.requires_grad}
    return result, weights


def _rows_of(sampler, epochs):
    positions = np.concatenate([sampler.order(epoch)[0] for epoch in range(epochs)])
    return positions % len(sampler), positions // len(sampler)


def test_without_a_curriculum_an_epoch_is_all_rows_in_a_new_order():
    lengths = np.random.default_rng(0).integers(10, 90, 103)
    sampler = TrainSampler(103, 8, seed=1, lengths=lengths)
    for epoch in range(3):
        positions, available = sampler.order(epoch)
        assert sorted(positions % 103) == list(range(103))
        assert set(positions // 103) == {epoch} and set(available) == {103}
    rows, _ = _rows_of(sampler, 2)
    assert not np.array_equal(rows[:103], rows[103:])
    assert lengths[rows[:8]].max() == lengths.max(), "the longest row comes first"
    spread = [np.ptp(lengths[rows[i : i + 8]]) for i in range(0, 96, 8)]
    loose, _ = _rows_of(TrainSampler(103, 8, seed=1), 1)
    plain = [np.ptp(lengths[loose[i : i + 8]]) for i in range(0, 96, 8)]
    assert np.mean(spread) < 0.5 * np.mean(plain)
    assert list(TrainSampler(5, 2, seed=1, shuffle=False)) == [0, 1, 2, 3, 4]


def test_epoch_order_depends_on_seed_and_epoch_only():
    settings = {"difficulty": np.arange(50), "start": 0.2, "growth": 60}
    epochs = [TrainSampler(50, 4, seed=3, **settings).order(e)[0] for e in range(4)]
    later = TrainSampler(50, 4, seed=3, epoch=lambda: 3, **settings)
    assert np.array_equal(list(later), epochs[3])
    assert np.array_equal(later.order(1)[0], epochs[1])
    other = TrainSampler(50, 4, seed=4, **settings).order(0)[0]
    assert not np.array_equal(other, epochs[0])


def test_easy_rows_come_first_and_others_as_they_become_available():
    difficulty = np.random.default_rng(2).permutation(400)
    lengths = np.random.default_rng(3).integers(10, 90, 400)
    sampler = TrainSampler(
        400, 8, seed=5, lengths=lengths, difficulty=difficulty, start=0.25, growth=600
    )
    rows, before = _rows_of(sampler, 3)
    available = np.concatenate([sampler.order(epoch)[1] for epoch in range(3)])
    assert (difficulty[rows] < available).all()
    assert (np.diff(available) >= 0).all() and available[0] < 130
    # All rows once `growth` samples were drawn, and not long before.
    assert available[600] == 400 and available[500] < 400
    means = [difficulty[rows[i : i + 200]].mean() for i in range(0, 1200, 200)]
    assert means[0] < means[1] < means[2] and means[0] < 100 and means[-1] > 150
    # Batches are still of like length.
    spread = [np.ptp(lengths[rows[i : i + 8]]) for i in range(0, 1200, 8)]
    assert np.mean(spread) < 35
    # A row's number counts its own earlier times.
    for row in (0, 17, 399):
        assert list(before[rows == row]) == list(range((rows == row).sum()))


@pytest.mark.parametrize("growth", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("start", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_every_row_is_seen_once_a_run_is_an_epoch_long(start, growth, epochs):
    sampler = TrainSampler(
        97, 4, seed=1, difficulty=np.arange(97), start=start, growth=growth * epochs * 97
    )
    rows, _ = _rows_of(sampler, epochs)
    counts = np.bincount(rows, minlength=97)
    assert counts.min() >= 1
    if epochs == 1:
        assert counts.max() == 1


def test_a_row_knows_how_often_it_was_seen():
    class Rows(list):
        def __getitems__(self, indices):
            return [self[i] for i in indices]

    rows = TrainRows(Rows({"id": name} for name in "abc"))
    assert len(rows) == 3
    assert rows[4] == {"id": "b", "epoch": 1}
    assert rows.__getitems__([0, 8]) == [{"id": "a", "epoch": 0}, {"id": "c", "epoch": 2}]


def test_difficulty_by_length_density_column_and_meta(config, processor):
    rows = load_data(config)["train"]
    texts = [text_of(text) for text in rows["completion"]]

    def values_of(name, rows=rows):
        config.curriculum = name
        return with_difficulty(rows, None, processor, config)["difficulty"]

    assert values_of("length") == [len(graphemes(text)) for text in texts]
    density = values_of("density")
    assert all(0 < d < n for d, n in zip(density, values_of("length")))
    assert density != sorted(density)
    assert values_of("width") == rows["width"]
    meta = [json.dumps({"age": i / 2}) for i in range(len(rows))]
    aged = rows.remove_columns("meta").add_column("meta", meta)
    assert values_of("age", aged) == [i / 2 for i in range(len(rows))]
    for broken in ("[1, 2]", "{", None):
        torn = rows.remove_columns("meta").add_column("meta", [broken] * len(rows))
        with pytest.raises(DataError, match="'age' needs a number"):
            values_of("age", torn)
    with pytest.raises(DataError, match="'nothing' needs a number in every training row") as raised:
        values_of("nothing")
    assert repr(rows["id"][0]) in str(raised.value) and "\n" not in str(raised.value)
    with pytest.raises(DataError, match="'language' needs a number"):
        values_of("language")


def test_difficulty_by_model_predicts_the_base_once(config, monkeypatch):
    config.curriculum = "base_cer"
    rows = load_data(config)["train"].select(range(6))
    model, processor = load_model(config)
    texts = predict(model, processor, rows, config)
    truths = [text_of(text) for text in rows["completion"]]
    expected = [cer([truth], [text]) for truth, text in zip(truths, texts)]
    assert with_difficulty(rows, model, processor, config)["difficulty"] == expected
    monkeypatch.setattr("ocrkit.training.difficulty.predict", None)
    # Weights that were trained in between do not count, and nothing is read again.
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1)
    assert with_difficulty(rows, model, processor, config)["difficulty"] == expected
    with pytest.raises(TypeError):
        with_difficulty(rows.select(range(5)), model, processor, config)
    pictures = rows.with_format("arrow")[:]["images"].to_pylist()[::-1]
    swapped = rows.remove_columns("images")
    swapped = swapped.add_column("images", pictures, feature=rows.features["images"])
    with pytest.raises(TypeError):
        with_difficulty(swapped, model, processor, config)


def test_curriculum_trains_easy_rows_first_and_logs_them(config):
    config.curriculum, config.curriculum_start, config.curriculum_steps = "length", 0.2, 0.5
    config.max_steps, config.logging_steps = 8, 2
    result, _ = _run(config)
    logged = [entry for entry in result.history if "loss" in entry]
    assert [entry["step"] for entry in logged] == [2, 4, 6, 8]
    shares = [entry["curriculum_share"] for entry in logged]
    assert shares == sorted(shares) and shares[0] < 0.7 and shares[1:] == [1, 1, 1]
    seen = [entry["curriculum_rows_seen"] for entry in logged]
    assert seen == [8, 16, 24, 32]
    difficulty = [entry["curriculum_difficulty"] for entry in logged]
    assert difficulty[0] < min(difficulty[1:])


def test_a_run_too_short_for_every_row_is_reported(config, capsys):
    config.curriculum = "length"
    trainer = make_trainer(*load_model(config), load_data(config), config, [])
    trainer.get_train_dataloader()
    share = 1 - 4 / math.ceil(len(trainer.train_dataset) / 4)
    assert f"about {share:.0%} of the" in capsys.readouterr().out


def test_run_resumed_with_curriculum_and_augmentation_equals_an_uninterrupted_one(config, tmp_path):
    config.curriculum, config.save_steps, config.max_steps = "length", 7, 14
    config.max_train_samples = 20
    config.augmentation = {"rotation": 1, "noise": 0.05, "blur": 0.5, "probability": 0.9}
    whole, weights = _run(config)
    config.output_dir = str(tmp_path / "stopped")
    # In the middle of the second epoch.
    _run(config, _StopAt(7))
    config.resume_from_checkpoint = "auto"
    rest, resumed = _run(config)
    assert rest.global_step == 14
    losses = [[e["loss"] for e in run.history if "loss" in e] for run in (whole, rest)]
    assert losses[0] == losses[1]
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)


@pytest.mark.slow
def test_two_processes_see_the_rows_of_one(config, tmp_path):
    """Batches of like length, easy first, augmented, the base's CER read by both: the same run."""
    config.curriculum, config.max_train_samples = "base_cer", 24
    config.augmentation = {"rotation": 1, "noise": 0.05, "probability": 0.9}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
    logs, difficulties = [], []
    for processes in (1, 2):
        config.per_device_train_batch_size = 8 // processes
        config.output_dir = str(tmp_path / f"run-{processes}")
        config.save(f"{config.output_dir}.yaml")
        command = [sys.executable, "-m", "ocrkit", "train", "--recipe", f"{config.output_dir}.yaml"]
        if processes > 1:
            launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
            command[1:1] = [*launcher, "--master_port", str(40000 + os.getpid() % 20000)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Reading 24 training rows") == 1
        logs.append([e for e in read_log(f"{config.output_dir}/train_log.jsonl") if "loss" in e])
        difficulties.append(json.loads(Path(config.output_dir, "base_cer.json").read_text())["cer"])
    assert difficulties[0] == difficulties[1]
    for name in ("loss", "curriculum_share", "curriculum_difficulty", "curriculum_rows_seen"):
        alone, two = ([entry[name] for entry in log] for log in logs)
        assert len(alone) == 4
        assert alone == pytest.approx(two, abs=1e-4), name
