"""What trackers receive, read back from the files that they wrote."""

import json
import struct
import sys
import time
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState

from ocrkit.config import TrainConfig
from ocrkit.data.load import load_data
from ocrkit.errors import ConfigError
from ocrkit.models.load import load_model
from ocrkit.run_folder import read_log
from ocrkit.training import tracking
from ocrkit.training.tracking import Meter, Samples
from ocrkit.training.train import train

MEASURED = ("data_wait", "samples_per_second", "image_tokens_per_second", "host_memory_gb")


def installed(package: str) -> bool:
    try:
        return bool(metadata.version(package))
    except metadata.PackageNotFoundError:
        return False


needs_wandb = pytest.mark.skipif(not installed("wandb"), reason="wandb is optional; not installed")


def run(config, callbacks=None):
    data = load_data(config)
    model, processor = load_model(config)
    result = train(model, processor, data, config, callbacks=callbacks)
    assert not model._forward_pre_hooks, "nothing stays behind in the model"
    return result, data


def test_log_holds_throughput_data_wait_and_memory(config):
    config.logging_steps = 2
    result, _ = run(config)
    logged = [entry for entry in result.history if "loss" in entry]
    assert [entry["step"] for entry in logged] == [2, 4]
    for entry in logged:
        assert 0 < entry["data_wait"] < 1
        assert entry["samples_per_second"] > 0 and entry["host_memory_gb"] > 0.1
        # A sample of these has some tens of image tokens, never less than one.
        assert entry["image_tokens_per_second"] > entry["samples_per_second"]
    others = [entry for entry in result.history if "loss" not in entry]
    assert not any(name in entry for entry in others for name in MEASURED)


def test_image_tokens_are_counted_as_the_plan_counts_them(config, processor):
    from ocrkit.data.lengths import token_lengths

    counted = {}

    class Count(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            if "loss" in logs:
                counted.update(logs)

    config.max_steps, config.num_train_epochs, config.logging_steps = -1, 1, 10
    config.max_train_samples = 8
    config.sft_kwargs = {"logging_first_step": False, "logging_strategy": "epoch"}
    _, data = run(config, [Count()])
    images, _ = token_lengths(data["train"], processor, config)
    ratio = counted["image_tokens_per_second"] / counted["samples_per_second"]
    assert ratio == pytest.approx(sum(images) / len(images))


def test_slow_collator_counts_as_data_wait(config, monkeypatch):
    from ocrkit.data.collate import Collator

    collate = Collator.__call__

    def slowly(self, rows):
        time.sleep(0.3)
        return collate(self, rows)

    monkeypatch.setattr(Collator, "__call__", slowly)
    config.logging_steps, config.per_device_train_batch_size = 4, 2
    result, _ = run(config)
    logged = next(entry for entry in result.history if "loss" in entry)
    seconds = 4 * 2 / logged["samples_per_second"]
    assert logged["data_wait"] * seconds >= 4 * 0.3


def feed(meter, steps, wait, work, logs_every=1):
    """Drive a meter as Trainer does, with a clock of its own."""
    args = SimpleNamespace(world_size=1)
    state, control = TrainerState(is_world_process_zero=True), TrainerControl()
    clock = [0.0]
    logged = []
    original, time.perf_counter = time.perf_counter, lambda: clock[0]
    try:
        meter._mark()
        meter.image_token = None
        for step in range(steps):
            clock[0] += wait
            meter.on_step_begin(args, state, control)
            clock[0] += work
            meter.samples += 4
            meter.on_step_end(args, state, control)
            if (step + 1) % logs_every == 0:
                logs = {"loss": 1.0}
                meter.on_log(args, state, control, logs=logs)
                logged.append(logs)
                # An evaluation and a checkpoint: neither waiting for data nor training.
                clock[0] += 100.0
                meter.on_evaluate(args, state, control)
                clock[0] += 50.0
                meter.on_save(args, state, control)
    finally:
        time.perf_counter = original
    return logged


def test_evaluating_and_saving_are_no_data_wait(capsys):
    logged = feed(Meter(workers=0), steps=12, wait=0.1, work=0.9, logs_every=3)
    for logs in logged:
        assert logs["data_wait"] == pytest.approx(0.1)
        assert logs["samples_per_second"] == pytest.approx(4)
    assert capsys.readouterr().out == ""


def test_high_data_wait_is_reported_once_with_what_to_change(capsys):
    feed(Meter(workers=2), steps=40, wait=0.5, work=0.5)
    told = capsys.readouterr().out
    assert told.count("Waiting for data: 50% of the time") == 1
    for remedy in ("dataloader_num_workers (now 2", "data_prep.unpack", "max_pixels"):
        assert remedy in told


def test_slow_first_step_is_no_reason_to_warn(capsys):
    meter = Meter(workers=0)
    feed(meter, steps=1, wait=60, work=1)
    feed(meter, steps=30, wait=0.05, work=0.95)
    assert capsys.readouterr().out == ""


def test_tensorboard_holds_metrics_throughput_and_samples(config):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config.report_to, config.eval_steps, config.max_eval_samples = "tensorboard", 2, 2
    config.project, config.tags = "receipts", ["worn"]
    result, data = run(config)
    events = EventAccumulator(str(Path(config.output_dir) / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {f"train/{name}" for name in MEASURED} <= set(tags["scalars"])
    assert [event.step for event in events.Scalars("eval/cer")] == [2, 4]
    for name, key in (("eval/cer", "eval_cer"), ("train/data_wait", "data_wait")):
        logged = [entry[key] for entry in result.history if key in entry]
        assert [e.value for e in events.Scalars(name)] == pytest.approx(logged, rel=1e-5)
    settings = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "project: receipts" in settings and "- worn" in settings
    texts = events.Tensors("eval/samples/text_summary")
    assert {event.step for event in texts} == {2, 4}
    shown = texts[-1].tensor_proto.string_val[0].decode()
    for row in data["validation"]:
        assert " ".join(row["completion"][0]["content"].split()) in shown
    pictures = {f"eval/{row['id']}": row["images"][0].height for row in data["validation"]}
    assert {tag: events.Images(tag)[0].height for tag in tags["images"]} == pictures


@needs_wandb
def test_wandb_offline_needs_no_login_and_holds_the_same(config, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("WANDB_API_KEY", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    config.report_to, config.eval_steps, config.max_eval_samples = "wandb", 2, 2
    config.project, config.run_name, config.tags = "receipts", "first", ["cpu", "tiny"]
    _, data = run(config)
    import wandb

    assert wandb.run is None, "the run was closed"
    folder = next((Path(config.output_dir) / "wandb").glob("offline-run-*"))
    records = read_wandb(next(folder.glob("*.wandb")))
    about = next(record.run for record in records if record.HasField("run"))
    assert (about.project, about.display_name, list(about.tags)) == (
        "receipts",
        "first",
        ["cpu", "tiny"],
    )
    history = {}
    for record in records:
        for item in record.history.item if record.HasField("history") else ():
            history["/".join([item.key, *item.nested_key]).strip("/")] = item.value_json
    assert {f"train/{name}" for name in MEASURED} <= set(history)
    log = read_log(Path(config.output_dir) / "train_log.jsonl")
    cer = [entry["eval_cer"] for entry in log if "eval_cer" in entry]
    assert json.loads(history["eval/cer"]) == pytest.approx(cer[-1])
    assert any(key.startswith("eval/samples") for key in history)
    tables = [json.loads(path.read_text()) for path in folder.rglob("*.table.json")]
    truths = {row["completion"][0]["content"] for row in data["validation"]}
    assert [{row[1] for row in table["data"]} for table in tables] == [truths, truths]
    assert list(folder.rglob("media/images/**/*.png")), "pictures travel with the run folder"


def read_wandb(path):
    """The records of a .wandb file: LevelDB's log format after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts, records = path.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        left = 32768 - at % 32768
        if left < 7 or kind == 0:
            at += left
            continue
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            records.append(record)
            parts = b""
    return records


@needs_wandb
def test_wandb_without_a_login_is_one_sentence(config, monkeypatch):
    import wandb

    def refuse(**settings):
        raise wandb.errors.UsageError("No API key\nconfigured")

    monkeypatch.setattr(wandb, "init", refuse)
    config.report_to = "wandb"
    with pytest.raises(ConfigError, match=r"No API key configured.*WANDB_MODE=offline"):
        run(config)


_STAND_IN = """
from types import SimpleNamespace
run, started = None, []
errors = SimpleNamespace(Error=RuntimeError)

class Config(dict):
    def update(self, other, **settings):
        super().update(other)

class Run:
    def __init__(self, id):
        self.id, self.logged, self.summary = id, [], {}
    def log(self, entry):
        self.logged.append(entry)
    def finish(self, exit_code):
        global run
        run = None
    def _label(self, **names):
        pass

config = Config()

def init(**settings):
    global run
    started.append(settings)
    run = Run(settings.get("id") or f"run{len(started)}")
    return run

def log(entry):
    run.log(entry)
"""


@pytest.fixture
def wandb(monkeypatch, tmp_path):
    """A stand-in for the package, which records how runs are started."""
    folder = tmp_path / "packages"
    for name in ("wandb", "wandb/sdk", "wandb/sdk/lib", "wandb-1.0.dist-info"):
        (folder / name).mkdir(parents=True)
    (folder / "wandb" / "__init__.py").write_text(_STAND_IN)
    (folder / "wandb/sdk/lib/config_util.py").write_text("class ConfigError(Exception): pass")
    (folder / "wandb-1.0.dist-info/METADATA").write_text("Name: wandb\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(folder)
    names = [name for name in sys.modules if name.partition(".")[0] == "wandb"]
    for name in names:
        monkeypatch.delitem(sys.modules, name)
    import wandb

    yield wandb
    for name in [name for name in sys.modules if name.partition(".")[0] == "wandb"]:
        del sys.modules[name]


def test_a_resumed_run_goes_on_in_its_own_wandb_run(config, wandb):
    config.report_to, config.max_steps, config.save_steps = "wandb", 1, 1
    run(config)
    run(config)
    config.max_steps, config.resume_from_checkpoint = 2, "auto"
    run(config)
    begun, anew, resumed = wandb.started
    assert not {"id", "resume"} & (begun.keys() | anew.keys())
    assert (resumed["id"], resumed["resume"]) == ("run2", "allow")
    assert wandb.run is None


def test_a_tracker_that_is_not_installed_is_refused_before_a_model_loads(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(ConfigError, match="`pip install wandb`"):
        TrainConfig(report_to="wandb")
    assert TrainConfig(report_to="none").trackers == []


def test_an_unknown_tracker_is_refused_and_several_are_taken():
    with pytest.raises(ConfigError, match="report_to='wandbb'"):
        TrainConfig(report_to="wandbb")
    if installed("tensorboard") and installed("wandb"):
        assert TrainConfig(report_to="tensorboard, wandb").trackers == ["tensorboard", "wandb"]


def test_a_table_without_samples_sends_nothing(config, monkeypatch):
    sent = []
    monkeypatch.setattr(tracking, "_to_wandb", lambda *arguments: sent.append(arguments))
    trainer = SimpleNamespace(callback_handler=SimpleNamespace(callbacks=[]), eval_dataset=None)
    table = Samples(trainer, run=object())
    state = TrainerState(is_world_process_zero=True, global_step=2)
    table.on_evaluate(SimpleNamespace(output_dir=config.output_dir), state, TrainerControl())
    assert not sent


@pytest.mark.parametrize(("output", "share"), [("37\n", 37.0), ("[N/A]\n", None), (None, None)])
def test_gpu_utilization_is_read_from_the_driver(monkeypatch, output, share):
    def run(command, **settings):
        assert "--id=GPU-1234" in command
        if output is None:
            raise FileNotFoundError
        return SimpleNamespace(stdout=output)

    card = SimpleNamespace(uuid="1234")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr(tracking.subprocess, "run", run)
    assert tracking.gpu_utilization() == share
