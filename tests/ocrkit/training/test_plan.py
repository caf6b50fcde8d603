import json
import shutil

import pytest
import torch
from PIL import Image

from data_prep.dataset.schema import DataError
from ocrkit.data.load import load_data
from ocrkit.errors import TrainingError
from ocrkit.models.load import load_model
from ocrkit.models.sizes import picture_fits, row_scale
from ocrkit.training.plan import line_height, plan


def test_a_plan_counts_tokens_and_probes(config, capsys):
    data = load_data(config)
    model, processor = load_model(config)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    result = plan(config, data, model, processor)
    assert result.samples == len(data["train"])
    assert result.image_tokens[0] <= result.image_tokens[1] <= result.image_tokens[2]
    assert (result.shrunk, result.too_long, result.steps) == (0, 0, 4)
    assert result.samples_per_second > 0 and result.peak_memory_gib > 0
    printed = capsys.readouterr().out
    assert "no picture is above the pixel budget" in printed and "4 steps at" in printed
    assert all((before[name] == weight).all() for name, weight in model.named_parameters())
    assert all(weight.grad is None for weight in model.parameters())


def test_plan_time_includes_evaluations(config, capsys):
    config.eval_steps, config.eval_samples, config.max_new_tokens = 2, 3, 8
    result = plan(config, load_data(config), *load_model(config), probe_steps=1)
    assert result.evaluations == 2 and result.evaluation_seconds > 0
    steps = result.steps * config.per_device_train_batch_size / result.samples_per_second
    assert result.seconds == pytest.approx(steps + 2 * result.evaluation_seconds)
    assert "samples/s and 2 evaluations of " in capsys.readouterr().out


def test_a_batch_that_does_not_fit_is_one_sentence(config, monkeypatch):
    def refuse(*args, **terms):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("ocrkit.training.probe.supervised_loss", refuse)
    with pytest.raises(TrainingError, match=r"in a trial with a batch of 4, the longest sample \w"):
        plan(config, load_data(config), *load_model(config))


def test_pictures_above_the_budget_are_counted_with_their_scale(config, capsys):
    config.min_pixels, config.max_pixels, config.max_length = 512, 32 * 100, 45
    data = load_data(config)
    model, processor = load_model(config)
    result = plan(config, data, model, processor, probe_steps=1)
    above = [width for width in data["train"]["width"] if width > 100]
    assert result.shrunk == len(above) > 0
    assert result.smallest_scale == pytest.approx((100 / max(above)) ** 0.5)
    assert result.too_long > 0
    printed = capsys.readouterr().out
    assert f"{result.shrunk} of 40 pictures are above the pixel budget" in printed
    heights = [
        line_height((32, row["width"]), row["completion"][0]["content"])
        * (100 / row["width"]) ** 0.5
        for row in data["train"].remove_columns("images")
    ]
    assert result.smallest_text == pytest.approx(min(heights))
    assert result.small_texts == sum(height < 16 for height in heights) > 0
    assert f"{result.small_texts} pictures shrink until lines of text are under 16" in printed


def test_lines_that_the_image_height_makes_too_small_are_reported(
    config, thermal, tmp_path, capsys
):
    folder = tmp_path / "pages"
    shutil.copytree(thermal, folder)
    path = folder / "train" / "metadata.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    # As if the two were pages of eight lines.
    for row in rows[:2]:
        row["completion"][0]["content"] = "a line of text\n" * 8
        picture = folder / "train" / row["images_file_names"][0]
        with Image.open(picture) as image:
            image.resize((image.width, 400)).save(picture)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config.dataset = str(folder)
    result = plan(config, load_data(config), *load_model(config), probe_steps=1)
    assert result.shrunk == 0 and result.small_texts == 2 and result.smallest_text <= 4
    assert "WARNING: 2 pictures shrink until lines" in capsys.readouterr().out


def test_rows_none_of_which_fits_the_context_are_refused(config):
    config.max_length = 5
    with pytest.raises(DataError, match="No training row fits the context of 5 tokens"):
        plan(config, load_data(config), *load_model(config))


def test_line_height_of_a_row():
    assert line_height((44, 812), "TOTAL 9.00") == 44
    assert line_height((100, 50), "a\nb\nc\nd") == 25
    # A word in a photo may be as high as the photo, a page full of text may not.
    assert line_height((1000, 700), "x" * 5000) == pytest.approx((2 * 700_000 / 5000) ** 0.5)
    assert line_height((32, 100), "") == 32


def test_scales_without_a_budget(config):
    class Processor:
        image_processor = object()

    fits = picture_fits(load_data(config)["train"], Processor(), config)
    assert set(map(row_scale, fits)) == {1.0}
