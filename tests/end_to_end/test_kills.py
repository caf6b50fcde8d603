"""A run that is killed at any moment goes on from a whole checkpoint, to the same weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("kills", [2, pytest.param(30, marks=pytest.mark.slow)])
def test_run_killed_at_any_moment_resumes(config, tmp_path, kills):
    config.max_steps, config.save_steps = 6 * kills, 1
    config.save(tmp_path / "config.yaml")
    command = [
        sys.executable,
        "-m",
        "tests.helpers.killed_run",
        str(tmp_path / "config.yaml"),
        str(kills),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    print(result)
    assert result["exit codes"] == [0, 0]
    assert result["bad"] == 0
    assert result["while saving"] >= kills // 4
    assert result["resumed from"] == sorted(result["resumed from"])
    assert result["resumed from"][-1] > 0
    assert result["same weights"]
