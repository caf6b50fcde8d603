import json
from functools import partial

import pytest

from data_prep.dataset.schema import DataError, Item, Picture, Reject
from data_prep.dataset.write import write_dataset
from tests.helpers.sources_common import draw, encoded, read_rejects, read_rows, snapshot

SETTINGS = {
    "seed": 0,
    "layout": "prompt_completion",
    "format": "imagefolder",
    "split": "source",
}


def picture_bytes(mark):
    return encoded(draw(mark=mark))


def items():
    for number in range(4):
        picture = Picture(partial(picture_bytes, number))
        split = "test" if number == 3 else "train"
        item = Item(f"k{number}", f"file {number}", f"text {number}", [picture], "g", "en")
        item.split, item.prompt = split, "Read."
        yield item
    yield Reject("file 4", "illegible", "###")


def write(out, source=items, shares=None):
    return write_dataset(source, out, "test", ["in"], SETTINGS, shares, progress=False)


def test_rows_and_rejects_add_up(tmp_path):
    summary = write(tmp_path / "out")
    assert summary == json.loads((tmp_path / "out" / "dataset.json").read_text("utf-8"))
    assert (summary["found"], summary["rows"]) == (5, {"train": 3, "test": 1})
    assert summary["rejects"] == {"illegible": 1}
    assert len(read_rows(tmp_path / "out")) == 4
    expected = {"where": "file 4", "reason": "illegible", "detail": "###"}
    assert read_rejects(tmp_path / "out") == [expected]


def test_a_finished_dataset_is_not_written_again(tmp_path):
    first = write(tmp_path / "out")
    before = snapshot(tmp_path / "out")

    def never():
        raise AssertionError("read again")

    assert write(tmp_path / "out", never) == first and snapshot(tmp_path / "out") == before


def test_an_error_while_reading_leaves_nothing_behind(tmp_path):
    def torn():
        yield from items()
        raise DataError("torn")

    with pytest.raises(DataError, match="torn"):
        write(tmp_path / "out", torn)
    assert list(tmp_path.iterdir()) == []


def test_a_source_of_rejects_alone_leaves_their_list(tmp_path):
    with pytest.raises(DataError, match="none of 1 items became a row"):
        write(tmp_path / "out", lambda: iter([Reject("a", "illegible", "")]))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["rejects.jsonl"]
