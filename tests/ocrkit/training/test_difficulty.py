import pytest
from datasets import Dataset

from ocrkit.config import TrainConfig
from ocrkit.errors import DataError
from ocrkit.training.difficulty import with_difficulty


def rows(**columns):
    texts = ["abc", "ক্ষি", "a"]
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    ids = [f"row{number}" for number in range(3)]
    return Dataset.from_dict({"id": ids, "completion": completions, **columns})


def difficulty(data, curriculum):
    return with_difficulty(data, None, None, TrainConfig(curriculum=curriculum))["difficulty"][:]


def test_length_counts_graphemes():
    assert difficulty(rows(), "length") == [3.0, 1.0, 1.0]


def test_a_column_or_a_key_of_meta_is_a_curriculum():
    assert difficulty(rows(hard=[1, 2.5, 0]), "hard") == [1.0, 2.5, 0.0]
    meta = ['{"hard": 3}', '{"hard": "1.5"}', '{"hard": 0}']
    assert difficulty(rows(meta=meta), "hard") == [3.0, 1.5, 0.0]


@pytest.mark.parametrize("value", [None, "much", float("nan")])
def test_a_row_without_a_number_is_named(value):
    texts = [None if value is None else str(value)] * 3
    with pytest.raises(DataError, match=r"'hard' needs a number in every training row.*'row0'"):
        difficulty(rows(hard=texts), "hard")
