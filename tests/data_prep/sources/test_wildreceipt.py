import json

import pytest

from tests.helpers.sources_common import draw, real_data, reasons, run, save, texts
from tests.tools.fuzz import assert_survives, json_mutations

CLASSES = "0 Ignore\n1 Store_name_value\n11 Prod_item_value\t\n23 Total_value\n24 Total_key\n"


def annotation(text, label, left=10):
    right = left + 20
    return {"box": [left, 5, right, 5, right, 15.5, left, 15.5], "text": text, "label": label}


def make(folder, receipts, size=(120, 40)):
    """train.txt and its class list, a picture a receipt."""
    lines = []
    for index, annotations in enumerate(receipts):
        save(folder / "image_files" / f"{index}.jpeg", size, mark=index)
        name = f"image_files/{index}.jpeg"
        receipt = {"file_name": name, "width": size[0], "height": size[1]}
        lines.append(json.dumps(receipt | {"annotations": annotations}))
    (folder / "class_list.txt").write_text(CLASSES)
    (folder / "train.txt").write_text("\n".join(lines))
    return folder / "train.txt"


RECEIPT = [
    annotation("ACME", 1),
    annotation("Total", 24),
    annotation("3.00", 23),
    annotation("tea", 11),
    annotation("milk", 11),
    annotation("INC", 1),
    annotation("", 11),
]


def test_lines_carry_their_class(tmp_path):
    make(tmp_path / "in", [RECEIPT])
    summary, rows, rejects = run("wildreceipt", tmp_path / "in", tmp_path / "out")
    assert texts(rows) == ["ACME", "Total", "3.00", "tea", "milk", "INC"]
    assert json.loads(rows[0].meta) == {"box": [10, 5, 30, 15.5], "class": "Store_name_value"}
    assert reasons(rejects) == ["empty text"] and summary["rows"] == {"train": 6}


def test_fields_join_texts_and_list_products(tmp_path):
    source = make(tmp_path / "in", [RECEIPT, [annotation("junk", 0)]])
    _, rows, rejects = run("wildreceipt", source, tmp_path / "out", task="fields")
    assert [json.loads(text) for text in texts(rows)] == [
        {"store_name": "ACME INC", "prod_item": ["tea", "milk"], "total": "3.00"}
    ]
    assert reasons(rejects) == ["empty text"]


def test_boxes_of_a_turned_picture_are_cut_as_they_were_annotated(tmp_path):
    source = make(tmp_path / "in", [[annotation("up", 1, 0)]])
    stored = draw((120, 40), mark=6)
    exif = stored.getexif()
    exif[0x0112] = 6  # shown turned by 90 degrees, as 40x120
    stored.save(tmp_path / "in" / "image_files" / "0.jpeg", exif=exif)
    _, rows, _ = run("wildreceipt", source, tmp_path / "out")
    assert (rows[0].width, rows[0].height) == (11, 20)


def test_a_picture_of_another_size_and_broken_receipts_are_rejects(tmp_path):
    source = make(tmp_path / "in", [[annotation("x", 1)]])
    save(tmp_path / "in" / "image_files" / "0.jpeg", (60, 20))
    lines = [
        '{"file_name": "x.jpg", "annotations": []}',
        '{"file_name": 3, "annotations": [], "width": 1, "height": 1}',
        "[]",
        "{",
        json.dumps(
            {
                "file_name": "image_files/0.jpeg",
                "width": 60,
                "height": 20,
                "annotations": [3, {"text": "x", "label": 1, "box": [1, 2]}, annotation("ok", 1)],
            }
        ),
    ]
    source.write_text(source.read_text() + "\n" + "\n".join(lines))
    _, rows, rejects = run("wildreceipt", source, tmp_path / "out")
    assert texts(rows) == ["ok"]
    assert reasons(rejects) == [
        "size differs from annotation",
        *["malformed line"] * 4,
        *["malformed annotation"] * 2,
    ]


@pytest.mark.real_data
def test_real_wildreceipt_receipts_are_read(tmp_path):
    source = real_data("finance_wildreceipt")
    labels = [json.loads(line) for line in (source / "data.txt").read_text().splitlines()]
    boxes = [box for receipt in labels for box in receipt["annotations"]]
    summary, rows, rejects = run("wildreceipt", source, tmp_path / "lines", split="1,0,0")
    assert summary["found"] == len(boxes) == 86
    assert texts(rows) == [box["text"] for box in boxes if box["text"]]
    assert reasons(rejects) == ["empty text"] * 4
    _, rows, _ = run("wildreceipt", source, tmp_path / "fields", task="fields", split="1,0,0")
    assert json.loads(texts(rows)[0])["store_name"] == "SAFEWAY" and len(rows) == 2


@pytest.mark.parametrize("count", [100, pytest.param(2_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("task", ["fields", "lines"])
def test_mutated_wildreceipt_gives_only_rows_and_rejects(tmp_path, task, count):
    damaged = json_mutations(make(tmp_path / "in", [RECEIPT]).read_text(), count)
    assert assert_survives("wildreceipt", damaged, tmp_path, "train.txt", task=task)
