import json

import pytest

from data_prep.validate import validate
from tests.helpers.sources_common import reasons, run, save, texts
from tests.tools.fuzz import assert_survives, json_mutations


def docvqa(**changes):
    record = {
        "questionId": 337,
        "question": "what is the date?",
        "image": "documents/xnbl0037_1.png",
        "docId": 279,
        "ucsf_document_id": "xnbl0037",
        "answers": ["1/8/93", "January 8, 1993", "1/8/93 "],
        "data_split": "train",
    }
    return record | changes


def test_docvqa_keeps_all_right_answers(tmp_path):
    save(tmp_path / "in" / "documents" / "xnbl0037_1.png")
    records = [
        docvqa(),
        docvqa(question="who?", answers=["Ann"]),
        docvqa(answers=[]),
        docvqa(answers=None),
        docvqa(image="documents/gone.png"),
        docvqa(question=3),
        docvqa(answers=[{"x": 1}]),
        "no record",
        docvqa(data_split="val", answers=["y"], ucsf_document_id="other"),
    ]
    data = {"dataset_name": "docvqa", "data": records}
    (tmp_path / "in" / "train_v1.0.json").write_text(json.dumps(data))
    summary, rows, rejects = run("docvqa", tmp_path / "in", tmp_path / "out")
    assert texts(rows) == ["1/8/93", "Ann", "y"]
    assert [row.answers for row in rows] == [["1/8/93", "January 8, 1993"], ["Ann"], ["y"]]
    assert rows[0].prompt == [{"role": "user", "content": "what is the date?"}]
    assert [row.group for row in rows] == ["xnbl0037", "xnbl0037", "other"]
    assert summary["rows"] == {"train": 2, "validation": 1}
    assert summary["found"] == len(records)
    assert reasons(rejects) == [
        *("no answer", "no answer", "missing image", "malformed record", "malformed record"),
        "malformed record",
    ]
    # The questions of one page share its picture.
    assert rows[0].images_file_names == rows[1].images_file_names
    # One that another split shows too is there in both, and told by validate.
    errors = validate(tmp_path / "out", plot=False)["errors"]
    assert errors == {"picture in two splits": 1}


@pytest.mark.parametrize(
    ("record", "answers"),
    [
        ({"imgname": "a.png", "query": "?", "label": "14"}, ["14"]),
        ({"imgname": "a.png", "query": "?", "label": 0.57}, ["0.57"]),
        ({"image_id": "a", "question": "?", "answers": ["x", "y", "x"]}, ["x", "y"]),
        ({"image_local_name": "a.png", "question": "?", "answers": ["x"]}, ["x"]),
        ({"file_path": "png/a.png", "question": "?", "answer": "x"}, ["x"]),
    ],
)
def test_chartqa_and_formats_like_docvqa_are_read(tmp_path, record, answers):
    save(tmp_path / "in" / "png" / "a.png")
    (tmp_path / "in" / "test_human.json").write_text(json.dumps([record]))
    (tmp_path / "in" / "chart.json").write_text('{"task1": {}, "task2": []}')
    summary, rows, _ = run("docvqa", tmp_path / "in", tmp_path / "out")
    assert rows[0].answers == answers and summary["rows"] == {"test": 1}


@pytest.mark.parametrize("format", ["imagefolder", "parquet"])
def test_datasets_library_reads_docvqa_answers(tmp_path, format):
    from datasets import load_dataset

    save(tmp_path / "in" / "documents" / "xnbl0037_1.png")
    records = [docvqa(), docvqa(answers=["Ann"])]
    (tmp_path / "in" / "train.json").write_text(json.dumps({"data": records}))
    from data_prep.convert import convert

    out = str(tmp_path / "out")
    convert("docvqa", tmp_path / "in", out, format=format, progress=False)
    where = {"path": out} if format == "parquet" else {"path": "imagefolder", "data_dir": out}
    rows = load_dataset(**where, split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["answers"][:] == [["1/8/93", "January 8, 1993"], ["Ann"]]
    assert validate(out, plot=False)["ok"]


@pytest.mark.parametrize("count", [500, pytest.param(2_000, marks=pytest.mark.slow)])
def test_damaged_questions_give_only_rows_and_rejects(tmp_path, count):
    save(tmp_path / "in" / "documents" / "xnbl0037_1.png")
    half = count // 2
    text = json.dumps({"data": [docvqa(), docvqa(answers=["x"])]})
    assert assert_survives("docvqa", json_mutations(text, half), tmp_path, "train.json") > 0
    text = json.dumps([{"imgname": "xnbl0037_1.png", "query": "?", "label": "14"}] * 2)
    assert assert_survives("docvqa", json_mutations(text, half), tmp_path, "train.json") > 0


@pytest.mark.parametrize("format", ["imagefolder", "parquet"])
def test_an_evaluation_takes_the_best_of_several_right_answers(tmp_path, format):
    from data_prep.convert import convert
    from ocrkit import TrainConfig, load_data
    from ocrkit.evaluation.evaluate import records_of
    from ocrkit.evaluation.evaluation import Evaluation, score

    save(tmp_path / "in" / "documents" / "xnbl0037_1.png")
    records = [docvqa(data_split="test"), docvqa(answers=["Ann"], data_split="test")]
    (tmp_path / "in" / "test.json").write_text(json.dumps({"data": records}))
    convert("docvqa", tmp_path / "in", tmp_path / "out", format=format, progress=False)
    config = TrainConfig(dataset=str(tmp_path / "out"), output_dir=str(tmp_path / "run"))
    records = records_of(load_data(config)["test"])
    assert records[0]["answers"] == ["1/8/93", "January 8, 1993"]
    for record, prediction in zip(records, ("January 8, 1993", "Anne")):
        record["prediction"] = prediction
    evaluation = score(records)
    assert evaluation.metrics["exact_match"]["value"] == 0.5
    assert evaluation.metrics["normalized_match"]["value"] == 0.5
    assert evaluation.metrics["anls"]["value"] == pytest.approx((1 + 3 / 4) / 2)
    evaluation.save(tmp_path / "eval")
    again = Evaluation.load(tmp_path / "eval")
    assert again.records[0]["answers"] == records[0]["answers"]
    with pytest.raises(ValueError, match="answers=3 is no list of texts"):
        score([records[0] | {"answers": 3}])
