import numpy as np
import pytest
import torch
from PIL import Image

from ocrkit.data.patches import cut_patches, fitted, supports_cut_patches


def noise(width, height, mode="RGB", seed=0):
    shape = (height, width) if mode == "L" else (height, width, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("modes", [("RGB", "RGB"), ("L", "L"), ("L", "RGB")])
def test_patches_equal_the_processors(processor, modes):
    pictures = [noise(150, 40, modes[0]), noise(64, 90, modes[1], seed=1)]
    assert supports_cut_patches(processor.image_processor)
    ours = cut_patches(pictures, processor.image_processor)
    converted = [picture.convert("RGB") for picture in pictures]
    theirs = processor.image_processor(converted, return_tensors="pt")
    assert torch.equal(ours["image_grid_thw"], theirs["image_grid_thw"])
    torch.testing.assert_close(ours["pixel_values"], theirs["pixel_values"], atol=1e-6, rtol=0)


def test_processor_with_other_scaling_gets_no_fast_patches(processor, monkeypatch):
    monkeypatch.setattr(processor.image_processor, "resample", Image.Resampling.NEAREST)
    assert not supports_cut_patches(processor.image_processor)
    assert not supports_cut_patches(object())


def test_fitted_picture_is_cut_without_resizing(processor):
    pictures = processor.image_processor
    picture = fitted(noise(150, 43, "L"), pictures)
    side = pictures.patch_size * pictures.merge_size
    assert picture.mode == "L" and picture.width % side == picture.height % side == 0
    assert fitted(picture, pictures).tobytes() == picture.tobytes()


def test_a_picture_of_absurd_shape_is_refused(processor):
    with pytest.raises(ValueError, match="200"):
        fitted(noise(3000, 10), processor.image_processor)
