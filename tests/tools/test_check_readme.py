"""Figures on the pages are those of check.json: nobody typed them."""

import json

import pytest

from tests.tools import check_readme
from tests.tools.check import model_digest


@pytest.fixture
def result():
    path = check_readme.ROOT / "notebooks" / "benchmarks" / "check.json"
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("part", ["demo", "receipts", "handwriting", "notebooks", "training"])
def test_tables_of_the_readme_were_measured_with_the_model_that_ships(result, part):
    assert result[part]["model"] == model_digest()


def test_the_pages_show_what_was_measured(result, tmp_path):
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
    text = check_readme.training({"training": {"lines": part, "documents": part}})
    assert "of 1 results 1 lies apart" in text and "CER after 3 steps | seed 1" in text
    runs["other"]["1"]["cer"] = figure
    text = check_readme.training({"training": {"lines": part, "documents": part}})
    assert "of 1 results none lies apart" in text
