"""Damaged JSON in sources whose other tests do not damage it: rows and rejects, nothing else."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data_prep.sources.test_sources_documents import CORD
from tests.data_prep.sources.test_sources_wildreceipt import RECEIPT, make
from tests.helpers.sources_common import draw, save
from tests.tools.fuzz import assert_survives, json_mutations

COUNTS = [100, pytest.param(2_000, marks=pytest.mark.slow)]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("task", ["fields", "lines"])
def test_wildreceipt(tmp_path, task, count):
    damaged = json_mutations(make(tmp_path / "in", [RECEIPT]).read_text(), count)
    assert assert_survives("wildreceipt", damaged, tmp_path, "train.txt", task=task)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("task", ["fields", "lines"])
def test_cord(tmp_path, task, count):
    picture = save(tmp_path / "a.png", (200, 100)).read_bytes()

    def tables():
        for damaged in json_mutations(json.dumps(CORD), count):
            truth = damaged.decode("utf-8", "replace")
            row = {"image": {"bytes": picture, "path": "a.png"}, "ground_truth": truth}
            file = io.BytesIO()
            pq.write_table(pa.Table.from_pylist([row]), file)
            yield file.getvalue()

    assert assert_survives("cord", tables(), tmp_path, "train-00000-of-00001.parquet", task=task)


@pytest.mark.parametrize("count", COUNTS)
def test_paddle(tmp_path, count):
    save(tmp_path / "in" / "img" / "page.png", (100, 50))
    points = [[1, 2], [30, 2], [30, 12], [1, 12]]
    boxes = [{"transcription": "ab", "points": points}, {"transcription": "###", "points": points}]
    damaged = (b"img/page.png\t" + data for data in json_mutations(json.dumps(boxes), count))
    assert assert_survives("paddle", damaged, tmp_path, "rec_gt_train.txt")


@pytest.mark.parametrize("count", COUNTS)
def test_sroie(tmp_path, count):
    save(tmp_path / "in" / "img" / "000.jpg", (100, 50))
    fields = {"company": "ACME", "date": "01/02/2018", "address": "1, Lane", "total": "9.00"}
    damaged = json_mutations(json.dumps(fields), count)
    assert assert_survives("sroie", damaged, tmp_path, "key/000.json", task="fields")


@pytest.mark.parametrize("count", COUNTS)
def test_table(tmp_path, count):
    save(tmp_path / "in" / "a.png")
    damaged = json_mutations(json.dumps({"image": "a.png", "text": "nine", "n": 9}), count)
    told = {"image_column": "image", "text_column": "text"}
    assert assert_survives("table", damaged, tmp_path, "t.jsonl", **told)


@pytest.mark.parametrize("count", COUNTS)
def test_pdf(tmp_path, count):
    (tmp_path / "in").mkdir()
    draw((60, 40)).save(tmp_path / "in" / "a.pdf")
    damaged = json_mutations(json.dumps([{"total": "9.00", "items": [{"n": 1}]}]), count)
    assert assert_survives("pdf", damaged, tmp_path, "a.json", task="fields")
