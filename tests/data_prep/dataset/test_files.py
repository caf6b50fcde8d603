"""Atomic writes under a full disk and under kills, and the manifest of what the kit wrote."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from data_prep.dataset import files
from data_prep.dataset.files import (
    MANIFEST,
    DiskError,
    check_own,
    content_hash,
    finish_together,
    is_inner_path,
    naming,
    note_files,
    publish,
    read_manifest,
    staged,
    write_folder,
    write_together,
    write_whole,
    written_by_kit,
)


def contents(folder):
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


# --- a disk that is full


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
def test_every_refusal_of_a_disk_is_one_sentence(tmp_path, number, words):
    with pytest.raises(DiskError, match=words) as raised, naming(tmp_path / "a"):
        raise OSError(number, os.strerror(number))
    assert "Errno" not in str(raised.value) and "\n" not in str(raised.value)


def test_an_input_that_cannot_be_read_is_not_blamed_on_the_output(tmp_path):
    with pytest.raises(PermissionError, match="elsewhere"), naming(tmp_path / "out"):
        raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere/input.png")
    with pytest.raises(ValueError, match="no disk"), naming(tmp_path / "out"):
        raise ValueError("no disk")


def test_what_libraries_say_of_a_full_disk_is_known(tmp_path):
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
def test_names_that_lead_elsewhere(name):
    assert not is_inner_path(name)


@pytest.mark.parametrize("name", ["a", "a/b.png", "..a", "한글 1.png", "10:30.png", ".hidden"])
def test_names_of_plain_files(name):
    assert is_inner_path(name)


# --- what the kit wrote


def test_only_files_that_the_kit_wrote_are_overwritten(tmp_path):
    write_folder(tmp_path, {"a.md": "1", "b.md": "1"})
    assert written_by_kit(tmp_path) == {"a.md", "b.md", MANIFEST}
    write_folder(tmp_path, {"a.md": "2", "b.md": "2"})
    (tmp_path / "a.md").write_text("by hand")
    (tmp_path / "c.md").write_text("a stranger's")
    assert written_by_kit(tmp_path) == {"b.md", MANIFEST}
    before = contents(tmp_path)
    for name in ("a.md", "c.md"):
        with pytest.raises(FileExistsError, match=rf"{name} is there .* --overwrite"):
            write_folder(tmp_path, {"b.md": "3", name: "3"})
    assert contents(tmp_path) == before
    write_folder(tmp_path, {"a.md": "3", "c.md": "3"}, overwrite=True)
    assert written_by_kit(tmp_path) == {"a.md", "b.md", "c.md", MANIFEST}
    assert len(read_manifest(tmp_path)) == 3


def test_a_copy_of_a_folder_is_the_kits_too(tmp_path):
    write_folder(tmp_path / "first", {"a.md": "1"})
    shutil.copytree(tmp_path / "first", tmp_path / "clone")
    (tmp_path / "clone" / ".gitattributes").write_text("*.safetensors filter=lfs")
    write_folder(tmp_path / "clone", {"a.md": "2"})
    assert (tmp_path / "clone" / "a.md").read_text() == "2"


def test_a_kill_at_any_step_does_not_block_the_same_command(tmp_path, killed_at):
    card = "LoRA adapters on `x`, exported as adapter by ocrkit."
    step, killed = 0, [True]
    while killed:
        for kind in ("new", "again", "first version"):
            folder = tmp_path / f"{step} {kind}"
            folder.mkdir()
            if kind == "again":
                write_folder(folder, {"README.md": "1", "config.json": "1"})
            if kind == "first version":
                (folder / "README.md").write_text(card)
                (folder / "config.json").write_text("{}")
            with killed_at(step) as killed:
                write_folder(folder, {"README.md": "2", "config.json": "2"})
            write_folder(folder, {"README.md": "3", "config.json": "3"})
            assert (folder / "README.md").read_text() == "3"
            assert (folder / "config.json").read_text() == "3"
        step += 1
    assert step > 6


@pytest.mark.parametrize("name", ["../a.md", "/a.md", ".", "x/../../a.md"])
def test_a_strangers_manifest_claims_nothing_outside_its_folder(tmp_path, name):
    (tmp_path / "a.md").write_text("mine")
    (tmp_path / "out").mkdir()
    note_files(tmp_path / "out", [{"file": name, "sha256": content_hash(tmp_path / "a.md")}])
    with staged(tmp_path / "out") as staging:
        (staging / "b.md").write_text("new")
        publish(staging, tmp_path / "out")
    assert (tmp_path / "a.md").read_text() == "mine"


def test_a_manifest_that_a_kill_broke_off_is_read_and_continued(tmp_path):
    write_folder(tmp_path, {"a.md": "1"})
    with (tmp_path / MANIFEST).open("ab") as file:
        file.write('{"file": "한'.encode()[:-1])
    write_folder(tmp_path, {"a.md": "2", "b.md": "2"})
    assert [line["file"] for line in read_manifest(tmp_path)] == ["a.md", "b.md"]


def test_published_files_replace_those_of_the_last_time_and_no_others(tmp_path):
    for name in ("old.bin", "new.bin"):
        with staged(tmp_path) as staging:
            (staging / name).write_text(name)
            publish(staging, tmp_path)
        (tmp_path / "notes.txt").write_text("mine")
    assert set(contents(tmp_path)) == {"new.bin", "notes.txt", MANIFEST}


def test_what_the_first_version_wrote_is_known_by_its_card_and_its_report(tmp_path):
    (tmp_path / "README.md").write_text("My own notes on ocrkit.")
    with pytest.raises(FileExistsError, match=r"README\.md is there"):
        check_own(tmp_path, ["README.md"])
    (tmp_path / "README.md").write_text("# m\n\nA model made from `x`, exported as gguf by ocrkit.")
    check_own(tmp_path, ["README.md", "README.md"])


def test_large_files_are_hashed_by_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_LARGE", 2**20)
    data = bytearray(3 * 2**20)
    first = content_hash(bytes(data))
    Path(tmp_path / "a").write_bytes(data)
    assert content_hash(tmp_path / "a") == first
    for place in (0, len(data) // 2, len(data) - 1):
        changed = data[:]
        changed[place] = 1
        assert content_hash(bytes(changed)) != first
    assert content_hash(bytes(data[:-1])) != first
