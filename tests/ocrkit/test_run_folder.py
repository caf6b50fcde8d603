import errno
import hashlib
import json
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from ocrkit import TrainConfig
from ocrkit.environment import PACKAGES
from ocrkit.run_folder import (
    append_log,
    append_skipped,
    begin_run,
    continues_run,
    dataset_hash,
    foreign_weights,
    locked,
    moved_path,
    paths_of_run,
    read_log,
    read_run,
    record_skipped,
    replacing_run,
    restore,
    skipped_counts,
    write_run,
)


def test_versions_json_holds_packages_and_the_hash_of_the_dataset(thermal, tmp_path):
    begin_run(tmp_path, TrainConfig(dataset=str(thermal)), {"id": "first"}, [{"step": 1}])
    versions = json.loads((tmp_path / "versions.json").read_text())
    assert list(versions["packages"]) == PACKAGES and versions["changes"] == [{"step": 1}]
    digest = hashlib.sha256((thermal / "dataset.json").read_bytes()).hexdigest()
    assert digest.startswith(versions["dataset"]) and len(versions["dataset"]) == 16
    assert dataset_hash(tmp_path) is None


def test_a_log_cut_off_by_a_crash_is_read(tmp_path):
    path = tmp_path / "train_log.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read_log(path) == [{"step": 1, "loss": 2.0}]
    assert read_log(tmp_path / "none.jsonl") == []


def test_a_log_grows_by_lines(tmp_path):
    path = tmp_path / "train_log.jsonl"
    append_log(path, {"step": 1, "loss": 2.0})
    append_log(path, {"step": 2, "samples": ["ক", "x\ny"]})
    assert [entry["step"] for entry in read_log(path)] == [1, 2]
    assert read_log(path)[1]["samples"] == ["ক", "x\ny"]


def tree(folder):
    """Every file with its text, but the lock and what a kill left of an atomic write."""
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".run.lock" and path.suffix != ".part"
    }


@pytest.fixture
def run(tmp_path):
    """What lies in a run folder, among other people's files."""
    folder = tmp_path / "run"
    texts = {
        "config.yaml": "seed: 1",
        "run.json": json.dumps({"id": "first", "start": "base", "weights": "trained"}),
        "versions.json": "{}",
        "train_log.jsonl": "",
        "checkpoint-2/complete.json": "{}",
        "adapter/adapter_config.json": "{}",
        "tensorboard/events.1": "",
        "report/index.html": "",
        "report/report.json": "{}",
        "merged/config.json": "{}",
        "merged/README.md": "fine-tuned, exported as merged_16bit by ocrkit.",
        "gguf/model.gguf": "",
        "gguf/run.json": "{}",
        "somebodys/config.json": "{}",
        "somebodys/README.md": "my model",
        "pages/index.html": "",
        "data/dataset.json": "{}",
        "notes.txt": "",
    }
    for name, weights in {"base": "base", "tuned": "trained", "engine": None, "peer": "x"}.items():
        texts[f"eval/{name}/metrics.json"] = json.dumps({"run": None, "weights": weights})
    texts["eval/halfway/metrics.json"] = json.dumps({"run": "first", "weights": "step 1"})
    texts["eval/old/metrics.json"] = "{}"
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_files_of_a_run_are_listed_without_others(run):
    mine = {"config.yaml", "run.json", "versions.json", "train_log.jsonl", "checkpoint-2"}
    mine |= {"adapter", "tensorboard/events.1", "report", "merged", "gguf"}
    mine |= {"eval/tuned", "eval/halfway", "eval/old"}
    assert set(paths_of_run(run, "base")) == mine
    # What a new run begins from or reads stays.
    assert set(paths_of_run(run, "trained")) == mine - {"eval/tuned"}
    assert set(paths_of_run(run, "base", [run / "merged" / "data"])) == mine - {"merged"}
    assert paths_of_run(run / "data", "base") == []


@pytest.mark.parametrize("body", ["kill", "error"])
def test_interrupted_takeover_is_undone(run, monkeypatch, body):
    """A kill before every rename in turn, and after the last."""
    before, names = tree(run), paths_of_run(run, "base")
    config = TrainConfig(output_dir=str(run), seed=2)
    replace, cut = Path.replace, 0

    def cut_after(renames):
        def renamed(path, target):
            nonlocal renames
            renames -= 1
            if renames == -1:  # what is put back at once is not cut off again
                if body == "kill":
                    os._exit(1)
                raise OSError("no space left")
            return replace(path, target)

        return renamed

    while True:
        child = os.fork() if body == "kill" else 0
        if not child:
            with monkeypatch.context() as patched:
                patched.setattr(Path, "replace", cut_after(cut))
                with suppress(OSError), replacing_run(run, names):
                    begin_run(run, config, {"id": "second"})
            if body == "kill":
                os._exit(0)
        ended = child and os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if read_run(run).get("id") == "second" and not (run / "replaced/moving.json").exists():
            break
        restore(run)
        assert tree(run) == before
        assert ended == (1 if child else 0)
        cut += 1
    assert cut > len(names)
    assert {n: tree(run / "replaced" / "first").get(n) for n in ("config.yaml", "run.json")} == {
        n: before[n] for n in ("config.yaml", "run.json")
    }


def test_moved_path_follows_files_set_aside(run):
    place = run / "replaced" / "first"
    for old, new in (
        (run, place),
        (run / "merged", place / "merged"),
        (run / "adapter" / "x", place / "adapter" / "x"),
        (run / "data", run / "data"),
        ("tiny", "tiny"),
        ("", ""),
    ):
        assert moved_path(str(old), run, ["merged", "adapter"], place) == str(new)
    assert moved_path(str(run), run, [], None) == str(run)


def test_a_checkpoint_of_the_run_in_the_folder_resumes_it(run, tmp_path):
    checkpoint = run / "checkpoint-2"
    assert continues_run(run, checkpoint)  # of version 0.1.0, without an id
    write_run(checkpoint, {"id": "first"})
    assert continues_run(run, checkpoint) and not continues_run(run, None)
    copied = shutil.copytree(checkpoint, tmp_path / "elsewhere" / "checkpoint-2")
    assert continues_run(run, copied)
    write_run(copied, {"id": "another"})
    assert not continues_run(run, copied)


@pytest.mark.parametrize(
    ("summary", "reason"),
    [
        ({"weights": "trained"}, None),
        ({"weights": "base"}, None),
        ({"weights": None}, None),
        ({"weights": "x"}, r"other weights \(x\) than this run's"),
        ({}, "does not say which weights it measured, as ocrkit 0.1.0 wrote it"),
    ],
)
def test_metrics_are_shown_only_beside_the_weights_they_measured(run, summary, reason):
    problem = foreign_weights(summary, read_run(run))
    assert problem is None if reason is None else re.search(reason, problem)
    if summary.get("weights"):
        assert foreign_weights(summary, {}), "a run that is not finished has no weights"


def test_skipped_rows_are_listed_until_the_next_run_begins(run, capsys):
    entry = {"where": "data/train:1", "reason": "missing picture", "detail": "x"}
    (run / "skipped.jsonl").write_text(json.dumps({**entry, "reason": "duplicate id"}) + "\n")
    other = {**entry, "where": "other/train:7"}
    record_skipped(run, [other], place="other")
    append_skipped(run, {**entry, "reason": "text is not UTF-8"})
    assert skipped_counts(run) == {"duplicate id": 1}
    assert f"see {run / 'skipped.next.jsonl'}" in capsys.readouterr().out
    begin_run(run, TrainConfig(output_dir=str(run)), {"id": "second"})
    counts = {"duplicate id": 1, "missing picture": 1, "text is not UTF-8": 1}
    assert skipped_counts(run) == counts
    append_skipped(run, entry)
    assert skipped_counts(run) == counts | {"missing picture": 2}


def test_a_file_system_without_locks_is_reported_and_blocks_no_run(run, monkeypatch, capsys):
    def none(*args, **kwargs):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("filelock.FileLock.acquire", none)
    with locked(run), locked(run):
        assert "file system without locks: start no second run" in capsys.readouterr().out
    monkeypatch.undo()
    with locked(run), pytest.raises(BlockingIOError, match="Another run is training"):
        locked(run).__enter__()
    with locked(run):
        pass


def test_a_strangers_run_folder_moves_nothing_outside_itself(run, tmp_path):
    (tmp_path / "mine").write_text("mine")
    (run / "replaced" / "x").mkdir(parents=True)
    journal = run / "replaced" / "moving.json"
    for place, name in (("x", "../mine"), ("../../..", "mine"), ("x", str(tmp_path / "mine"))):
        journal.write_text(json.dumps({"place": place, "names": [name]}))
        with pytest.raises(ValueError, match=r"moving\.json names files outside"):
            restore(run)
        assert (tmp_path / "mine").read_text() == "mine" and (run / "config.yaml").is_file()
    journal.unlink()
    write_run(run, {"id": "../../mine", "weights": "trained"})
    assert read_run(run)["id"] is None
