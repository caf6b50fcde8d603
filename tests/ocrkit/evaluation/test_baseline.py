import json

import pytest
from PIL import Image, ImageDraw, ImageFont

from ocrkit import TrainConfig, baseline
from ocrkit.evaluation import baseline as module
from ocrkit.evaluation import engines
from ocrkit.evaluation.baseline import Baseline, evaluate_engines
from ocrkit.evaluation.evaluation import score


def row(number, text, task="transcription", language="en", **columns):
    font = ImageFont.load_default(32)
    picture = Image.new("L", (int(font.getlength("WIDE " + text)) + 24, 56), 255)
    ImageDraw.Draw(picture).text((12, 8), text, font=font, fill=0)
    return {
        "id": f"r{number}",
        "prompt": [{"role": "user", "content": "Read."}],
        "completion": [{"role": "assistant", "content": text}],
        "images": [picture],
        "language": language,
        "group": f"g{number}",
        "task": task,
        "source": "drawn",
        "meta": None,
        **columns,
    }


def answering(texts):
    """An engine that reads these texts, in the order of the rows."""
    readings = iter(texts)
    return lambda picture, language: engines.Reading(next(readings), 0.9)


@pytest.fixture
def no_tesseract(monkeypatch):
    def missing(languages):
        raise RuntimeError("Tesseract cannot be run.")

    monkeypatch.setattr(engines, "check_tesseract", missing)


def test_a_baseline_distinguishes_errors_of_case_and_spaces(
    tmp_path, monkeypatch, no_tesseract, capsys
):
    texts = ["TOTAL 9.00", "cash 1"]
    monkeypatch.setattr(engines, "_read_with_rapidocr", answering(["total9.00", "cash 7"]))
    rows = [row(number, text) for number, text in enumerate(texts)]
    table = baseline(rows, TrainConfig(output_dir=str(tmp_path)))
    assert "Left out: Tesseract cannot be run." in capsys.readouterr().out
    (cells,) = table.rows
    assert cells["engine"] == "RapidOCR"
    assert cells["CER"].startswith("43.8 % [")  # 7 of 16: 5 letters of case, a space, a digit
    assert cells["CER without case"].startswith("12.5 % [")
    assert cells["CER without case and spaces"].startswith("7.1 % [")
    assert cells["exact match"].startswith("0.0 % [")
    assert "RapidOCR gets 43.8% of the characters wrong, 7.1% without case and spaces: " in str(
        table
    )
    assert str(table).endswith("something is left for fine-tuning to win.")
    assert list(table.evaluations) == ["rapidocr"]
    # All rows were read, so a comparison takes the same readings: the engine is at its end.
    (again,) = evaluate_engines(rows, TrainConfig(output_dir=str(tmp_path)))
    assert [r["prediction"] for r in again.records] == ["total9.00", "cash 7"]


def test_baseline_sample_depends_on_the_seed_and_has_its_own_folder(
    tmp_path, monkeypatch, no_tesseract
):
    rows = [row(number, f"line {number}") for number in range(9)]
    monkeypatch.setattr(engines, "_read_with_rapidocr", lambda *a: engines.Reading("line", 0.9))
    chosen = [
        {r["id"] for r in table.evaluations["rapidocr"].records}
        for seed in (1, 1, 3)
        for table in [baseline(rows, TrainConfig(output_dir=str(tmp_path), seed=seed), samples=4)]
    ]
    assert len(chosen[0]) == 4 and chosen[0] == chosen[1] != chosen[2]
    assert [path.name for path in (tmp_path / "eval").iterdir()] == ["rapidocr-sample"]


@pytest.mark.parametrize("text", ["서울특별시 강남구", "আমার সোনার বাংলা"])
def test_baseline_skips_rapidocr_for_scripts_it_cannot_write(text, tmp_path, no_tesseract, capsys):
    table = baseline([row(0, text)], TrainConfig(output_dir=str(tmp_path)))
    assert table.evaluations == {} and table.rows == []
    printed = capsys.readouterr().out
    assert "Left out: RapidOCR, whose package has no model for 100% of the letters" in printed
    assert (
        str(table) == "No engine here reads these rows: everything is left for fine-tuning to win."
    )


def test_baseline_of_extraction_rows_counts_the_values_read(tmp_path, monkeypatch, no_tesseract):
    table_row = "<table><tr><td>Tea</td><td>2.50</td></tr></table>"
    rows = [
        row(0, json.dumps({"shop": "North", "total": 9, "note": None}), "extraction"),
        row(1, table_row, "transcription"),
        row(2, "H5", "vqa"),
    ]
    texts = ["NORTH\n8.00", "tea 2.50", "shelf 4"]
    monkeypatch.setattr(engines, "_read_with_rapidocr", answering(texts))
    table = baseline(rows, TrainConfig(output_dir=str(tmp_path)))
    assert table.rows[0]["values read"].startswith("60.0 % [")  # North, Tea and 2.50 of five
    assert "CER" not in table.rows[0]
    assert "60.0% of the right values stand in what RapidOCR reads" in table.sentence


def test_the_best_engine_stands_first():
    truths = [{"id": number, "reference": "abcd", "group": number} for number in range(3)]
    readings = {
        name: score([record | {"prediction": text} for record in truths], name)
        for name, text in (("rapidocr", "abxx"), ("tesseract", "abcd"))
    }
    table = Baseline(readings)
    assert [cells["engine"] for cells in table.rows] == ["Tesseract", "RapidOCR"]
    assert table.sentence.endswith(": little is left for fine-tuning to win.")


def test_every_engine_has_a_name():
    assert set(module.NAMES) == set(module.ENGINES)
