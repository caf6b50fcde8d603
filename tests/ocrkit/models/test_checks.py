"""Self-checks on the embedded model, and on one that is made to depend on what it must not."""

import functools

import pytest
import torch

from ocrkit import environment
from ocrkit.config import TrainConfig
from ocrkit.data.collate import Collator
from ocrkit.data.read_rows import drawn_rows
from ocrkit.errors import ConfigError, TrainingError
from ocrkit.models import checks
from ocrkit.models.backend import inference_mode
from ocrkit.models.load import load_model
from ocrkit.models.read import Reader
from ocrkit.training.probe import check_training


@pytest.fixture
def loaded(monkeypatch):
    """The embedded model and its processor; no result of a check is remembered."""
    monkeypatch.setattr(environment, "_results", {})
    return load_model(TrainConfig(image_height=32))


def _add_to_logits(model, change):
    """Add `change(ids)` to the logits; returns the handle that ends it."""

    def hook(module, args, kwargs, output):
        output.logits = output.logits + change(kwargs["input_ids"])
        return output

    # Of the base: PEFT calls its `generate`.
    return model.get_base_model().register_forward_hook(hook, with_kwargs=True)


def _from_last_token(ids):
    steps = torch.linspace(-1, 1, 6605)
    return steps * ids[:, -1:, None].float() / 100


def _from_other_rows(ids):
    return torch.linspace(-1, 1, 6605) * float(len(ids) > 1)


def test_the_embedded_model_passes_every_check(loaded):
    model, processor = loaded
    collate = Collator(processor, 32)
    assert not checks.leaks_labels(model, collate)
    assert checks.trains_alike_in_batches(model, collate)
    with inference_mode(model):
        assert checks.reads_alike_in_batches(model, Collator(processor, 32, generation=True))
    assert checks.conversation_difference(collate) == ""
    check_training(model, processor, 8, TrainConfig(image_height=32))


def test_a_model_that_sees_later_labels_is_not_trained(loaded):
    model, processor = loaded
    handle = _add_to_logits(model, _from_last_token)
    try:
        with pytest.raises(TrainingError, match=r"qwen3_vl: .*would learn to copy"):
            check_training(model, processor, 1, TrainConfig(image_height=32))
    finally:
        handle.remove()


def test_pictures_that_are_numbered_over_a_batch_are_found_by_their_positions(loaded, monkeypatch):
    """No logit shows it: the model computes with the positions that it always had."""
    model, processor = loaded
    base = model.get_base_model().model
    compute = type(base).get_rope_index

    @functools.wraps(compute)
    def numbered(self, input_ids, *args, **kwargs):
        positions, deltas = compute(self, input_ids, *args, **kwargs)
        return positions + torch.arange(len(input_ids))[:, None], deltas

    collate = Collator(processor, 32)
    assert checks.trains_alike_in_batches(model, collate)
    monkeypatch.setattr(environment, "_results", {})
    monkeypatch.setattr(type(base), "get_rope_index", numbered)
    monkeypatch.setattr(checks, "_apart", lambda *args: False)
    assert not checks.trains_alike_in_batches(model, collate)
    with inference_mode(model):
        generating = Collator(processor, 32, generation=True)
        assert not checks.reads_alike_in_batches(model, generating)


def test_a_model_that_fails_on_unlike_pictures_is_trained_row_by_row(loaded):
    model, processor = loaded

    def fail(module, args, kwargs):
        if len(kwargs["input_ids"]) > most:
            raise RuntimeError("shape '[6, 58, 64]' is invalid for input of size 22528")

    handle = model.get_base_model().register_forward_pre_hook(fail, with_kwargs=True)
    config = TrainConfig(image_height=32)
    try:
        most = 1
        with pytest.raises(ConfigError, match="set per_device_train_batch_size=1"):
            check_training(model, processor, 4, config)
        check_training(model, processor, 1, config)
        most = 0
        environment._results.clear()
        with pytest.raises(TrainingError, match=r"a drawn line \(shape.*; set max_pixels lower"):
            check_training(model, processor, 1, config)
    finally:
        handle.remove()


def test_a_model_that_depends_on_its_batch_is_trained_row_by_row(loaded, capsys):
    model, processor = loaded
    config = TrainConfig(image_height=32, gradient_accumulation_steps=3)
    handle = _add_to_logits(model, _from_other_rows)
    try:
        check_training(model, processor, 1, config)
        with pytest.raises(ConfigError, match="gradient_accumulation_steps=12"):
            check_training(model, processor, 4, config)
        reader = Reader(model, processor, config)
        rows = drawn_rows(3)
        assert len([*reader.read(rows), *reader.read(rows)]) == 6 and reader.batch_size == 1
    finally:
        handle.remove()
    assert capsys.readouterr().err.count("so rows are read one by one") == 1


def test_failed_batch_is_printed_once(loaded, capsys, tmp_path):
    reader = Reader(*loaded, TrainConfig(image_height=32, per_device_eval_batch_size=2))
    rows = drawn_rows(4)
    for row in rows[::2]:
        row["images"] = [str(tmp_path / "gone.png")]
    results = list(reader.read(rows))
    assert sum(result["error"] is not None for result in results) == 2
    told = capsys.readouterr().err
    assert told.count("A batch failed") == 1 and "missing image" in told


def test_a_processor_that_writes_into_a_conversation_is_named(loaded, monkeypatch):
    _, processor = loaded
    collate = Collator(processor, 32)
    whole = collate.conversation.whole
    monkeypatch.setattr(
        collate.conversation, "whole", lambda row: whole(row).replace("No. ", "No: ")
    )
    assert checks.conversation_difference(collate) == "input_ids"
