import json
import zipfile

import pytest

from data_prep.sources.sroie import PROMPT
from tests.helpers.sources_common import (
    draw,
    encoded,
    pictures,
    real_data,
    reasons,
    run,
    save,
    texts,
)
from tests.tools.fuzz import assert_survives, json_mutations


def make_receipt(root, name, boxes, key=None, folders=("img", "box", "key")):
    """A receipt in the layout of the corrected release: one folder a kind."""
    save(root / folders[0] / f"{name}.jpg", (200, 100))
    (root / folders[1]).mkdir(exist_ok=True)
    (root / folders[1] / f"{name}.csv").write_bytes(boxes)
    if key is not None:
        (root / folders[2]).mkdir(exist_ok=True)
        (root / folders[2] / f"{name}.json").write_text(key)


BOX = b"10,20,110,20,110,40,10,40,"


def test_only_the_first_eight_commas_separate(tmp_path):
    make_receipt(tmp_path / "in", "001", BOX + b"NO. 5, JALAN 3,\r\n" + BOX + b'"A" 1,000.00\r\n')
    _, rows, rejects = run("sroie", tmp_path / "in", tmp_path / "out")
    assert texts(rows) == ["NO. 5, JALAN 3,", '"A" 1,000.00'] and not rejects
    assert [row.id for row in rows] == ["sroie-001-0001", "sroie-001-0002"]
    assert {(row.width, row.height, row.group, row.language) for row in rows} == {
        (100, 20, "001", "en")
    }
    assert json.loads(rows[0].meta) == {"box": [10, 20, 110, 40]}


def test_broken_sroie_line_is_one_reject(tmp_path):
    lines = [
        BOX + b"GOOD",
        b"10,20,110,20,TOO FEW",
        b"a,20,110,20,110,40,10,40,NO NUMBER",
        b"nan,20,110,20,110,40,10,40,NAN",
        b"500,20,600,20,600,40,500,40,OUTSIDE",
        BOX,
        BOX + b"caf\xe9",
        b"",
        BOX + b"ALSO GOOD",
    ]
    make_receipt(tmp_path / "in", "001", b"\n".join(lines))
    summary, rows, rejects = run("sroie", tmp_path / "in", tmp_path / "out")
    assert texts(rows) == ["GOOD", "ALSO GOOD"] and summary["found"] == 8
    assert reasons(rejects) == [
        *["malformed line"] * 3,
        *("box outside picture", "empty text", "text is not UTF-8"),
    ]
    assert [reject["where"] for reject in rejects] == [f"box/001.csv:{n}" for n in range(2, 8)]


def test_fields_are_the_key_file_with_lacking_ones_empty(tmp_path):
    keys = {
        "001": '{"total": "9.00", "company": "A & B, \\"C\\"", "date": "1/2/2018", "address": ""}',
        "002": '{"company": "only"}',
        "003": "{}",
        "004": '{"company": ',
        "005": "[]",
    }
    for name, key in keys.items():
        make_receipt(tmp_path / "in", name, BOX + b"x", key)
    save(tmp_path / "in" / "img" / "006.jpg")
    out = tmp_path / "out"
    _, rows, rejects = run("sroie", tmp_path / "in", out, task="fields", split="1,0,0")
    assert [json.loads(text) for text in texts(rows)] == [
        {"company": 'A & B, "C"', "date": "1/2/2018", "address": "", "total": "9.00"},
        {"company": "only", "date": "", "address": "", "total": ""},
    ]
    assert list(json.loads(texts(rows)[0])) == ["company", "date", "address", "total"]
    assert json.loads(rows[0].meta) == {"missing": ["address"]}
    assert rows[0].task == "extraction" and rows[0].prompt[0]["content"] == PROMPT
    assert reasons(rejects) == [
        *("empty text", "malformed JSON", "malformed JSON", "missing annotation")
    ]


def test_the_competition_zips_hold_pictures_and_labels_together(tmp_path):
    with zipfile.ZipFile(tmp_path / "0325updated.task1train(626p).zip", "w") as archive:
        archive.writestr("0325updated.task1train(626p)/X1.jpg", encoded(draw((200, 99)), "JPEG"))
        archive.writestr("0325updated.task1train(626p)/X1.txt", BOX + b"TRAINED\r\n")
        archive.writestr("0325updated.task1train(626p)/readme.txt", "about this data")
        archive.writestr("0325updated.task1train(626p)/X2.txt", BOX + b"NO PICTURE\r\n")
    out = tmp_path / "out"
    archive = tmp_path / "0325updated.task1train(626p).zip"
    summary, rows, rejects = run("sroie", archive, out)
    assert texts(rows) == ["TRAINED"] and summary["rows"] == {"train": 1}
    assert pictures(out, rows[0])[0].size == (100, 20)
    assert reasons(rejects) == ["missing image"]


def test_official_parts_are_read_from_their_folders(tmp_path):
    for part in ("train", "test"):
        make_receipt(tmp_path / "in" / part, "001", BOX + part.encode(), folders=("img", "box", ""))
    summary, rows, _ = run("sroie", tmp_path / "in", tmp_path / "out")
    assert summary["rows"] == {"train": 1, "test": 1} and texts(rows) == ["train", "test"]
    assert len({row.group for row in rows}) == 2


@pytest.mark.real_data
def test_real_sroie_boxes_are_all_rows_or_rejects(tmp_path):
    source = real_data("finance_sroie")
    summary, rows, _ = run("sroie", source, tmp_path / "out")
    written = sum(
        1
        for file in (source / "box").iterdir()
        for line in file.read_bytes().split(b"\n")
        if line.strip()
    )
    assert summary["found"] == written == 1419
    assert len({row.group for row in rows}) == 27 and set(summary["rows"]) == {
        *("train", "validation", "test")
    }
    by_split = [
        {
            row.group
            for row in rows
            if (tmp_path / "out" / split / row.images_file_names[0]).exists()
        }
        for split in summary["rows"]
    ]
    assert sum(map(len, by_split)) == 27


@pytest.mark.real_data
def test_real_sroie_receipts_give_their_fields(tmp_path):
    source = real_data("finance_sroie")
    summary, rows, _ = run("sroie", source, tmp_path / "out", task="fields")
    assert summary["found"] == len(rows) == 27
    for row in rows:
        key = json.loads((source / "key" / f"{row.group}.json").read_text())
        answer = json.loads(row.completion[0]["content"])
        assert {name: value for name, value in answer.items() if value} == {
            name: value for name, value in key.items() if value
        }


@pytest.mark.parametrize("count", [100, pytest.param(2_000, marks=pytest.mark.slow)])
def test_mutated_sroie_gives_only_rows_and_rejects(tmp_path, count):
    save(tmp_path / "in" / "img" / "000.jpg", (100, 50))
    fields = {"company": "ACME", "date": "01/02/2018", "address": "1, Lane", "total": "9.00"}
    damaged = json_mutations(json.dumps(fields), count)
    assert assert_survives("sroie", damaged, tmp_path, "key/000.json", task="fields")
