import json

import pytest

from ocrkit.errors import ConfigError
from ocrkit.evaluation.compare import load_evaluations, told_by_run
from ocrkit.evaluation.evaluation import score


def saved(run, name="tuned"):
    found = score([{"id": 1, "reference": "a", "prediction": "a"}], name)
    return found.save(run / "eval" / name)


def test_only_names_that_come_twice_take_their_run_along(tmp_path):
    folders = [saved(tmp_path / "s1", "base"), saved(tmp_path / "s1"), saved(tmp_path / "s2")]
    names = [evaluation.name for evaluation in load_evaluations(folders)]
    assert names == ["base", "s1/tuned", "s2/tuned"]
    assert [e.name for e in load_evaluations(folders, ["a", "b", "c"])] == ["a", "b", "c"]
    with pytest.raises(ConfigError, match="a, b do not tell 3 evaluations apart: give --names"):
        load_evaluations(folders, ["a", "b"])


def test_a_run_tells_its_history_and_what_it_skipped(tmp_path):
    folder = saved(tmp_path)
    assert told_by_run(folder) == {"history": [], "skipped": {}}
    (tmp_path / "train_log.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    line = json.dumps({"where": "x", "reason": "missing picture", "detail": "x"})
    (tmp_path / "skipped.jsonl").write_text(f"{line}\n{line}\n")
    told = told_by_run(folder)
    assert told == {"history": [{"step": 1, "loss": 2.0}], "skipped": {"missing picture": 2}}
