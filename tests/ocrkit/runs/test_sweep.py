"""Sweeps of a notebook that trains nothing: what runs, what is skipped, what survives."""

import ast
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from ocrkit.__main__ import main
from ocrkit.errors import ConfigError
from ocrkit.runs.sweep import members, parse_grid, sweep

PARAMETERS = """
output_dir = "runs/x"
learning_rate = 0.001
lora_r = None
wait = 0
fail = ""
"""
BODY = """
import os, time
from pathlib import Path
from ocrkit import TrainConfig
from ocrkit.evaluation.evaluation import score

config = TrainConfig.from_parameters(globals(), also=["wait", "fail"])
folder = Path(config.output_dir)
with (folder / "ran").open("a") as file:
    file.write(str(os.getpid()) + " ")
time.sleep(wait)
if fail == "error":
    raise ValueError(f"learning_rate {config.learning_rate} is too\\nmuch")
if fail == "kill" and config.learning_rate > 0.005:
    os.kill(os.getppid(), 9)
    time.sleep(60)
config.save(folder / "config.yaml")
said = "TOTAL 9.00" if config.learning_rate < 0.005 else "TOTAL 9.0O"
records = [{"id": "a", "reference": "TOTAL 9.00", "prediction": said}]
score(records, "tuned").save(folder / "eval" / "tuned")
"""


@pytest.fixture
def notebook(tmp_path):
    return write(tmp_path / "fake.ipynb", BODY)


def write(path: Path, body: str) -> Path:
    cells = [nbformat.v4.new_code_cell(PARAMETERS.strip()), nbformat.v4.new_code_cell(body.strip())]
    cells[0].metadata.tags = ["parameters"]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    document = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(document, path)
    return path


def ran(folder: Path) -> int:
    """How often a member's second cell began."""
    path = folder / "ran"
    return len(path.read_text().split()) if path.is_file() else 0


def state(folder: Path) -> str:
    return json.loads((folder / "status.json").read_text())["state"]


def at_work(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_grid_is_every_combination_with_readable_names():
    grid = parse_grid(["learning_rate=1e-5,2e-5", "lora_r=16,64"], seeds="42")
    combinations = members(grid)
    assert list(combinations) == [
        "learning_rate=1e-05,lora_r=16,seed=42",
        "learning_rate=1e-05,lora_r=64,seed=42",
        "learning_rate=2e-05,lora_r=16,seed=42",
        "learning_rate=2e-05,lora_r=64,seed=42",
    ]
    assert list(combinations.values())[1] == {"learning_rate": 1e-5, "lora_r": 64, "seed": 42}


def test_grid_values_unfit_for_folder_names_get_distinct_names():
    names = list(members({"model_name_or_path": ["org/a b", "org/a-b", "../up", "x" * 300]}))
    assert len(set(names)) == 4
    assert all("/" not in name and " " not in name and len(name) < 128 for name in names)
    assert not any(name.startswith(".") for name in names)


def test_grid_commas_in_brackets_do_not_separate():
    grid = parse_grid(["lora_target_modules=[q_proj,v_proj],[q_proj]", "load_in_4bit=False,True"])
    assert grid == {
        "lora_target_modules": ["[q_proj,v_proj]", "[q_proj]"],
        "load_in_4bit": [False, True],
    }


@pytest.mark.parametrize(
    "entry", ["lora_r", "lora_r=", "lora_r=1,,2", "lora_r=1,1", "lora_r=1e-5,1.0e-5", "a b=1"]
)
def test_a_grid_that_cannot_be_read_is_wrong_usage(entry, notebook, capsys):
    assert main(["sweep", str(notebook), "--grid", entry]) == 2
    error = capsys.readouterr().err
    assert entry in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--grid", "lerning_rate=1"], "did you mean 'learning_rate'"),
        (["--grid", "lora_r=1", "-p", "wit", "1"], "did you mean 'wait'"),
        (["--grid", "lora_r=1,x"], "lora_r='x' must be of type int"),
        (["--grid", "eval_steps=none,2", "-p", "load_best_model_at_end", "True"], "eval_steps"),
        (["--grid", "output_dir=a,b"], "give --out"),
        (["--grid", "lora_r=1,2", "-p", "lora_r", "4"], "both varied and the same"),
        ([], "nothing to vary"),
    ],
)
def test_sweep_checks_every_member_before_the_first_run(
    arguments, message, notebook, tmp_path, capsys
):
    out = tmp_path / "out"
    assert main(["sweep", str(notebook), *arguments, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not out.exists()


def test_sweep_refuses_a_file_that_is_no_notebook(tmp_path, capsys):
    broken, bare = tmp_path / "broken.ipynb", tmp_path / "bare.ipynb"
    broken.write_text("{")
    bare.write_text(json.dumps({"cells": []}))
    for path, message in (
        (tmp_path / "none.ipynb", "cannot be read"),
        (broken, "is no Jupyter notebook"),
        (bare, "no cell tagged 'parameters'"),
    ):
        assert main(["sweep", str(path), "--grid", "lora_r=1,2"]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_thousands_of_members_are_checked_and_read_once(notebook, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("ocrkit.runs.sweep._member", lambda *_: "done before")
    monkeypatch.setattr("ocrkit.runs.sweep._save", lambda *_: calls.append("save") or [])
    parse = ast.parse
    monkeypatch.setattr("ast.parse", lambda text: calls.append("parse") or parse(text))
    grid = parse_grid(["tags=" + ",".join(f"[a,{number}]" for number in range(3000))])
    assert grid["tags"][2999] == "[a,2999]"
    assert sweep(notebook, grid, out=tmp_path / "out") == []
    assert calls == ["parse", "save"]


def test_members_run_are_skipped_when_done_and_redone_when_changed(notebook, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["sweep", str(notebook), "--grid", "learning_rate=0.001,0.01", "--out", str(out)]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "[2/2] learning_rate=0.01 ... done" in text and "exact match" in text
    first, second = (out / name for name in ("learning_rate=0.001", "learning_rate=0.01"))
    saved = json.loads((out / "sweep.json").read_text())
    assert [m["run"] for m in saved["members"]] == [first.name, second.name]
    assert [m["parameters"]["learning_rate"] for m in saved["members"]] == [0.001, 0.01]
    assert saved["members"][0]["metrics"]["cer"]["value"] == 0
    assert saved["members"][1]["metrics"]["cer"]["value"] == pytest.approx(0.1)
    assert all(m["state"] == "done" and m["minutes"] > 0 for m in saved["members"])
    assert (first / "notebook.ipynb").is_file() and (first / "log.txt").is_file()

    assert main(command) == 0
    assert capsys.readouterr().out.count("done before") == 2
    assert ran(first) == ran(second) == 1

    # Another notebook under the same name: what was done is kept aside, not taken for the new.
    write(notebook, BODY + "\nprint('new')")
    assert main([*command[:3], "learning_rate=0.001", *command[4:]]) == 0
    assert ran(first) == 1 and ran(out / "replaced" / "1-learning_rate=0.001") == 1


def test_failed_member_is_not_resumed_with_other_parameters(notebook, tmp_path):
    out, grid = tmp_path / "out", {"learning_rate": [0.001]}
    (first,) = sweep(notebook, grid, {"fail": "error"}, out)
    (second,) = sweep(notebook, grid, {"fail": ""}, out)
    assert (first["state"], second["state"]) == ("failed", "done")
    name = "learning_rate=0.001"
    assert ran(out / name) == 1 and ran(out / "replaced" / f"1-{name}") == 1


def test_a_failed_and_a_killed_member_are_recorded_and_the_others_go_on(notebook, tmp_path, capsys):
    out = tmp_path / "out"
    grid = {"fail": ["error", "kill", "no"], "learning_rate": [0.01]}
    rows = {row["parameters"]["fail"]: row for row in sweep(notebook, grid, out=out)}
    assert {fail: row["state"] for fail, row in rows.items()} == {
        "error": "failed",
        "kill": "failed",
        "no": "done",
    }
    assert rows["error"]["error"] == "ValueError: learning_rate 0.01 is too much"
    assert rows["kill"]["error"].startswith("killed by SIGKILL")
    # The kernel of the killed papermill is gone too, and its GPU memory with it.
    kernel = int((Path(rows["kill"]["folder"]) / "ran").read_text())
    assert not at_work(kernel)

    # They are tried again, now with what lets them pass; the one that is done is not.
    again = ["--grid", "fail=error,kill,no", "--grid", "learning_rate=0.01", "--out", str(out)]
    assert main(["sweep", str(notebook), *again]) == 1
    text = capsys.readouterr().out
    assert text.count("failed after") == 4 and text.count("done before") == 1


def test_killed_sweep_resumes_and_leaves_no_process(notebook, tmp_path):
    out = tmp_path / "out"
    grid = ["--grid", "learning_rate=0.001,0.002", "-p", "wait", "4", "--out", str(out)]
    command = [sys.executable, "-m", "ocrkit", "sweep", str(notebook), *grid]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    first, second = (out / f"learning_rate={rate}" for rate in (0.001, 0.002))
    wait_for(lambda: ran(second))
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert (state(first), state(second)) == ("done", "running")
    orphan = psutil.Process(json.loads((second / "status.json").read_text())["pid"])
    assert orphan.is_running()

    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "done before" in done.stdout
    assert (ran(first), ran(second)) == (1, 2)
    assert (state(first), state(second)) == ("done", "done")
    assert not at_work(orphan.pid)


def test_a_stopped_sweep_stops_its_member_and_two_do_not_share_a_folder(notebook, tmp_path):
    out = tmp_path / "out"
    grid = ["--grid", "learning_rate=0.001", "-p", "wait", "60", "--out", str(out)]
    command = [sys.executable, "-m", "ocrkit", "sweep", str(notebook), *grid]
    stopped = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    member = out / "learning_rate=0.001"
    wait_for(lambda: ran(member))
    with pytest.raises(ConfigError, match="another sweep"):
        sweep(notebook, {"learning_rate": [0.001]}, out=out)
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait(timeout=180) == 1
    assert b"Traceback" not in stopped.stderr.read()
    assert state(member) == "stopped"
    assert not at_work(int((member / "ran").read_text()))


def wait_for(condition, seconds: float = 180) -> None:
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "it did not happen in time"
        time.sleep(0.05)


def test_the_member_runs_the_kit_that_the_sweep_runs(notebook, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    rows = sweep(notebook, {"lora_r": [4]}, {"learning_rate": 0.001}, out="out")
    assert [row["state"] for row in rows] == ["done"]
    assert rows[0]["settings"]["lora_r"] == 4


def test_a_notebook_that_no_sweep_ran_is_not_overwritten(notebook, tmp_path):
    folder = tmp_path / "out" / "lora_r=8"
    folder.mkdir(parents=True)
    (folder / "notebook.ipynb").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds a notebook\.ipynb but no status\.json"):
        sweep(notebook, {"lora_r": [8]}, {}, tmp_path / "out")
    assert (folder / "notebook.ipynb").read_text() == "mine"
    (folder / "notebook.ipynb").rename(folder / "log.txt")
    with pytest.raises(ConfigError, match=r"holds a log\.txt but no status\.json"):
        sweep(notebook, {"lora_r": [8]}, {}, tmp_path / "out")
    (tmp_path / "out" / "sweep.json").write_text('["mine"]')
    with pytest.raises(ConfigError, match=r"sweep\.json is of no sweep: move it"):
        sweep(notebook, {"lora_r": [9]}, {}, tmp_path / "out")
    assert (tmp_path / "out" / "sweep.json").read_text() == '["mine"]'
