"""Staging folders and their lock."""

import pytest

from data_prep.dataset.schema import DataError
from data_prep.dataset.staging import rename_folder, staging_folder


def test_a_staging_folder_is_renamed_and_leaves_nothing(tmp_path):
    out = tmp_path / "new" / "data"
    with staging_folder(out) as staging:
        (staging / "a.txt").write_text("a")
        assert not out.exists()
        rename_folder(staging, out)
    assert [path.name for path in out.parent.iterdir()] == ["data"]
    assert (out / "a.txt").read_text() == "a"


def test_a_staging_folder_is_deleted_after_an_error(tmp_path):
    (tmp_path / ".data.partial").mkdir()
    (tmp_path / ".data.partial" / "old").write_text("of a killed command")
    with pytest.raises(ZeroDivisionError), staging_folder(tmp_path / "data") as staging:
        assert list(staging.iterdir()) == []
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_second_command_is_locked_out(tmp_path):
    with (
        staging_folder(tmp_path / "data"),
        pytest.raises(DataError, match="Another command is writing"),
        staging_folder(tmp_path / "data"),
    ):
        pass


def test_a_folder_with_files_is_not_replaced(tmp_path):
    for name in ("staging", "out"):
        (tmp_path / name).mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(OSError):
        rename_folder(tmp_path / "staging", tmp_path / "out")
    assert (tmp_path / "out" / "mine").is_file()
