import json
from pathlib import Path

import pytest

from ocrkit import load_data, load_model
from ocrkit.data.collate import Collator
from ocrkit.errors import DataError
from ocrkit.training.rows import context_length, fit_context, validation_rows


def test_rows_longer_than_the_context_are_listed(config):
    data = load_data(config)
    model, processor = load_model(config)
    collator = Collator(processor, config.image_height)
    whole = fit_context(data["train"], "train", model, collator, config)
    assert len(whole) == len(data["train"])
    config.max_length = max(whole["length"]) - 1
    assert context_length(model, config) == config.max_length
    kept = fit_context(data["train"], "train", model, collator, config)
    assert 0 < len(kept) < len(whole) and max(kept["length"]) <= config.max_length
    lines = (Path(config.output_dir) / "skipped.jsonl").read_text().splitlines()
    assert len(lines) == len(whole) - len(kept)
    assert {json.loads(line)["reason"] for line in lines} == {"longer than the context"}
    config.max_length = 1
    with pytest.raises(DataError, match="No train row fits the context of 1 tokens"):
        fit_context(data["train"], "train", model, collator, config)


def test_validation_rows_are_a_sample_by_the_seed(config):
    data = load_data(config)
    assert validation_rows(data, config) is None  # eval_steps is None
    config.eval_steps, config.eval_samples = 2, 4
    rows = validation_rows(data, config)
    assert len(rows) == 4 and rows["id"] == validation_rows(data, config)["id"]
    config.eval_samples = 1000
    assert validation_rows(data, config) is data["validation"]
