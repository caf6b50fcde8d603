import io
import json
import tarfile
import unicodedata

import pytest

from tests.helpers.sources_common import draw, encoded, reasons, run, save, texts
from tests.tools.fuzz import assert_survives, json_mutations, mutations


def make_pairs(folder):
    for mark, name in enumerate(("a.png", "page/b.tif", "c.jpg", "d.png", "e.bin.png", "f.png")):
        save(folder / name, mark=9 * mark)
    (folder / "a.gt.txt").write_text("গান ১\n", encoding="utf-8")
    (folder / "a.txt").write_text("what a model read")
    (folder / "page" / "b.gt.txt").write_bytes("한글".encode("utf-16"))
    (folder / "c.txt").write_text("first\nsecond\n")
    (folder / "d.json").write_text('{"total": "5.00"}')
    (folder / "e.gt.txt").write_text("calamari")
    (folder / "lost.gt.txt").write_text("no picture")
    (folder / "README.txt").write_text("a note")


def test_every_picture_goes_with_the_label_of_its_name(tmp_path):
    make_pairs(tmp_path / "in")
    summary, rows, rejects = run("pairs", tmp_path / "in", tmp_path / "out", split="1,0,0")
    told = {row.group: (row.completion[0]["content"], row.task) for row in rows}
    assert told == {
        "a": ("গান ১", "transcription"),
        "page/b": ("한글", "transcription"),
        "c": ("first\nsecond", "transcription"),
        "d": ('{"total": "5.00"}', "extraction"),
        "e": ("calamari", "transcription"),
    }
    assert reasons(rejects) == ["missing annotation", "missing image"]
    names = [path.name for path in (tmp_path / "in").rglob("*")]
    items = [name for name in names if name.endswith((".png", ".tif", ".jpg"))]
    assert summary["found"] == len(items) + 1  # and the label without a picture


def test_webdatasets_tars_are_read_as_folders(tmp_path):
    (tmp_path / "in" / "train").mkdir(parents=True)
    with tarfile.open(tmp_path / "in" / "train" / "000000.tar", "w") as archive:
        for number in range(4):
            record = json.dumps({"text": f"text {number}", "url": "x"}).encode()
            for ending, data in (("png", encoded(draw(mark=9 * number))), ("json", record)):
                member = tarfile.TarInfo(f"{number:06d}.{ending}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    options = {"task": "transcription"}
    summary, rows, _ = run("pairs", tmp_path / "in", tmp_path / "out", **options)
    assert texts(rows) == [f"text {number}" for number in range(4)]
    assert summary["rows"] == {"train": 4}
    # The tar alone states no split.
    tar = tmp_path / "in" / "train" / "000000.tar"
    _, rows, _ = run("pairs", tar, tmp_path / "alone", split="1,0,0")
    assert all(row.task == "extraction" for row in rows) and len(rows) == 4


def test_pair_labels_in_another_folder_and_unicode_form_are_found(tmp_path):
    name = unicodedata.normalize("NFD", "가")
    save(tmp_path / "photos" / f"{name}.PNG")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "가.txt").write_text("x")
    images = str(tmp_path / "photos")
    _, rows, rejects = run("pairs", tmp_path / "labels", tmp_path / "out", images=images)
    assert texts(rows) == ["x"] and not rejects


@pytest.mark.parametrize(
    ("label", "text", "reason"),
    [
        ("a.txt", "0 0.5 0.5 0.25 0.125\n1 0.1 0.1 0.2 0.2\n", "annotation is no text"),
        ("a.json", "{broken", "malformed JSON"),
        ("a.txt", "", "empty text"),
        ("a.txt", "5 apples", None),
        ("a.txt", "12 34", None),
    ],
)
def test_invalid_label_is_a_reject(tmp_path, label, text, reason):
    save(tmp_path / "in" / "a.png")
    save(tmp_path / "in" / "b.png", mark=9)
    (tmp_path / "in" / "b.txt").write_text("good")
    (tmp_path / "in" / label).write_text(text)
    _, rows, rejects = run("pairs", tmp_path / "in", tmp_path / "out")
    assert len(rows) == (1 if reason else 2)
    assert reasons(rejects) == ([reason] if reason else [])


@pytest.mark.parametrize("count", [500, pytest.param(2_000, marks=pytest.mark.slow)])
def test_damaged_labels_give_only_rows_and_rejects(tmp_path, count):
    save(tmp_path / "in" / "a.png")
    half = count // 2
    text = mutations("한글 text, 12.00\nsecond".encode(), half)
    assert assert_survives("pairs", text, tmp_path, "a.gt.txt") > 0
    (tmp_path / "in" / "a.gt.txt").unlink()
    record = '{"text": "x", "total": [1, 2.5, null]}'
    assert assert_survives("pairs", json_mutations(record, count - half), tmp_path, "a.json") > 0


def test_labels_in_a_folder_of_their_own_or_after_the_whole_name_are_found(tmp_path):
    save(tmp_path / "in" / "images" / "a.png")
    save(tmp_path / "in" / "images" / "b.jpg", mark=9)
    save(tmp_path / "in" / "images" / "c.png", mark=18)
    (tmp_path / "in" / "labels").mkdir()
    (tmp_path / "in" / "labels" / "a.txt").write_text("apart")
    (tmp_path / "in" / "images" / "b.jpg.txt").write_text("beside")
    summary, rows, rejects = run("pairs", tmp_path / "in", tmp_path / "out", split="1,0,0")
    assert sorted(texts(rows)) == ["apart", "beside"]
    assert reasons(rejects) == ["missing annotation"] and summary["found"] == 3
