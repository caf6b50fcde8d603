"""Tables of forecasts on the pages are those of forecasts.json, and small ones are computed."""

import json

import pytest

from tests.benchmarks import forecasting
from tests.tools import forecasts


@pytest.fixture
def result():
    return json.loads(forecasts.RESULT.read_text(encoding="utf-8"))


def test_pages_show_the_computed_forecasts(result, tmp_path):
    pages = {name: (forecasts.ROOT / name).read_text("utf-8") for name in forecasts.PAGES}
    for name, text in pages.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    forecasts.update_pages(result, tmp_path)
    assert {name: (tmp_path / name).read_text("utf-8") for name in pages} == pages


def test_all_published_runs_budgets_and_recipes_are_forecast(result):
    for part, (names, _) in forecasts.PARTS.items():
        assert list(result[part]["forecasts"]) == list(names)


def test_photographs_of_12_megapixels_need_the_recipes_budget(result):
    told = result["photographs"]["forecasts"]
    verdicts = {
        budget: {card["card"]: card["verdict"] for card in forecast["cards"]}
        for budget, forecast in told.items()
    }
    assert verdicts["the model's own"]["24gb"] == "does not fit"
    assert verdicts["the recipe's"]["t4"] == "fits"


def test_a_small_forecast_is_computed_in_a_process_of_its_own():
    settings = {"load_in_4bit": False, "max_steps": 3}
    told = forecasting.simulated("tiny_qwen2_vl", settings, (64, 64), 8, "t4,24GB")
    assert [card["verdict"] for card in told["cards"]] == ["fits", "fits"]
    assert told["steps"] == 3 and 0 < told["gigabytes"] < 3 and told["cpu_seconds"] > 0


def test_an_unknown_part_is_named(capsys):
    assert forecasts.main(["speed"]) == 2
    assert "PART speed is unknown; take some of published," in capsys.readouterr().out
