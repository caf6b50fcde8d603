import json
import random
from pathlib import Path

from data_prep.synthetic.receipts import (
    TILL_FONTS,
    line_of,
    printed_receipts,
    random_line,
    receipt_line,
    thermal_receipts,
)
from tests.tools.tiny_model.lines import FONTS, fonts


def test_lines_have_the_length_that_is_asked_for():
    rng = random.Random(0)
    lines = [line_of(rng, 5, 9) for _ in range(300)]
    assert max(map(len, lines)) <= 9
    assert all(line == " ".join(line.split()) and line for line in lines)
    assert len(set(lines)) > 250


def test_text_is_printable_ascii():
    rng = random.Random(0)
    text = "".join(receipt_line(rng) + random_line(rng, 20) for _ in range(2000))
    assert set(text) == set(map(chr, range(32, 127)))


def test_a_dataset_is_the_same_for_the_same_seed(tmp_path):
    for name in ("a", "b"):
        thermal_receipts(tmp_path / name, receipts=3, seed=1, progress=False)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert len(files) > 30
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_drawing_more_receipts_keeps_the_first_ones(tmp_path):
    few = thermal_receipts(tmp_path / "few", receipts=2, progress=False)
    many = thermal_receipts(tmp_path / "many", receipts=4, progress=False)
    assert (few["found"], many["found"]) == (20, 40)

    def texts(folder):
        rows = [
            json.loads(line)
            for path in folder.glob("*/metadata.jsonl")
            for line in path.read_text().splitlines()
        ]
        return {row["id"]: row["completion"][0]["content"] for row in rows}

    assert texts(tmp_path / "few").items() <= texts(tmp_path / "many").items()


def test_printed_receipts_are_in_the_test_split(tmp_path):
    assert printed_receipts(tmp_path / "p", receipts=2, progress=False)["rows"] == {"test": 20}


def test_quickstart_fonts_differ_from_those_of_the_embedded_model():
    assert not set(TILL_FONTS) & {Path(font).stem for font in fonts("en", FONTS["en"])}
