import io
import json
import shutil
import sys
import types

import pytest
from PIL import Image

from ocrkit.data.rows import dataset_of
from ocrkit.evaluation import evaluation
from ocrkit.evaluation.evaluate import evaluate, evaluate_engine, evaluate_file, records_of
from ocrkit.evaluation.evaluation import Evaluation
from tests.helpers.evaluations import rows


class FakePredict(types.ModuleType):
    """Stands in for ocrkit.predict: answers rows in reverse order and can stop half-way."""

    def __init__(self, answer=lambda row: row["completion"][0]["content"]):
        super().__init__("ocrkit.models.read")
        self.answer, self.asked, self.stamp, self.stop_after = answer, [], "weights-1", None

    def fingerprint(self, model, processor, data, config):
        return self.stamp

    def weights_fingerprint(self, model):
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
    monkeypatch.setitem(sys.modules, "ocrkit.models.read", fake)
    return fake


@pytest.fixture
def config(tmp_path):
    return types.SimpleNamespace(
        model_name_or_path="tiny",
        output_dir=str(tmp_path),
        normalization_profile="strict",
        locale="en",
    )


def test_evaluate_streams_scores_and_saves(predict, config, tmp_path):
    evaluated = evaluate(None, None, rows(), config, "base")
    assert evaluated.metrics["cer"]["value"] == 0
    assert [r["id"] for r in evaluated.records] == [f"r{n}" for n in range(6)]
    assert evaluated.records[3]["group"] == "g1" and evaluated.records[3]["confidence"] == 0.9
    assert evaluated.by["need_external_knowledge"]["True"]["n"] == 3
    assert evaluated.records[2]["image"]().getpixel((0, 0)) == 2
    again = Evaluation.load(tmp_path / "eval/base")
    assert again.metrics == evaluated.metrics
    assert [r["prediction"] for r in again.records] == [f"line {n}" for n in range(6)]


def test_interrupted_evaluation_resumes(predict, config, tmp_path):
    predict.stop_after = 4
    with pytest.raises(KeyboardInterrupt):
        evaluate(None, None, rows(), config)
    path, whole = (tmp_path / f"eval/base/{name}.jsonl" for name in ("unfinished", "predictions"))
    assert len(path.read_text().splitlines()) == 1 + 4
    with pytest.raises(ValueError, match="eval/base holds an unfinished evaluation"):
        Evaluation.load(tmp_path / "eval/base")
    with path.open("a") as file:
        file.write('{"id": "r1", "predic')
    predict.asked, predict.stop_after = [], None
    evaluated = evaluate(None, None, rows(), config)
    assert predict.asked == ["r1", "r0"]
    assert evaluated.metrics["cer"]["value"] == 0 and len(whole.read_text().splitlines()) == 6
    assert not path.exists()
    evaluate(None, None, rows(), config)
    assert predict.asked == ["r1", "r0"]


def test_a_full_disk_during_a_second_evaluation_leaves_the_first(
    predict, config, tmp_path, full_disk
):
    folder = tmp_path / "eval/base"
    for refused in range(4):  # the unfinished file, its lines, predictions, metrics
        shutil.rmtree(folder, ignore_errors=True)
        predict.stamp = "first"
        evaluate(None, None, rows(), config)
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        predict.stamp = "second"
        with full_disk(refused), pytest.raises(OSError, match="No space left on the disk of"):
            evaluate(None, None, rows(), config)
        after = {path.name: path.read_bytes() for path in folder.iterdir()}
        after.pop("unfinished.jsonl", None)
        assert after == before
        assert not evaluate(None, None, rows(), config).failed
        assert not (folder / "unfinished.jsonl").exists()


def test_predictions_of_another_system_stop_an_evaluation_before_it_reads(
    predict, config, tmp_path
):
    folder = tmp_path / "eval/base"
    folder.mkdir(parents=True)
    (folder / "predictions.jsonl").write_text("mine")
    with pytest.raises(FileExistsError, match=r"predictions\.jsonl exists"):
        evaluate(None, None, rows(), config)
    assert not predict.asked and [path.name for path in folder.iterdir()] == ["predictions.jsonl"]


def test_a_file_torn_within_a_character_loses_that_line_alone(predict, config, tmp_path):
    predict.stop_after = 4
    with pytest.raises(KeyboardInterrupt):
        evaluate(None, None, rows(), config)
    with (tmp_path / "eval/base/unfinished.jsonl").open("ab") as file:
        file.write('{"id": "r1", "prediction": "한'.encode()[:-1])
    predict.asked, predict.stop_after = [], None
    evaluate(None, None, rows(), config)
    assert predict.asked == ["r1", "r0"]


@pytest.mark.parametrize("answered", [0, 2])
def test_old_evaluation_is_kept_until_the_next_is_complete(predict, config, tmp_path, answered):
    before = evaluate(None, None, rows(), config)
    predict.stamp, predict.asked, predict.stop_after = "weights-2", [], answered
    predict.answer = lambda row: "another"
    with pytest.raises(KeyboardInterrupt):
        evaluate(None, None, rows(), config)
    assert Evaluation.load(tmp_path / "eval/base").summary() == before.summary()
    predict.stop_after = None
    after = evaluate(None, None, rows(), config)
    assert sorted(predict.asked) == [f"r{number}" for number in range(6)]
    assert Evaluation.load(tmp_path / "eval/base").summary() == after.summary()
    assert after.metrics["exact_match"]["value"] == 0


def test_truncated_predictions_are_predicted_again(predict, config, tmp_path):
    evaluate(None, None, rows(), config)
    path = tmp_path / "eval/base/predictions.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    predict.asked = []
    evaluate(None, None, rows(), config)
    assert len(predict.asked) == 6


@pytest.mark.parametrize("change", ["weights", "profile"])
def test_changed_fingerprint_starts_the_evaluation_again(predict, config, monkeypatch, change):
    evaluate(None, None, rows(), config)
    predict.asked = []
    if change == "weights":
        predict.stamp = "weights-2"
    else:
        monkeypatch.setitem(evaluation.PROFILE_VERSION, "strict", 99)
    evaluate(None, None, rows(), config)
    assert len(predict.asked) == 6


def test_a_corrected_truth_is_scored_without_reading_again(predict, config):
    evaluate(None, None, rows(), config)
    corrected, predict.asked = rows(), []
    corrected[0]["completion"][0]["content"] = "another"
    evaluated = evaluate(None, None, corrected, config)
    assert predict.asked == [] and evaluated.metrics["exact_match"]["value"] == 5 / 6


def test_failed_rows_are_counted_and_tried_again(predict, config):
    predict.answer = lambda row: None if row["id"] == "r2" else "line"
    evaluated = evaluate(None, None, rows(), config)
    assert evaluated.failed == 1 and evaluated.records[2]["error"] == "out of memory"
    predict.asked = []
    evaluate(None, None, rows(), config)
    assert predict.asked == ["r2"]


def test_rows_the_model_never_answers_are_failures(predict, config, monkeypatch):
    monkeypatch.setattr(predict, "predict_stream", lambda *_: iter(()))
    evaluated = evaluate(None, None, rows(2), config)
    assert evaluated.failed == 2
    assert evaluated.metrics["cer"]["value"] == 1
    assert "no prediction" in evaluated.records[0]["error"]


def test_duplicate_ids_are_refused_before_anything_is_predicted(predict, config):
    with pytest.raises(ValueError, match="'r0' comes twice"):
        evaluate(None, None, [*rows(2), *rows(1)], config)
    assert predict.asked == []


def test_a_profile_that_does_not_serve_a_language_is_refused_before_anything_is_predicted(
    predict, config
):
    korean = [row | {"language": "ko"} for row in rows(2)]
    with pytest.raises(ValueError, match="cannot serve language 'ko': use 'lenient'"):
        evaluate(None, None, korean, config, profile="squad")
    assert not predict.asked
    unstated = [row | {"language": "und"} for row in rows(2)]
    assert evaluate(None, None, unstated, config, profile="squad").failed == 0


def test_prediction_with_an_unknown_id_is_an_error(predict, config, monkeypatch):
    monkeypatch.setattr(predict, "predict_stream", lambda *_: iter([{"id": "other"}]))
    with pytest.raises(RuntimeError, match="'other', which was not asked"):
        evaluate(None, None, rows(2), config)


@pytest.mark.parametrize("name", ["x/../../y", "a/b", "a\\b", "..", ""])
def test_evaluation_name_outside_its_folder_is_refused(predict, config, tmp_path, name):
    with pytest.raises(ValueError, match="leads out of eval/: give one without"):
        evaluate(None, None, rows(1), config, name)
    if name:
        with pytest.raises(ValueError, match="leads out of eval/"):
            evaluate_engine("tesseract", rows(1), tmp_path, name=name)
    assert predict.asked == [] and not list(tmp_path.iterdir())


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
    # A file is named, so that a saved evaluation still shows it.
    assert Image.open(records[2]["image"]).getpixel((0, 0)) == 2
    assert data.column_names and "images" in data.column_names


def test_a_saved_evaluation_finds_its_pictures_from_any_folder(
    predict, config, tmp_path, monkeypatch
):
    Image.new("RGB", (60, 20)).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    evaluate(None, None, dataset_of([rows(1)[0] | {"images": ["a.png"]}]), config)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (record,) = Evaluation.load(tmp_path / "eval/base").records
    assert record["image"] == str(tmp_path / "a.png")


def test_pictures_within_rows_are_not_written_into_predictions(predict, config, tmp_path):
    picture = io.BytesIO()
    Image.new("RGB", (60, 20)).save(picture, "PNG")
    row = rows(1)[0] | {"images": [{"path": "a.png", "bytes": picture.getvalue()}]}
    evaluated = evaluate(None, None, dataset_of([row]), config)
    assert evaluated.records[0]["image"]().size == (60, 20)
    assert "image" not in Evaluation.load(tmp_path / "eval/base").records[0]


def test_rows_of_another_layout_are_one_sentence():
    with pytest.raises(ValueError, match="Row 0 has no id or no completion, but the keys id, mess"):
        records_of([{"id": 1, "messages": []}])


def test_meta_that_is_no_json_adds_no_columns():
    assert "need_external_knowledge" not in records_of([rows(1)[0] | {"meta": "{broken"}])[0]


def test_a_reference_may_be_a_list_of_parts():
    row = rows(1)[0]
    row["completion"][0]["content"] = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert records_of([row])[0]["reference"] == "ab"


# --- files and engines


def test_a_file_of_any_system_is_scored(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    line = {"id": 1, "reference": "ab", "prediction": "ab", "image": "a.png"}
    (tmp_path / "mine.jsonl").write_text(json.dumps(line))
    evaluated = evaluate_file(tmp_path / "mine.jsonl")
    assert evaluated.name == "mine" and evaluated.metrics["cer"]["value"] == 0
    assert evaluated.records[0]["image"] == str(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        evaluate_file(tmp_path / "none.jsonl")


def test_an_unknown_engine_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="'abbyy' is unknown"):
        evaluate_engine("abbyy", rows(), tmp_path)
