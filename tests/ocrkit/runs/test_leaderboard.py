"""Runs made up of files only: who leads, and which pairs differ in one parameter alone."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ocrkit.config import TrainConfig
from ocrkit.display.tables import interval
from ocrkit.evaluation.compare import compare
from ocrkit.evaluation.evaluation import score
from ocrkit.run_folder import write_run
from ocrkit.runs.leaderboard import (
    best_beside_worst,
    change_table,
    leaderboard,
    one_at_a_time,
    plot_changes,
    plot_curves,
    plot_leaderboard,
    table,
)

NOTEBOOKS = Path(__file__).parents[3] / "notebooks"
TRUTHS = [f"TOTAL {n}.00" for n in range(12)]


def make_run(folder, wrong, truths=TRUTHS, **settings):
    """A run folder whose reader gets the last character of the first `wrong` rows wrong."""
    folder.mkdir(parents=True)
    config = TrainConfig(output_dir=str(folder), dataset=f"{folder}/data", **settings)
    config.save(folder / "config.yaml")
    records = [
        {
            "id": str(n),
            "reference": truth,
            "prediction": truth[:-1] + "O" if n < wrong else truth,
            "group": str(n // 2),
        }
        for n, truth in enumerate(truths)
    ]
    weights = folder.name
    replace(score(records, "tuned"), weights=weights).save(folder / "eval" / "tuned")
    write_run(folder, {"id": "1", "weights": weights})
    log = [{"step": n, "loss": 1 / n, "eval_cer": 0.1 / n} for n in (1, 2, 3)]
    log.append({"step": 3, "train_runtime": 90.0})
    (folder / "train_log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in log))
    return folder


@pytest.fixture
def runs(tmp_path):
    """Two by two runs: rate 0.001 and 0.01, rank 8 and 32."""
    for wrong, rate, rank in ((6, 0.001, 8), (4, 0.001, 32), (1, 0.01, 8), (0, 0.01, 32)):
        make_run(tmp_path / f"{rate}-{rank}", wrong, learning_rate=rate, lora_r=rank)
    return tmp_path


def test_leaderboard_lists_the_best_first_with_varied_parameters(runs):
    rows = leaderboard(runs)
    assert [row["run"] for row in rows] == ["0.01-32", "0.01-8", "0.001-32", "0.001-8"]
    assert rows[1]["parameters"] == {"learning_rate": 0.01, "lora_r": 8}
    cer = rows[-1]["metrics"]["cer"]
    assert cer["value"] == pytest.approx(6 / sum(map(len, TRUTHS)))
    assert cer["low"] < cer["value"] < cer["high"]
    assert all(row["state"] == "done" and row["minutes"] == 1.5 for row in rows)
    assert leaderboard(runs / "0.01-8", runs / "0.001-8")[0]["run"] == "0.01-8"


def test_pairs_differ_in_exactly_one_parameter(runs):
    changes = one_at_a_time(leaderboard(runs))
    pairs = {(c["parameter"], *c["runs"]) for c in changes}
    assert pairs == {
        ("learning_rate", "0.001-8", "0.01-8"),
        ("learning_rate", "0.001-32", "0.01-32"),
        ("lora_r", "0.001-8", "0.001-32"),
        ("lora_r", "0.01-8", "0.01-32"),
    }
    change = next(c for c in changes if c["runs"] == ("0.001-8", "0.01-8"))
    assert (change["before"], change["after"], change["others"]) == (0.001, 0.01, {"lora_r": 8})


def test_the_difference_is_the_paired_bootstrap_of_the_report(runs):
    from ocrkit.evaluation.evaluation import Evaluation

    change = one_at_a_time(leaderboard(runs / "0.001-8", runs / "0.01-8"))[0]
    pair = [Evaluation.load(runs / name / "eval" / "tuned") for name in ("0.001-8", "0.01-8")]
    pair[0].name, pair[1].name = "a", "b"
    expected = compare(*pair)
    assert change["differences"]["cer"] == expected.differences["b"]["cer"]
    assert change["p"] == expected.p_values["b"]["exact_match"] == 2 / 2**5
    assert change["differences"]["cer"]["high"] < 0


def test_three_values_are_compared_with_the_smallest(tmp_path):
    for wrong, rate in ((3, 0.1), (2, 0.001), (1, 0.01)):
        make_run(tmp_path / str(rate), wrong, learning_rate=rate)
    changes = one_at_a_time(leaderboard(tmp_path))
    assert [(c["before"], c["after"]) for c in changes] == [(0.001, 0.01), (0.001, 0.1)]


def test_settings_without_effect_on_learning_are_no_parameters(tmp_path):
    make_run(tmp_path / "a", 1, run_name="a", logging_steps=5, tags=["x"])
    make_run(tmp_path / "b", 1, run_name="b", logging_steps=9)
    rows = leaderboard(tmp_path)
    assert [row["parameters"] for row in rows] == [{}, {}]
    assert one_at_a_time(rows) == []


def test_setting_newer_than_a_run_counts_as_its_default(tmp_path):
    old = make_run(tmp_path / "old", 1) / "config.yaml"
    make_run(tmp_path / "new", 1)
    settings = yaml.safe_load(old.read_text())
    del settings["curriculum_start"]
    old.write_text(yaml.safe_dump(settings))
    assert leaderboard(tmp_path)[0]["parameters"] == {}


def test_runs_on_other_rows_are_reported_as_not_comparable(tmp_path):
    make_run(tmp_path / "a", 1, seed=1)
    make_run(tmp_path / "b", 1, truths=TRUTHS[:6], seed=2)
    changes = one_at_a_time(leaderboard(tmp_path))
    assert changes[0]["differences"] == {} and "different ids" in changes[0]["why"]
    assert change_table(changes)[0]["p (matches)"] == "not the same rows"


def test_failed_and_unfinished_members_come_last_and_show_no_numbers(runs):
    failed = make_run(runs / "failed", 0, lora_r=64)
    status = {"parameters": {"lora_r": 64}, "state": "failed", "error": "killed by SIGKILL"}
    (failed / "status.json").write_text(json.dumps(status))
    (runs / "unfinished").mkdir()
    (runs / "unfinished" / "status.json").write_text('{"parameters": {"lora_r": 4}}')
    rows = leaderboard(runs)
    assert [(row["run"], row["state"]) for row in rows[-2:]] == [
        ("failed", "failed"),
        ("unfinished", "unfinished"),
    ]
    assert rows[-2]["metrics"] == {} and rows[-2]["error"] == "killed by SIGKILL"
    assert table(rows)[-2]["CER"] == "—"
    assert all("failed" not in change["runs"] for change in one_at_a_time(rows))


def test_a_parameter_of_the_notebook_alone_counts(tmp_path):
    for number, name in ((100, "a"), (300, "b")):
        status = {"parameters": {"receipts": number, "lora_r": 16}, "state": "done", "seconds": 60}
        (make_run(tmp_path / name, 1) / "status.json").write_text(json.dumps(status))
    rows = leaderboard(tmp_path)
    assert [row["parameters"] for row in rows] == [{"receipts": 100}, {"receipts": 300}]


def test_leaderboard_without_runs_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="holds no run"):
        leaderboard(tmp_path)
    with pytest.raises(ValueError, match="holds no run"):
        leaderboard(tmp_path / "nowhere")


def test_leaderboard_numbers_are_formatted_as_in_the_report(runs):
    rows = leaderboard(runs)
    first = table(rows)[0]
    assert (first["learning_rate"], first["lora_r"], first["state"]) == ("0.01", "32", "done")
    assert first["exact match"] == interval(rows[0]["metrics"]["exact_match"])
    changed = change_table(one_at_a_time(rows))[0]
    assert changed["changed"] == "learning_rate 0.001 → 0.01"
    assert changed["CER, after − before"].startswith("−") and " points [" in str(changed)


def test_plots_show_every_run(runs):
    rows = leaderboard(runs)
    figure = plot_leaderboard(rows)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[::-1] == [row["run"] for row in rows]
    changes = one_at_a_time(rows)
    named = [label.get_text() for label in plot_changes(changes).axes[0].get_yticklabels()]
    assert named[::-1][0] == "learning_rate 0.001 → 0.01 (lora_r 32)" and len(named) == 4
    curves = plot_curves(rows)
    assert [len(axes.lines) for axes in curves.axes] == [4, 4]
    assert list(curves.axes[1].lines[0].get_ydata()) == pytest.approx([0.1, 0.05, 0.1 / 3])


def test_the_best_run_stands_beside_the_worst_of_the_same_rows(runs):
    rows = leaderboard(runs)
    pair = best_beside_worst(rows).evaluations
    assert [evaluation.name for evaluation in pair] == ["0.001-8", "0.01-32"]
    make_run(runs / "others", 9, truths=["TAX 1.00"] * 12, seed=7)
    again = best_beside_worst(leaderboard(runs)).evaluations
    assert [evaluation.name for evaluation in again] == ["0.001-8", "0.01-32"]
    assert [evaluation.name for evaluation in best_beside_worst(rows[:1]).evaluations] == [
        "0.01-32"
    ]
    with pytest.raises(ValueError, match="No run has been evaluated"):
        best_beside_worst(leaderboard(runs, evaluation="later"))


def execute(tmp_path, **parameters) -> str:
    """All that compare_runs.ipynb shows, run headless."""
    out = tmp_path / "executed.ipynb"
    parameters = {"output_dir": tmp_path / "out", **parameters}
    command = [sys.executable, "-m", "papermill", "--no-progress-bar"]
    command += [str(NOTEBOOKS / "compare_runs.ipynb"), str(out)]
    for name, value in parameters.items():
        command += ["-p", name, str(value)]
    done = subprocess.run(
        command, cwd=NOTEBOOKS.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    cells = json.loads(out.read_text(encoding="utf-8"))["cells"]
    return json.dumps([cell.get("outputs") for cell in cells], ensure_ascii=False)


def test_the_notebook_compares_runs_of_any_folder(runs, tmp_path):
    shown = execute(tmp_path, runs=runs)
    assert shown.count('"image/png":') == 3
    assert (tmp_path / "out" / "report" / "index.html").is_file()
    assert "learning_rate 0.001 → 0.01" in shown and "lora_r 8 → 32" in shown
    assert "0.01-32" in shown and "not the same rows" not in shown


@pytest.mark.slow
def test_without_runs_the_notebook_makes_some(tmp_path):
    shown = execute(tmp_path)
    assert shown.count('"image/png":') == 3
    assert "learning_rate 1e-06 → 0.005" in shown and "not the same rows" not in shown
    rows = leaderboard(tmp_path / "out" / "sweep")
    assert [row["parameters"] for row in rows] == [
        {"learning_rate": 0.005},
        {"learning_rate": 1e-06},
    ]
    assert [row["state"] for row in rows] == ["done", "done"]


def _write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def _folder(path):
    path.unlink(missing_ok=True)
    path.mkdir(parents=True)


def _fifo(path):
    path.unlink(missing_ok=True)
    os.mkfifo(path)


METRICS_FILE = "eval/tuned/metrics.json"


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("config.yaml", b"a: [1", "cut off or damaged"),
        ("config.yaml", b"- lora_r\n", "holds no names with values"),
        ("config.yaml", b"1: 2\n", "holds no names with values"),
        ("config.yaml", b"a: \xff\xfe\n", "cut off or damaged"),
        ("config.yaml", b"a: \x00\n", "cut off or damaged"),
        ("config.yaml", _folder, "is no file"),
        ("config.yaml", _fifo, "is no file"),
        ("status.json", b'{"state": "do', "cut off or damaged"),
        ("status.json", b'{"parameters": [1]}', "holds no names with values"),
        ("status.json", b'{"seconds": "long"}', "no number"),
        (METRICS_FILE, b'{"metrics": {"cer"', "cut off or damaged"),
        (METRICS_FILE, b"[]", "holds no names with values"),
        (METRICS_FILE, b'{"metrics": {"cer": 1}}', "holds no names with values"),
        (METRICS_FILE, b'{"metrics": {"cer": {"value": "x"}}}', "no numbers for cer"),
        (METRICS_FILE, b'{"metrics": {"cer": {"value": NaN, "low": 0, "high": 1}}}', "no numbers"),
        (METRICS_FILE, b"[" * 100_000, "cut off or damaged"),
        (METRICS_FILE, _folder, "is no file"),
    ],
)
def test_leaderboard_lists_a_broken_run(name, damage, reason, runs):
    whole = {row["run"]: row for row in leaderboard(runs) if row["run"] != "0.01-8"}
    path = runs / "0.01-8" / name
    damage(path) if callable(damage) else _write(path, damage)
    rows = leaderboard(runs)
    assert rows[-1]["run"] == "0.01-8" and rows[-1]["state"] == "broken"
    assert str(path) in rows[-1]["error"] and reason in rows[-1]["error"]
    assert {row["run"]: row["metrics"] for row in rows[:-1]} == {
        run: row["metrics"] for run, row in whole.items()
    }
    assert table(rows)[-1]["state"].startswith("broken: ")
    assert one_at_a_time(rows) and best_beside_worst(rows)


def test_a_log_with_strange_lines_has_the_others(runs):
    log = runs / "0.01-8" / "train_log.jsonl"
    log.write_bytes(b'3\n"train_runtime"\n\xff\n{"train_runtime": "x"}\n' + log.read_bytes())
    assert leaderboard(runs)[1]["minutes"] == 1.5


def test_many_runs_read_their_settings_once(runs, monkeypatch):
    calls = []
    monkeypatch.setattr(TrainConfig, "__post_init__", lambda self: calls.append(1))
    for number in range(30):
        shutil.copytree(runs / "0.01-8", runs / f"copy{number}")
    log = runs / "0.01-8" / "train_log.jsonl"
    log.write_text('{"step": 1, "loss": 1}\n' * 1000 + log.read_text())
    parsed = []
    loads = json.loads
    monkeypatch.setattr("json.loads", lambda text: parsed.append(1) or loads(text))
    assert len(leaderboard(runs)) == 34
    # The defaults; and metrics, run.json and the log's entry that has the time, of each run.
    assert len(calls) == 1 and len(parsed) == 3 * 34
