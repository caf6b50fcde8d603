"""Checks of single rows, of every layout."""

import io
import json

import pytest
from PIL import Image

from data_prep.dataset.check import check_batch


def png(size=(40, 20), frames=1):
    buffer = io.BytesIO()
    image = Image.new("L", size)
    more = [Image.new("L", size, frame) for frame in range(1, frames)]
    image.save(buffer, "GIF" if more else "PNG", save_all=bool(more), append_images=more)
    return buffer.getvalue()


def row(**changes):
    return {
        "id": "1",
        "images_file_names": ["a.png"],
        "prompt": [{"role": "user", "content": "Read."}],
        "completion": [{"role": "assistant", "content": "text"}],
        "task": "transcription",
        "language": "en",
        "group": "a",
        "width": 40,
        "height": 20,
        "source": "table",
        "meta": "{}",
    } | changes


def check(folder, record, layout="imagefolder"):
    line = record if isinstance(record, bytes) else json.dumps(record).encode()
    return check_records([("train:1", line)], layout, folder)


def check_records(records, layout, folder):
    ((place, result),) = check_batch(records, layout, str(folder), "train", None, 4000)
    assert place == records[0][0]
    return result


def test_a_valid_row_has_no_problems(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    result = check(tmp_path, row())
    assert result.row.id == "1" and not result.problems
    assert len(result.digests) == 1


@pytest.mark.parametrize(
    "record, kind, detail",
    [
        (b"{", "broken line", "Expecting"),
        ({"image": "a.png", "text": "x"}, "invalid row", "data_prep.convert table FILE"),
        (row(task="reading"), "invalid row", "task is 'reading'"),
        (row(images_file_names=["b.png"]), "missing image", "b.png"),
        (row(width=41), "size differs", "a.png is 40x20, stated 41x20"),
    ],
)
def test_errors_have_a_kind_and_a_detail(tmp_path, record, kind, detail):
    (tmp_path / "a.png").write_bytes(png())
    ((level, found_kind, found_detail),) = check(tmp_path, record).problems
    assert (level, found_kind) == ("error", kind) and detail in found_detail


@pytest.mark.parametrize(
    "data, size, kind",
    [
        (png((40, 20), frames=3), (40, 20), "several frames"),
        (png((402, 2)), (402, 2), "long picture"),
    ],
)
def test_warnings_of_pictures(tmp_path, data, size, kind):
    (tmp_path / "a.png").write_bytes(data)
    result = check(tmp_path, row(width=size[0], height=size[1]))
    assert [problem[:2] for problem in result.problems] == [("warning", kind)]


def test_messages_layout_is_checked_as_rows(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    record = row(messages=[{"role": "user", "content": "<image>Read."}], images=["a.png"])
    record["messages"] += record.pop("completion")
    for name in ("prompt", "images_file_names"):
        del record[name]
    result = check(tmp_path, record, "messages")
    assert not result.problems and result.row.prompt[0]["content"] == "Read."
    record["images"] = []
    assert check(tmp_path, record, "messages").problems[0][1] == "invalid row"


def test_parquet_pictures_are_checked_from_their_bytes(tmp_path):
    columns = row(images=[{"path": "a.png", "bytes": png()}])
    result = check_records([("data row 1", columns)], "parquet", tmp_path)
    assert not result.problems and result.row.images_file_names == ["a.png"]
    for broken in ([{"path": "a.png", "bytes": None}], [{"path": "a.png", "bytes": b"no"}]):
        result = check_records([("data row 1", row(images=broken))], "parquet", tmp_path)
        assert result.problems[0][1] in ("missing image", "unreadable image")
