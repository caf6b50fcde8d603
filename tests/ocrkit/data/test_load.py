import json
import pickle
import shutil

import pytest
from datasets import DatasetDict
from PIL import Image

from data_prep.dataset.schema import DataError
from ocrkit.data.load import load_data
from ocrkit.data.read_rows import usable_row
from ocrkit.data.rows import picture_hashes, text_of
from ocrkit.run_folder import skipped_counts


@pytest.fixture
def copied(thermal, tmp_path, config):
    """A private copy of the dataset, and its training rows."""
    folder = tmp_path / "copy"
    shutil.copytree(thermal, folder)
    config.dataset = str(folder)
    path = folder / "train" / "metadata.jsonl"
    return path, [json.loads(line) for line in path.read_text().splitlines()]


def _write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_splits_and_rows_are_read_as_written(config, thermal):
    data = load_data(config)
    counts = json.loads((thermal / "dataset.json").read_text())["rows"]
    assert {split: len(rows) for split, rows in data.items()} == counts
    row = data["train"][0]
    assert row["images"][0].size == (row["width"], row["height"])
    assert row["prompt"][0]["content"] == "Transcribe the text in the image."
    assert skipped_counts(config.output_dir) == {}


def test_groups_never_straddle_splits(config):
    groups = [set(rows["group"]) for rows in load_data(config).values()]
    assert sum(map(len, groups)) == len(set.union(*groups))


def test_bad_rows_are_counted_and_other_rows_kept(config, copied, capsys):
    path, rows = copied
    pictures = path.parent
    (pictures / rows[0]["images_file_names"][0]).unlink()
    (pictures / rows[1]["images_file_names"][0]).write_bytes(b"no picture")
    rows[2]["completion"][0]["content"] = "  "
    del rows[3]["prompt"]
    rows[4]["images_file_names"] = []
    _write(path, rows)
    with path.open("a") as file:
        file.write('{"id": "cut o\n[1, 2]\n')
    data = load_data(config)
    assert data["train"]["id"] == [row["id"] for row in rows[5:]]
    assert skipped_counts(config.output_dir) == {
        "missing picture": 1,
        "unreadable picture": 1,
        "empty text": 1,
        "no prompt": 1,
        "no picture": 1,
        "broken line": 1,
        "bad row": 1,
    }
    assert "7 rows left out" in capsys.readouterr().out
    listed = (path.parents[2] / "run" / "skipped.jsonl").read_text().splitlines()
    assert json.loads(listed[0])["where"] == f"{path}:1"


def _without(row, name):
    return {key: value for key, value in row.items() if key != name}


@pytest.mark.parametrize(
    ("damage", "reason", "detail"),
    [
        (lambda row: [1, 2], "bad row", "a row is a JSON object, not [1, 2]"),
        (lambda row: _without(row, "id"), "no id", "None for an id, which is no text"),
        (lambda row: {**row, "id": ["a"]}, "no id", "['a'] for an id"),
        (lambda row: {**row, "meta": {"a": 1}}, "bad row", "is {'a': 1}, which is no text"),
        (lambda row: {**row, "task": []}, "bad row", "is [], which is no text"),
        (lambda row: {**row, "prompt": ["read"]}, "bad prompt", "than {role, content} messages"),
        (lambda row: {**row, "completion": [{"role": "assistant"}]}, "bad completion", "messages"),
        (
            lambda row: {**row, "completion": [{"role": "assistant", "content": [{"text": 3}]}]},
            "bad completion",
            "messages under completion",
        ),
        (lambda row: {**row, "images_file_names": "abc"}, "bad picture", "has 'abc' for images_"),
        (lambda row: {**row, "images_file_names": [3]}, "bad picture", "which is no list of"),
        (lambda row: _without(row, "images_file_names"), "no picture", "names no picture"),
        (lambda row: {**_without(row, "images_file_names"), "images": [3]}, "bad picture", "under"),
        (lambda row: {**row, "group": "\ud800"}, "text is not UTF-8", "bytes that are no text"),
    ],
)
def test_a_damaged_row_is_reported_in_a_sentence(thermal, damage, reason, detail):
    path = thermal / "test" / "metadata.jsonl"
    line = json.dumps(damage(json.loads(path.read_text().splitlines()[0])))
    row, problem = usable_row(path, 1, line)
    assert row is None and problem["reason"] == reason and detail in problem["detail"]


def test_json_that_is_nested_too_deeply_is_a_broken_line(thermal):
    path = thermal / "test" / "metadata.jsonl"
    assert usable_row(path, 1, "[" * 200_000)[1]["reason"] == "broken line"


def test_rows_with_invalid_utf8_or_duplicate_ids_are_skipped(config, copied):
    path, rows = copied
    rows[0]["completion"][0]["content"] = "한글"
    rows[1]["completion"][0]["content"] = "\ud800"
    rows[3]["id"] = rows[2]["id"]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows[:1]]
    lines += [json.dumps(row) for row in rows[1:]]
    path.write_bytes(b"\n".join([lines[0].encode("cp949"), *map(str.encode, lines[1:])]))
    data = load_data(config)
    assert data["train"]["id"] == [row["id"] for row in (rows[2], *rows[4:])]
    assert skipped_counts(config.output_dir) == {"text is not UTF-8": 2, "duplicate id": 1}


def test_a_recipes_prompt_replaces_that_of_its_task_alone(config, copied):
    path, rows = copied
    question = [{"role": "user", "content": "What is the total?"}]
    for row in rows[:3]:
        row |= {"task": "vqa", "prompt": question}
    _write(path, rows)
    config.prompts = {"transcription": "OCR:"}
    asked = list(load_data(config)["train"]["prompt"])
    assert asked[:3] == [question] * 3
    assert asked[3:] == [[{"role": "user", "content": "OCR:"}]] * (len(rows) - 3)


def test_max_samples_limit_every_split(config):
    config.max_train_samples, config.max_eval_samples = 5, 3
    data = load_data(config)
    assert [len(data[split]) for split in ("train", "validation", "test")] == [5, 3, 3]


def test_folder_without_a_dataset_is_refused(config, tmp_path):
    config.dataset = str(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no folder"):
        load_data(config)
    config.dataset = str(tmp_path)
    with pytest.raises(DataError, match="holds none of train"):
        load_data(config)


def test_a_dataset_without_a_usable_row_is_refused(config, copied):
    path, rows = copied
    for other in ("validation", "test"):
        shutil.rmtree(path.parents[1] / other)
    _write(path, [row | {"images_file_names": ["gone.png"]} for row in rows])
    with pytest.raises(DataError, match="no usable row"):
        load_data(config)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_split_that_is_missing_is_reported(config, copied, streaming):
    shutil.rmtree(copied[0].parents[1] / "test")
    config.streaming, config.max_steps = streaming, 4
    data = load_data(config)
    assert isinstance(data, DatasetDict) and set(data) == {"train", "validation"}
    with pytest.raises(DataError, match=r"no test split; it has train, validation. Deal it anew"):
        data["test"]
    assert data.get("test") is None and "test" not in data


def test_splits_survive_a_pickle_and_a_map(config):
    data = load_data(config)
    assert pickle.loads(pickle.dumps(data))["test"]["id"] == data["test"]["id"]
    assert set(data.map(lambda row: row)) == set(data)


def test_text_of_reads_parts_and_strings():
    assert text_of([{"role": "assistant", "content": "a b"}]) == "a b"
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": None}]
    assert text_of([{"role": "assistant", "content": parts}]) == "a"


def test_picture_hash_covers_the_stored_bytes(tmp_path):
    path, other = tmp_path / "a.png", tmp_path / "b.png"
    Image.new("L", (8, 8)).save(path)
    Image.new("L", (8, 8), 1).save(other)
    stored = {"path": "moved.png", "bytes": path.read_bytes()}
    kinds = [str(path), stored, {"path": str(path), "bytes": None}, str(other)]
    (hashes,) = picture_hashes([{"images": kinds}])
    assert hashes[0] == hashes[1] == hashes[2] != hashes[3]
    drawn = [[Image.new("L", (8, 8), shade)] for shade in (0, 0, 1)]
    drawn += [[Image.new("L", (4, 16))], [Image.new("P", (8, 8))], []]
    hashes = picture_hashes([{"images": images} for images in drawn])
    assert hashes[0] == hashes[1] and hashes[5] == []
    assert len({tuple(row) for row in hashes}) == 5
    # A file that cannot be read is not this function's to refuse.
    assert len(picture_hashes([{"images": [str(tmp_path / "none.png")]}])[0]) == 1
