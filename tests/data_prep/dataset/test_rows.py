"""Rows made of source items, with their pictures staged."""

from functools import partial

import pytest
from PIL import Image

from data_prep.dataset.rows import (
    BATCH_BYTES,
    BATCH_ITEMS,
    STAGED_PICTURES,
    batches,
    clean_content,
    process_batch,
)
from data_prep.dataset.schema import Item, Picture, Reject, Row

LOADS = []


def load(color, size=(40, 20)):
    LOADS.append(color)
    return Image.new("L", size, color)


def load_bytes(data):
    return data


def item(key="a", text="text", pictures=None, **fields):
    if pictures is None:
        pictures = [Picture(partial(load, 7))]
    fields = {"prompt": "Read."} | fields
    return Item(key, f"labels:{key}", text, pictures, "group", "en", **fields)


def outcomes(folder, *items):
    (folder / STAGED_PICTURES).mkdir(exist_ok=True)
    return [outcome for outcome, _ in process_batch(list(items), str(folder), "table")]


def test_an_item_becomes_a_row_with_its_picture(tmp_path):
    (row,) = outcomes(tmp_path, item(text=" e\u0301\r\n"))
    assert isinstance(row, Row) and (row.width, row.height) == (40, 20)
    assert row.completion == [{"role": "assistant", "content": "\u00e9"}]
    assert (tmp_path / STAGED_PICTURES / "a.png").is_file()


@pytest.mark.parametrize(
    "fields, reason",
    [
        ({"text": " "}, "empty text"),
        ({"prompt": " "}, "empty prompt"),
        ({"prompt": None}, "empty prompt"),
        ({"text": "\udcff"}, "text is not UTF-8"),
        ({"answers": ["text", "\ud800"]}, "text is not UTF-8"),
        ({"pictures": []}, "missing image"),
        ({"pictures": [Picture(partial(load_bytes, b"no picture"))]}, "unreadable image"),
        ({"pictures": [Picture(partial(load, 7), box=(90, 0, 99, 9))]}, "box outside picture"),
    ],
)
def test_items_that_cannot_be_rows_are_rejects(tmp_path, fields, reason):
    (reject,) = outcomes(tmp_path, item(**fields))
    assert isinstance(reject, Reject) and reject.reason == reason and reject.where == "labels:a"


def test_neighbours_that_share_a_picture_decode_it_once(tmp_path):
    LOADS.clear()
    rows = outcomes(tmp_path, item("a"), item("b"), item("c", pictures=[Picture(partial(load, 9))]))
    assert LOADS == [7, 9] and [row.id for row in rows] == ["a", "b", "c"]


def test_the_box_of_a_later_picture_may_be_clipped(tmp_path):
    pictures = [Picture(partial(load, 7), box=box) for box in ((0, 0, 9, 9), (30, 0, 50, 9))]
    (row,) = outcomes(tmp_path, item(pictures=pictures))
    assert row.meta == '{"box": [0, 0, 9, 9], "clipped": [30, 0, 40, 9]}'


def test_batches_are_small_where_items_hold_their_bytes():
    light = [item(str(number)) for number in range(BATCH_ITEMS + 1)]
    assert [len(batch) for batch in batches(light)] == [BATCH_ITEMS, 1]
    heavy = item(pictures=[Picture(partial(load_bytes, bytes(BATCH_BYTES // 2 + 1)))])
    assert [len(batch) for batch in batches([heavy] * 5)] == [2, 2, 1]


def test_blanks_between_pictures_in_a_text_are_kept():
    parts = [
        {"type": "text", "text": " a "},
        {"type": "image"},
        {"type": "text", "text": " b "},
    ]
    assert [part.get("text") for part in clean_content(parts)] == ["a ", None, " b"]
