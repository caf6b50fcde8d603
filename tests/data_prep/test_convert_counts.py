"""Rows and rejects of every text format add up to what a plain count of its files finds."""

import json
import re

import lmdb
import numpy as np
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.convert import source_names
from tests.data_prep.sources import test_bengali_ai as bengali_ai
from tests.data_prep.sources import test_hwdb_dgr as dgr
from tests.data_prep.sources import test_hwdb_dgrl as dgrl
from tests.data_prep.sources import test_hwdb_gnt as gnt
from tests.data_prep.sources import test_lmdb as lmdb_test
from tests.helpers.sources_common import draw, encoded, run, save

BOX = [[5, 2], [40, 2], [40, 18], [5, 18]]
FLAT = [5, 2, 40, 2, 40, 18, 5, 18]
WORDS = [
    ("one", BOX),
    ("###", BOX),
    ("xxx", "no box"),
    ("", BOX),
    (None, BOX),
    ("outside", [[900, 1]] * 4),
]


def dump(value):
    return json.dumps(value, ensure_ascii=False)


def lines(*records):
    return "\n".join(record if isinstance(record, str) else dump(record) for record in records)


def marked(text, name="a.png"):
    """A picture's words as PaddleOCR lists them."""
    boxes = [{"transcription": word, "points": box} for word, box in text]
    return f"{name}\t{dump(boxes)}"


def chat(*answers, **more):
    messages = []
    for answer in answers:
        messages += [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "images": ["a.png"]} | more


def llava(*answers):
    turns = []
    for answer in answers:
        turns += [{"from": "human", "value": "?"}, {"from": "gpt", "value": answer}]
    return {"image": "a.png", "conversations": turns}


def matches(pattern):
    """Counts a pattern over all label files."""
    return lambda folder: sum(
        len(re.findall(pattern, path.read_text(encoding="utf-8")))
        for path in folder.rglob("*")
        if path.suffix in (".txt", ".json", ".jsonl", ".csv")
    )


def lines_of(*names, header=0):
    """Counts the lines of files that are not blank."""
    return lambda folder: sum(
        sum(1 for line in (folder / name).read_text(encoding="utf-8").split("\n") if line.strip())
        - header
        for name in names
    )


def aihub(image, key, box="bbox"):
    """The annotations of an AI Hub file, of which one cannot be read and one is no box."""
    texts = [
        ("간판", [5, 2, 30, 16]),
        ("xxx", [5, 2, 30, 16]),
        ("둘", [5, 2]),
        (None, [5, 2, 3, 4]),
    ]
    words = [{"id": n, key: text, box: place} for n, (text, place) in enumerate(texts)]
    return dump({"images": [image], "annotations": words})


WILD = {
    "images": [{"id": 1, "file_name": "a.png", "type": "sign"}],
    "annotations": [
        {"image_id": 1, "bbox": [5, 2, 30, 16], "text": "간판", "attributes": {"class": "word"}},
        {"image_id": 1, "bbox": [5, 2, 30, 16], "text": None, "attributes": {"class": "ignored"}},
        {"image_id": 9, "bbox": [5, 2, 30, 16], "text": "x", "attributes": {"class": "word"}},
    ],
}
FORM = [
    {"id": n, "text": text, "box": box, "label": "other", "linking": []}
    for n, (text, box) in enumerate([("one", [5, 2, 40, 18]), ("two", [5]), ("", [5, 2, 40, 18])])
]
CORD = [
    {
        "category": "menu.nm",
        "words": [{"row_id": 1, "text": "Nasi", "quad": quad}],
    }
    for quad in (dict(zip(("x1", "y1", "x2", "y2", "x3", "y3", "x4", "y4"), FLAT)), {"x1": 3})
]
RECEIPT = {
    "file_name": "a.png",
    "width": 60,
    "height": 20,
    "annotations": [{"box": FLAT, "text": "x", "label": 1}, {"box": [1], "text": "y", "label": 1}],
}
PUBLIC = {
    "Images": {"identifier": "a", "type": "png", "width": 60, "height": 20},
    "Bbox": [
        {"id": 1, "data": "간판", "x": [5, 40, 40, 5], "y": [2, 2, 18, 18]},
        {"id": 2, "data": "xxx", "x": [5, 40, 40, 5], "y": [2, 2, 18, 18]},
        {"id": 3, "data": "둘", "x": [], "y": []},
    ],
}
LETTERS = {
    "info": {"text": "하나 둘"},
    "image": {"file_name": "a.png"},
    "text": {
        "word": [
            {"value": "하나", "wordbox": [5, 2, 30, 18]},
            {"value": "둘", "wordbox": None},
            {"value": "xxx", "wordbox": [5, 2, 30, 18]},
        ]
    },
}
# A source, what its folder holds besides the picture a.png, and a count of its items.
CASES = {
    "paddle": (
        {"Label.txt": lines(marked(WORDS), "gone.png\tx", "no tab", "a.png\t[]", "a.png\tword")},
        lambda folder: matches('"transcription"')(folder) + 4,
    ),
    "sroie": (
        {"box/a.txt": lines("5,2,40,2,40,18,5,18,x", "5,2,40,2,40,18,5,18,###", "broken", "")},
        lines_of("box/a.txt"),
    ),
    "wildreceipt": (
        {"train.txt": lines(RECEIPT, RECEIPT | {"file_name": "gone.png"})},
        matches('"box"'),
    ),
    "hctr": ({"test_img_id_gt.txt": "a,x\ngone,y\nno comma\n\na,"}, lines_of("test_img_id_gt.txt")),
    "funsd": ({"annotations/a.json": dump({"form": FORM})}, matches('"linking"')),
    "cord": ({"json/a.json": dump({"valid_line": CORD})}, matches('"words"')),
    "banglawriting": (
        {
            "a.json": dump(
                {"shapes": [{"label": text or "*", "points": box} for text, box in WORDS]}
            )
        },
        matches('"points"'),
    ),
    "aihub-outdoor": ({"a.json": aihub({"file_name": "a.png"}, "text")}, matches('"bbox"')),
    "aihub-documents": (
        {"a.json": aihub({"image.file.name": "a.png"}, "annotation.text", "annotation.bbox")},
        matches(r'"annotation\.bbox"'),
    ),
    "aihub-public": ({"a.json": dump(PUBLIC)}, matches('"data"')),
    "aihub-letters": ({"a.json": dump(LETTERS)}, matches('"wordbox"')),
    "aihub-wild": ({"textinthewild_data_info.json": dump(WILD)}, matches('"image_id"')),
    "table": (
        {"t.csv": "image,text\na.png,x\ngone.png,y\na.png\na.png,\n"},
        lines_of("t.csv", header=1),
    ),
    "trl": ({"t.jsonl": lines(chat("a", "b"), "{broken", chat(""), 3)}, lambda _: 5),
    "openai": (
        {"t.jsonl": lines(chat("a", "b"), chat("c", images=[]), chat())},
        lambda folder: matches('"assistant"')(folder) + 1,
    ),
    "llava": ({"t.json": dump([llava("a", "b"), llava(""), llava("c")])}, matches('"gpt"')),
    "aqua": (
        {
            "train.json": dump(
                [{"image": name, "question": "?", "answer": "x"} for name in ("a.png", "b.png", 3)]
            )
        },
        matches('"question"'),
    ),
    "finscribe": (
        {"t.jsonl": lines({"input": "x", "output": '{"a": 1}'}, {"output": "ERROR"}, "{broken")},
        lines_of("t.jsonl"),
    ),
    "folder": ({}, lambda folder: len(list(folder.rglob("*.png")))),
    "folder-classes": ({}, lambda folder: len(list(folder.rglob("*.png")))),
    "pdf": ({"a.txt": "text", "lost.pdf": "no PDF"}, lambda _: 2),
}


@pytest.mark.parametrize("source", CASES)
def test_rows_and_rejects_add_up_to_a_plain_count(tmp_path, source):
    files, count = CASES[source]
    folder = tmp_path / "in"
    save(folder / "a.png", (60, 20))
    if source == "folder":
        save(folder / "word_1.png", mark=9)
    if source == "folder-classes":
        save(folder / "K" / "1.png", mark=9)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    task = {"cord": "lines", "aihub-letters": "words"}.get(source)
    summary, rows, rejects = run(source, folder, tmp_path / "out", task=task)
    assert summary["found"] == len(rows) + len(rejects) == count(folder)
    assert rows and (rejects or source == "llava")


def test_sheets_and_parquet_files_count_their_rows(tmp_path):
    book = openpyxl.Workbook()
    for line in (("Id", "Word"), ("1_1", "শব্দ"), ("9_9", "নেই"), ("1_2", None)):
        book.active.append(line)
    (tmp_path / "sheet" / "1").mkdir(parents=True)
    book.save(tmp_path / "sheet" / "1" / "1.xlsx")
    for word in (1, 2):
        save(tmp_path / "sheet" / "1" / "Words" / f"1_{word}.png", mark=9 * word)
    summary, rows, _ = run("bn-htrd", tmp_path / "sheet", tmp_path / "a")
    assert summary["found"] == book.active.max_row - 1 and len(rows) == 1
    images = [{"bytes": encoded(draw(mark=9 * n)), "path": None} for n in range(3)]
    table = pa.table({"image": [*images, None], "text": ["x", "y", None, "z"]})
    (tmp_path / "hub").mkdir()
    pq.write_table(table, tmp_path / "hub" / "train-00000-of-00001.parquet")
    summary, rows, _ = run("hub", tmp_path / "hub", tmp_path / "b")
    assert summary["found"] == table.num_rows and len(rows) == 2


def dgr_lines(folder):
    """Lines that the page headers of .dgr and .dgrl files state, behind the 36 bytes and a note."""
    total = 0
    for path in folder.rglob("*.dgr*"):
        data = path.read_bytes()
        total += int.from_bytes(data[int.from_bytes(data[:4], "little") + 8 :][:4], "little")
    return total


def gnt_characters(folder):
    """Characters of .gnt files: each begins with the count of its bytes."""
    total = 0
    for path in folder.rglob("*.gnt"):
        data = path.read_bytes()
        while data:
            data = data[int.from_bytes(data[:4], "little") :]
            total += 1
    return total


@pytest.mark.parametrize("source", ["hwdb-dgr", "hwdb-dgrl", "hwdb-gnt"])
def test_binary_handwriting_counts_its_lines_and_characters(tmp_path, source):
    pixels = dgrl.ink(10, 12)
    if source == "hwdb-gnt":
        records = [gnt.record(code) for code in (b"A\0", "镕".encode("gbk"), b"\xff\xff", b"B\0")]
        pages, count = {"1-f.gnt": b"".join(records), "2-f.gnt": records[0]}, gnt_characters
    elif source == "hwdb-dgrl":
        written = [dgrl.line(text, pixels) for text in ("一", "二")]
        unknown = dgrl.line("", pixels, codes=[b"\xff\xff"])
        pages = {"1-P1.dgrl": dgrl.page(*written, unknown), "2-P1.dgrl": dgrl.page(written[0])}
        count = dgr_lines
    else:
        written = [dgr.character(text, 10, 4, pixels) for text in ("一", "二")]
        pages = {"1-P1.dgr": dgr.page(written, [dgr.character("", 1, 1, pixels)])}
        pages |= {"2-P1.dgr": dgr.page(written[:1], written[1:])}
        count = dgr_lines
    folder = dgrl.write(tmp_path / "in", pages)
    summary, rows, rejects = run(source, folder, tmp_path / "out")
    assert summary["found"] == len(rows) + len(rejects) == count(folder)
    assert rows and rejects


def test_graphemes_and_databases_count_their_keys(tmp_path):
    (tmp_path / "graphemes").mkdir()
    ids = ["Train_0", "Train_1", "Train_7"]
    bengali_ai.write_graphemes(tmp_path / "graphemes", ids, np.zeros((3, 137 * 236), np.uint8))
    table = "image_id,grapheme\nTrain_0,ক\nTrain_1,\nTrain_2,খ\n"
    (tmp_path / "graphemes" / "train.csv").write_text(table, encoding="utf-8")
    summary, rows, rejects = run("bengali-ai", tmp_path / "graphemes", tmp_path / "a")
    named = {line.split(",")[0] for line in table.splitlines()[1:]} | set(ids)
    assert summary["found"] == len(rows) + len(rejects) == len(named) and rows and rejects
    entries = lmdb_test.pairs(5)
    del entries["image-000000002"], entries["label-000000004"]
    lmdb_test.write(tmp_path / "base", entries)
    summary, rows, rejects = run("lmdb", tmp_path / "base", tmp_path / "b")
    with lmdb.open(str(tmp_path / "base"), readonly=True) as base, base.begin() as view:
        numbers = {bytes(key)[-9:] for key, _ in view.cursor() if bytes(key) != b"num-samples"}
    assert summary["found"] == len(rows) + len(rejects) == len(numbers) == 5 and rejects


# Counted by the tests above, and by the test files of these sources.
ABOVE = {"bengali-ai", "bn-htrd", "hub", "hwdb-dgr", "hwdb-dgrl", "hwdb-gnt", "lmdb"}
ELSEWHERE = {"docvqa", "icdar", "label-studio", "labelme", "page-xml", "pairs"}


def test_every_source_is_counted():
    assert set(CASES) | ABOVE | ELSEWHERE == set(source_names())
