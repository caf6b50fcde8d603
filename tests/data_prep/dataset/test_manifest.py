"""The manifest of the files that the kit wrote: what is overwritten, and what is refused."""

import shutil

import pytest

from data_prep.dataset.manifest import (
    MANIFEST,
    check_own,
    content_hash,
    note_files,
    publish,
    read_manifest,
    staged,
    write_folder,
)
from tests.helpers.own_files import own_files


def contents(folder):
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_only_files_that_the_kit_wrote_are_overwritten(tmp_path):
    write_folder(tmp_path, {"a.md": "1", "b.md": "1"})
    assert own_files(tmp_path) == {"a.md", "b.md", MANIFEST}
    write_folder(tmp_path, {"a.md": "2", "b.md": "2"})
    (tmp_path / "a.md").write_text("by hand")
    (tmp_path / "c.md").write_text("a stranger's")
    assert own_files(tmp_path) == {"b.md", MANIFEST}
    before = contents(tmp_path)
    for name in ("a.md", "c.md"):
        with pytest.raises(FileExistsError, match=rf"{name} exists .* --overwrite"):
            write_folder(tmp_path, {"b.md": "3", name: "3"})
    assert contents(tmp_path) == before
    write_folder(tmp_path, {"a.md": "3", "c.md": "3"}, overwrite=True)
    assert own_files(tmp_path) == {"a.md", "b.md", "c.md", MANIFEST}
    assert len(read_manifest(tmp_path)) == 3


def test_manifest_in_a_copied_folder_allows_overwriting(tmp_path):
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
def test_foreign_manifest_claims_no_files_outside_its_folder(tmp_path, name):
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


def test_files_of_version_0_1_are_recognized_by_card_and_report(tmp_path):
    (tmp_path / "README.md").write_text("My own notes on ocrkit.")
    with pytest.raises(FileExistsError, match=r"README\.md exists"):
        check_own(tmp_path, ["README.md"])
    (tmp_path / "README.md").write_text("# m\n\nA model made from `x`, exported as gguf by ocrkit.")
    check_own(tmp_path, ["README.md", "README.md"])


def test_file_hash_covers_every_byte(tmp_path):
    data = bytearray(3 * 2**20)
    first = content_hash(bytes(data))
    (tmp_path / "a").write_bytes(data)
    assert content_hash(tmp_path / "a") == first
    for place in (0, 2**20, len(data) // 2 + 7, len(data) - 1):
        changed = data[:]
        changed[place] = 1
        (tmp_path / "a").write_bytes(changed)
        assert content_hash(tmp_path / "a") == content_hash(bytes(changed)) != first
