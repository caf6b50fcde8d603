"""Training rows whose pictures cannot be decoded: left out and listed, with workers and streams."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from ocrkit import evaluate
from ocrkit.data.collate import Collator
from ocrkit.data.load import load_data
from ocrkit.data.order import TrainRows
from ocrkit.errors import TrainingError
from ocrkit.models.load import load_model
from ocrkit.training.plan import plan
from ocrkit.training.train import train


def _cut_jpeg(path):
    """A JPEG whose second half is missing; its header tells its size."""
    with Image.open(path) as image:
        image.convert("L").save(path, "JPEG")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _bad_chunk(path):
    """A PNG whose pixels do not match their checksum."""
    with Image.open(path) as image:
        image.convert("L").save(path, "PNG")
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 20] ^= 0xFF
    path.write_bytes(content)


@pytest.fixture
def broken(config, thermal, tmp_path):
    """A config of a little more than an epoch of 12 rows; the pictures of rows 0 and 3 are broken.

    And the picture of row 5. A broken PNG is noticed when the dataset is loaded, which reads PNGs
    whole, and a broken JPEG when it is trained on.
    """
    folder = tmp_path / "data"
    shutil.copytree(thermal, folder)
    config.dataset = str(folder)
    path = folder / "train/metadata.jsonl"
    rows = [json.loads(line) for line in path.open()]
    pictures = [folder / "train" / row["images_file_names"][0] for row in rows]
    _cut_jpeg(pictures[0])
    _bad_chunk(pictures[3])
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows[:12]))
    config.max_steps, config.save_steps = 4, 4
    return config, pictures[5]


def _reasons(config):
    lines = (Path(config.output_dir) / "skipped.jsonl").read_text().splitlines()
    return sorted(json.loads(line)["reason"] for line in lines)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("streaming", [False, True])
def test_a_picture_that_cannot_be_decoded_is_left_out_and_listed(
    broken, capsys, workers, streaming
):
    config, vanished = broken
    config = replace(config, streaming=streaming, dataloader_num_workers=workers)
    data = load_data(config)
    vanished.unlink()
    result = train(*load_model(config), data, config)
    assert result.global_step == 4
    assert _reasons(config) == ["missing picture", "unreadable picture", "unreadable picture"]
    output = capsys.readouterr().out
    assert "is left out (" in output and "3 rows left out so far" in output


def test_unreadable_picture_is_listed_once_per_run(broken):
    config, _ = broken
    train(*load_model(config), load_data(config), config)
    longer = replace(config, max_steps=5, resume_from_checkpoint="auto")
    train(*load_model(longer), load_data(longer), longer)
    assert _reasons(config) == ["unreadable picture"] * 2
    few = replace(config, max_steps=1, per_device_train_batch_size=1)
    train(*load_model(few), load_data(few), few)
    assert len(_reasons(config)) == 1


def test_unreadable_row_has_no_labels_and_leaves_other_rows_unchanged(broken, processor):
    config, _ = broken
    rows = TrainRows(load_data(config)["train"])
    collate = Collator(processor, config.image_height, with_ids=True)
    batch, whole = collate(rows.__getitems__([0, 1, 2])), collate(rows.__getitems__([1, 2]))
    assert (batch["labels"][0] == -100).all()
    assert [problem["reason"] for problem in batch["unreadable"]] == ["unreadable picture"]
    assert not whole["unreadable"]
    width = whole["labels"].shape[1]
    assert torch.equal(batch["labels"][1:, :width], whole["labels"])
    patches = len(whole["pixel_values"])
    assert torch.equal(batch["pixel_values"][-patches:], whole["pixel_values"])


def test_plan_batch_size_and_validation_skip_an_unreadable_picture(broken):
    config, _ = broken
    config.per_device_train_batch_size, config.max_steps = "auto", 1
    config.eval_steps, config.max_new_tokens = 1, 4
    data = load_data(config)
    model, processor = load_model(config)
    plan(config, data, model, processor, probe_steps=1)
    data["validation"] = data["train"]
    result = train(model, processor, data, config)
    assert [entry["eval_failed"] for entry in result.history if "eval_failed" in entry] == [1]
    scored = evaluate(model, processor, data["train"], config, name="train")
    assert scored.failed == 1


def test_vanished_disk_ends_the_run_with_one_sentence(config, thermal, tmp_path):
    shutil.copytree(thermal, tmp_path / "data")
    config.dataset, config.max_steps = str(tmp_path / "data"), 8
    data = load_data(config)
    shutil.rmtree(tmp_path / "data" / "train" / "images")
    with pytest.raises(TrainingError, match=r"No picture of the last 5 steps .*resume the run"):
        train(*load_model(config), data, config)
