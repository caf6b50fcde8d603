import copy
import math
from types import SimpleNamespace

import pytest

from ocrkit import environment
from ocrkit.config import TrainConfig
from ocrkit.data import lengths
from ocrkit.data.collate import Collator
from ocrkit.data.conversation import ConversationTokenizer
from ocrkit.data.lengths import picture_sizes, picture_tokens, refusal, row_lengths, token_lengths
from ocrkit.data.read_rows import drawn_rows


def rows(count=3):
    return [{**row, "sizes": [row["images"][0].size]} for row in drawn_rows(count)]


def test_lengths_are_those_of_collated_rows(processor):
    config = TrainConfig(image_height=32)
    counted = row_lengths(rows(), processor, config)
    batch = Collator(processor, config.image_height)(rows())
    assert counted == batch["attention_mask"].sum(dim=1).tolist()
    images, texts = token_lengths(rows(), processor, config)
    assert [a + b for a, b in zip(images, texts)] == counted


def test_sizes_follow_the_height_of_lines():
    data = [{"sizes": [(100, 50), (7, 70)]}]
    assert picture_sizes(data) == [[(50, 100), (70, 7)]]
    assert picture_sizes(data, 32) == [[(32, 64), (32, 3)]]


def test_a_picture_that_the_processor_refuses_is_infinitely_long_and_explained(processor):
    config = TrainConfig()
    data = [{**row, "sizes": [size]} for row, size in zip(rows(2), [(64, 32), (9000, 10)])]
    first, second = picture_tokens(data, processor, config)
    assert math.isfinite(first) and math.isinf(second)
    problem = refusal(data[1], processor, config, ConversationTokenizer(processor))
    assert problem["reason"] == "picture refused by the model's processor"
    assert "9000x10 pixels" in problem["detail"]


@pytest.fixture
def counter(processor, monkeypatch):
    """Make a counter of a processor like the embedded model's; no result is remembered."""
    monkeypatch.setattr(environment, "_results", {})

    def make(**attributes):
        changed = copy.copy(processor)
        changed.image_processor = copy.copy(processor.image_processor)
        for name, value in attributes.items():
            setattr(changed, name, value)
        return lengths.PictureCounter(changed)

    return make


def test_correct_token_formula_of_the_processor_is_used(counter, monkeypatch):
    monkeypatch.setattr(lengths.PictureCounter, "_measure", None)
    assert counter().counts([(32, 64), (32, 128)]) == [8, 16]


def test_a_wrong_formula_or_none_is_replaced_by_measuring(counter):
    def wrong(image_sizes):
        return SimpleNamespace(num_image_tokens=[height * width for height, width in image_sizes])

    def broken(image_sizes):
        raise RuntimeError

    for formula in (wrong, broken):
        measured = counter(_get_num_multimodal_tokens=formula)
        assert measured.counts([(32, 64), (32, 128)]) == [8, 16] and str(measured) == ""
        with pytest.raises(ValueError, match="aspect ratio"):
            measured.counts([(10, 9000)])


def test_a_constant_number_of_tokens_around_a_picture_is_added(counter, monkeypatch):
    right = counter()._formula
    monkeypatch.setattr(environment, "_results", {})

    def without_ends(image_sizes):
        return SimpleNamespace(num_image_tokens=[count - 2 for count in right(image_sizes)])

    assert counter(_get_num_multimodal_tokens=without_ends).counts([(32, 64)]) == [8]


def test_unmeasured_sizes_take_the_count_of_the_nearest(counter, monkeypatch):
    def broken(image_sizes):
        raise RuntimeError

    measured = counter(_get_num_multimodal_tokens=broken)
    assert measured.counts([(32, 64), (32, 256)]) == [8, 32]
    monkeypatch.setattr(lengths, "_MEASURING", -1.0)
    assert measured.counts([(32, 64), (32, 72), (40, 256), (33, 250)]) == [8, 8, 32, 32]
    assert str(measured).startswith("2 of 5 picture sizes measured in")
