"""Pixel budgets of real image processors, and the sizes to which they bring pictures."""

from types import SimpleNamespace

import pytest
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    Emu3ImageProcessor,
    Gemma3ImageProcessor,
    Gemma4ImageProcessor,
    Glm46VImageProcessor,
    GotOcr2ImageProcessor,
    Idefics3ImageProcessor,
    InternVLProcessor,
    Lfm2VlImageProcessor,
    MllamaImageProcessor,
    PaddleOCRVLImageProcessor,
    PixtralImageProcessor,
    Qwen2VLImageProcessor,
)

from ocrkit.config import TrainConfig
from ocrkit.data.blank import blank_size
from ocrkit.errors import ConfigError
from ocrkit.models.base import TINY
from ocrkit.models.budget import (
    apply_pixel_budget,
    area_factor,
    image_processor_of,
    within_budget,
)


def _processor(image_processor, **attributes):
    return SimpleNamespace(image_processor=image_processor, **attributes)


def _area(image_processor, size):
    measured, _ = blank_size(lambda blank: image_processor([blank], return_tensors="pt"), size)
    return measured.size[0] * measured.size[1]


@pytest.mark.parametrize(
    ("image_processor", "factor"),
    [
        (Qwen2VLImageProcessor(), 1),
        (PaddleOCRVLImageProcessor(), 1),
        (Glm46VImageProcessor(), 2),
        (Emu3ImageProcessor(), 1),
        (PixtralImageProcessor(), None),
        (Qwen2VLImageProcessor(do_resize=False), None),
    ],
)
def test_max_pixels_is_an_area_whatever_the_processor_counts(image_processor, factor):
    assert area_factor(image_processor) == factor
    if factor:
        apply_pixel_budget(_processor(image_processor), TrainConfig(max_pixels=500_000))
        # Photographs, as large and twice as long as high.
        for size in ((1500, 2000), (2000, 4000)):
            assert 450_000 <= _area(image_processor, size) <= 525_000


def test_min_pixels_is_an_area_as_well():
    image_processor = Glm46VImageProcessor()
    apply_pixel_budget(_processor(image_processor), TrainConfig(min_pixels=100_000))
    assert image_processor.size["longest_edge"] == 28 * 28 * 15000
    assert 100_000 <= _area(image_processor, (40, 40)) <= 125_000


def test_tile_budget_is_set_on_the_processor():
    processor = _processor(MllamaImageProcessor())
    apply_pixel_budget(processor, TrainConfig(max_image_tiles=2))
    assert processor.image_processor.max_image_tiles == 2


@pytest.mark.parametrize(
    ("image_processor", "settings"),
    [
        (PixtralImageProcessor(), {"longest_edge": 512}),
        (Gemma4ImageProcessor(), {"max_soft_tokens": 140}),
        (Idefics3ImageProcessor(), {"do_image_splitting": False, "longest_edge": 728}),
        (Lfm2VlImageProcessor(), {"max_tiles": 4}),
    ],
)
def test_processor_kwargs_are_set_on_the_image_processor(image_processor, settings):
    before = _area(image_processor, (1000, 2000))
    processor = _processor(image_processor)
    apply_pixel_budget(processor, TrainConfig(processor_kwargs=settings))
    assert _area(image_processor, (1000, 2000)) < before


INTERN = {"valid_processor_kwargs": InternVLProcessor.valid_processor_kwargs}


@pytest.mark.parametrize(
    ("processor", "settings", "message"),
    [
        (
            _processor(Gemma3ImageProcessor()),
            {"max_pixels": 4000},
            "max_pixels=4000 cannot bound it; leave it out: every picture is brought to one size",
        ),
        (
            _processor(PixtralImageProcessor()),
            {"max_pixels": 4000},
            r"set processor_kwargs instead, which here are \{longest_edge: 1024\}",
        ),
        (
            _processor(Gemma4ImageProcessor()),
            {"max_pixels": 4000},
            r"set processor_kwargs instead, which here are \{max_soft_tokens: 280\}",
        ),
        (
            # max_patches counts only because InternVL's processor cuts pictures into tiles.
            _processor(GotOcr2ImageProcessor(), **INTERN),
            {"max_pixels": 4000},
            r"set processor_kwargs instead, which here are \{max_patches: 12\}",
        ),
        (
            _processor(GotOcr2ImageProcessor(), **INTERN),
            {"processor_kwargs": {"crop_to_patches": False}},
            "crop_to_patches cannot be set, since SimpleNamespace gives it anew",
        ),
        (
            _processor(CLIPImageProcessor()),
            {"max_pixels": 4000},
            "leave it out, or set one of shortest_edge under processor_kwargs",
        ),
        (_processor(Qwen2VLImageProcessor()), {"max_image_tiles": 2}, "set max_pixels instead"),
        (_processor(MllamaImageProcessor()), {"max_pixels": 40}, "set max_image_tiles instead"),
        (_processor(Qwen2VLImageProcessor()), {"min_pixels": 2_000_000}, "no picture fits; lower"),
        (_processor(Qwen2VLImageProcessor()), {"max_pixels": 3000}, "no picture fits; raise it"),
        (
            _processor(Qwen2VLImageProcessor()),
            {"min_pixels": 1, "max_pixels": 700},
            "28 x 28 pixels of a single token",
        ),
        (
            _processor(Qwen2VLImageProcessor()),
            {"processor_kwargs": {"max_patches": 6}},
            "Qwen2VLImageProcessor has no number or boolean 'max_patches'; it has .*patch_size",
        ),
        (
            _processor(PixtralImageProcessor()),
            {"processor_kwargs": {"longest_edge": 0.5}},
            "longest_edge=0.5 must be of type int, as the 1024",
        ),
        (
            _processor(Gemma4ImageProcessor()),
            {"processor_kwargs": {"max_soft_tokens": 3}},
            r"Gemma4ImageProcessor takes no picture with it \(",
        ),
    ],
)
def test_budget_that_the_processor_cannot_keep(processor, settings, message):
    with pytest.raises(ConfigError, match=message) as raised:
        apply_pixel_budget(processor, TrainConfig(**settings))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_pixels": 4000}, "max_pixels is set in processor_kwargs; set it as a field"),
        ({"size": "huge"}, "must be a number, true or false"),
        ({"image_processor_type": "mine.Processor"}, "must be a number, true or false"),
    ],
)
def test_processor_kwargs_hold_numbers_and_booleans_alone(settings, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig(processor_kwargs=settings)


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
