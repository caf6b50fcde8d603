"""Atomic writes under a full disk and under kills, and names that lead elsewhere."""

import errno
import os

import pytest

from data_prep.dataset.files import (
    DiskError,
    finish_together,
    is_inner_path,
    naming,
    sentence,
    write_together,
    write_whole,
)


def contents(folder):
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


# --- errors of the disk


def test_a_full_disk_leaves_the_old_file_and_is_named(tmp_path, full_disk):
    path = tmp_path / "a.txt"
    write_whole(path, "old")
    with full_disk(0), pytest.raises(DiskError) as raised:
        write_whole(path, "new")
    assert contents(tmp_path) == {"a.txt": b"old"}
    text = str(raised.value)
    assert text.startswith(f"No space left on the disk of {tmp_path} (")
    assert text.endswith(
        f" GB free) while writing {path}; free some and run the same command again."
    )
    assert raised.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    "number, words",
    [
        (errno.EDQUOT, "The disk quota at .* is used up while writing"),
        (errno.EROFS, "cannot be written, as the disk of .* is read-only"),
        (errno.EACCES, "as this user has no permission to"),
        (errno.EPERM, "as this user has no permission to"),
    ],
)
def test_errors_of_the_disk_are_one_sentence(tmp_path, number, words):
    with pytest.raises(DiskError, match=words) as raised, naming(tmp_path / "a"):
        raise OSError(number, os.strerror(number))
    assert "Errno" not in str(raised.value) and "\n" not in str(raised.value)


def test_an_input_that_cannot_be_read_is_not_blamed_on_the_output(tmp_path):
    with pytest.raises(PermissionError, match="elsewhere"), naming(tmp_path / "out"):
        raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere/input.png")
    with pytest.raises(ValueError, match="no disk"), naming(tmp_path / "out"):
        raise ValueError("no disk")


def test_full_disk_errors_of_libraries_are_recognized(tmp_path):
    words = "Error while serializing: I/O error: No space left on device (os error 28)"
    with pytest.raises(DiskError, match="No space left on the disk of"), naming(tmp_path):
        raise RuntimeError(words)
    with pytest.raises(DiskError, match="No space left on the disk of"), naming(tmp_path):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 64 vs 0") from None


# --- files that belong together


@pytest.mark.parametrize("refused", range(4))
def test_files_that_belong_together_survive_a_full_disk_at_every_write(
    tmp_path, full_disk, refused
):
    write_together(tmp_path, {"a": "1", "b": "1"})
    with full_disk(refused) as writes:
        if refused < 2:
            with pytest.raises(DiskError):
                write_together(tmp_path, {"a": "2", "b": "2"})
            assert contents(tmp_path) == {"a": b"1", "b": b"1"}
        else:
            write_together(tmp_path, {"a": "2", "b": "2"})
            assert contents(tmp_path) == {"a": b"2", "b": b"2"}
    assert len(writes) == min(refused + 1, 2)


def test_files_that_belong_together_survive_a_kill_at_every_step(tmp_path, killed_at):
    """Whatever a kill leaves, a reader finds the old pair or the new one, or is told to finish."""
    step, states = 0, set()
    while True:
        folder = tmp_path / str(step)
        folder.mkdir()
        write_together(folder, {"a": "1", "b": "1"})
        with killed_at(step) as killed:
            write_together(folder, {"a": "2", "b": "2"})
        seen = contents(folder)
        if "b" in seen:
            assert seen["a"] == seen["b"]
        finish_together(folder, ["a", "b"])
        after = contents(folder)
        assert after["a"] == after["b"]
        states.add(after["a"])
        write_together(folder, {"a": "3", "b": "3"})
        assert contents(folder) == {"a": b"3", "b": b"3"}
        if not killed:
            break
        step += 1
    assert step > 4 and states == {b"1", b"2"}


# --- names


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "/a",
        "a/",
        "a//b",
        "a/./b",
        "a/../b",
        "a\\b",
        "C:",
        "a/c:b",
        "a\0b",
        "\ud800",
        3,
    ],
)
def test_is_inner_path_rejects_paths_out_of_the_folder(name):
    assert not is_inner_path(name)


@pytest.mark.parametrize("name", ["a", "a/b.png", "..a", "한글 1.png", "10:30.png", ".hidden"])
def test_is_inner_path_accepts_plain_file_names(name):
    assert is_inner_path(name)


def test_a_file_in_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(NotADirectoryError) as raised:
        (tmp_path / "out" / "run" / "log").open()
    end = f"{tmp_path / 'out'} is a file; name another folder."
    assert sentence(raised.value).endswith(end)
