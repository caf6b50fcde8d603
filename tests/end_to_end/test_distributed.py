"""Two processes on one CPU, started by torchrun: the same run as one with twice the batch."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ocrkit import export
from ocrkit.environment import process_count
from ocrkit.errors import ConfigError
from ocrkit.models.base import TINY
from ocrkit.models.load import load_model
from ocrkit.run_folder import read_log, read_run
from tests.helpers.tiny_architectures import build as build_tiny

RANDOM = {"train_sampling_strategy": "random"}


def _command(config, processes):
    command = [sys.executable, "-m", "ocrkit", "train", "--recipe", f"{config.output_dir}.yaml"]
    config.save(command[-1])
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
        command[1:1] = [*launcher, "--master_port", str(20000 + os.getpid() % 20000)]
    return command


def _environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}


def _start(config, processes=2):
    return subprocess.run(
        _command(config, processes), env=_environment(), capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("streaming", "max_weight"), [(False, 1.0), pytest.param(True, 4.0, marks=pytest.mark.slow)]
)
def test_two_processes_are_one_with_twice_the_batch(config, tmp_path, streaming, max_weight):
    """Each validation row read once, and weights of 1 the same as plain cross entropy."""
    config.sft_kwargs, config.eval_steps, config.eval_samples = RANDOM, 2, 5
    config.streaming = streaming
    config.loss, config.confusion_max_weight = "focal_confusion_weighted", max_weight
    config.focal_gamma = max_weight - 1
    config.per_device_train_batch_size, config.output_dir = 4, str(tmp_path / "two")
    done = _start(config)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("weights in") == 1
    versions = json.loads((tmp_path / "two" / "versions.json").read_text())
    assert versions["processes"] == 2
    config.per_device_train_batch_size, config.output_dir = 8, str(tmp_path / "one")
    config.loss = "cross_entropy" if max_weight == 1 else config.loss
    done = _start(config, processes=1)
    assert done.returncode == 0, done.stderr
    logs = [read_log(tmp_path / name / "train_log.jsonl") for name in ("one", "two")]
    for name in ("loss", "grad_norm", "eval_loss", "eval_cer", "eval_exact_match"):
        alone, two = ([entry[name] for entry in log if name in entry] for log in logs)
        assert len(alone) >= 2
        assert alone == pytest.approx(two, abs=1e-4), name
    alone, two = ([entry["samples"] for entry in log if "samples" in entry] for log in logs)
    assert len(alone) == 2
    assert alone == two
    alone, two = (
        [entry["confusion_weights"] for entry in log if entry.get("confusion_weights")]
        for log in logs
    )
    assert alone == two
    assert bool(alone) is (max_weight > 1)


@pytest.mark.slow
def test_two_processes_train_a_further_architecture(config, tmp_path):
    config.model_name_or_path = str(build_tiny("qwen3_5", tmp_path / "base"))
    config.dtype, config.sft_kwargs, config.max_steps = "float32", RANDOM, 2
    logs = {}
    for processes, batch in ((2, 2), (1, 4)):
        config.per_device_train_batch_size = batch
        config.output_dir = str(tmp_path / str(processes))
        done = _start(config, processes)
        assert done.returncode == 0, done.stderr
        versions = json.loads((tmp_path / str(processes) / "versions.json").read_text())
        assert versions["processes"] == processes
        log = read_log(tmp_path / str(processes) / "train_log.jsonl")
        logs[processes] = [entry["loss"] for entry in log if "loss" in entry]
    assert len(logs[1]) == 2 and logs[1] == pytest.approx(logs[2], abs=1e-4)


def test_accelerate_launch_starts_a_run(config, tmp_path):
    config.max_steps = 1
    command = _command(config, processes=1)
    launcher = ["accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    command[2:3] = [*launcher, "-m", "ocrkit"]
    done = subprocess.run(
        command, env=_environment(), capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "1 steps, mean loss" in done.stdout
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()


def test_two_processes_stop_at_the_same_step_and_go_on(config, tmp_path):
    config.sft_kwargs, config.max_steps = RANDOM, 500
    process = subprocess.Popen(
        _command(config, 2),
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    log = tmp_path / "run" / "train_log.jsonl"
    for _ in range(1200):
        if len(read_log(log)) >= 2 or process.poll() is not None:
            break
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=300)
    stopped = max(entry["step"] for entry in read_log(log))
    assert stopped < 500, output
    assert (tmp_path / "run" / f"checkpoint-{stopped}" / "complete.json").is_file(), output
    begun = read_run(tmp_path / "run")
    config.resume_from_checkpoint, config.max_steps = "auto", stopped + 1
    done = _start(config)
    assert done.returncode == 0, done.stderr
    steps = [entry["step"] for entry in read_log(log) if "loss" in entry]
    assert steps == list(range(1, stopped + 2))
    checkpoint, ended = tmp_path / "run" / f"checkpoint-{stopped + 1}", read_run(tmp_path / "run")
    assert begun["id"] == read_run(checkpoint)["id"] == ended["id"]
    assert ended == read_run(checkpoint) and ended["start"] == begun["start"]


def test_one_model_over_devices_is_refused_under_a_launcher(config, monkeypatch):
    config.device_map = "auto"
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="2 processes want a device each"):
        load_model(config)


def test_single_process_under_a_launcher_for_several_is_reported(monkeypatch):
    """`accelerate launch --cpu --num_processes 2` starts one and says nothing."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    assert process_count() == 1
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(ConfigError, match=r"given several processes and started one.*torchrun"):
        process_count()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert process_count() == 2


@pytest.mark.parametrize("trained", ["adapters", "whole"])
def test_a_model_sharded_over_two_processes_is_exported_whole(trained, config, tmp_path):
    model, processor = load_model(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    before = export(model, processor, tmp_path / "before")
    source = before if trained == "adapters" else TINY
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--master_port", str(20000 + os.getpid() % 20000)]
    command += [str(Path(__file__).parents[1] / "helpers" / "sharded_export.py")]
    command += [str(source), str(tmp_path / "after"), trained]
    done = subprocess.run(
        command, env=_environment(), capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == 0, done.stderr
    file = "adapter_model.safetensors" if trained == "adapters" else "model.safetensors"
    own, again = load_file(source / file), load_file(tmp_path / "after" / file)
    assert {name: tuple(weight.shape) for name, weight in own.items()}.items() <= {
        name: tuple(weight.shape) for name, weight in again.items()
    }.items()
    assert all(torch.equal(weight.float(), again[name].float()) for name, weight in own.items())
