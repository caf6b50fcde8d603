import json
import pickle
import unicodedata

import pytest

from data_prep.dataset.schema import Reject, Row, clean_text, is_unicode, parse_json, row_problems
from data_prep.dataset.summary import Summary, spread


def row(**changes) -> Row:
    values = {
        "id": "sroie-029-0012",
        "images_file_names": ["images/3f/sroie-029-0012.png"],
        "prompt": [{"role": "user", "content": "Transcribe the text in the image."}],
        "completion": [{"role": "assistant", "content": "TOTAL 9.00"}],
        "task": "transcription",
        "language": "en",
        "group": "029",
        "width": 812,
        "height": 44,
        "source": "sroie",
        "meta": '{"box": [1, 2, 3, 4]}',
    }
    return Row(**values | changes)


def test_a_row_survives_its_json_line_with_keys_in_the_contract_order():
    line = row(completion=[{"role": "assistant", "content": "합계 ৯ 总额"}]).to_json()
    assert "\n" not in line and "합계 ৯ 总额" in line
    assert Row.from_dict(json.loads(line)).to_json() == line
    assert list(json.loads(line)) == [
        *("id", "images_file_names", "prompt", "completion", "task", "language", "group"),
        *("width", "height", "source", "meta"),
    ]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"id": ""}, "id is empty"),
        ({"id": 3}, "id is 3"),
        ({"images_file_names": []}, "no file name"),
        ({"images_file_names": [""]}, "no file name"),
        ({"prompt": "Read this"}, "prompt is 'Read this'"),
        ({"prompt": [{"role": "user"}]}, "prompt is no list of"),
        ({"completion": [{"role": "assistant", "content": " \n"}]}, "completion is empty"),
        ({"completion": [{"role": "bot", "content": "x"}]}, "completion is no list of"),
        ({"task": "ocr"}, "task is 'ocr'"),
        ({"width": 0}, "size is 0x44"),
        ({"width": True}, "width is True"),
        ({"height": 4.5}, "height is 4.5"),
        ({"meta": "{box}"}, "meta is no JSON"),
    ],
)
def test_each_fault_of_a_row_is_named(changes, problem):
    problems = row_problems(json.loads(row(**changes).to_json()))
    assert len(problems) == 1 and problem in problems[0]


def test_missing_keys_and_wrong_values_are_invalid_rows():
    assert row_problems([1]) == ["a row is a JSON object, not list"]
    value = json.loads(row().to_json())
    del value["group"], value["meta"]
    assert row_problems(value) == ["group is missing", "meta is missing"]


def test_clean_text_composes_but_never_folds():
    nfd = unicodedata.normalize("NFD", "서울 café")
    assert clean_text(nfd) == "서울 café"
    assert clean_text("\u09df") == "\u09af\u09bc"  # NFC decomposes Bangla yya
    assert clean_text("10² ＡＢ。\u3000Ｃ ㅋㅋ") == "10² ＡＢ。\u3000Ｃ ㅋㅋ"
    assert clean_text("র‍্য") == "র‍্য" and clean_text("র্য") != clean_text("র‍্য")
    assert clean_text("\ufeff one\r\ntwo\rthree \n") == "one\ntwo\nthree"
    assert clean_text(" \t\n") == ""


def test_text_that_was_not_utf8_is_detected_and_printable():
    text = b"caf\xe9".decode("utf-8", "surrogateescape")
    assert not is_unicode(text) and not is_unicode("\ud83d") and is_unicode("😀 한")
    line = Reject("a.csv:3", "text is not UTF-8", text).to_json()
    assert json.loads(line.encode().decode()) == {
        "where": "a.csv:3",
        "reason": "text is not UTF-8",
        "detail": "caf\\udce9",
    }


@pytest.mark.parametrize("text", ["{", "NaN", "[1, Infinity]", "[" * 200_000, "1" * 10_000, ""])
def test_invalid_json_always_raises_value_error(text):
    with pytest.raises(ValueError, match=r".+"):
        parse_json(text)


def test_numbers_of_json_are_told_as_the_file_writes_them():
    total, least = parse_json("[12.50, -1E-3]")
    assert (str(total), f"{least}") == ("12.50", "-1E-3") and total == 12.5
    assert json.loads(json.dumps(total)) == 12.5
    copy = pickle.loads(pickle.dumps(total))
    assert copy == 12.5 and str(copy) == "12.50"


def test_summary_counts_every_item_once():
    summary = Summary()
    for outcome in (row(), row(width=10), row(width=11), Reject("x", "empty text")):
        summary.add(outcome)
    summary.splits.update(test=1, train=2)
    told = summary.to_dict("sroie", ["in"], {"seed": 0})
    assert told["found"] == 4 and told["rejects"] == {"empty text": 1}
    assert list(told["rows"].items()) == [("train", 2), ("test", 1)]
    assert told["sizes"]["width"] == {"min": 10, "median": 11, "max": 812}
    assert told["characters"]["T"] == 6 and next(iter(told["characters"])) == "0"
    assert list(told) == [
        *("source", "inputs", "options", "version", "found", "rows", "rejects", "tasks"),
        *("languages", "characters", "sizes"),
    ]


def test_spread_of_an_empty_counter_is_empty():
    from collections import Counter

    assert spread(Counter()) == {} and spread(Counter({7: 1})) == {"min": 7, "median": 7, "max": 7}
