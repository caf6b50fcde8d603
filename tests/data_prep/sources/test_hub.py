import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.dataset.schema import DataError
from tests.helpers.sources_common import (
    draw,
    encoded,
    pictures,
    reasons,
    run,
    save,
    texts,
)


def test_hub_reads_local_parquet(tmp_path):
    images = [{"bytes": encoded(draw(mark=i)), "path": None} for i in range(3)]
    images[2] = {"bytes": None, "path": "gone.png"}
    for split in ("train", "test"):
        table = pa.table({"img": images, "label": ["가", "나", "다"], "who": [1, 1, 2]})
        (tmp_path / "in" / "data").mkdir(parents=True, exist_ok=True)
        pq.write_table(table, tmp_path / "in" / "data" / f"{split}-00000-of-00001.parquet")
    options = {"image_column": "img", "text_column": "label", "group_column": "who"}
    summary, rows, rejects = run("hub", tmp_path / "in", tmp_path / "out", language="ko", **options)
    assert texts(rows) == ["가", "나"] * 2 and summary["rows"] == {"train": 2, "test": 2}
    assert {row.group for row in rows} == {"1"} and reasons(rejects) == ["missing image"] * 2
    with pytest.raises(DataError, match="has no column 'image'; its columns are img, label, who"):
        run("hub", tmp_path / "in", tmp_path / "other")


def test_hub_streams_what_datasets_can_load(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for split in ("train", "validation"):
        save(tmp_path / "in" / split / "a.png", mark=len(split))
        line = json.dumps({"file_name": "a.png", "text": f"text of {split}"})
        (tmp_path / "in" / split / "metadata.jsonl").write_text(line)
    out = tmp_path / "out"
    summary, rows, _ = run("hub", tmp_path / "in", out)
    assert texts(rows) == ["text of train", "text of validation"]
    assert summary["rows"] == {"train": 1, "validation": 1}
    assert pictures(out, rows[1])[0].tobytes() == draw(mark=10).tobytes()


def test_a_dataset_that_cannot_be_loaded_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="cannot be loaded as a dataset"):
        run("hub", tmp_path / "empty", tmp_path / "out")
