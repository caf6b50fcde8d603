import json

import pytest
from PIL import Image

from ocrkit.data.read_rows import drawn_rows, raw_rows, usable_row


@pytest.fixture
def file(tmp_path):
    Image.new("L", (40, 20)).save(tmp_path / "a.png")
    return tmp_path / "metadata.jsonl"


def line(**changes):
    row = {"id": 7, "images_file_names": ["a.png"], "task": "transcription", "width": 1}
    row["prompt"] = [{"role": "user", "content": "Read."}]
    row["completion"] = [{"role": "assistant", "content": "word"}]
    return {**row, **changes}


def test_lines_are_numbered_and_blank_ones_left_out(file):
    file.write_text('\ufeff{"id": 1}\n\n{"id": 2}\n', encoding="utf-8")
    assert [(number, json.loads(raw)["id"]) for number, raw in raw_rows(file)] == [(1, 1), (3, 2)]


def test_a_row_has_texts_and_measured_sizes(file):
    row, problem = usable_row(file, 1, json.dumps(line()))
    assert problem is None
    assert (row["id"], row["sizes"], row["width"]) == ("7", [(40, 20)], 40)
    assert row["images"] == [str(file.parent / "a.png")]
    row, _ = usable_row(file, 1, line(), {"transcription": "OCR:"})
    assert row["prompt"] == [{"role": "user", "content": "OCR:"}]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"id": None}, "no id"),
        ({"prompt": []}, "no prompt"),
        ({"completion": [{"role": "assistant", "content": " "}]}, "empty text"),
        ({"images_file_names": []}, "no picture"),
        ({"images_file_names": ["none.png"]}, "missing picture"),
        ({"language": ["en"]}, "bad row"),
    ],
)
def test_unusable_row_has_a_place_and_a_reason(file, changes, reason):
    row, problem = usable_row(file, 3, line(**changes))
    assert row is None
    assert (problem["where"], problem["reason"]) == (f"{file}:3", reason)


def test_an_evaluation_takes_blank_truths(file):
    blank = line(completion=[{"role": "assistant", "content": ""}])
    assert usable_row(file, 1, blank, blank=True)[0] is not None
    assert usable_row(file, 1, "{torn")[1]["reason"] == "broken line"


def test_drawn_rows_are_printed_lines():
    rows = drawn_rows(3)
    assert len({row["completion"][0]["content"] for row in rows}) == 3
    assert all(row["images"][0].width > row["images"][0].height for row in rows)
