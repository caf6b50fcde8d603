import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.synthetic.receipts import printed_receipts
from ocrkit import TrainConfig, load_data, load_model
from ocrkit.data.collate import Collator
from ocrkit.data.order import SLOT, TrainRows
from ocrkit.data.rows import dataset_of
from ocrkit.errors import ConfigError, DataError
from ocrkit.training.rows import (
    context_length,
    epoch_samples,
    fit_context,
    replay_rows,
    validation_rows,
    with_replay,
)
from ocrkit.training.train import train


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


# --- replay


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """A dataset of clean printed lines to train on, whose rows have ids of their own."""
    folder = tmp_path_factory.mktemp("clean") / "data"
    printed_receipts(folder, receipts=2, seed=5, split=(1, 0, 0), progress=False)
    path = folder / "train" / "metadata.jsonl"
    path.write_text(path.read_text().replace('{"id": "', '{"id": "old-'))
    return folder


@pytest.mark.parametrize(("count", "share"), [(7, 0.5), (30, 0.25), (2, 0.5)])
def test_replayed_rows_are_a_share_and_take_turns(count, share):
    def rows(prefix, number):
        return dataset_of([{"id": f"{prefix}{n}"} for n in range(number)]).add_column(
            "length", [(7 * n) % number + 1 for n in range(number)]
        )

    mixed = with_replay(rows("own", 9), rows("old", count), share)
    turns = TrainRows(mixed, mixed[SLOT][:])
    slots = round(9 * share / (1 - share))
    assert len(turns) == 9 + slots
    epochs = [
        [turns[n + epoch * len(turns)]["id"] for n in range(len(turns))] for epoch in range(count)
    ]
    assert all([name[:3] for name in names] == ["own"] * 9 + ["old"] * slots for names in epochs)
    assert {name for names in epochs for name in names if name[:3] == "old"} == {
        f"old{n}" for n in range(count)
    }
    # Rows of a slot are of like length.
    if slots <= count:
        shortest = np.minimum.reduceat(np.array(mixed["length"][:]), turns.first)
        assert max((turns.column("length") - shortest)[9:]) <= -(-count // slots)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_run_with_replay_trains_on_both(config, clean, monkeypatch, streaming):
    seen = []
    collate = Collator.__call__

    def watched(self, rows):
        seen.extend(row["id"] for row in rows)
        return collate(self, rows)

    monkeypatch.setattr(Collator, "__call__", watched)
    config.replay, config.replay_share, config.streaming = str(clean), 0.5, streaming
    config.weight_averaging, config.max_steps = 0.5, 4
    train(*load_model(config), load_data(config), config)
    replayed = sum(name.startswith("old-") for name in seen)
    assert 4 <= replayed <= 12 and len(seen) - replayed >= 4


def test_samples_of_an_epoch_hold_as_many_replayed_ones_as_their_share(config, clean):
    data = load_data(config)
    own = len(data["train"])
    assert epoch_samples(data, config)["id"] == data["train"]["id"]
    config.replay, config.replay_share = str(clean), 0.5
    names = epoch_samples(data, config)["id"]
    assert len(names) == 2 * own and sum(name.startswith("old-") for name in names) == own


def test_a_replay_dataset_of_something_else_is_refused(config, clean, tmp_path):
    data = load_data(config)["train"]
    for name, other in (("task", "vqa"), ("language", "ko")):
        changed = data.remove_columns(name).add_column(name, [other] * len(data))
        with pytest.raises(DataError, match=rf"holds rows of {name} .* of {other}: .* same {name}"):
            replay_rows(changed, replace(config, replay=str(clean)))
    for same in ("und", "en-US", "eng"):  # und: nobody stated it
        named = data.remove_columns("language").add_column("language", [same] * len(data))
        assert len(replay_rows(named, replace(config, replay=str(clean))))
    with pytest.raises(ConfigError, match="is the dataset itself"):
        replace(config, replay=config.dataset)
    with pytest.raises(DataError, match="is no folder"):
        replay_rows(data, replace(config, replay=str(tmp_path / "nothing")))
    for share in (0, 1, 1.5, -0.1):
        with pytest.raises(ConfigError, match="replay_share"):
            replace(config, replay_share=share)


def test_the_recipe_of_receipts_replays_print_that_ships_with_the_kit(config):
    recipe = TrainConfig.from_recipe(
        "receipts", dataset=config.dataset, output_dir=config.output_dir
    )
    assert recipe.replay == "print" and recipe.replay_share == 0.25
    rows = replay_rows(load_data(config)["train"], recipe)
    assert len(rows) == 350 and set(rows["language"]) == {"en"}
    for nothing in ("", "none", None):
        assert replace(recipe, replay=nothing).replay is None
    assert replace(recipe, replay=None).replay_folder == ""
    assert replace(recipe, replay="other").replay_folder == "other"
