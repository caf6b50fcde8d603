import pytest

from data_prep.dataset.schema import UsageError
from tests.helpers.sources_common import reasons, run, save, texts


def test_text_recognition_data_generator_names(tmp_path):
    for name in ("hello world_0", "a_b_12", "서울_3", "no index"):
        save(tmp_path / "in" / f"{name}.jpg")
    _, rows, rejects = run("folder", tmp_path / "in", tmp_path / "out", split="1,0,0")
    assert sorted(texts(rows)) == ["a_b", "hello world", "서울"]
    assert all(row.id.isascii() and " " not in row.id for row in rows)
    assert reasons(rejects) == ["no text in the name"]


def test_mjsynth_names_and_groups_by_pattern(tmp_path):
    for mark, name in enumerate(("1/1/7_Slinking_71", "1/1/8_LOUD_3", "2/1/7_Slinking_71")):
        save(tmp_path / "in" / f"{name}.jpg", mark=9 * mark)
    pattern = r"(?P<group>\d+)_(?P<text>.+)_\d+"
    out = tmp_path / "out"
    _, rows, _ = run("folder", tmp_path / "in", out, pattern=pattern, split="1,0,0")
    assert sorted(texts(rows)) == ["LOUD", "Slinking", "Slinking"]
    assert sorted(row.group for row in rows) == ["7", "7", "8"]


@pytest.mark.parametrize(("pattern", "cause"), [("(", "is no pattern"), (r"\d+", "no group named")])
def test_invalid_pattern_is_refused(tmp_path, pattern, cause):
    save(tmp_path / "in" / "a_1.jpg")
    with pytest.raises(UsageError, match=cause):
        run("folder", tmp_path / "in", tmp_path / "out", pattern=pattern)
