import math

import pytest
import torch

from ocrkit.config import TrainConfig
from ocrkit.data.collate import Collator
from ocrkit.data.lengths import token_lengths
from ocrkit.data.load import load_data
from ocrkit.models.load import load_model
from ocrkit.training import batch_size, probe
from ocrkit.training.batch_size import largest_batch, resolve_batch
from ocrkit.training.losses import supervised_loss
from ocrkit.training.train import train


@pytest.fixture
def loaded(config):
    rows = load_data(config)["train"]
    model, processor = load_model(config)
    images, texts = token_lengths(rows, processor, config)
    collator = Collator(processor, config.image_height)
    return rows, model, collator, [a + b for a, b in zip(images, texts)]


def _probed(monkeypatch, limit):
    """Sizes that are probed on a device that holds `limit` rows, and the rows of each."""
    tried = []

    def step(model, batch, config):
        tried.append(len(batch["input_ids"]))
        if tried[-1] > limit:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(batch_size, "probe_step", step)
    return tried


@pytest.mark.parametrize(("limit", "expected"), [(9, 8), (1, 1), (0, 1), (1000, 32)])
def test_the_largest_batch_that_fits_is_chosen(config, loaded, monkeypatch, limit, expected):
    rows, model, collator, lengths = loaded
    tried = _probed(monkeypatch, limit)
    assert largest_batch(model, collator, rows, lengths, config) == expected
    # 40 rows: 64 would need more than there are.
    assert max(tried) <= 32


def test_the_longest_rows_are_tried_first(config, loaded, monkeypatch):
    rows, model, collator, lengths = loaded
    seen = []

    def step(model, batch, config):
        seen.append(int(batch["attention_mask"][0].sum()))

    monkeypatch.setattr(batch_size, "probe_step", step)
    largest_batch(model, collator, rows, lengths, config)
    assert set(seen) == {max(lengths)}


@pytest.mark.parametrize("wanted", [True, False])
def test_batch_size_probe_equals_a_training_step(config, loaded, monkeypatch, wanted):
    rows, model, collator, lengths = loaded
    config.gradient_checkpointing, config.loss = wanted, "focal"
    half = torch.autocast("cpu", torch.bfloat16)
    monkeypatch.setattr(probe, "autocast", lambda config, device: half)
    seen, terms = set(), []

    def loss(model, inputs, **options):
        terms.append(options)
        return supervised_loss(model, inputs, **options)

    monkeypatch.setattr(probe, "supervised_loss", loss)
    hook = model.get_output_embeddings().register_forward_hook(
        lambda module, inputs, out: seen.add((model.is_gradient_checkpointing, out.dtype))
    )
    largest_batch(model, collator, rows.select(range(2)), lengths[:2], config)
    hook.remove()
    assert seen == {(wanted, torch.bfloat16)} and terms[0]["gamma"] == config.focal_gamma
    assert not model.is_gradient_checkpointing
    embedded = model.get_input_embeddings()(torch.tensor([1]))
    assert not embedded.requires_grad


def test_a_cpu_stops_before_its_memory_is_full(config, loaded, monkeypatch):
    rows, model, collator, lengths = loaded
    tried = _probed(monkeypatch, 1000)
    used = iter([1000, 1100, 1200, 1400, 1800, 2600])
    monkeypatch.setattr(batch_size, "peak_memory", lambda device: next(used))
    free = type("Memory", (), {"available": 1000})
    monkeypatch.setattr(batch_size.psutil, "virtual_memory", lambda: free)
    # 4 rows took 400 more than none; 8 would take 800, 85 % of 1,000 are 850, 16 would be too much.
    assert largest_batch(model, collator, rows, lengths, config) == 8
    assert tried == [1, 2, 4, 8]


def test_the_rate_is_scaled_by_the_square_root_where_asked(config, loaded, monkeypatch):
    rows, model, collator, lengths = loaded
    _probed(monkeypatch, 8)
    config.per_device_train_batch_size, config.gradient_accumulation_steps = "auto", 2
    plain = resolve_batch(config, model, collator, rows, lengths)
    assert (plain.per_device_train_batch_size, plain.learning_rate) == (8, config.learning_rate)
    config.learning_rate_batch_size = 4
    scaled = resolve_batch(config, model, collator, rows, lengths)
    assert scaled.learning_rate == pytest.approx(config.learning_rate * math.sqrt(16 / 4))
    # What is saved with the run is read again as it stands.
    assert resolve_batch(scaled, model, collator, rows, lengths) == scaled


def test_a_run_finds_its_batch_and_a_resumed_one_keeps_it(config, monkeypatch, tmp_path, capsys):
    _probed(monkeypatch, 4)
    config.per_device_train_batch_size, config.save_steps = "auto", 2
    data = load_data(config)
    train(*load_model(config), data, config)
    assert "per_device_train_batch_size=4" in capsys.readouterr().out
    saved = TrainConfig.from_recipe(str(tmp_path / "run" / "config.yaml"))
    assert saved.per_device_train_batch_size == 4
    _probed(monkeypatch, 32)
    config.resume_from_checkpoint, config.max_steps = "auto", 6
    train(*load_model(config), data, config)
    saved = TrainConfig.from_recipe(str(tmp_path / "run" / "config.yaml"))
    assert saved.per_device_train_batch_size == 4
