import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch.utils.data import DataLoader

from data_prep.dataset.schema import DataError
from ocrkit.config import TrainConfig
from ocrkit.config.augmentation import augmentation_ranges
from ocrkit.data.augment import _corners, apply, augmenter, draw, preview_augmentations
from ocrkit.data.collate import Collator, scaled_pictures
from ocrkit.data.load import load_data
from ocrkit.data.order import TrainRows, TrainSampler
from ocrkit.errors import ConfigError
from ocrkit.models.load import load_model
from ocrkit.training.train import make_trainer

ALL = {"rotation": 1.0, "perspective": 0.02, "brightness": 0.2, "contrast": 0.2, "noise": 0.04}

ALL |= {"blur": 0.8, "erosion": 0.6, "dilation": 0.6, "shadow": 0.3, "jpeg": 40}


@pytest.fixture
def config(config):
    config.augmentation = {**ALL, "probability": 0.7}
    return config


def _line(width=220, height=32, ink=30, paper=220):
    picture = Image.new("RGB", (width, height), (paper,) * 3)
    ImageDraw.Draw(picture).text((12, 8), "Total 12.80 EUR  x 3", fill=(ink,) * 3)
    return picture


def _only(name, value, picture):
    """The picture with one augmentation of exactly this value done to it, as an array."""
    drawn = draw(np.asarray(picture), {name: (value, value)}, 1, np.random.default_rng(5))
    return np.asarray(apply([picture], [drawn])[0], float)


def _rows(data, epoch, split="train"):
    return [{**row, "epoch": epoch} for row in data[split].select(range(6))]


def _pixels(config, rows):
    pictures = [scaled_pictures(row, config.image_height) for row in rows]
    return {
        row["id"]: [np.asarray(picture) for picture in seen]
        for row, seen in zip(rows, augmenter(config)(rows, pictures))
    }


def _same(batches, other):
    return {key: np.array_equal(batches[key][0], other[key][0]) for key in batches}


def test_augmentation_depends_on_seed_id_and_epoch_only(config):
    data = load_data(config)
    rows = _rows(data, epoch=0)
    once = _pixels(config, rows)
    alone = {key: value for row in reversed(rows) for key, value in _pixels(config, [row]).items()}
    assert all(_same(once, alone).values())
    assert not any(_same(once, _pixels(config, _rows(data, epoch=1))).values())
    config.seed += 1
    assert not any(_same(once, _pixels(config, rows)).values())


def test_rows_without_an_epoch_are_not_augmented(config, processor):
    rows = _rows(load_data(config), epoch=0)
    plain = Collator(processor, config.image_height)
    augmenting = Collator(processor, config.image_height, augment=augmenter(config))
    assert not torch.equal(augmenting(rows)["pixel_values"], plain(rows)["pixel_values"])
    for row in rows:
        del row["epoch"]
    assert torch.equal(augmenting(rows)["pixel_values"], plain(rows)["pixel_values"])


def test_a_trainer_augments_training_batches_and_no_others(config):
    config.eval_steps = 2
    trainer = make_trainer(*load_model(config), load_data(config), config, [])
    plain = Collator(trainer.processing_class, config.image_height)
    rows = {row["id"]: row for split in load_data(config).values() for row in split}
    batch = next(iter(trainer.get_train_dataloader()))
    expected = plain([rows[i] for i in batch["ids"]])
    # Same sizes, so the token counts that batches were made by still hold.
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert torch.equal(batch["image_grid_thw"], expected["image_grid_thw"])
    assert not torch.equal(batch["pixel_values"], expected["pixel_values"])
    for batch in trainer.get_eval_dataloader():
        expected = plain([rows[i] for i in batch["ids"]])
        assert torch.equal(batch["pixel_values"], expected["pixel_values"])


def test_augmentation_is_independent_of_workers(config, processor):
    rows = TrainRows(load_data(config)["train"].select(range(12)))
    collate = Collator(processor, config.image_height, augment=augmenter(config))

    def batches(**settings):
        epoch = 0
        sampler = TrainSampler(12, 4, config.seed, epoch=lambda: epoch)
        loader = DataLoader(rows, sampler=sampler, batch_size=4, collate_fn=collate, **settings)
        pixels = []
        for epoch in range(2):  # noqa: B007 (the sampler asks for it)
            pixels += [batch["pixel_values"] for batch in loader]
        return pixels

    here = batches()
    by_workers = batches(num_workers=2, persistent_workers=True)
    assert len(here) == len(by_workers) == 6
    assert all(torch.equal(batch_pixels, other) for batch_pixels, other in zip(here, by_workers))


def test_augmentation_keeps_sizes_and_all_ink():
    rng = np.random.default_rng(0)
    ranges = augmentation_ranges({"rotation": 15, "perspective": 0.3})
    for height, width in ((32, 400), (400, 32), (96, 128), (9, 700), (1, 5), (40, 1)):
        picture = Image.new("RGB", (width, height), "white")
        drawn = draw(np.asarray(picture), ranges, 1, rng)
        assert apply([picture], [drawn])[0].size == (width, height)
        if min(height, width) == 1:
            continue
        inward = rng.random((4, 2)) * 0.3
        corners = _corners(height, width, rng.uniform(-15, 15), inward)
        assert (corners >= -1e-6).all() and (corners <= np.array([width, height]) - 1 + 1e-6).all()


def test_rotation_fills_with_the_border_colour():
    picture = Image.new("RGB", (300, 60), (200, 180, 90))
    turned = _only("rotation", 4, picture)
    assert np.abs(turned - (200, 180, 90)).max() <= 1


@pytest.mark.parametrize("height", [32, 57])
def test_augmented_batch_equals_pictures_augmented_alone(height):
    """As on a GPU: the smaller pictures are padded, and nothing of that shows."""
    pictures = [_line(), _line(width=90), _line(width=301, height=height), _line(height=20)]
    rng = np.random.default_rng(2)
    ranges = augmentation_ranges(ALL)
    drawn = [draw(np.asarray(picture), ranges, 0.8, rng) for picture in pictures]
    for what in drawn:
        # A level of difference before JPEG may become several behind it.
        what.pop("jpeg", None)
    together = apply(pictures, drawn)
    for picture, what, other in zip(pictures, drawn, together):
        alone = np.asarray(apply([picture], [what])[0], int)
        assert np.abs(alone - np.asarray(other, int)).max() <= 1


def test_jpeg_on_a_gpu_and_on_a_cpu_are_alike():
    from kornia.enhance import jpeg_codec_differentiable

    from ocrkit.data.augment import _jpeg

    pixels = torch.from_numpy(np.array(_line())).permute(2, 0, 1)[None] / 255
    quality = torch.tensor([40.0])
    theirs, ours = jpeg_codec_differentiable(pixels, quality), _jpeg(pixels, quality)
    assert (ours - pixels).abs().mean() > 0.002
    assert (ours - theirs).abs().mean() < 0.25 * (ours - pixels).abs().mean()


def test_each_augmentation_has_its_effect():
    dark, light = _line(), _line(ink=230, paper=40)
    before = np.asarray(dark, float)
    inverse = np.asarray(light, float)
    assert _only("dilation", 1, dark).mean() < before.mean() < _only("erosion", 1, dark).mean()
    assert _only("erosion", 1, light).mean() < inverse.mean() < _only("dilation", 1, light).mean()
    # Half a pixel lies between none and one.
    half = _only("dilation", 0.5, dark).mean()
    assert _only("dilation", 1, dark).mean() < half < before.mean()
    assert _only("brightness", 0.8, dark) == pytest.approx(before * 0.8, abs=1)
    assert _only("contrast", 0.5, dark).std() == pytest.approx(before.std() * 0.5, rel=0.05)
    assert (_only("noise", 0.05, dark) - before).std() == pytest.approx(0.05 * 255, rel=0.15)
    edges = [np.abs(np.diff(p, axis=1)).mean() for p in (before, _only("blur", 1.5, dark))]
    assert edges[1] < 0.7 * edges[0]
    shadow = _only("shadow", 0.5, dark) / before
    assert 0.45 < shadow.min() < 0.6 and shadow.max() > 0.9
    ink = before.min(axis=2).argmin(axis=0), _only("rotation", 2, dark).min(axis=2).argmin(axis=0)
    assert not np.array_equal(*ink)
    assert not np.array_equal(before, _only("perspective", 0.05, dark))


def test_augmentation_probability_is_the_share_of_changed_pictures():
    rng, pixels = np.random.default_rng(1), np.asarray(_line())
    ranges = augmentation_ranges(ALL)
    drawn = [draw(pixels, ranges, 0.3, rng) for _ in range(300)]
    for name in ("shadow", "blur", "jpeg"):
        assert 0.2 < sum(name in what for what in drawn) / 300 < 0.4
    assert not any(draw(pixels, ranges, 0, rng) for _ in range(20))


def test_preview_shows_the_training_pictures(config):
    data = load_data(config)
    grid = preview_augmentations(data, config, n=3, epochs=2, width=10_000)
    first = data["train"][0]
    original = scaled_pictures(first, config.image_height)[0]
    area = (8, 20, 8 + original.width, 20 + original.height)
    assert np.array_equal(np.asarray(grid.crop(area)), np.asarray(original))
    seen = _pixels(config, [{**first, "epoch": 0}])[first["id"]][0]
    widest = (grid.width - 8) // 3
    area = (8 + widest, 20, 8 + widest + original.width, 20 + original.height)
    assert np.array_equal(np.asarray(grid.crop(area)), seen)
    config.streaming = True
    stream = preview_augmentations(load_data(config), config, n=1, epochs=1)
    assert stream.width > original.width
    config.augmentation = {}
    assert augmenter(config) is None
    with pytest.raises(DataError, match="names nothing to do"):
        preview_augmentations(data, config)


def test_a_gpu_cannot_be_used_in_workers():
    with pytest.raises(ConfigError, match="dataloader_num_workers=2"):
        TrainConfig(augmentation={"blur": 1, "device": "cuda"}, dataloader_num_workers=2)
