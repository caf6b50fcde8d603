import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers.sources_common import draw, encoded, reasons, run, save, texts
from tests.tools.fuzz import assert_survives, json_mutations


def cord_line(words, category="menu.nm"):
    quads = []
    for text, left, top, row in words:
        x, y = (left, left + 30, left + 30, left), (top, top, top + 12, top + 12)
        quad = {f"x{i + 1}": x[i] for i in range(4)} | {f"y{i + 1}": y[i] for i in range(4)}
        quads.append({"quad": quad, "is_key": 0, "row_id": row, "text": text})
    return {"words": quads, "category": category, "group_id": 3, "sub_group_id": 0}


def write_cord(path, truths):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = {"bytes": encoded(draw((200, 100))), "path": None}
    truths = [truth if isinstance(truth, str) else json.dumps(truth) for truth in truths]
    table = pa.table({"image": [image] * len(truths), "ground_truth": truths})
    pq.write_table(table, path)


CORD = {
    "gt_parse": {"menu": {"nm": "TEH", "price": "5,000"}, "total": {"total_price": "5,000"}},
    "valid_line": [
        cord_line([("TEH", 10, 10, 1), ("MANIS", 45, 10, 1)]),
        cord_line([("5,000", 150, 10, 1), ("Rp", 10, 40, 2)], "menu.price"),
    ],
}


def test_cord(tmp_path):
    many = {"gt_parses": [{"menu": [{"nm": "A"}]}, {"menu": [{"nm": "B"}]}], "valid_line": []}
    write_cord(tmp_path / "in" / "train-00000-of-00001.parquet", [CORD, many])
    bad = [{"valid_line": [{"words": [{"text": "x"}]}], "gt_parse": {}}, "{broken"]
    write_cord(tmp_path / "in" / "test-00000-of-00001.parquet", [CORD, *bad])
    (tmp_path / "in" / "validation-0.parquet").write_bytes(b"PAR1 broken PAR1")
    summary, rows, rejects = run("cord", tmp_path / "in", tmp_path / "fields")
    assert json.loads(texts(rows)[0]) == CORD["gt_parse"] and rows[0].language == "id"
    assert json.loads(texts(rows)[1]) == many["gt_parses"]
    assert summary["rows"] == {"train": 2, "test": 1}
    assert reasons(rejects) == ["empty text", "malformed record", "unreadable parquet"]
    _, rows, rejects = run("cord", tmp_path / "in", tmp_path / "lines", task="lines")
    assert texts(rows)[:3] == ["TEH MANIS", "5,000", "Rp"]
    assert [(row.width, row.height) for row in rows[:3]] == [(65, 12), (30, 12), (30, 12)]
    assert reasons(rejects) == [*("malformed annotation", "malformed record", "unreadable parquet")]


@pytest.mark.parametrize("count", [100, pytest.param(2_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("task", ["fields", "lines"])
def test_mutated_cord_gives_only_rows_and_rejects(tmp_path, task, count):
    picture = save(tmp_path / "a.png", (200, 100)).read_bytes()

    def tables():
        for damaged in json_mutations(json.dumps(CORD), count):
            truth = damaged.decode("utf-8", "replace")
            row = {"image": {"bytes": picture, "path": "a.png"}, "ground_truth": truth}
            file = io.BytesIO()
            pq.write_table(pa.Table.from_pylist([row]), file)
            yield file.getvalue()

    assert assert_survives("cord", tables(), tmp_path, "train-00000-of-00001.parquet", task=task)
