import json
import re

import pytest
from PIL import Image

from ocrkit.evaluation import analysis, evaluation
from ocrkit.evaluation.compare import compare
from ocrkit.evaluation.evaluation import Evaluation, fails, read_predictions, score


def record(number, reference, prediction, **more):
    return {"id": f"s{number}", "reference": reference, "prediction": prediction, **more}


def test_score_counts_failures_as_empty_strings():
    failures = [record(2, "cd", None, error="no memory"), record(3, "", float("nan"))]
    found = score([record(1, "ab", "ab"), *failures])
    assert found.metrics["cer"]["value"] == 0.5
    assert found.metrics["exact_match"]["value"] == 2 / 3
    assert found.failed == 2
    assert found.metrics["cer"]["low"] <= 0.5 <= found.metrics["cer"]["high"]


def test_every_metric_has_an_interval_around_its_value():
    found = score([record(n, "abc def", "abc" + " def" * (n % 2), group=n // 4) for n in range(40)])
    assert {"cer", "cer_grapheme", "wer", "exact_match", "normalized_match"} <= set(found.metrics)
    for name, value in found.metrics.items():
        assert set(value) == {"value", "low", "high"}, name
        assert value["low"] <= value["value"] <= value["high"], name


def test_wer_leaves_chinese_out_and_cr_ar_take_it():
    found = score([record(1, "中文字", "中文", language="zh"), record(2, "a b", "a x")])
    assert found.metrics["wer"]["value"] == 0.5
    assert found.metrics["cr"]["value"] == pytest.approx(2 / 3)
    assert "wer" not in score([record(1, "中文字", "中文")]).metrics
    assert "cr" not in score([record(1, "abc", "ab")]).metrics


def test_tables_by_column():
    records = [
        record(n, "a" * (4 + 20 * (n % 2)), "a" * 4, language="en" if n % 2 else "ko", knows=n < 5)
        for n in range(10)
    ]
    by = score(records).by
    assert list(by) == ["length", "language", "script", "knows"]
    assert by["language"]["ko"]["cer"]["value"] == 0
    assert by["language"]["en"]["cer"]["value"] == 20 / 24
    assert by["length"]["1-8"]["n"] == by["length"]["17-32"]["n"] == 5
    assert by["knows"]["True"]["n"] == 5


def test_score_refuses_what_it_cannot_score():
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


def test_cross_check_raises_when_jiwer_differs(monkeypatch):
    good = [record(1, " a", "b ")]
    evaluation.cross_check(good)
    real = evaluation.metrics.process_cer

    def wrong(references, predictions):
        tally = real(references, predictions)
        return tally._replace(part=tally.part + 1)

    monkeypatch.setattr(evaluation.metrics, "process_cer", wrong)
    with pytest.raises(RuntimeError, match=r"jiwer counts 2 edits .* and ocrkit 3"):
        evaluation.cross_check(good)


def test_saved_and_loaded_again(tmp_path):
    path = str(tmp_path / "x.png")
    records = [
        record(1, "a\u2028b\ud800", "a", language="en", group="g", image=path, extra=True),
        record(2, "ক্ষ", None, error="broken", image=Image.new("L", (2, 2))),
    ]
    before = score(records, "mine", fingerprint="f")
    after = Evaluation.load(before.save(tmp_path / "eval" / "mine"))
    assert after.summary() == before.summary()
    assert after.records[0] == records[0]
    assert "image" not in after.records[1]
    written = json.loads((tmp_path / "eval/mine/metrics.json").read_text())
    keys = ["name", "n", "failed", "metrics", "by", "profile", "unicode", "fingerprint", "run"]
    assert list(written) == [*keys, "weights", "versions"]
    assert not list(tmp_path.rglob("*.part"))


def test_load_names_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"metrics\.json does not exist"):
        Evaluation.load(tmp_path)
    score([record(1, "a", "a")]).save(tmp_path)
    (tmp_path / "predictions.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"predictions\.jsonl does not exist"):
        Evaluation.load(tmp_path)


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("metrics.json", '{"metrics": {}}', "has no by, fingerprint, n, name, profile, versions"),
        ("metrics.json", "[1]", "is no summary of an evaluation"),
        ("metrics.json", '{"metrics"', "is no JSON"),
        ("predictions.jsonl", lambda lines: lines[:1], r"holds 1 records, but .* made of 2: run"),
        ("predictions.jsonl", lambda lines: lines * 2, "ids must be unique"),
        ("predictions.jsonl", '{"id": ["s1"], "reference": "", "prediction": ""}', "is no str or"),
        ("predictions.jsonl", "", "no records"),
    ],
)
def test_load_trusts_nothing_on_disk(tmp_path, name, text, message):
    score([record(1, "a", "a"), record(2, "b", "b")]).save(tmp_path)
    path = tmp_path / name
    if callable(text):
        text = "".join(text(path.read_text().splitlines(keepends=True)))
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as raised:
        Evaluation.load(tmp_path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("allowed", range(2))
def test_a_full_disk_during_a_second_evaluation_leaves_the_first_whole(
    tmp_path, full_disk, allowed
):
    first = score([record(1, "a", "a")])
    first.save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with full_disk(allowed), pytest.raises(OSError, match="No space left on the disk of"):
        score([record(1, "a", "b")]).save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert Evaluation.load(tmp_path).metrics == first.metrics


def test_predictions_of_another_system_are_not_overwritten(tmp_path):
    path = tmp_path / "predictions.jsonl"
    path.write_text('{"id": 1,  "reference": "a", "prediction": "b"}\n')
    before = path.read_bytes()
    evaluation = score(read_predictions(path), "theirs")
    with pytest.raises(FileExistsError, match=r"predictions\.jsonl is there .* another name\."):
        evaluation.save(tmp_path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
    evaluation.save(tmp_path, overwrite=True)
    evaluation.save(tmp_path)
    (tmp_path / "metrics.json").write_text("damaged")
    evaluation.save(tmp_path)


def test_numbers_never_stand_beside_other_predictions(tmp_path, killed_at):
    evaluations = [score([record(1, "a", text)]) for text in "ab"]
    step, killed, cers = 0, [True], set()
    while killed:
        folder = tmp_path / str(step)
        evaluations[0].save(folder)
        with killed_at(step) as killed:
            evaluations[1].save(folder)
        if (folder / "metrics.json").is_file():
            cer = json.loads((folder / "metrics.json").read_text())["metrics"]["cer"]["value"]
            read = read_predictions(folder / "predictions.jsonl")[0]["prediction"]
            assert (cer, read) in ((0, "a"), (1, "b"))
        again = Evaluation.load(folder)
        cers.add(again.metrics["cer"]["value"])
        assert again.records[0]["prediction"] == "ab"[int(again.metrics["cer"]["value"])]
        step += 1
    assert step > 4 and cers == {0, 1}


@pytest.mark.parametrize(
    "line, message",
    [("{", r"p\.jsonl:2 is no JSON"), ("[1]", r"p\.jsonl:2 must be"), ('{"id": 1}', ":2 must be")],
)
def test_predictions_name_file_and_line(tmp_path, line, message):
    path = tmp_path / "p.jsonl"
    path.write_text('\ufeff{"id": 1, "reference": "a", "prediction": "b"}\n' + line + "\n")
    with pytest.raises(ValueError, match=message):
        read_predictions(path)


# --- structured readings


def test_extraction_adds_the_field_metrics_over_its_own_rows():
    truth = json.dumps({"total": "9.00", "items": [{"name": "Pen"}]})
    found = score(
        [
            record(1, truth, truth.replace("Pen", "Pan"), task="extraction"),
            record(2, truth, truth[:-1], task="extraction"),
            record(3, "a line", "a line", task="transcription"),
        ]
    )
    assert found.metrics["json_parse_rate"]["value"] == 0.5
    assert found.metrics["field_accuracy"]["value"] == 1 / 4
    assert found.metrics["field_f1"]["value"] == 1 / (1 + 1 + 1)
    assert found.metrics["numeric_accuracy"]["value"] == 1 / 2
    assert 0 < found.metrics["nted"]["value"] < 0.5
    assert found.by["field"]["total"]["n"] == 2
    assert found.by["field"]["items.name"]["field_accuracy"]["value"] == 0


@pytest.mark.parametrize(
    "truth, task, counts",
    [
        ('{"a": 1}', None, True),
        ('[{"a": 1}, {"a": 2}]', None, True),
        ("[1]", None, False),
        ("[]", None, False),
        ('[{"a": 1}, 2]', None, False),
        ('["1"]', "extraction", True),
        ('{"a": 1}', "transcription", False),
    ],
)
def test_what_counts_as_a_truth_of_fields(truth, task, counts):
    assert ("json_parse_rate" in score([record(1, truth, truth, task=task)]).metrics) == counts


def test_a_list_read_for_an_object_is_scored():
    found = score([record(1, '{"a": "1"}', '[{"a": "1"}]')]).metrics
    assert found["json_parse_rate"]["value"] == 1 and found["field_accuracy"]["value"] == 0


def test_pubtabnets_own_form_is_a_table():
    body = "<table><tr><td>a</td></tr></table>"
    truth = f"<html><body>{body}</body></html>"
    found = score([record(1, truth, body), record(2, f"\n<!-- 1 -->{truth}", truth)])
    assert found.metrics["teds"]["value"] == 1


def test_tables_add_teds():
    one = "<table><tr><td>a</td></tr></table>"
    found = score([record(1, one, one.replace(">a<", ">b<")), record(2, "x", "x")])
    assert found.metrics["teds"]["value"] == 0.5
    assert found.metrics["teds_structure"]["value"] == 1
    assert "field_f1" not in found.metrics


@pytest.mark.parametrize(
    "condition, result",
    [("cer > 0.05", True), ("cer>0.6", False), ("exact_match <= .5", True), ("failed > 0", False)],
)
def test_fail_if(condition, result):
    assert fails(score([record(1, "ab", "ab"), record(2, "cd", "xy")]), condition) is result


@pytest.mark.parametrize(
    "condition, message",
    [("cer", "cannot be read"), ("cer > .", "cannot be read"), ("bleu > 1", "names no metric")],
)
def test_fail_if_refuses_what_it_cannot_read(condition, message):
    with pytest.raises(ValueError, match=message):
        fails(score([record(1, "ab", "ab")]), condition)


@pytest.mark.parametrize(
    "wrong", [{"id": ["a"]}, {"group": {"a": 1}}, {"language": 3}, {"confidence": "0.5"}]
)
def test_what_a_record_may_not_hold_is_named(wrong):
    record = {"id": "a", "reference": "x", "prediction": "x"} | wrong
    (name, value), *_ = wrong.items()
    with pytest.raises(ValueError, match=re.escape(f"Record 1 of 'theirs': {name}={value!r}")):
        score([record], "theirs")


def test_nan_of_a_table_is_nothing():
    nan = float("nan")
    empty = {"confidence": nan, "group": nan, "language": nan, "error": nan, "age": nan}
    records = [record(n, "abc", "abd", finish_reason="stop") for n in range(4)]
    found = score([line | empty for line in records])
    assert found.metrics == score(records).metrics and found.by == score(records).by
    assert found.failed == 0
    assert all(found.records[0][key] is None for key in empty)
    assert analysis.suspect_labels([found.records]) == []
    json.dumps(compare(found).summary(), allow_nan=False)


@pytest.mark.parametrize("confidence", [95, 1.01, -0.1, float("inf")])
def test_a_confidence_is_a_probability(confidence):
    with pytest.raises(ValueError, match=rf"Record 1 of 'x': confidence={confidence} is no prob"):
        score([record(1, "a", "a", confidence=confidence)], "x")


def test_predictions_in_another_encoding_are_named(tmp_path):
    line = '{"id": "a", "reference": "한글", "prediction": "한글"}\n'
    (tmp_path / "p.jsonl").write_bytes(line.encode() + line.encode("cp949"))
    with pytest.raises(ValueError, match=r"p\.jsonl:2 is no UTF-8"):
        read_predictions(tmp_path / "p.jsonl")
