import json

import lmdb
import pytest

from tests.helpers.sources_common import draw, encoded, pictures, real_data, reasons, run, texts
from tests.tools.fuzz import assert_survives, mutations


def write(path, entries: dict[str, bytes], map_size=2**24):
    """A database written by the library itself."""
    path.mkdir(parents=True)
    with lmdb.open(str(path), map_size=map_size) as base, base.begin(write=True) as transaction:
        for key, value in entries.items():
            transaction.put(key.encode(), value)
    return path


def pairs(count: int, large: bool = False) -> dict[str, bytes]:
    entries = {"num-samples": str(count).encode()}
    for index in range(1, count + 1):
        size = (300, 200) if large and index % 2 else (12, 8)
        kind = "BMP" if large else "PNG"  # large ones need pages of their own
        entries[f"image-{index:09d}"] = encoded(draw(size, mark=index), kind)
        entries[f"label-{index:09d}"] = f"낱말 {index}".encode()
    return entries


def test_all_entries_of_a_deep_tree_are_read(tmp_path):
    source = write(tmp_path / "in", pairs(1500), 2**26)
    _, rows, rejects = run("lmdb", source, tmp_path / "out", split="1,0,0", language="ko")
    assert texts(rows) == [f"낱말 {index}" for index in range(1, 1501)] and not rejects
    assert rows[700].id == "lmdb-000000701"


def test_lmdb_overflow_pages_and_later_transactions_are_read(tmp_path):
    source = write(tmp_path / "in", pairs(20, large=True))
    with lmdb.open(str(source), map_size=2**24) as base, base.begin(write=True) as transaction:
        transaction.put(b"label-000000003", "새 낱말".encode())
        transaction.delete(b"image-000000004")
        transaction.delete(b"label-000000005")
        transaction.put(b"label-000000006", b"")
        transaction.put(b"image-000000007", b"no picture")
    out = tmp_path / "out"
    _, rows, rejects = run("lmdb", source, out, split="1,0,0")
    assert texts(rows)[2] == "새 낱말" and len(rows) == 16
    assert reasons(rejects) == [
        *("missing image", "missing annotation", "empty text", "unreadable image")
    ]
    assert pictures(out, rows[0])[0].convert("RGB").tobytes() == draw((300, 200), mark=1).tobytes()


def test_labels_as_json_with_pictures_beside(tmp_path):
    (tmp_path / "in" / "imgs").mkdir(parents=True)
    (tmp_path / "in" / "imgs" / "a.png").write_bytes(encoded(draw()))
    labels = [{"filename": "a.png", "text": "one"}, {"filename": "b.png", "text": "two"}]
    entries = {f"label-{i:09d}": json.dumps(label).encode() for i, label in enumerate(labels, 1)}
    entries["label-000000003"] = b"{braces}"
    write(tmp_path / "in" / "label.lmdb", entries)
    _, rows, rejects = run("lmdb", tmp_path / "in", tmp_path / "out", split="1,0,0")
    assert texts(rows) == ["one"] and json.loads(rows[0].meta) == {"file": "a.png"}
    assert reasons(rejects) == ["missing image", "missing image"]


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutated_databases_give_only_rows_and_rejects(tmp_path, count):
    data = (write(tmp_path / "source", pairs(40)) / "data.mdb").read_bytes()
    assert_survives("lmdb", mutations(data, count), tmp_path, "data.mdb")


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["imgs.lmdb", "label.lmdb"])
def test_the_real_databases_of_both_kinds(tmp_path, name):
    source = real_data("lmdb_sample_english")
    expected = json.loads((source / "labels.json").read_text())["data_list"]
    options = {"split": "1,0,0"}
    if name == "imgs.lmdb":
        _, rows, _ = run("lmdb", source / name, tmp_path / "out", **options)
    else:  # its pictures are files of the folder above
        _, rows, _ = run("lmdb", source, tmp_path / "out", **options)
        rows = [row for row in rows if "label.lmdb" in row.id]
    assert texts(rows) == [label["instances"][0]["text"] for label in expected]
