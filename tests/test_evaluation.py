import json
import sys
import types

import pytest
from PIL import Image

from ocrkit import evaluation
from ocrkit.evaluation import Evaluation, evaluate, read_predictions, records_of, score


def record(number, reference, prediction, **more):
    return {"id": f"s{number}", "reference": reference, "prediction": prediction, **more}


def rows(count=6):
    return [
        {
            "id": f"r{number}",
            "prompt": [{"role": "user", "content": "Read."}],
            "completion": [{"role": "assistant", "content": f"line {number}"}],
            "images": [Image.new("L", (8, 8), number)],
            "language": "en",
            "group": f"g{number // 2}",
            "task": "transcription",
            "source": "drawn",
            "meta": json.dumps({"need_external_knowledge": number % 2 == 0, "box": [1, 2]}),
        }
        for number in range(count)
    ]


class FakePredict(types.ModuleType):
    """Stands in for ocrkit.predict: answers rows in reverse order and can stop half-way."""

    def __init__(self, answer=lambda row: row["completion"][0]["content"]):
        super().__init__("ocrkit.predict")
        self.answer, self.asked, self.stamp, self.stop_after = answer, [], "weights-1", None

    def fingerprint(self, model, processor, data, config):
        return self.stamp

    def predict_stream(self, model, processor, data, config):
        for number, row in enumerate(list(data)[::-1]):
            if number == self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(row["id"])
            text = self.answer(row)
            yield {
                "id": row["id"],
                "prediction": text,
                "confidence": 0.9,
                "finish_reason": "stop",
                "error": None if text is not None else "out of memory",
            }


@pytest.fixture
def predict(monkeypatch):
    fake = FakePredict()
    monkeypatch.setitem(sys.modules, "ocrkit.predict", fake)
    return fake


@pytest.fixture
def config(tmp_path):
    return types.SimpleNamespace(output_dir=str(tmp_path, normalization_profile="strict"))


def test_score_counts_failures_as_empty_strings():
    found = score([record(1, "ab", "ab"), record(2, "cd", None, error="no memory")])
    assert found.metrics["cer"]["value"] == 0.5
    assert found.metrics["exact_match"]["value"] == 0.5
    assert found.failed == 1
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
    with pytest.raises(ValueError, match="Prediction 0 is"):
        score([record(1, "a", {"a": 1})])


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
    records = [
        record(1, "a\u2028b\ud800", "a", language="en", group="g", image="x.png", extra=True),
        record(2, "ক্ষ", None, error="broken", image=Image.new("L", (2, 2))),
    ]
    before = score(records, "mine", fingerprint="f")
    after = Evaluation.load(before.save(tmp_path / "eval" / "mine"))
    assert after.summary() == before.summary()
    assert after.records[0] == records[0]
    assert "image" not in after.records[1]
    written = json.loads((tmp_path / "eval/mine/metrics.json").read_text())
    keys = ["name", "n", "failed", "metrics", "by", "profile", "unicode", "fingerprint", "versions"]
    assert list(written) == keys
    assert not list(tmp_path.rglob("*.part"))


def test_load_names_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"metrics\.json does not exist"):
        Evaluation.load(tmp_path)
    (tmp_path / "metrics.json").write_text('{"name": "x"}')
    with pytest.raises(ValueError, match="unfinished"):
        Evaluation.load(tmp_path)


@pytest.mark.parametrize(
    "line, message",
    [("{", r"p\.jsonl:2 is no JSON"), ("[1]", r"p\.jsonl:2 must be"), ('{"id": 1}', ":2 must be")],
)
def test_predictions_name_file_and_line(tmp_path, line, message):
    path = tmp_path / "p.jsonl"
    path.write_text('\ufeff{"id": 1, "reference": "a", "prediction": "b"}\n' + line + "\n")
    with pytest.raises(ValueError, match=message):
        read_predictions(path)


# --- running a model


def test_evaluate_streams_scores_and_saves(predict, config, tmp_path):
    found = evaluate(None, None, rows(), config, "base")
    assert found.metrics["cer"]["value"] == 0
    assert [r["id"] for r in found.records] == [f"r{n}" for n in range(6)]
    assert found.records[3]["group"] == "g1" and found.records[3]["confidence"] == 0.9
    assert found.by["need_external_knowledge"]["True"]["n"] == 3
    assert found.records[2]["image"]().getpixel((0, 0)) == 2
    again = Evaluation.load(tmp_path / "eval/base")
    assert again.metrics == found.metrics
    assert [r["prediction"] for r in again.records] == [f"line {n}" for n in range(6)]


def test_an_interrupted_evaluation_goes_on(predict, config, tmp_path):
    predict.stop_after = 4
    with pytest.raises(KeyboardInterrupt):
        evaluate(None, None, rows(), config)
    path = tmp_path / "eval/base/predictions.jsonl"
    assert len(path.read_text().splitlines()) == 4
    with path.open("a") as file:
        file.write('{"id": "r1", "predic')
    predict.asked, predict.stop_after = [], None
    found = evaluate(None, None, rows(), config)
    assert predict.asked == ["r1", "r0"]
    assert found.metrics["cer"]["value"] == 0 and len(path.read_text().splitlines()) == 6
    evaluate(None, None, rows(), config)
    assert predict.asked == ["r1", "r0"]


@pytest.mark.parametrize("change", ["weights", "profile"])
def test_another_fingerprint_starts_afresh(predict, config, monkeypatch, change):
    evaluate(None, None, rows(), config)
    predict.asked = []
    if change == "weights":
        predict.stamp = "weights-2"
    else:
        monkeypatch.setitem(evaluation.PROFILE_VERSION, "strict", 99)
    evaluate(None, None, rows(), config)
    assert len(predict.asked) == 6


def test_failed_rows_are_counted_and_tried_again(predict, config):
    predict.answer = lambda row: None if row["id"] == "r2" else "line"
    found = evaluate(None, None, rows(), config)
    assert found.failed == 1 and found.records[2]["error"] == "out of memory"
    predict.asked = []
    evaluate(None, None, rows(), config)
    assert predict.asked == ["r2"]


def test_rows_the_model_never_answers_are_failures(predict, config, monkeypatch):
    monkeypatch.setattr(predict, "predict_stream", lambda *_: iter(()))
    found = evaluate(None, None, rows(2), config)
    assert found.failed == 2
    assert found.metrics["cer"]["value"] == 1
    assert "no prediction" in found.records[0]["error"]


def test_evaluate_refuses_an_empty_dataset(predict, config):
    with pytest.raises(ValueError, match="no rows"):
        evaluate(None, None, [], config)


def test_a_datasets_dataset_is_read_without_opening_pictures(predict, config, tmp_path):
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "data" / "test"
    folder.mkdir(parents=True)
    lines = []
    for row in rows(3):
        row.pop("images")[0].save(folder / f"{row['id']}.png")
        lines.append(json.dumps(row | {"images_file_names": [f"{row['id']}.png"]}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    data = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "data"), cache_dir=str(tmp_path / "cache")
    )["test"]
    (folder / "r1.png").write_bytes(b"no picture")
    records = records_of(data)
    assert [r["reference"] for r in records] == ["line 0", "line 1", "line 2"]
    assert records[2]["image"]().getpixel((0, 0)) == 2
    assert data.column_names and "images" in data.column_names


def test_a_reference_may_be_a_list_of_parts():
    row = rows(1)[0]
    row["completion"][0]["content"] = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert records_of([row])[0]["reference"] == "ab"
