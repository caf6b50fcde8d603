import json

import pytest

from ocrkit.errors import ConfigError
from ocrkit.training.checkpoints import (
    checkpoint_to_resume,
    damage,
    rotate,
    seal,
    set_aside_later,
    unseal,
    whole_checkpoints,
)


def _checkpoint(folder, step):
    path = folder / f"checkpoint-{step}"
    (path / "deeper").mkdir(parents=True)
    (path / "weights.bin").write_bytes(b"0" * 100)
    (path / "deeper" / "state.json").write_text("{}")
    seal(path)
    return path


def test_only_complete_checkpoints_are_resumed(tmp_path):
    paths = [_checkpoint(tmp_path, step) for step in (5, 30, 200, 1000)]
    assert whole_checkpoints(tmp_path) == paths
    unseal(paths[3])
    (paths[2] / "weights.bin").write_bytes(b"0" * 99)
    (paths[1] / "deeper" / "state.json").unlink()
    assert checkpoint_to_resume(tmp_path, "auto") == paths[0]
    assert damage(paths[2]) == "weights.bin has 99 bytes instead of 100"
    assert damage(paths[1]) == "deeper/state.json is missing"
    with pytest.raises(ConfigError, match=r"damaged: complete\.json, which marks.*auto for"):
        checkpoint_to_resume(tmp_path, str(paths[3]))
    assert checkpoint_to_resume(tmp_path, None) is None
    assert checkpoint_to_resume(tmp_path / "none", "auto") is None


def _flip(path, at, mask=0xFF):
    content = bytearray(path.read_bytes())
    content[at] ^= mask
    path.write_bytes(content)


def test_flipped_byte_anywhere_in_a_checkpoint_is_found(tmp_path):
    path = _checkpoint(tmp_path, 1)
    places = [(file, at) for file in path.rglob("*.*") for at in range(file.stat().st_size)]
    assert {file.name for file, _ in places} == {"weights.bin", "state.json", "complete.json"}
    for file, at in places:
        for mask in (0xFF, 0x01, 0x20):
            _flip(file, at, mask)
            assert file.name in damage(path)
            _flip(file, at, mask)
    assert damage(path) is None


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "7", '{"files": {}}', "\udcff"])
def test_damaged_seal_counts_as_missing(tmp_path, text):
    path = _checkpoint(tmp_path, 1)
    (path / "complete.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert whole_checkpoints(tmp_path) == []
    assert damage(path).startswith("complete.json")


def test_a_seal_of_other_names_or_cut_off_is_damaged(tmp_path):
    seal_file = _checkpoint(tmp_path, 1) / "complete.json"
    whole = seal_file.read_text()
    for text in (whole.replace("weights.bin", "weights.txt"), whole[:-30], whole + "\n"):
        seal_file.write_text(text)
        assert damage(seal_file.parent).startswith("complete.json")


def test_a_damaged_checkpoint_is_passed_over_with_a_line_and_refused_by_name(tmp_path, capsys):
    older, newer = (_checkpoint(tmp_path, step) for step in (1, 2))
    _flip(newer / "weights.bin", 50)
    assert checkpoint_to_resume(tmp_path, "auto") == older
    line = f"{newer} is passed over: weights.bin does not match its checksum.\n"
    assert capsys.readouterr().out == line
    with pytest.raises(ConfigError, match=r"is damaged: weights\.bin does not match its checksum;"):
        checkpoint_to_resume(tmp_path, str(newer))
    _flip(older / "deeper" / "state.json", 0)
    assert checkpoint_to_resume(tmp_path, "auto") is None
    assert "holds no whole checkpoint, so training begins anew" in capsys.readouterr().out


def test_a_seal_of_version_0_1_0_holds_sizes_alone(tmp_path, capsys):
    path = _checkpoint(tmp_path, 1)
    sizes = {"deeper/state.json": 2, "weights.bin": 100}
    (path / "complete.json").write_text(json.dumps(sizes, indent=1))
    assert checkpoint_to_resume(tmp_path, "auto") == path
    assert "saved by ocrkit 0.1.0 without checksums" in capsys.readouterr().out
    (path / "weights.bin").write_bytes(b"0" * 99)
    assert checkpoint_to_resume(tmp_path, "auto") is None


def test_old_checkpoints_are_not_read_again_at_every_save(tmp_path, monkeypatch):
    from ocrkit.training import checkpoints as checkpoint

    _checkpoint(tmp_path, 1), _checkpoint(tmp_path, 2)
    monkeypatch.setattr(checkpoint, "_checksum", lambda path: pytest.fail(f"{path} is read"))
    rotate(tmp_path, 1)
    assert [path.name for path in whole_checkpoints(tmp_path)] == ["checkpoint-2"]


def test_rotation_keeps_the_last_and_the_best_and_counts_only_whole_ones(tmp_path):
    paths = [_checkpoint(tmp_path, step) for step in (1, 2, 3, 4)]
    unseal(paths[3])
    rotate(tmp_path, 2, best=str(paths[0]))
    assert whole_checkpoints(tmp_path) == [paths[0], paths[2]]
    rotate(tmp_path, 1)
    assert whole_checkpoints(tmp_path) == [paths[2]]
    assert paths[3].is_dir()


def test_an_earlier_runs_checkpoints_are_set_aside(tmp_path, capsys):
    paths = [_checkpoint(tmp_path, step) for step in (1, 2, 4)]
    set_aside_later(tmp_path, 2)
    assert whole_checkpoints(tmp_path) == paths[:2]
    again = _checkpoint(tmp_path, 4)
    set_aside_later(tmp_path, 0)
    assert checkpoint_to_resume(tmp_path, "auto") is None and not again.exists()
    names = {path.name.partition("-")[2] for path in (tmp_path / "replaced").iterdir()}
    assert names == {"checkpoint-1", "checkpoint-2", "checkpoint-4"}
    assert len(list((tmp_path / "replaced").iterdir())) == 4
    assert "3 checkpoints that this run does not resume" in capsys.readouterr().out
