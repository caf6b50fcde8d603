import importlib.util
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from data_prep.dataset import command
from ocrkit import doctor
from ocrkit.__main__ import main


def test_doctor_reports_every_subject(tmp_path):
    findings = doctor.doctor(tmp_path)
    assert {state for state, *_ in findings} <= {"ok", "warn", "fail"}
    subjects = [subject for _, subject, _ in findings]
    for subject in ("Python", "packages", "backend", "GPU", "memory", "disk", "Tesseract"):
        assert subjects.count(subject) == 1
    assert subjects.count("fonts") == 4
    assert not any("not checked" in text for _, _, text in findings)
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
def test_doctor_compares_versions_with_the_tested_ranges(
    line, state, message, tmp_path, monkeypatch
):
    (tmp_path / "requirements.txt").write_text(f"# tested\n{line}\n")
    monkeypatch.setattr(command, "REQUIREMENTS", tmp_path / "requirements.txt")
    findings = [f for f in doctor.doctor(tmp_path) if message in f[2]]
    assert [f[0] for f in findings] == [state]


def test_without_a_clone_the_metadata_of_the_package_has_the_versions(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "REQUIREMENTS", tmp_path / "requirements.txt")
    monkeypatch.setattr(command.metadata, "requires", lambda name: ["pyyaml>=1", "torch>=99"])
    findings = {subject: (state, text) for state, subject, text in doctor.doctor(tmp_path)}
    assert findings["packages"] == ("ok", "1 have tested versions")
    assert findings["torch"][0] == "warn" and ">=99" in findings["torch"][1]
    monkeypatch.setattr(command.metadata, "requires", lambda name: None)
    findings = {subject: (state, text) for state, subject, text in doctor.doctor(tmp_path)}
    assert findings["packages"][0] == "warn"


def test_a_missing_essential_package_fails(tmp_path, monkeypatch, capsys):
    (tmp_path / "requirements.txt").write_text("no-such-package\n")
    monkeypatch.setattr(command, "REQUIREMENTS", tmp_path / "requirements.txt")
    assert main(["doctor"]) == 0
    monkeypatch.setattr(doctor, "ESSENTIAL", ("no-such-package",))
    assert main(["doctor"]) == 1
    assert "fail no-such-package" in capsys.readouterr().out


def test_a_machine_without_fonts_and_programs_gets_the_whole_table(tmp_path):
    (tmp_path / "fonts.conf").write_text("<fontconfig/>")
    bare = {"FONTCONFIG_FILE": str(tmp_path / "fonts.conf"), "PATH": str(tmp_path)}
    arguments = [sys.executable, "-m", "ocrkit", "doctor"]
    done = subprocess.run(arguments, capture_output=True, text=True, env=os.environ | bare)
    assert len(done.stdout.splitlines()) >= 10 and done.stderr == ""
    assert "Bangla families: print 0, handwriting 0, sign 0; to draw lines: apt-get" in done.stdout
    assert "install fontconfig fonts-" in done.stdout and "only --engine tesseract" in done.stdout


@pytest.mark.parametrize("error", [OSError("disk gone"), RuntimeError("a\nb"), KeyError("x")])
@pytest.mark.parametrize(
    "broken",
    [
        "ocrkit.doctor.notebook_host",
        "importlib.metadata.version",
        "shutil.disk_usage",
        "packaging.requirements.Requirement",
    ],
)
def test_doctor_check_that_fails_is_one_finding(broken, error, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise error

    whole = {subject for _, subject, _ in doctor.doctor(tmp_path)}
    monkeypatch.setattr(broken, fail)
    findings = doctor.doctor(tmp_path)
    assert {subject for _, subject, _ in findings} == whole
    failed = [text for _, _, text in findings if text.startswith("not checked: ")]
    assert len(failed) == 1 and type(error).__name__ in failed[0] and "\n" not in failed[0]


@pytest.mark.parametrize(
    ("capability", "built", "fits"),
    [
        ((6, 0), "sm_70 sm_75 sm_80 sm_86 sm_90 sm_100 sm_120", False),  # Kaggle's P100
        ((6, 0), "sm_50 sm_60", True),
        ((7, 5), "sm_70 sm_80", True),  # machine code of an older minor version
        ((8, 0), "sm_86", False),
        ((9, 0), "sm_80 sm_86", False),
        ((9, 0), "sm_80 compute_86", True),  # PTX, for what came later
        ((8, 0), "compute_86", False),
        ((9, 0), "sm_90a", True),
        ((12, 1), "sm_120a", False),
        ((12, 1), "sm_120f", True),
        ((12, 0), "compute_100f", False),
        ((12, 1), "sm_120", True),
        ((9, 4), "gfx90a gfx942", True),  # ROCm names its cards otherwise
    ],
)
def test_doctor_compares_kernels_with_the_card(capability, built, fits):
    assert doctor.has_kernels(capability, built.split()) == fits


def test_a_card_that_torch_has_no_kernels_for_fails(tmp_path, monkeypatch, capsys):
    card = SimpleNamespace(name="Tesla P100-PCIE-16GB")
    for name, value in {
        "is_available": True,
        "device_count": 1,
        "get_device_properties": card,
        "mem_get_info": (15 * 2**30, 16 * 2**30),
        "is_bf16_supported": False,
        "get_device_capability": (6, 0),
        "get_arch_list": ["sm_70", "sm_75"],
    }.items():
        monkeypatch.setattr(f"torch.cuda.{name}", lambda *_, value=value: value)
    assert main(["doctor", "--output_dir", str(tmp_path)]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if "P100" in line]
    assert len(lines) == 1 and lines[0].startswith("fail GPU 0")
    assert "no kernels for its capability 6.0, only for sm_70, sm_75" in lines[0]
    monkeypatch.setattr("torch.cuda.get_arch_list", lambda: ["sm_60", "sm_70"])
    assert ("ok", "GPU 0") in [finding[:2] for finding in doctor.doctor(tmp_path)]


def test_a_driver_that_torch_does_not_see_fails(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("ctypes.util.find_library", lambda name: "libcuda.so.1")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    findings = {subject: (state, text) for state, subject, text in doctor.doctor(tmp_path)}
    assert findings["GPU"][0] == "fail" and "sees no GPU" in findings["GPU"][1]


def test_a_gpu_without_unsloth_is_reported(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("ctypes.util.find_library", lambda name: "libcuda.so.1")
    findings = {subject: (state, text) for state, subject, text in doctor.doctor(tmp_path)}
    assert findings["backend"][0] == "ok" and findings["backend"][1].startswith("unsloth 20")
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "unsloth" else real(name)
    )
    findings = {subject: (state, text) for state, subject, text in doctor.doctor(tmp_path)}
    assert findings["backend"][0] == "warn" and "is not installed" in findings["backend"][1]


def test_little_disk_and_the_place_are_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "DISK_GB", 10**9)
    monkeypatch.setenv("COLAB_RELEASE_TAG", "x")
    findings = {subject: (state, text) for state, subject, text in doctor.doctor(tmp_path / "new")}
    assert findings["disk"][0] == "warn" and "put output_dir on Drive" in findings["Python"][1]


def commands_of(text):
    return [line.split() for line in text.splitlines() if line.startswith("  python -m ")]


@pytest.mark.parametrize(
    ("findings", "words"),
    [
        ([("fail", "torch", "is not installed"), ("warn", "GPU", "none")], "marked fail (torch)"),
        ([("ok", "GPU 0", "T4")], "python -m ocrkit plan --recipe korean --dataset DIR"),
        ([("warn", "GPU", "none")], "python -m ocrkit train --recipe quickstart"),
    ],
)
def test_the_doctor_says_what_to_do_first(findings, words):
    assert words in doctor.next_step(findings)


def test_commands_to_copy_on_a_cpu_run(tmp_path, monkeypatch):
    from data_prep import synthesize

    monkeypatch.chdir(tmp_path)
    first, second = commands_of(doctor.next_step([("warn", "GPU", "none")]))
    assert first[2] == "data_prep.synthesize" and second[2] == "ocrkit"
    assert synthesize.main([*first[3:], "--count", "4"]) == 0
    short = ["--max_steps", "1", "--eval_samples", "2", "--per_device_train_batch_size", "2"]
    assert main([*second[3:], *short]) == 0
    assert (tmp_path / "runs" / "first" / "adapter").is_dir()


@pytest.mark.parametrize(
    "driver, built, parts",
    [
        ((12, 4), "13.0", ("CUDA 12.4", "built for 13.0", "build for CUDA 12.6, which fits it")),
        ((11, 8), "13.0", ("CUDA 11.8", "update the driver", "12.6, which it is too old for")),
        ((12, 4), "12.8", ()),
        ((13, 1), "13.0", ()),
        (None, "13.0", ()),
        ((12, 4), None, ()),
    ],
)
def test_a_driver_that_is_older_than_torchs_cuda_is_told_with_both_versions(driver, built, parts):
    text = doctor.older_driver(driver, built)
    assert bool(text) == bool(parts) and all(part in text for part in parts)


def test_doctor_names_the_matching_torch_build(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr("ocrkit.models.backend.has_driver", lambda: True)
    monkeypatch.setattr(doctor, "driver_cuda", lambda: (12, 2))
    monkeypatch.setattr("torch.version.cuda", "13.0")
    ((state, _, text),) = doctor._gpu()
    assert state == "fail" and "CUDA 12.2" in text and "pytorch.org/get-started" in text
    assert "backend=transformers" in text
