"""Figures on the pages are those of check.json and bench.json: nobody typed them."""

import json

import pytest

from tests.benchmarks.measure import model_digest
from tests.benchmarks.receipts import TUNED
from tests.tools import check_readme


@pytest.fixture
def result():
    path = check_readme.ROOT / "notebooks" / "benchmarks" / "check.json"
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("part", ["demo", "receipts", "handwriting", "notebooks"])
def test_tables_of_the_readme_were_measured_with_the_model_that_ships(result, part):
    assert result[part]["model"] == model_digest()


@pytest.mark.parametrize("part", ["rounds", "augmenting", "losses", "receipts", "earlier receipts"])
def test_trainings_of_make_bench_were_measured_with_the_model_that_ships(part):
    path = check_readme.ROOT / "notebooks" / "benchmarks" / "bench.json"
    assert json.loads(path.read_text("utf-8"))["parts"][part]["model"] == model_digest()


def test_pages_show_the_measured_results(result, tmp_path):
    pages = {name: (check_readme.ROOT / name).read_text("utf-8") for name in check_readme.PAGES}
    for name, text in pages.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    check_readme.update_pages(result, tmp_path)
    assert {name: (tmp_path / name).read_text("utf-8") for name in pages} == pages
    result["demo"]["runs"]["42"]["tuned"]["cer"]["value"] = 0.9
    check_readme.update_pages(result, tmp_path)
    assert "90.0% [" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_a_page_without_marks_is_an_error(tmp_path):
    (tmp_path / "page.md").write_text("# Figures\n<!-- demo -->\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"page\.md has no place for demo"):
        check_readme.write_marks(tmp_path / "page.md", {"demo": "text"})
    assert (tmp_path / "page.md").read_text("utf-8") == "# Figures\n<!-- demo -->\n"


def test_results_apart_from_plain_training_are_counted(result):
    figure = {"value": 0.5, "low": 0.4, "high": 0.6}
    apart = {"value": 0.2, "low": 0.1, "high": 0.3}
    runs = {"plain": {"1": {"rows": 9, "cer": figure}}, "other": {"1": {"cer": apart}}}
    part = {"steps": 3, "metrics": ["cer"], "runs": runs}
    text = check_readme.losses({"lines": part, "documents": part})
    assert "of 1 results 1 lies apart" in text and "CER after 3 steps | seed 1" in text
    runs["other"]["1"]["cer"] = figure
    text = check_readme.losses({"lines": part, "documents": part})
    assert "of 1 results none lies apart" in text


def test_folds_and_lines_that_were_read_are_stated():
    rate = {"value": 0.05, "low": 0.04, "high": 0.06}
    rates = {"CER": rate, "exact match": rate}
    figures = {"folds": 5, "of": 5, "lines": 1419, "receipts": 27, "steps": 10}
    figures |= {"readers": {"RapidOCR": rates}, "cpu minutes": [2.0, 3.5]}
    figures |= {"clean": {"before": rates["CER"], "after": rates["CER"]}}
    text = check_readme.cross_validation(figures)
    assert "| 1,419 lines of 27 real receipts (SROIE) | CER | exact match |" in text
    assert "| RapidOCR | 5.0% [4.0%, 6.0%] | 5.0% [4.0%, 6.0%] |" in text
    assert "all 5 folds: every line" in text and "2.0 to 3.5 minutes of CPU" in text
    text = check_readme.cross_validation({**figures, "folds": 1, "cpu minutes": [2.0]})
    assert "only 1 of 5 folds so far" in text and "a fold took 2.0 minutes of CPU" in text


def test_earlier_recipe_stands_beside_the_present_one():
    rate = {"value": 0.05, "low": 0.04, "high": 0.06}
    worse = {"value": 0.08, "low": 0.07, "high": 0.09}
    figures = {"folds": 5, "of": 5, "lines": 1419, "receipts": 27, "steps": 10}
    figures |= {"readers": {"base": {"CER": worse}, TUNED: {"CER": rate}}, "cpu minutes": [2.0]}
    figures |= {"clean": {"before": rate, "after": rate}}
    earlier = figures | {"readers": {TUNED: {"CER": worse}}, "steps": 20, "cpu minutes": [3.0, 4.0]}
    earlier["clean"] = {"after": worse}
    text = check_readme.cross_validation(figures, earlier)
    rows = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert rows == [
        "| base | 8.0% [7.0%, 9.0%] |",
        f"| {TUNED}, earlier recipe | 8.0% [7.0%, 9.0%] |",
        f"| {TUNED} | 5.0% [4.0%, 6.0%] |",
    ]
    assert "20 steps" in text and "3.0 to 4.0 minutes" in text
    assert "clean lines rose to 8.0% [7.0%, 9.0%]" in text
    fewer = check_readme.cross_validation(figures, earlier | {"folds": 1, "lines": 295})
    assert "earlier recipe |" not in fewer and "295 lines in 1 of 5 folds" in fewer
    assert fewer.endswith(" There its CER was 8.0% [7.0%, 9.0%].")


def test_augmentations_stand_beside_the_recipe():
    def result(value, low, high):
        rate = {"value": value, "low": 0.01, "high": 0.2}
        return [{"CER": rate, "difference": {"value": value - 0.05, "low": low, "high": high}}]

    variants = {"the recipe": result(0.05, 0, 0), "a": result(0.04, -0.02, -0.001)}
    variants["b"] = result(0.06, -0.01, 0.03)
    figures = {"steps": 9, "seeds": [1], "train": 30, "tests": {"short": 10}, "variants": variants}
    text = check_readme.augmenting(figures)
    assert "| the recipe | 5.0 |" in text and "| a | 4.0 (-1.0 [-2.0, -0.1]) |" in text
    assert "9 steps on 30 drawn lines" in text and "(1 seed) and read 10 lines" in text
    assert "Intervals without 0: 1 of 2." in text


def test_rounds_are_compared_seed_by_seed():
    def line(choice, seed, number, value):
        cer = {"value": value, "low": value - 0.01, "high": value + 0.01}
        counts = {"pictures": 60 * number, "draft_cer": 0.5, "typed": 1200, "corrected": 500}
        return {"choice": choice, "seed": seed, "round": number, "cer": cer, **counts}

    lines = [line("least sure", 1, 1, 0.3), line("random", 1, 1, 0.2)]
    lines += [line("least sure", 1, 2, 0.1), line("random", 1, 2, 0.105)]
    text = check_readme.rounds({"lines": lines, "steps": 4, "inputs": "made up"})
    assert "| 60 | least sure | 1 | 30.0% [29.0%, 31.0%] | 50.0% | 500 | 1,200 |" in text
    assert "After 60 pictures the least sure ones gave the lower CER with 0 of 1 seeds" in text
    assert "with 0 of 1 seeds; intervals lie apart with 1." in text
    assert "with 1 of 1 seeds; intervals lie apart with none." in text
    assert "took 42% of the keys of typing with the least sure pictures, and 42% with" in text


def test_an_export_behind_a_server_stands_beside_its_model(result):
    text = check_readme.server(result)
    figures = result["server"]["figures"]
    assert f"| {figures['server']['same']} [" in text and "below aim" not in text
    assert f"{figures['lines an hour']['8']:,.0f} lines an hour with 8 requests" in text
    result["server"]["aims"]["rows read the same as the model"]["met"] = False
    assert "(**below aim**)" in check_readme.server(result)
