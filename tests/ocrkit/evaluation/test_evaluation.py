import json

import pytest
from PIL import Image

from ocrkit.evaluation import analysis
from ocrkit.evaluation.compare import compare
from ocrkit.evaluation.evaluation import Evaluation, fails, score
from ocrkit.evaluation.records import read_predictions


def record(number, reference, prediction, **more):
    return {"id": f"s{number}", "reference": reference, "prediction": prediction, **more}


def test_score_counts_failures_as_empty_strings():
    failures = [record(2, "cd", None, error="no memory"), record(3, "", float("nan"))]
    evaluated = score([record(1, "ab", "ab"), *failures])
    assert evaluated.metrics["cer"]["value"] == 0.5
    assert evaluated.metrics["exact_match"]["value"] == 2 / 3
    assert evaluated.failed == 2
    assert evaluated.metrics["cer"]["low"] <= 0.5 <= evaluated.metrics["cer"]["high"]


def test_every_metric_has_an_interval_around_its_value():
    evaluated = score(
        [record(n, "abc def", "abc" + " def" * (n % 2), group=n // 4) for n in range(40)]
    )
    assert {"cer", "cer_grapheme", "wer", "exact_match", "normalized_match"} <= set(
        evaluated.metrics
    )
    for name, value in evaluated.metrics.items():
        assert set(value) == {"value", "low", "high"}, name
        assert value["low"] <= value["value"] <= value["high"], name


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
    score([record(1, "a", "a")]).save(tmp_path / "run" / "eval" / "tuned")
    with pytest.raises(FileNotFoundError, match=r"such as .*eval/tuned\.$"):
        Evaluation.load(tmp_path / "run")
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
def test_load_validates_every_value_on_disk(tmp_path, name, text, message):
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
    with pytest.raises(FileExistsError, match=r"predictions\.jsonl exists .* another name\."):
        evaluation.save(tmp_path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
    evaluation.save(tmp_path, overwrite=True)
    evaluation.save(tmp_path)
    (tmp_path / "metrics.json").write_text("damaged")
    evaluation.save(tmp_path)


def test_metrics_json_never_describes_other_predictions(tmp_path, killed_at):
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


# --- conditions


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
def test_fail_if_refuses_invalid_conditions(condition, message):
    with pytest.raises(ValueError, match=message):
        fails(score([record(1, "ab", "ab")]), condition)


def test_nan_in_records_counts_as_missing():
    nan = float("nan")
    empty = {"confidence": nan, "group": nan, "language": nan, "error": nan, "age": nan}
    records = [record(n, "abc", "abd", finish_reason="stop") for n in range(4)]
    evaluated = score([line | empty for line in records])
    assert evaluated.metrics == score(records).metrics and evaluated.by == score(records).by
    assert evaluated.failed == 0
    assert all(evaluated.records[0][key] is None for key in empty)
    assert analysis.suspect_labels([evaluated.records]) == []
    json.dumps(compare(evaluated).summary(), allow_nan=False)
