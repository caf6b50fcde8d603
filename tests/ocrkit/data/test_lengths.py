import math

from ocrkit.config import TrainConfig
from ocrkit.data.collate import Collator
from ocrkit.data.conversation import ConversationTokenizer
from ocrkit.data.lengths import picture_sizes, picture_tokens, refusal, row_lengths, token_lengths
from ocrkit.data.read_rows import drawn_rows


def rows(count=3):
    return [{**row, "sizes": [row["images"][0].size]} for row in drawn_rows(count)]


def test_lengths_are_those_of_collated_rows(processor):
    config = TrainConfig(image_height=32)
    lengths = row_lengths(rows(), processor, config)
    batch = Collator(processor, config.image_height)(rows())
    assert lengths == batch["attention_mask"].sum(dim=1).tolist()
    images, texts = token_lengths(rows(), processor, config)
    assert [a + b for a, b in zip(images, texts)] == lengths


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
