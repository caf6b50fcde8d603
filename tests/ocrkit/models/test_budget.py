from types import SimpleNamespace

import pytest
from PIL import Image

from ocrkit.config import TrainConfig
from ocrkit.errors import ConfigError
from ocrkit.models.base import TINY
from ocrkit.models.budget import apply_pixel_budget, image_processor_of, within_budget


def _counting_pixels(low=3136, high=100_000):
    size = {"shortest_edge": low, "longest_edge": high}
    return SimpleNamespace(image_processor=SimpleNamespace(size=size, patch_size=14, merge_size=2))


def _counting_tiles():
    return SimpleNamespace(image_processor=SimpleNamespace(size={"height": 1}, max_image_tiles=4))


def _of_fixed_size():
    return SimpleNamespace(image_processor=SimpleNamespace(size={"height": 560, "width": 560}))


def test_pixel_budget_is_set_on_the_processor():
    processor = _counting_pixels()
    apply_pixel_budget(processor, TrainConfig(max_pixels=50_000))
    assert processor.image_processor.size == {"shortest_edge": 3136, "longest_edge": 50_000}
    apply_pixel_budget(processor, TrainConfig(min_pixels=4000))
    assert processor.image_processor.size == {"shortest_edge": 4000, "longest_edge": 50_000}


def test_tile_budget_is_set_on_the_processor():
    processor = _counting_tiles()
    apply_pixel_budget(processor, TrainConfig(max_image_tiles=2))
    assert processor.image_processor.max_image_tiles == 2


@pytest.mark.parametrize(
    ("processor", "settings", "message"),
    [
        (_of_fixed_size(), {"max_pixels": 4000}, "leave them out"),
        (_counting_pixels(), {"max_image_tiles": 2}, "set max_pixels instead"),
        (_counting_tiles(), {"max_pixels": 4000}, "set max_image_tiles instead"),
        (_counting_pixels(), {"min_pixels": 200_000}, "no picture fits; lower it"),
        (_counting_pixels(), {"max_pixels": 3000}, "no picture fits; raise it"),
        (_counting_pixels(low=1), {"max_pixels": 700}, "28 x 28 pixels of a single token"),
    ],
)
def test_budget_that_no_picture_meets(processor, settings, message):
    with pytest.raises(ConfigError, match=message):
        apply_pixel_budget(processor, TrainConfig(**settings))


@pytest.mark.parametrize(
    ("size", "bounds", "expected"),
    [
        ((100, 40), (None, None), (100, 40)),
        ((100, 40), (4000, 4000), (100, 40)),
        ((100, 40), (None, 1000), (50, 20)),
        ((100, 40), (16000, None), (200, 80)),
        ((1, 4000), (None, 100), (1, 632)),
    ],
)
def test_pictures_are_scaled_into_a_budget_of_pixels(size, bounds, expected):
    assert within_budget(Image.new("L", size), *bounds).size == expected


def test_image_processor_of_a_model_has_the_budget_of_the_settings():
    image_processor = image_processor_of(str(TINY), TrainConfig(max_pixels=50_000))
    assert image_processor.size["longest_edge"] == 50_000
