"""Blank pictures: tokens and sizes measured on them, without any pixels."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    Gemma3ImageProcessor,
    Glm46VImageProcessor,
    Idefics3ImageProcessor,
    PixtralImageProcessor,
    Qwen2VLImageProcessor,
)

from ocrkit.data.blank import blank_size, blank_tokens, record_resizes


def _measured(image_processor, width, height):
    def process(picture):
        return image_processor([picture], return_tensors="pt")

    return blank_size(process, (height, width))[0]


@pytest.mark.parametrize(
    ("image_processor", "size", "is_cropped"),
    [
        (Qwen2VLImageProcessor(), (56, 1512), False),
        # GLM's counts twice the area.
        (
            Glm46VImageProcessor(size={"shortest_edge": 64, "longest_edge": 28**2 * 80}),
            (28, 840),
            False,
        ),
        (PixtralImageProcessor(), (48, 1024), False),
        # Resized to tiles, which it is cut into; the thumbnail beside them is smaller.
        (Idefics3ImageProcessor(), (364, 1456), False),
        (Gemma3ImageProcessor(), (224, 224), False),
        (CLIPImageProcessor(), (224, 5250), True),
    ],
)
def test_blank_picture_size_equals_the_processors(image_processor, size, is_cropped):
    assert _measured(image_processor, 1500, 64)[:2] == (size, is_cropped)


def test_blank_pictures_hold_no_pixels(monkeypatch):
    monkeypatch.setattr(Image, "new", None)
    # 8 gigapixels, 24 GB as bytes.
    assert _measured(Gemma3ImageProcessor(), 90_000, 90_000).size == (224, 224)


@pytest.mark.parametrize("nested", [True, False])
def test_tokens_with_pictures_row_by_row_and_in_one_list(nested):
    def processor(text, images, **options):
        if isinstance(images[0], list) != nested:
            raise ValueError("another layout of pictures")
        return {"input_ids": [[0] * 9], "pixel_values": torch.ones(1, 3, 64, 64)}

    assert blank_tokens(processor, "x", 3, (64, 64)) == 7


def test_processor_that_looks_at_pixels_gets_a_white_picture():
    def resized_by_pil(pictures, return_tensors):
        assert np.asarray(pictures[0]).min() == 255
        pictures[0].resize((28, 28))
        return {"pixel_values": torch.ones(1, 3, 28, 28)}

    assert _measured(resized_by_pil, 100, 50).size == (28, 28)
    with pytest.raises(ValueError, match="numpy"):
        _measured(resized_by_pil, 100_000, 50_000)


def test_size_of_a_picture_that_is_resized_by_other_means_is_not_known():
    def resized_unseen(pictures, return_tensors):
        return {"pixel_values": torch.ones(1, 3, 28, 28)}

    assert _measured(resized_unseen, 100, 50).size is None
    # All its pixels are there, and padding.
    assert _measured(resized_unseen, 20, 20).size == (20, 20)


def test_padding_before_a_resize_keeps_the_proportions():
    def padded(pictures, return_tensors):
        square = torch.nn.functional.pad(pictures[0], (0, 0, 0, 75)).float()[None]
        return {"pixel_values": torch.nn.functional.interpolate(square, size=(50, 50))}

    # 100 x 25 pixels in a square of 100 x 100, which becomes one of 50 x 50.
    assert _measured(padded, 100, 25).size == (12, 50)


def test_resizes_are_recorded_inside_the_block_only():
    image = Image.new("RGB", (4, 2))
    with record_resizes() as resizes:
        image.resize((8, 6))
    image.resize((9, 9))
    assert resizes == [((2, 4), (6, 8))]
