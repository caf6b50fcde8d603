import pytest

from ocrkit.checkpoint import (
    checkpoint_to_resume,
    missing_part,
    rotate,
    seal,
    set_aside,
    unseal,
    whole_checkpoints,
)
from ocrkit.config import ConfigError


def _checkpoint(folder, step):
    path = folder / f"checkpoint-{step}"
    (path / "deeper").mkdir(parents=True)
    (path / "weights.bin").write_bytes(b"0" * 100)
    (path / "deeper" / "state.json").write_text("{}")
    seal(path)
    return path


def test_only_what_was_written_to_its_end_is_resumed(tmp_path):
    paths = [_checkpoint(tmp_path, step) for step in (5, 30, 200, 1000)]
    assert whole_checkpoints(tmp_path) == paths
    unseal(paths[3])
    (paths[2] / "weights.bin").write_bytes(b"0" * 99)
    (paths[1] / "deeper" / "state.json").unlink()
    assert checkpoint_to_resume(tmp_path, "auto") == paths[0]
    assert "weights.bin in full (100 bytes)" in missing_part(paths[2])
    with pytest.raises(ConfigError, match=r"lacks complete\.json.*auto for the latest"):
        checkpoint_to_resume(tmp_path, str(paths[3]))
    assert checkpoint_to_resume(tmp_path, None) is None
    assert checkpoint_to_resume(tmp_path / "none", "auto") is None


def test_a_damaged_mark_is_no_mark(tmp_path):
    path = _checkpoint(tmp_path, 1)
    (path / "complete.json").write_text("{")
    assert whole_checkpoints(tmp_path) == []


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
    set_aside(tmp_path, 2)
    assert whole_checkpoints(tmp_path) == paths[:2]
    again = _checkpoint(tmp_path, 4)
    set_aside(tmp_path, 0)
    assert checkpoint_to_resume(tmp_path, "auto") is None and not again.exists()
    names = {path.name.partition("-")[2] for path in (tmp_path / "replaced").iterdir()}
    assert names == {"checkpoint-1", "checkpoint-2", "checkpoint-4"}
    assert len(list((tmp_path / "replaced").iterdir())) == 4
    assert "3 checkpoints that this run does not go on from" in capsys.readouterr().out
