import json

import pytest

from data_prep.convert import convert
from data_prep.dataset import parquet
from data_prep.dataset.schema import UsageError
from tests.helpers.sources_common import draw, run, save, snapshot


def make_table(folder, count=12):
    lines = []
    for index in range(count):
        save(folder / f"{index}.png", mark=index)
        lines.append(json.dumps({"image": f"{index}.png", "text": f"줄 {index}"}))
    (folder / "t.jsonl").write_text("\n".join(lines))
    return folder / "t.jsonl"


def test_datasets_reads_the_parquet_as_it_reads_the_folder(tmp_path):
    from datasets import load_dataset

    table = make_table(tmp_path / "in")
    options = {"split": "0.5,0.25,0.25", "progress": False}
    summary = convert("table", table, tmp_path / "packed", format="parquet", **options)
    convert("table", table, tmp_path / "folder", **options)
    assert sorted(path.name for path in (tmp_path / "packed").iterdir()) == [
        *("data", "dataset.json", "rejects.jsonl")
    ]
    cache = str(tmp_path / "cache")
    packed = load_dataset(str(tmp_path / "packed"), cache_dir=cache)
    folder = load_dataset("imagefolder", data_dir=str(tmp_path / "folder"), cache_dir=cache)
    assert {split: len(rows) for split, rows in packed.items()} == summary["rows"]
    for split in folder:
        assert packed[split].features["images"] == folder[split].features["images"]
        assert set(packed[split].column_names) == set(folder[split].column_names)
        for ours, theirs in zip(packed[split], folder[split]):
            (image,), (other,) = ours.pop("images"), theirs.pop("images")
            assert image.tobytes() == other.tobytes() and ours == theirs
    (streamed,) = load_dataset(str(tmp_path / "packed"), split="test", streaming=True).take(1)
    index = int(streamed["completion"][0]["content"].split()[1])
    assert streamed["images"][0].convert("RGB").tobytes() == draw(mark=index).tobytes()


def test_parquet_is_read_without_progress_bars_of_libraries(tmp_path, capsys):
    import datasets

    from ocrkit import TrainConfig, load_data
    from ocrkit.places import sample

    hidden = datasets.are_progress_bars_disabled()
    config = TrainConfig(dataset=str(sample("bangla")), output_dir=str(tmp_path))
    config.max_train_samples = config.max_eval_samples = 3
    assert {split: len(rows) for split, rows in load_data(config).items()}["train"] == 3
    assert capsys.readouterr().err == ""
    assert datasets.are_progress_bars_disabled() == hidden


def test_shards_close_by_size_and_are_the_same_every_time(tmp_path, monkeypatch):
    table = make_table(tmp_path / "in", 30)
    monkeypatch.setattr(parquet, "SHARD_BYTES", 1000)
    monkeypatch.setattr(parquet, "GROUP_ROWS", 4)
    options = {"split": "1,0,0", "progress": False, "format": "parquet"}
    convert("table", table, tmp_path / "a", **options)
    convert("table", table, tmp_path / "b", **options)
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")
    names = sorted(path.name for path in (tmp_path / "a" / "data").iterdir())
    assert len(names) > 2
    assert names[0] == f"train-00000-of-{len(names):05d}.parquet"
    _, rows, _ = run("trl", tmp_path / "a" / "data", tmp_path / "back", task="transcription")
    assert len(rows) == 30


def test_parquet_with_messages_layout_is_refused(tmp_path):
    table = make_table(tmp_path / "in", 1)
    with pytest.raises(UsageError, match="prompt_completion only"):
        convert("table", table, tmp_path / "out", format="parquet", layout="messages")
