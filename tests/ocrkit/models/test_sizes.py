"""Sizes to which real image processors bring pictures, measured on blank ones."""

from types import SimpleNamespace

import pytest
from transformers import (
    CLIPImageProcessor,
    Gemma3ImageProcessor,
    Glm46VImageProcessor,
    PixtralImageProcessor,
)

from ocrkit.config import TrainConfig
from ocrkit.models import sizes
from ocrkit.models.sizes import count_sizes, picture_fits


def _counts(image_processor, *pictures):
    processor = SimpleNamespace(image_processor=image_processor)
    fits = picture_fits([{"sizes": [list(size)]} for size in pictures], processor, TrainConfig())
    scales = [fit.scale if fit else None for row in fits for fit in row]
    return scales, count_sizes(fits, processor)


def test_glm_shrinks_what_is_above_its_area():
    image_processor = Glm46VImageProcessor(size={"shortest_edge": 3136, "longest_edge": 2_000_000})
    scales, counts = _counts(image_processor, (1000, 1000), (2000, 2000), (1500, 64))
    assert scales == pytest.approx([1, 0.5, 1])
    assert counts["budget"] == "max_pixels" and counts["squashed"] == 0


def test_a_side_is_not_taken_for_an_area():
    scales, counts = _counts(PixtralImageProcessor(), (900, 700), (1500, 64), (2048, 1024))
    assert scales == pytest.approx([1, 0.68, 0.5], abs=0.01)
    assert counts["budget"] == "longest_edge in processor_kwargs" and counts["squashed"] == 0


def test_a_line_in_a_square_is_squashed():
    scales, counts = _counts(Gemma3ImageProcessor(), (1500, 64), (100, 100), (200, 210))
    assert scales == pytest.approx([224 / 1500, 1, 1])
    assert counts["squashed"] == 1 and counts["worst_squash"] == "1500x64 to 224x224"
    assert counts["budget"] == "" and counts["cropped"] == 0


def test_edges_that_are_cut_off_are_counted():
    assert _counts(CLIPImageProcessor(), (1500, 64), (224, 224))[1]["cropped"] == 1


def test_sizes_that_cannot_be_measured_are_not_known(monkeypatch):
    def without_sizes(images, **options):
        raise ValueError("no numbers")

    scales, counts = _counts(without_sizes, (100, 100), (50, 50))
    assert scales == [None, None] and counts["unknown"] == 2
    # The most common size is measured first; after five seconds the rest stays unknown.
    monkeypatch.setattr(sizes, "_MEASURING", 0.0)
    moments = iter([0.0, 0.0, 9.0])
    monkeypatch.setattr(sizes.time, "perf_counter", lambda: next(moments))
    scales, counts = _counts(PixtralImageProcessor(), (64, 64), (900, 700), (900, 700))
    assert scales == [None, 1.0, 1.0] and counts["unknown"] == 1
