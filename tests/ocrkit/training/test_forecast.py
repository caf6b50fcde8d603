"""Forecasts of cards: verdicts, hours, the command line, and what cannot be forecast."""

import json
import shutil
from dataclasses import asdict

import pytest

from ocrkit import TrainConfig, forecast, load_data
from ocrkit.__main__ import main
from ocrkit.errors import ConfigError, DataError, ModelError
from ocrkit.models.base import TINY
from ocrkit.training.forecast import (
    CARDS,
    Card,
    CardForecast,
    Forecast,
    parse_cards,
    roofline,
    simulated,
    verdict,
)


def test_cards_are_found_by_common_names():
    names = [card.name for card in parse_cards("t4, L4,4090,A100-80GB, NVIDIA_H100")]
    assert names == ["t4", "l4", "rtx4090", "a100-80", "h100"]
    (plain,) = parse_cards("24GB")
    assert plain == Card("24gb", 21.84) and plain.tflops is None
    # A label of so many GB never promises more than the cards of that label have.
    for label, card in (("16GB", "t4"), ("24GB", "l4"), ("40GB", "a100-40"), ("80GB", "h100")):
        assert parse_cards(label)[0].gib <= CARDS[card].gib


@pytest.mark.parametrize("on", ["gtx1080", "", ",", "0GB", "24", "t4;l4"])
def test_cards_that_are_not_known_are_refused_with_the_list(on):
    with pytest.raises(ConfigError, match=r"a100-40.*24GB|1GB to 4096GB"):
        parse_cards(on)


def test_verdict_is_fits_tight_or_does_not_fit():
    assert verdict(10.0, 12.6) == "fits"
    assert verdict(10.0, 12.4) == "tight"
    assert verdict(10.0, 10.4) == "does not fit"


def test_a_kernel_takes_the_longest_of_its_products_its_bytes_and_its_launch():
    card = Card("x", 16, tflops=2, bandwidth=1)
    products, reading, launch = (1e12, 0.0), (0.0, 0.8e9), (0.0, 1.0)
    assert roofline([products], card) == pytest.approx(1)
    assert roofline([reading], card) == pytest.approx(1)
    assert roofline([launch], card) == pytest.approx(8e-6)
    assert roofline([products, reading], card, share=0.5) == pytest.approx(1)


def test_a_forecast_is_a_line_a_card(config, capsys):
    config.backend = "unsloth"
    result = forecast(config, load_data(config), on="t4,8GB")
    t4, plain = result.cards
    assert (t4.verdict, plain.verdict) == ("fits", "fits") and result.steps == 4
    assert t4.batch == 4 and t4.largest_batch == len(load_data(config)["train"])
    assert sum(t4.parts.values()) == pytest.approx(t4.peak_gib, rel=1e-6)
    assert 0 < t4.parts["adapters"] < t4.parts["weights"]
    least, most = t4.hours
    assert most == pytest.approx(3 * least) and plain.hours is None
    printed = capsys.readouterr().out
    assert "forecast, not measured: tiny, 4 steps" in printed
    assert "\nt4 " in printed and "\n8gb " in printed
    json.dumps(asdict(result))


def test_a_forecast_counts_replayed_samples(config):
    config.num_train_epochs, config.max_steps = 1, -1
    alone = forecast(config, load_data(config), on="t4").steps
    config.replay, config.replay_share = "print", 0.5
    assert forecast(config, load_data(config), on="t4").steps == 2 * alone


def _simulated(config, cards, **changes):
    config = TrainConfig.from_dict({**config.to_dict(), **changes})
    return simulated(config, load_data(config)["train"], cards, stage=lambda text: None)


def test_forecast_of_a_small_card_and_of_batch_size_auto(config):
    cards = [Card("small", 0.5), Card("large", 8)]
    result = _simulated(config, cards, per_device_train_batch_size="auto", use_peft=False)
    small, large = result["cards"]
    assert small["verdict"] == "does not fit" and small["largest_batch"] == 0
    assert large["batch"] == 32 and large["parts"]["optimizer"] > 0
    assert any("hours are not known" in note for note in result["notes"])


def test_without_weights_a_config_and_a_processor_are_enough(config, tmp_path):
    folder = tmp_path / "model"
    weights = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(TINY, folder, ignore=weights)
    result = _simulated(config, parse_cards("t4"), model_name_or_path=str(folder))
    assert result["cards"][0]["verdict"] == "fits"


def test_a_model_without_config_is_one_sentence(config, tmp_path):
    (tmp_path / "empty").mkdir()
    config.model_name_or_path = str(tmp_path / "empty")
    with pytest.raises(ModelError, match=r"model_name_or_path=.*empty. holds no model"):
        forecast(config, load_data(config), on="t4")


def test_rows_that_do_not_fit_the_context_are_refused(config):
    with pytest.raises(DataError, match="No training row fits the context of 5 tokens"):
        _simulated(config, parse_cards("t4"), max_length=5)


def test_an_unknown_card_is_wrong_usage(config, capsys):
    command = ["plan", "--dataset", config.dataset, "--output_dir", config.output_dir]
    assert main([*command, "--on", "voodoo2"]) == 2
    assert "--on 'voodoo2' is no card of the list: t4," in capsys.readouterr().err


def test_forecast_table_has_no_negative_zero():
    parts = {"weights": 1.0, "optimizer": -0.001}
    card = CardForecast("t4", 14.6, "fits", 16, 1.0, parts, 24, None)
    text = str(Forecast("tiny", "qwen3_vl", 56, 4, [card], ["a note"]).table())
    assert "-0.00" not in text and "not known" in text and text.endswith("\na note")
