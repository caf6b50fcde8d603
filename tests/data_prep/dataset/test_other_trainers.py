"""Datasets for other trainers, and the way back: what is written is read again as it was."""

import json

import pytest

from data_prep.convert import convert, main
from data_prep.dataset.schema import DataError
from data_prep.validate import validate
from ocrkit import TrainConfig, load_data
from tests.helpers.sources_common import run, save, texts


@pytest.fixture
def table(tmp_path):
    """Lines of two scripts, some of more than one line."""
    lines = [("গান ১", 1), ("two\nlines", 2), ("[plain", 3), ("{brace", 4), ("last", 5)]
    for _, mark in lines:
        save(tmp_path / "in" / f"{mark}.png", mark=9 * mark)
    records = [json.dumps({"image": f"{mark}.png", "text": text}) for text, mark in lines]
    (tmp_path / "in" / "t.jsonl").write_text("\n".join(records))
    return tmp_path / "in" / "t.jsonl"


def told(rows):
    return sorted((row.completion[0]["content"], row.task) for row in rows)


def pixels(folder):
    names = [path for path in folder.rglob("*") if path.suffix in (".png", ".jpg")]
    return sorted(path.read_bytes() for path in names)


@pytest.mark.parametrize(("format", "source"), [("pairs", "pairs"), ("donut", "table")])
def test_text_datasets_survive_a_round_trip_through_other_formats(tmp_path, table, format, source):
    split = {"split": "0.5,0.25,0.25"}
    _, rows, _ = run("table", table, tmp_path / "kept", **split)
    made = convert("table", table, tmp_path / "made", format=format, progress=False, **split)
    options = {"text_column": "ground_truth"} if format == "donut" else {}
    summary, again, _ = run(source, tmp_path / "made", tmp_path / "again", **options)
    assert told(again) == told(rows) and summary["rows"] == made["rows"]
    assert pixels(tmp_path / "made") == pixels(tmp_path / "kept") == pixels(tmp_path / "again")


@pytest.mark.parametrize(("format", "source"), [("pairs", "pairs"), ("donut", "table")])
def test_extraction_datasets_survive_a_round_trip_through_other_formats(tmp_path, format, source):
    records = [{"image": "a.png", "text": {"total": "5.00", "lines": [1, {"x": None}]}}]
    save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "t.jsonl").write_text(json.dumps(records[0]))
    made = {"task": "extraction", "format": format, "progress": False}
    convert("table", tmp_path / "in" / "t.jsonl", tmp_path / "made", **made)
    options = {"text_column": "ground_truth"} if format == "donut" else {}
    _, rows, _ = run(source, tmp_path / "made", tmp_path / "again", task="extraction", **options)
    assert json.loads(texts(rows)[0]) == records[0]["text"]


def test_donut_format_has_donuts_ground_truth_fields(tmp_path, table):
    convert("table", table, tmp_path / "made", format="donut", split="1,0,0", progress=False)
    from datasets import load_dataset

    where = {"data_dir": str(tmp_path / "made"), "cache_dir": str(tmp_path / "cache")}
    rows = load_dataset("imagefolder", split="train", **where)
    parsed = [json.loads(row["ground_truth"]) for row in rows]
    assert sorted(truth["gt_parse"]["text_sequence"] for truth in parsed)[0] == "[plain"
    assert all(row["image"].size == (60, 20) for row in rows)


def test_questions_are_written_for_donut_and_refused_as_pairs(tmp_path):
    save(tmp_path / "in" / "a.png")
    record = {"question": "?", "image": "a.png", "answers": ["x", "y"]}
    (tmp_path / "in" / "train.json").write_text(json.dumps({"data": [record]}))
    convert("docvqa", tmp_path / "in", tmp_path / "made", format="donut", progress=False)
    line = json.loads((tmp_path / "made" / "train" / "metadata.jsonl").read_text())
    answers = [{"question": "?", "answer": "x"}, {"question": "?", "answer": "y"}]
    assert json.loads(line["ground_truth"]) == {"gt_parses": answers}
    with pytest.raises(
        DataError, match="--format pairs cannot hold this dataset: 1 rows are of the task vqa"
    ):
        convert("docvqa", tmp_path / "in", tmp_path / "pairs", format="pairs", progress=False)
    assert not (tmp_path / "pairs").exists()


def test_validate_names_what_it_does_not_check(tmp_path, table):
    convert("table", table, tmp_path / "made", format="donut", split="1,0,0", progress=False)
    with pytest.raises(DataError, match="made holds what --format donut wrote"):
        validate(tmp_path / "made")


def test_messages_are_found_by_llama_factory_and_opened_by_the_kit(tmp_path, table, capsys):
    out = tmp_path / "made"
    command = ["table", str(table), "--layout", "messages", "--split", "0.6,0.2,0.2"]
    assert main([*command, "--workers", "1", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"ROOT_IMAGE_DIR={out} swift sft --dataset {out}/train.jsonl" in printed
    info = json.loads((out / "dataset_info.json").read_text())
    assert set(info) == {"made_train", "made_validation", "made_test"}
    for entry in info.values():
        rows = [json.loads(line) for line in (out / entry["file_name"]).read_text().splitlines()]
        for row in rows:
            tags = entry["tags"]
            messages = row[entry["columns"]["messages"]]
            roles = [message[tags["role_tag"]] for message in messages]
            assert roles == [tags["user_tag"], tags["assistant_tag"]]
            marks = sum(message[tags["content_tag"]].count("<image>") for message in messages)
            assert marks == len(row[entry["columns"]["images"]])
            assert all((out / name).is_file() for name in row[entry["columns"]["images"]])
    assert validate(out, plot=False)["ok"]
    convert("table", table, tmp_path / "kept", split="0.6,0.2,0.2", progress=False)
    loaded = [
        load_data(TrainConfig(dataset=str(folder), output_dir=str(tmp_path / f"run-{folder.name}")))
        for folder in (out, tmp_path / "kept")
    ]
    for split in ("train", "validation", "test"):
        kit_rows, other = (data[split].remove_columns("images").to_list() for data in loaded)
        assert kit_rows == other and kit_rows


@pytest.mark.parametrize(
    ("command", "format"),
    [
        (["lines", "en", "--count", "12"], "pairs"),
        (["receipts", "--count", "3"], "parquet"),
        (["toys", "--count", "12"], "donut"),
        (["toys", "--count", "12", "--task", "questions"], "parquet"),
    ],
)
def test_synthesize_writes_the_layouts_and_formats_of_convert(tmp_path, command, format, capsys):
    from data_prep.synthesize import main as synthesize

    assert synthesize([*command, "--layout", "messages", "--out", str(tmp_path / "chat")]) == 0
    assert (tmp_path / "chat" / "dataset_info.json").is_file()
    assert validate(tmp_path / "chat", plot=False)["ok"]
    assert synthesize([*command, "--format", format, "--out", str(tmp_path / "made")]) == 0
    made = json.loads((tmp_path / "made" / "dataset.json").read_text())
    assert made["options"]["format"] == format and sum(made["rows"].values()) == made["found"]
    if format == "parquet":
        assert validate(tmp_path / "made", plot=False)["ok"]
    both = [*command, "--format", format, "--layout", "messages"]
    capsys.readouterr()
    assert synthesize([*both, "--out", str(tmp_path / "both")]) == 2
    assert "--layout prompt_completion only" in capsys.readouterr().err
