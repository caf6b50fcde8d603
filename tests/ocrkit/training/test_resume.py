"""A run that goes on from a checkpoint: what it keeps, what it changes, and where that is said."""

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from ocrkit.__main__ import main
from ocrkit.config import TrainConfig
from ocrkit.data.load import load_data
from ocrkit.errors import ConfigError
from ocrkit.models.base import TINY
from ocrkit.models.load import load_model
from ocrkit.training import resume
from ocrkit.training.checkpoints import damage, seal
from ocrkit.training.resume import (
    changed_settings,
    checked_settings,
    run_description,
    saved_description,
)
from ocrkit.training.schedule import hyperparameters, restore
from ocrkit.training.train import train


class _Watch(TrainerCallback):
    """The optimizer's groups when training begins."""

    def on_train_begin(self, args, state, control, optimizer=None, **kwargs):
        self.groups = [dict(group) for group in optimizer.param_groups]


def _train(config, *callbacks):
    return train(*load_model(config), load_data(config), config, callbacks=list(callbacks))


def _entries(result, name):
    return [entry[name] for entry in result.history if name in entry]


@pytest.fixture(scope="module")
def finished(thermal, tmp_path_factory):
    """A run of two steps of 8 samples, with a checkpoint after each; its log and its config."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    config = TrainConfig.from_recipe(
        "quickstart",
        dataset=str(thermal),
        output_dir=str(folder),
        max_steps=2,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        logging_steps=1,
        eval_steps=None,
        warmup_steps=0,
        save_steps=1,
    )
    _train(config)
    return config


@pytest.fixture
def again(finished, tmp_path):
    """The settings to resume a copy of the finished run, two steps longer."""
    folder = tmp_path / "again"
    shutil.copytree(finished.output_dir, folder)
    return replace(
        finished, output_dir=str(folder), max_steps=4, resume_from_checkpoint="auto", save_steps=2
    )


@pytest.fixture
def saved(finished):
    return saved_description(Path(finished.output_dir) / "checkpoint-2")


# --- which settings may change


def test_every_setting_is_kept_or_changeable_or_compared_otherwise():
    groups = (
        resume.KEPT,
        resume.CHANGEABLE,
        resume.EVALUATION_SETTINGS,
        resume.BY_CONTENT,
        resume.BY_PRODUCT,
        resume.UNCOMPARED,
    )
    assert sorted(name for group in groups for name in group) == sorted(
        spec.name for spec in fields(TrainConfig)
    )


def _other(name, value):
    """Another value of a setting."""
    known = {
        "optim": "adafactor",
        "loss": "focal",
        "prompts": {"transcription": "Read."},
        "curriculum": "length",
        "lora_target_modules": ["q_proj"],
        "lora_dropout": 0.5,
    }
    if name in known:
        return known[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value / 2 if isinstance(value, float) and value else value + 1
    return 1 if value is None else f"{value}x" if isinstance(value, str) else {"noise": 0.1}


@pytest.mark.parametrize("name", sorted(resume.KEPT))
def test_a_setting_that_is_kept_is_refused_with_both_values(finished, saved, name):
    value = _other(name, getattr(finished, name))
    changed = replace(finished)
    setattr(changed, name, value)
    with pytest.raises(ConfigError) as error:
        checked_settings(changed, saved, Path("checkpoint-2"))
    assert f"trained with {name}={getattr(finished, name)!r}" in str(error.value)
    assert f"this run has {name}={value!r}" in str(error.value)


@pytest.mark.parametrize("name", sorted(resume.CHANGEABLE | resume.EVALUATION_SETTINGS))
def test_a_setting_that_may_change_is_recorded(finished, saved, name):
    changed = replace(finished)
    setattr(changed, name, _other(name, getattr(finished, name)))
    config = checked_settings(changed, saved, Path("checkpoint-2"))
    made = {**saved, "settings": config.to_dict()}
    changes = changed_settings(saved, made, Path("checkpoint-2"))
    assert changes == {name: [getattr(finished, name), getattr(changed, name)]}


def test_settings_of_trl_are_kept_but_for_those_of_log_and_schedule(finished, saved):
    checkpoint = Path("checkpoint-2")
    with pytest.raises(ConfigError, match=r"sft_kwargs neftune_noise_alpha=None and .*=5"):
        checked_settings(
            replace(finished, sft_kwargs={"neftune_noise_alpha": 5}), saved, checkpoint
        )
    with pytest.raises(ConfigError, match="sft_kwargs dataloader_drop_last"):
        settings = {"dataloader_drop_last": True}
        checked_settings(replace(finished, sft_kwargs=settings), saved, checkpoint)
    config = replace(finished, sft_kwargs={"logging_first_step": True})
    checked_settings(config, saved, checkpoint)
    made = {**saved, "settings": config.to_dict()}
    changes = changed_settings(saved, made, checkpoint)
    assert changes == {"sft_kwargs logging_first_step": [None, True]}


def test_another_dataset_other_rows_and_another_base_are_refused(finished, saved, tmp_path):
    checkpoint = Path("checkpoint-2")
    shutil.copytree(finished.dataset, tmp_path / "data")
    moved = replace(finished, dataset=str(tmp_path / "data"))
    checked_settings(moved, saved, checkpoint)
    made = {**saved, "settings": moved.to_dict()}
    changes = changed_settings(saved, made, checkpoint)
    assert changes == {"dataset": [finished.dataset, moved.dataset]}
    with pytest.raises(ConfigError, match=r"other training rows .*ids, texts, number or lengths"):
        changed_settings(saved, {**made, "rows": "0"}, checkpoint)
    with (tmp_path / "data" / "dataset.json").open("a") as file:
        file.write("\n")
    with pytest.raises(
        ConfigError, match=rf"has the hash {saved['dataset']}, and that of .* is \w"
    ):
        checked_settings(moved, saved, checkpoint)


def test_another_base_model_is_refused_and_the_same_elsewhere_is_not(finished, saved, tmp_path):
    checkpoint, folder = Path("checkpoint-2"), tmp_path / "model"
    shutil.copytree(TINY, folder)
    config = replace(finished, model_name_or_path=str(folder))
    rows = load_data(config)["train"]
    made = {**run_description(config, rows, load_model(config)[0]), "rows": saved["rows"]}
    changes = changed_settings(saved, made, checkpoint)
    assert changes == {"model_name_or_path": ["tiny", str(folder)]}
    path = next(folder.glob("*.safetensors"))
    save_file({n: w * 1.01 for n, w in load_file(path).items()}, path, metadata={"format": "pt"})
    made = {**run_description(config, rows, load_model(config)[0]), "rows": saved["rows"]}
    with pytest.raises(ConfigError, match=r"'tiny', and '.*model' holds other weights"):
        changed_settings(saved, made, checkpoint)
    # Adapters of another rank than the settings ask for.
    model, _ = load_model(replace(finished, lora_r=8))
    with pytest.raises(ConfigError, match="lora_r=16 and this run has lora_r=8"):
        changed_settings(saved, run_description(finished, rows, model), checkpoint)


# --- samples of a step


@pytest.mark.parametrize(
    ("size", "accumulated", "processes", "way_out"),
    [
        (4, 1, 1, "set gradient_accumulation_steps=2"),
        (4, 2, 2, "set gradient_accumulation_steps=1"),
        (3, 2, 1, "set per_device_train_batch_size=8 and gradient_accumulation_steps=1"),
        ("auto", 3, 1, "set gradient_accumulation_steps=8"),
        (1, 1, 3, "start it with 1 process"),
    ],
)
def test_resume_with_another_batch_per_step_is_refused(
    finished, saved, monkeypatch, size, accumulated, processes, way_out
):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    changed = replace(
        finished, per_device_train_batch_size=size, gradient_accumulation_steps=accumulated
    )
    with pytest.raises(ConfigError, match=rf"8 samples a step .*rows would be .*: {way_out}\."):
        checked_settings(changed, saved, Path("checkpoint-2"))


@pytest.mark.parametrize(
    ("size", "accumulated", "processes", "resolved"),
    [(8, 1, 1, 8), (2, 2, 2, 2), ("auto", 1, 1, 8), ("auto", 2, 2, 2), ("auto", 4, 1, 2)],
)
def test_resume_may_divide_the_same_batch_otherwise(
    finished, saved, monkeypatch, size, accumulated, processes, resolved
):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    changed = replace(
        finished, per_device_train_batch_size=size, gradient_accumulation_steps=accumulated
    )
    config = checked_settings(changed, saved, Path("checkpoint-2"))
    assert config.per_device_train_batch_size == resolved


def test_a_stream_may_be_resumed_with_another_number_of_workers(finished, saved):
    """The order of a stream does not depend on them: test_stream.py compares the batches."""
    stream = replace(finished, streaming=True, dataloader_num_workers=2)
    before = {**saved, "settings": stream.to_dict()}
    for workers in (0, 1, 3):
        changed = replace(stream, dataloader_num_workers=workers)
        assert checked_settings(changed, before, Path("checkpoint-2")) == changed
    before["base"] = None
    with pytest.raises(ConfigError, match=r"0\.1\.0, whose dataloader_num_workers=2 read a stream"):
        checked_settings(stream, before, Path("checkpoint-2"))


# --- what takes effect, and where it is said


@pytest.mark.parametrize(
    ("changes", "factors"),
    [
        # Factors of the rate at steps 3 and 4 (Trainer logs that of the step just taken).
        ({}, [0.5, 0.25]),
        ({"learning_rate": 1e-5}, [0.5, 0.25]),
        ({"lr_scheduler_type": "constant"}, [1, 1]),
        ({"lr_scheduler_type": "cosine", "max_steps": 3}, [0.25]),
        ({"warmup_steps": 4}, [0.5, 0.75]),
    ],
)
def test_a_longer_run_takes_its_own_rate_and_schedule(again, changes, factors):
    config = replace(again, **changes)
    result = _train(config)
    rates = [config.learning_rate * factor for factor in factors]
    assert _entries(result, "learning_rate")[2:] == pytest.approx(rates)


def test_changes_take_effect_from_the_step_and_are_on_record(again, capsys):
    config = replace(
        again, learning_rate=1e-5, weight_decay=0.1, adam_beta2=0.9, logging_steps=2, eval_steps=4
    )
    watch = _Watch()
    result = _train(config, watch)
    assert [group["weight_decay"] for group in watch.groups] == [0.1, 0.0]
    assert {group["betas"][1] for group in watch.groups} == {0.9}
    assert [group["lr"] for group in watch.groups] == pytest.approx([5e-6] * 2)
    assert [e["step"] for e in result.history if "loss" in e] == [1, 2, 4]
    changed = {
        "adam_beta2": [0.98, 0.9],
        "eval_steps": [None, 4],
        "learning_rate": [0.005, 1e-5],
        "logging_steps": [1, 2],
        "max_steps": [2, 4],
        "save_steps": [1, 2],
        "weight_decay": [0.0, 0.1],
    }
    recorded = next(entry for entry in result.history if "changed" in entry)
    places = recorded["changed"].pop("output_dir")
    assert recorded == {"step": 2, "changed": changed} and places[1] == again.output_dir
    folder = Path(again.output_dir)
    assert yaml.safe_load((folder / "config.yaml").read_text())["learning_rate"] == 1e-5
    changes = json.loads((folder / "versions.json").read_text())["changes"]
    assert changes == [{"step": 2, "changed": {**changed, "output_dir": places}}]
    assert saved_description(folder / "checkpoint-4")["changes"] == changes
    assert "Changed from step 2 on: adam_beta2 0.98 -> 0.9" in capsys.readouterr().out
    card = (folder / "adapter" / "README.md").read_text()
    assert "learning_rate: 1.0e-05" in card and "learning_rate 0.005 -> 1e-05" in card


def test_a_refused_resume_is_one_sentence_and_leaves_the_run_alone(again, capsys, tmp_path):
    folder = Path(again.output_dir)
    again.save(tmp_path / "recipe.yaml")
    # Left by tests that loaded the data of the finished run.
    (folder / "skipped.next.jsonl").unlink(missing_ok=True)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    command = ["train", "--recipe", str(tmp_path / "recipe.yaml")]
    for name, value in (("lora_r", 8), ("optim", "adafactor"), ("use_peft", False)):
        assert main([*command, f"--{name}", str(value)]) == 2
        error = capsys.readouterr().err.splitlines()
        assert error[-1].startswith("ocrkit: ") and f"this run has {name}={value!r}" in error[-1]
        assert not any(line.startswith("Traceback") for line in error)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_other_best_metric_resets_the_best_value(again, finished):
    judged = replace(
        finished,
        output_dir=again.output_dir,
        eval_steps=1,
        max_eval_samples=2,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
    )
    _train(judged)
    state = json.loads((Path(again.output_dir) / "checkpoint-2/trainer_state.json").read_text())
    assert state["best_metric"] > 0
    longer = replace(judged, max_steps=3, resume_from_checkpoint="auto", save_steps=1)
    _train(replace(longer, metric_for_best_model="exact_match"))
    state = json.loads((Path(again.output_dir) / "checkpoint-3/trainer_state.json").read_text())
    assert (state["best_metric"], state["best_global_step"]) == (0.0, 3)


def test_a_damaged_best_checkpoint_is_not_what_a_run_ends_with(finished, tmp_path, capsys):
    class Damage(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            name = "adapter_model.safetensors"
            last = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            # Copies: what is loaded lies in the file itself.
            self.last = {n: w.clone() for n, w in load_file(last / name).items()}
            path = Path(state.best_model_checkpoint) / name
            content = path.read_bytes()
            if state.global_step == 2:
                path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    judged = replace(finished, output_dir=str(tmp_path / "run"), eval_steps=1, eval_samples=2)
    judged = replace(judged, load_best_model_at_end=True, metric_for_best_model="loss")
    damage = Damage()
    _train(judged, damage)
    assert "is damaged (adapter_model.safetensors does not match" in capsys.readouterr().out
    weights = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert all(torch.equal(weights[name], damage.last[name]) for name in weights)


# --- checkpoints of other machines and versions


def test_moved_run_resumes_identically(again, finished, tmp_path):
    shutil.copytree(finished.dataset, tmp_path / "elsewhere")
    stayed = _train(again)
    moved = replace(again, output_dir=str(tmp_path / "moved"), dataset=str(tmp_path / "elsewhere"))
    shutil.copytree(finished.output_dir, moved.output_dir)
    assert _entries(_train(moved), "loss") == _entries(stayed, "loss")


def _as_0_1_0(checkpoint):
    (checkpoint / "settings.json").unlink()
    files = [path for path in checkpoint.rglob("*") if path.name != "complete.json"]
    sizes = {path.relative_to(checkpoint).as_posix(): path.stat().st_size for path in files}
    (checkpoint / "complete.json").write_text(json.dumps(sizes, indent=1))


def test_a_checkpoint_of_version_0_1_0_resumes_by_its_run_folder(again, capsys):
    folder = Path(again.output_dir)
    _as_0_1_0(folder / "checkpoint-2")
    with pytest.raises(ConfigError, match="lora_alpha=32 and this run has lora_alpha=64"):
        _train(replace(again, lora_alpha=64))
    with pytest.raises(ConfigError, match="seed=42 and this run has seed=1"):
        _train(replace(again, seed=1))
    (folder / "config.yaml").unlink()
    with pytest.raises(ConfigError, match="use_peft=True and this run has use_peft=False"):
        _train(replace(again, use_peft=False))
    capsys.readouterr()
    result = _train(again)
    assert [e["step"] for e in result.history if "loss" in e] == [1, 2, 3, 4]
    output = capsys.readouterr().out
    assert "without checksums" in output and "config.yaml, which cannot be read, so most" in output


def test_a_byte_flipped_in_any_file_of_a_checkpoint_is_found(again, capsys):
    """Seal among them; the older checkpoint is taken, and the damaged one refused by name."""
    folder = Path(again.output_dir)
    newer = folder / "checkpoint-2"
    files = [path for path in newer.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"adapter_model.safetensors", "optimizer.pt", "settings.json", "complete.json"} < names
    for path in files:
        whole = path.read_bytes()
        for at in (0, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            assert path.name in damage(newer)
        path.write_bytes(whole)
    assert damage(newer) is None
    optimizer = newer / "optimizer.pt"
    content = bytearray(optimizer.read_bytes())
    content[-5000:-4936] = bytes(64 * [0xFF])
    optimizer.write_bytes(content)
    with pytest.raises(ConfigError, match=r"damaged: optimizer\.pt does not match its checksum"):
        _train(replace(again, resume_from_checkpoint=str(newer)))
    result = _train(again)
    assert "checkpoint-2 is passed over: optimizer.pt does not match" in capsys.readouterr().out
    assert [e["step"] for e in result.history if "loss" in e] == [1, 2, 3, 4]
    assert all(math.isfinite(loss) for loss in _entries(result, "loss"))


def test_weights_of_other_shapes_are_one_sentence(again):
    folder = Path(again.output_dir) / "checkpoint-2"
    path = folder / "adapter_model.safetensors"
    weights = {name: torch.zeros(3, 5) for name in load_file(path)}
    save_file(weights, path, metadata={"format": "pt"})
    seal(folder)
    with pytest.raises(ConfigError, match=r"checkpoint-2 do not fit this model \(.*size mismatch"):
        _train(again)


# --- several processes


def _torchrun(config):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--master_port", str(21000 + os.getpid() % 20000), "-m", "ocrkit", "train"]
    config.save(f"{config.output_dir}.yaml")
    command += ["--recipe", f"{config.output_dir}.yaml"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


@pytest.mark.slow
def test_resume_with_another_number_of_processes(again, tmp_path):
    """With the same samples a step; else all are refused alike. Both take the whole checkpoint."""
    folder = Path(again.output_dir)
    alone = _train(
        replace(
            again,
            output_dir=str(tmp_path / "alone"),
            resume_from_checkpoint=str(folder / "checkpoint-1"),
        )
    )
    optimizer = folder / "checkpoint-2" / "optimizer.pt"
    content = bytearray(optimizer.read_bytes())
    content[-5000] ^= 1
    optimizer.write_bytes(content)
    damaged = _torchrun(replace(again, resume_from_checkpoint=str(folder / "checkpoint-2")))
    assert damaged.stderr.count("checkpoint-2' is damaged: optimizer.pt does not match") == 2
    refused = _torchrun(again)
    assert refused.returncode != 0
    way_out = "rows would be read twice or never: set gradient_accumulation_steps=1."
    assert refused.stderr.count(way_out) == 2
    done = _torchrun(replace(again, gradient_accumulation_steps=1, save_steps=3))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("passed over: optimizer.pt does not match its checksum") == 1
    assert done.stdout.count("processes 1 -> 2") == 1
    shutil.rmtree(folder / "checkpoint-4")
    last = _train(again)
    assert [e["step"] for e in last.history if "loss" in e] == [1, 2, 3, 4]
    assert _entries(last, "loss")[1:] == pytest.approx(_entries(alone, "loss"), abs=1e-4)
    changes = saved_description(folder / "checkpoint-4")["changes"]
    assert [change["changed"]["processes"] for change in changes] == [[1, 2], [2, 1]]


@pytest.mark.parametrize(("changes", "rate"), [({}, 0.05), ({"learning_rate": [1.0, 2.0]}, 0.1)])
def test_resumed_plateau_schedule_keeps_its_state(changes, rate):
    def plateau(lr):
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], lr=lr)
        return optimizer, torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=3)

    optimizer, scheduler = plateau(0.05)
    scheduler.num_bad_epochs = 2
    state = scheduler.state_dict()
    restored, fresh = plateau(changes.get("learning_rate", [1.0, 1.0])[1])
    own = hyperparameters(restored)
    restored.load_state_dict(optimizer.state_dict())
    restore(restored, own, fresh, state, 7, changes)
    assert restored.param_groups[0]["lr"] == rate and fresh.num_bad_epochs == 2
    # Another schedule begins with its own rate, at the step.
    line = torch.optim.lr_scheduler.LambdaLR(restored, lambda step: 1 - step / 10)
    restored.param_groups[0]["initial_lr"] = line.base_lrs[0] = 1.0
    restore(restored, hyperparameters(restored), line, state, 7, {"lr_scheduler_type": ["a", "b"]})
    assert restored.param_groups[0]["lr"] == pytest.approx(0.3)
