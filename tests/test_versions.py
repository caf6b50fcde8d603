import hashlib
import platform

from ocrkit import TrainConfig
from ocrkit.versions import PACKAGES, package_versions, versions


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
