import hashlib
import platform

from ocrkit import TrainConfig
from ocrkit.run_folder import PACKAGES, append_log, package_versions, read_log, versions


def test_a_package_that_is_missing_has_no_version():
    found = package_versions(["torch", "no-such-package"])
    assert found["torch"][0].isdigit() and found["no-such-package"] is None


def test_a_run_knows_what_it_was_made_with(thermal, tmp_path):
    found = versions(TrainConfig(dataset=str(thermal)))
    assert (found["python"], found["processes"]) == (platform.python_version(), 1)
    assert list(found["packages"]) == PACKAGES
    digest = hashlib.sha256((thermal / "dataset.json").read_bytes()).hexdigest()
    assert digest.startswith(found["dataset"]) and len(found["dataset"]) == 16
    assert versions(TrainConfig(dataset=str(tmp_path)))["dataset"] is None


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
