import importlib.util

import pytest

from ocrkit import doctor
from ocrkit.__main__ import main


def test_every_part_is_looked_at(tmp_path):
    findings = doctor.doctor(tmp_path)
    assert {state for state, *_ in findings} <= {"ok", "warn", "fail"}
    subjects = [subject for _, subject, _ in findings]
    for subject in ("Python", "packages", "backend", "GPU", "memory", "disk", "Tesseract"):
        assert subjects.count(subject) == 1
    assert subjects.count("fonts") == 4
    # Tests hide every GPU.
    assert ("ok", "backend") in [(state, subject) for state, subject, _ in findings]
    lines = doctor.table(findings).splitlines()
    assert len(lines) == len(findings)


@pytest.mark.parametrize(
    ("line", "state", "message"),
    [
        ("torch>=99", "warn", "lies outside the tested >=99"),
        ("no-such-package>=1", "warn", "is not installed: `pip install 'no-such-package>=1'`"),
        ("no-such-package>=1; python_version < '3'", "ok", "0 have tested versions"),
        ("pyyaml>=1  # configuration", "ok", "1 have tested versions"),
    ],
)
def test_versions_are_held_against_the_tested_ones(line, state, message, tmp_path, monkeypatch):
    (tmp_path / "requirements.txt").write_text(f"# tested\n{line}\n")
    monkeypatch.setattr(doctor, "REQUIREMENTS", tmp_path / "requirements.txt")
    found = [f for f in doctor.doctor(tmp_path) if message in f[2]]
    assert [f[0] for f in found] == [state]


def test_a_missing_essential_package_fails(tmp_path, monkeypatch, capsys):
    (tmp_path / "requirements.txt").write_text("no-such-package\n")
    monkeypatch.setattr(doctor, "REQUIREMENTS", tmp_path / "requirements.txt")
    assert main(["doctor"]) == 0
    monkeypatch.setattr(doctor, "ESSENTIAL", ("no-such-package",))
    assert main(["doctor"]) == 1
    assert "fail no-such-package" in capsys.readouterr().out


def test_a_driver_that_torch_does_not_see_fails(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("ctypes.util.find_library", lambda name: "libcuda.so.1")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    found = {subject: (state, text) for state, subject, text in doctor.doctor(tmp_path)}
    assert found["GPU"][0] == "fail" and "sees no GPU" in found["GPU"][1]


def test_a_gpu_without_unsloth_is_said(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("ctypes.util.find_library", lambda name: "libcuda.so.1")
    found = {subject: (state, text) for state, subject, text in doctor.doctor(tmp_path)}
    assert found["backend"][0] == "ok" and found["backend"][1].startswith("unsloth 20")
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "unsloth" else real(name)
    )
    found = {subject: (state, text) for state, subject, text in doctor.doctor(tmp_path)}
    assert found["backend"][0] == "warn" and "is not installed" in found["backend"][1]


def test_little_disk_and_the_place_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "DISK_GB", 10**9)
    monkeypatch.setenv("COLAB_RELEASE_TAG", "x")
    found = {subject: (state, text) for state, subject, text in doctor.doctor(tmp_path / "new")}
    assert found["disk"][0] == "warn" and "put output_dir on Drive" in found["Python"][1]
