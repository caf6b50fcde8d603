import re

import pytest

from ocrkit.evaluation.evaluation import score
from ocrkit.evaluation.records import check_records, read_predictions


def record(number, reference, prediction, **more):
    return {"id": f"s{number}", "reference": reference, "prediction": prediction, **more}


def test_score_refuses_invalid_records():
    with pytest.raises(ValueError, match="'x' has no records"):
        score([], "x")
    with pytest.raises(ValueError, match="'s1' comes twice"):
        score([record(1, "a", "a"), record(1, "b", "b")])
    with pytest.raises(ValueError, match="Record 1 of 'x' needs"):
        score([{"id": 1, "prediction": "a"}], "x")
    with pytest.raises(ValueError, match=r"Record 1 of 'x' needs .* but its reference is null"):
        score([record(1, None, "a")], "x")
    many = [record(number, "a", "a") for number in range(500)]
    with pytest.raises(ValueError, match=r"Record 401 of 'x': prediction=\{'a': 1\} is no str"):
        score([*many[:400], record(400, "a", {"a": 1}), *many[401:]], "x")
    with pytest.raises(ValueError, match="cannot serve language 'bn'"):
        score([record(1, "ক", "খ", language="bn")], profile="squad")


@pytest.mark.parametrize(
    "line, message",
    [("{", r"p\.jsonl:2 is no JSON"), ("[1]", r"p\.jsonl:2 must be"), ('{"id": 1}', ":2 must be")],
)
def test_predictions_name_file_and_line(tmp_path, line, message):
    path = tmp_path / "p.jsonl"
    path.write_text('\ufeff{"id": 1, "reference": "a", "prediction": "b"}\n' + line + "\n")
    with pytest.raises(ValueError, match=message):
        read_predictions(path)


@pytest.mark.parametrize(
    "wrong", [{"id": ["a"]}, {"group": {"a": 1}}, {"language": 3}, {"confidence": "0.5"}]
)
def test_invalid_record_error_names_the_value(wrong):
    record = {"id": "a", "reference": "x", "prediction": "x"} | wrong
    (name, value), *_ = wrong.items()
    with pytest.raises(ValueError, match=re.escape(f"Record 1 of 'theirs': {name}={value!r}")):
        check_records([record], "theirs")


@pytest.mark.parametrize("confidence", [95, 1.01, -0.1, float("inf")])
def test_a_confidence_is_a_probability(confidence):
    with pytest.raises(ValueError, match=rf"Record 1 of 'x': confidence={confidence} is no prob"):
        check_records([record(1, "a", "a", confidence=confidence)], "x")


def test_predictions_in_another_encoding_are_named(tmp_path):
    line = '{"id": "a", "reference": "한글", "prediction": "한글"}\n'
    (tmp_path / "p.jsonl").write_bytes(line.encode() + line.encode("cp949"))
    with pytest.raises(ValueError, match=r"p\.jsonl:2 is no UTF-8"):
        read_predictions(tmp_path / "p.jsonl")
