"""A second training in the folder of a finished run: which of the two it holds, and when."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
from transformers import TrainerCallback

from ocrkit.__main__ import main
from ocrkit.config import TrainConfig
from ocrkit.data.load import load_data
from ocrkit.errors import ConfigError, TrainingError
from ocrkit.evaluation.compare import compare, training_of
from ocrkit.evaluation.evaluate import evaluate
from ocrkit.models.load import load_model
from ocrkit.models.write import export
from ocrkit.run_folder import locked, read_log, read_run
from ocrkit.runs.leaderboard import leaderboard
from ocrkit.training.train import train


def settings(folder, **changes):
    """A run of two steps on the dataset that lies in its folder, as `make demo` has it."""
    defaults = {
        "dataset": f"{folder}/data",
        "output_dir": str(folder),
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "eval_steps": None,
        "save_steps": 1,
        "max_new_tokens": 12,
        "warmup_steps": 0,
        "lr_scheduler_type": "constant",
    }
    return TrainConfig.from_recipe("quickstart", **(defaults | changes))


def demo(config, callbacks=None):
    """What the notebooks do: read, train, read again, report and export, in one folder."""
    data = load_data(config)
    model, processor = load_model(config)
    rows = data["test"].select(range(4))
    before = evaluate(model, processor, rows, config, name="base")
    train(model, processor, data, config, callbacks=callbacks)
    after = evaluate(model, processor, rows, config, name="tuned")
    compare(before, after).save(f"{config.output_dir}/report")
    out = f"{config.output_dir}/merged"
    export(model, processor, out, "merged_16bit", config=config, samples=0)
    return after


@pytest.fixture(scope="module")
def finished(thermal, tmp_path_factory):
    """A finished run with its dataset, evaluations, a report, an export and somebody's notes."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    shutil.copytree(thermal, folder / "data")
    demo(settings(folder))
    (folder / "notes.txt").write_text("mine")
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished run."""
    return shutil.copytree(finished, tmp_path / "run")


def snapshot(folder):
    """The hash of every file but the lock, and but the dataset."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and path.name != ".run.lock" and path.parts[len(folder.parts)] != "data"
    }


def shown(folder, name="merged"):
    """The CER of every evaluation that the card of an export shows."""
    lines = (folder / name / "README.md").read_text().splitlines()
    cells = [line.split(" | ") for line in lines if " | cer | " in line]
    return {row[0].removeprefix("| "): row[2] for row in cells}


def test_a_second_run_shows_its_own_metrics_and_sets_the_first_aside(run, capsys):
    first, files = read_run(run), snapshot(run)
    after = demo(settings(run, learning_rate=0.05))
    second = read_run(run)
    assert second["id"] != first["id"] and second["start"] == first["start"]
    assert (after.run, after.weights) == (second["id"], second["weights"])
    cer = after.metrics["cer"]["value"]
    assert shown(run)["tuned"] == f"{cer:.4f}" and set(shown(run)) == {"base", "tuned"}
    assert leaderboard(run)[0]["metrics"]["cer"]["value"] == cer
    place = run / "replaced" / first["id"]
    assert f"The run that was in {run} is now in {place}" in capsys.readouterr().out
    # All of the first run, and nothing but what stays: notes, and what the base read.
    stayed = {name for name in files if name.startswith("eval/base/") or name == "notes.txt"}
    assert snapshot(place) == {name: files[name] for name in files if name not in stayed}
    assert stayed <= snapshot(run).keys() and (run / "notes.txt").read_text() == "mine"
    old, new = ((folder / "adapter/run.json").read_text() for folder in (place, run))
    assert first["id"] in old and second["id"] in new
    assert read_run(run / "checkpoint-2") == second


class _Break(TrainerCallback):
    def __init__(self, action):
        self.action = action

    def on_step_begin(self, args, state, control, **kwargs):
        self.action(kwargs["model"])


def _poison(model):
    model.get_output_embeddings().weight.data[0, 0] = float("nan")


def _interrupt(model):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("error", "action", "changes"),
    [
        (TrainingError, _poison, {}),
        (KeyboardInterrupt, _interrupt, {"report_to": "none"}),
        (ConfigError, _interrupt, {"sft_kwargs": {"packking": True}}),
    ],
)
def test_a_second_run_that_ends_before_its_first_step_leaves_the_first(run, error, action, changes):
    files = snapshot(run)
    config = settings(run, learning_rate=0.5, lora_alpha=512, **changes)
    data, loaded = load_data(config), load_model(config)
    with pytest.raises(error):
        train(*loaded, data, config, callbacks=[_Break(action)])
    assert snapshot(run) == files


def test_a_resumed_run_keeps_its_id_and_shows_no_metrics_of_its_older_weights(run, capsys):
    first = read_run(run)
    config = settings(run, max_steps=3, resume_from_checkpoint="auto")
    train(*load_model(config), load_data(config), config)
    again = read_run(run)
    assert (again["id"], again["start"]) == (first["id"], first["start"])
    assert again["weights"] != first["weights"]
    assert read_run(run / "checkpoint-3") == again and not (run / "replaced").exists()
    row = leaderboard(run)[0]
    assert row["metrics"] == {} and "it measured other weights" in row["foreign"]
    assert "1 of 1 runs are shown without their evaluation 'tuned'" in capsys.readouterr().out
    assert leaderboard(run, evaluation="base")[0]["metrics"]
    assert training_of(run / "eval" / "tuned") == {}
    assert "other weights" in capsys.readouterr().out
    assert training_of(run / "eval" / "base")["history"]
    config.model_name_or_path = str(run)
    export(*load_model(config), run / "other", config=config)
    assert set(shown(run, "other")) == {"base"}
    assert (
        "The evaluation `tuned` is not shown: it measured" in (run / "other/README.md").read_text()
    )


def test_an_evaluation_of_version_0_1_0_is_of_unknown_weights(run, capsys):
    path = run / "eval" / "tuned" / "metrics.json"
    summary = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in summary.items() if k not in ("run", "weights")}))
    assert leaderboard(run)[0]["metrics"] == {}
    assert "as ocrkit 0.1.0 wrote it; run `python -m ocrkit evaluate`" in capsys.readouterr().out
    config = replace(settings(run), model_name_or_path=str(run))
    export(*load_model(config), run / "merged", config=config, overwrite=True)
    assert set(shown(run)) == {"base"}


def test_run_may_start_from_the_weights_in_its_own_folder(run):
    """They move away, and the settings of the new run name them where they are then."""
    first = read_run(run)
    config = settings(run, max_steps=1, model_name_or_path=str(run))
    train(*load_model(config), load_data(config), config)
    assert read_run(run)["start"] == first["weights"]
    place = run / "replaced" / first["id"]
    assert TrainConfig.from_recipe(str(run / "config.yaml")).model_name_or_path == str(place)
    assert (run / "eval" / "tuned").is_dir()  # of the weights that this run began from
    load_model(TrainConfig.from_recipe(str(run / "config.yaml")))


def test_one_process_trains_in_a_folder_at_a_time(run):
    refused = []

    def second():
        try:
            train(None, None, {}, settings(run))
        except BlockingIOError as error:
            refused.append(str(error))

    def start(model):
        thread = Thread(target=second)
        thread.start()
        thread.join()

    config = settings(run, max_steps=1)
    loaded, data = load_model(config), load_data(config)
    train(*loaded, data, config, callbacks=[_Break(start)])
    assert len(refused) == 1
    assert f"Another run is training in output_dir='{run}'; wait for it to end" in refused[0]
    train(*loaded, data, config)  # and again in the same kernel
    assert len(list((run / "replaced").iterdir())) == 2


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}


def command(config, processes=1):
    config.save(f"{config.output_dir}-recipe.yaml")
    recipe = ["-m", "ocrkit", "train", "--recipe", f"{config.output_dir}-recipe.yaml"]
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    launcher += ["--master_port", str(20000 + os.getpid() % 20000)]
    return [sys.executable, *launcher * (processes > 1), *recipe]


def test_a_second_command_is_refused_until_the_first_is_killed(run, capsys):
    before = read_run(run)["id"]
    first = subprocess.Popen(
        command(settings(run, max_steps=500)),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(1200):
            if read_run(run).get("id") not in (None, before) or first.poll() is not None:
                break
            time.sleep(0.1)
        arguments = ["train", "--recipe", f"{run}-recipe.yaml", "--max_steps", "1"]
        assert main(arguments) == 1
        assert (
            capsys.readouterr().err.splitlines()[-1].startswith("ocrkit: Another run is training")
        )
        # What reads takes no lock.
        assert leaderboard(run)[0]["state"] == "unfinished"
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert main(arguments) == 0
    log = read_log(run / "train_log.jsonl")
    assert [entry["step"] for entry in log if "loss" in entry] == [1]


def start_two_processes(config):
    return subprocess.run(
        command(config, 2),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_two_processes_hold_one_lock_and_take_a_folder_over_under_one_id(run):
    files, first = snapshot(run), read_run(run)
    # Were each process to lock the folder, the second would be refused.
    done = start_two_processes(settings(run, max_steps=1, per_device_train_batch_size=2))
    assert done.returncode == 0, done.stderr
    second = read_run(run)
    assert second["id"] != first["id"]
    assert read_run(run / "checkpoint-1") == read_run(run / "adapter") | {"start": second["start"]}
    place = run / "replaced" / first["id"]
    assert snapshot(place)["checkpoint-1/complete.json"] == files["checkpoint-1/complete.json"]


@pytest.mark.slow
def test_two_processes_are_refused_together_in_a_locked_folder(run):
    files = snapshot(run)
    with locked(run):
        done = start_two_processes(settings(run, max_steps=1, per_device_train_batch_size=2))
    assert done.returncode != 0
    assert done.stderr.count("ocrkit: Another run is training in output_dir=") == 2
    assert {name: snapshot(run)[name] for name in files} == files


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_the_first_run_reads_as_before_after_kills_of_a_second(run, tmp_path, kills):
    config = settings(run, learning_rate=0.05, max_steps=3)
    config.save(tmp_path / "second.yaml")
    arguments = [
        "-m",
        "tests.helpers.killed_run",
        str(tmp_path / "second.yaml"),
        str(kills),
        "second",
    ]
    done = subprocess.run(
        [sys.executable, *arguments], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    print(result)
    assert result["kills"] == result["reads as before"] == kills
    assert result["before the first step"] >= kills // 3
    assert result["after it was set aside"] >= kills // 3
