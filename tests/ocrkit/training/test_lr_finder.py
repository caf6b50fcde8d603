import json
import random

import numpy as np
import pytest
import torch

from ocrkit import find_lr
from ocrkit.data.load import load_data
from ocrkit.errors import TrainingError
from ocrkit.models.load import load_model
from ocrkit.training.lr_finder import smooth, steepest


def test_the_steepest_descent_lies_before_the_lowest_loss():
    rates = np.logspace(-6, 0, 61).tolist()
    # Falls between 1e-4 and 1e-2, fastest at 1e-3, and explodes after 1e-1.
    losses = [3 - 2 / (1 + np.exp(-4 * (np.log10(rate) + 3))) + 50 * rate**2 for rate in rates]
    assert steepest(rates, losses) == pytest.approx(1e-3, rel=0.3)
    assert steepest(rates, [2.0] * 61) is None
    assert steepest(rates, np.linspace(1, 5, 61).tolist()) is None


def test_smoothing_removes_noise_and_keeps_a_line():
    line = np.linspace(5, 1, 50)
    assert smooth(line)[10:40] == pytest.approx(line[10:40], abs=0.05)
    noise = np.random.default_rng(0).normal(0, 1, 50)
    assert np.std(smooth(line + noise) - line) < 0.5
    assert smooth([3.0, 3.0, 3.0]) == pytest.approx([3.0, 3.0, 3.0])


def test_a_sweep_suggests_a_rate_and_changes_nothing(config, tmp_path):
    config.per_device_train_batch_size = 8
    data = load_data(config)
    model, processor = load_model(config)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    curve = find_lr(config, data, model, processor, min_lr=1e-5, max_lr=1.0, steps=40)
    assert all(torch.equal(before[name], weight) for name, weight in model.named_parameters())
    assert torch.equal(state[0], torch.get_rng_state())
    assert state[1] == random.getstate()
    assert np.array_equal(state[2], np.random.get_state()[1])
    # The quickstart's rate was found by hand: 5e-3.
    assert 2e-4 < curve.suggestion < 5e-2
    assert curve.learning_rates[:2] == pytest.approx([1e-5, 1e-5 * 1e5 ** (1 / 39)])
    assert max(curve.losses) > 2 * min(curve.losses)
    written = json.loads((tmp_path / "run" / "lr_finder.json").read_text())
    assert written["suggestion"] == curve.suggestion
    assert (tmp_path / "run" / "lr_finder.png").stat().st_size > 5000
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        ".ocrkit.jsonl",
        "lr_finder.json",
        "lr_finder.png",
    ]


def test_a_sweep_that_does_not_fit_says_what_to_change(config, monkeypatch):
    data = load_data(config)
    model, processor = load_model(config)

    def refuse(*args, **kwargs):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("torch.optim.AdamW.step", refuse)
    with pytest.raises(TrainingError, match="Out of GPU memory after step 0, outside a batch"):
        find_lr(config, data, model, processor, steps=10)


def test_invalid_lr_sweep_is_refused(config):
    with pytest.raises(ValueError, match=r"min_lr=1, max_lr=0.1, steps=60 make no sweep"):
        find_lr(config, None, None, None, min_lr=1.0)


def test_a_strangers_file_of_that_name_is_kept(config, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lr_finder.png").write_text("mine")
    with pytest.raises(FileExistsError, match=r"lr_finder\.png exists and was not .* output_dir"):
        find_lr(config, {}, None, None)
    assert (tmp_path / "run" / "lr_finder.png").read_text() == "mine"
