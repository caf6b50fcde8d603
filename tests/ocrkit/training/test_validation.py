import pytest

from ocrkit import load_data
from ocrkit.config import TrainConfig
from ocrkit.errors import ConfigError, DataError
from ocrkit.training.validation import check_validation, scores


def test_settings_that_need_validation_rows_are_refused_without_them():
    plain = TrainConfig(dataset="data/x")
    check_validation(None, None, plain)
    plain.load_best_model_at_end = True
    with pytest.raises(DataError, match="no validation split, which load_best_model_at_end needs"):
        check_validation(None, None, plain)


def test_a_best_model_by_a_metric_of_other_rows_is_refused(config, processor):
    rows = load_data(config)["validation"]
    config.metric_for_best_model = "cer"
    check_validation(rows, processor, config)
    config.metric_for_best_model = "teds"
    with pytest.raises(ConfigError, match="metric_for_best_model='teds' cannot be read"):
        check_validation(rows, processor, config)


def test_scores_are_rates_and_the_count_of_failed_rows():
    records = [
        {"id": "1", "reference": "abcd", "prediction": "abcx"},
        {"id": "2", "reference": "abcd", "prediction": "", "error": "OSError: torn"},
    ]
    values = scores(records, TrainConfig())
    assert values["cer"] == 5 / 8 and values["exact_match"] == 0 and values["failed"] == 1
