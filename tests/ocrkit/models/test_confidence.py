import math

import torch

from ocrkit.config import TrainConfig
from ocrkit.data.read_rows import drawn_rows
from ocrkit.models.confidence import Confidence, doubtful_spans
from ocrkit.models.load import load_model
from ocrkit.models.read import Reader


def test_mean_is_the_geometric_mean_of_probabilities():
    confidence = Confidence(end=0, watch=lambda ids: None)
    for probability in (0.5, 0.125):
        scores = torch.tensor([[probability, (1 - probability) / 2, (1 - probability) / 2]]).log()
        confidence(torch.zeros(1, 1), scores)
    assert confidence.mean(0, 1) == 0.5
    best = (1 - 0.125) / 2
    assert math.isclose(confidence.mean(0, 2), math.sqrt(0.5 * best), rel_tol=1e-6)


def test_doubtful_characters_are_those_of_doubtful_tokens():
    assert doubtful_spans([2, 3, 3, 5, 6], [0.9, 0.1, 0.2, 0.7, 0.99]) == [[2, 5]]
    assert doubtful_spans([1, 2, 3], [0.1, 0.9, 0.1]) == [[0, 1], [2, 3]]
    assert doubtful_spans([], []) == []


def test_reader_marks_doubtful_characters_where_asked():
    config = TrainConfig.from_recipe("quickstart", max_new_tokens=48)
    model, processor = load_model(config)
    rows = drawn_rows(2)
    plain = list(Reader(model, processor, config).read_stream(rows))
    told = list(Reader(model, processor, config, doubts=True).read_stream(rows))
    for without, answer in zip(plain, told):
        assert "doubts" not in without and without["prediction"] == answer["prediction"]
        assert all(0 <= a < b <= len(answer["prediction"]) for a, b in answer["doubts"])
