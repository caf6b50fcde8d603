"""A package that is missing is one sentence with its installation, from every command."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.dataset import command
from data_prep.dataset.command import (
    IMPORT_NAMES,
    can_be_found,
    exit_code,
    import_problem,
    requirements,
)
from ocrkit.__main__ import main
from ocrkit.places import sample

# Packages that the kit imports and that come with those of requirements.txt.
INDIRECT = ("packaging", "safetensors", "tokenizers", "huggingface_hub", "IPython", "pandas")
# Checks of doctor, each of which has a line whatever is missing.
DOCTOR = {"Python", "packages", "backend", "GPU", "memory", "disk", "fonts", "Tesseract"}
DATA_PREP = ("convert", "validate", "synthesize", "pack", "unpack")
ROOT = Path(__file__).parents[2]
KIT, SYNTHESIZE = "ocrkit.__main__", "data_prep.synthesize"


def run_jobs(jobs):
    """[(package, command, exit code, output, imported packages)] of jobs for hidden_packages.py."""
    script = Path(__file__).parents[1] / "helpers" / "hidden_packages.py"
    completed = subprocess.run(
        [sys.executable, str(script)],
        input="".join(json.dumps(job) + "\n" for job in jobs),
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
        check=True,
    )
    results = [json.loads(line) for line in completed.stdout.splitlines()]
    assert len(results) == len(jobs), completed.stderr
    return [(package, " ".join(line), *rest) for package, line, *rest in results]


def check(results):
    """Assert that each command works, or ends with one sentence that states what to install."""
    failures = []
    for package, command_line, code, text, _ in results:
        lines = text.splitlines() or [""]
        if "doctor" in command_line:
            right = code in (0, 1) and {line.split()[1] for line in lines if " " in line} >= DOCTOR
        else:
            right = code == 0 or (code == 1 and "`pip install '" in lines[-1])
        if not right or "Traceback" in text:
            failures.append((package, command_line, code, text))
    assert not failures, "\n".join(map(str, failures))


def copied_sample(tmp_path):
    """A copy of a shipped sample, for a command that writes into the dataset folder."""
    return str(shutil.copytree(sample("bangla"), tmp_path / "sample"))


@pytest.mark.parametrize("module", [KIT, *(f"data_prep.{name}" for name in DATA_PREP)])
def test_commands_start_without_packages_and_name_the_missing_one(module):
    command = [sys.executable, "-S", "-c", f"import {module}"]  # -S: without site-packages
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_commands_that_lack_a_package_say_so(tmp_path):
    results = run_jobs(
        [
            ("yaml", KIT, ["doctor"]),
            ("regex", KIT, ["recipes"]),
            ("yaml", KIT, ["train", "--recipe", "quickstart"]),
            ("PIL", "data_prep.convert", ["--list"]),
            ("numpy", SYNTHESIZE, ["receipts", "--out", str(tmp_path / "made")]),
            ("pyarrow", "data_prep.validate", [copied_sample(tmp_path)]),
            ("matplotlib", "data_prep.validate", [copied_sample(tmp_path / "plain")]),
        ]
    )
    check(results)
    doctor = results[0][3]
    assert "fail pyyaml        is not installed: `pip install 'pyyaml<7,>=6'`" in doctor
    text = {package: text for package, _, code, text, _ in results[1:] if code == 1}
    assert text["regex"].startswith("ocrkit: the package regex is not installed; install it with")
    assert "`pip install 'pyyaml>=6,<7'`" in text["yaml"]
    assert text["PIL"].startswith("error: the package pillow is not installed;")
    assert "`pip install 'numpy>=1.26,<3'`" in text["numpy"]


@pytest.mark.slow
def test_each_missing_package_is_reported(tmp_path, thermal):
    """Hide every package from the commands that import it.

    Commands that import torch take seconds, so each package is hidden from one of them, in turn.
    """
    raw = tmp_path / "raw"
    raw.mkdir()
    picture = next(thermal.rglob("*.png"))
    (raw / "word_1.png").write_bytes(picture.read_bytes())
    settings = ["--dataset", str(thermal), "--max_steps", "1", "--max_new_tokens", "2"]
    settings += ["--max_eval_samples", "2", "--output_dir"]
    evaluations = []
    for name in ("a", "b"):
        line = json.dumps({"id": 1, "reference": "a", "prediction": name})
        (tmp_path / f"{name}.jsonl").write_text(line)
        scored = ["evaluate", "--predictions", str(tmp_path / f"{name}.jsonl"), "--name", name]
        assert main([*scored, "--output_dir", str(tmp_path)]) == 0
        evaluations.append(str(tmp_path / "eval" / name))

    def commands(package):
        out = str(tmp_path / f"without-{package}")
        return [
            (KIT, ["train", *settings, f"{out}-train"]),
            (KIT, ["evaluate", *settings, f"{out}-evaluate"]),
            (KIT, ["evaluate", "--engine", "tesseract", *settings, f"{out}-tesseract"]),
            (KIT, ["predict", str(picture), "--max_new_tokens", "2"]),
            (KIT, ["compare", *evaluations, "--out", f"{out}-report"]),
            (KIT, ["export", "--out", f"{out}-export", "--format", "adapter"]),
            (KIT, ["doctor"]),
            (KIT, ["recipes"]),
            ("data_prep.convert", ["--list"]),
            ("data_prep.convert", ["folder", str(raw), "--out", f"{out}-converted"]),
            ("data_prep.validate", [copy, "--workers", "1"]),
            (SYNTHESIZE, ["receipts", "--count", "1", "--out", f"{out}-receipts"]),
            (SYNTHESIZE, ["toys", "--count", "2", "--out", f"{out}-toys"]),
            ("data_prep.pack", [str(thermal), f"{out}.tar"]),
        ]

    copy = copied_sample(tmp_path)
    whole = run_jobs([("", *arguments) for arguments in commands("")])
    imported = [set(names) for *_, names in whole]
    assert {code for _, _, code, _, _ in whole} <= {0, 1}, whole
    heavy = [number for number, names in enumerate(imported) if "torch" in names]
    light = [number for number in range(len(imported)) if number not in heavy]
    jobs = []
    for turn, package in enumerate([*requirements(), *INDIRECT]):
        name = IMPORT_NAMES.get(package, package)
        rotated = heavy[turn % len(heavy) :] + heavy[: turn % len(heavy)]
        users = [number for number in rotated if name in imported[number]][:1]
        users += [number for number in light if name in imported[number]]
        jobs += [(name, *commands(package)[number]) for number in users]
    results = run_jobs(jobs)
    check(results)
    assert {package for package, _, code, *_ in results if code == 1} >= {"torch", "PIL", "yaml"}


def test_failed_imports_raise_one_sentence(monkeypatch):
    lacking = ModuleNotFoundError("No module named 'yaml'", name="yaml")
    monkeypatch.setattr(command, "can_be_found", lambda name: name not in ("pyyaml", "torchvision"))
    assert import_problem(lacking).endswith("install it with `pip install 'pyyaml>=6,<7'`.")
    told = ImportError("Qwen3VLVideoProcessor requires the Torchvision library\nbut it was not")
    assert "the package torchvision is not installed" in import_problem(told)
    # transformers says of a lazy import only that it failed.
    outer = ModuleNotFoundError("Could not import module 'X'", name="transformers.x")
    outer.__cause__ = lacking
    assert "the package pyyaml is not installed" in import_problem(outer)
    monkeypatch.setattr(command, "can_be_found", lambda name: name != "wandb")
    assert "`pip install 'wandb'`" in import_problem(ModuleNotFoundError("No", name="wandb.sdk"))
    # An installed package of another version lacks a name or a module.
    monkeypatch.setattr(command, "can_be_found", lambda name: True)
    broken = ImportError("cannot import name 'x' from 'peft' (a/b.py)", name="peft")
    assert "cannot import name 'x' from 'peft' (a/b.py)" in import_problem(broken)
    assert f"`pip install '{requirements()['peft']}'`" in import_problem(broken)
    assert "-r requirements.txt" in import_problem(ImportError("libcudart.so.12: cannot open"))


def test_requirements_come_from_the_metadata_of_an_installed_kit(monkeypatch):
    assert requirements()["pillow"] == "pillow>=11,<14"
    monkeypatch.setattr(command, "REQUIREMENTS", Path("nowhere"))
    monkeypatch.setattr("importlib.metadata.requires", lambda name: ["pillow>=11,<14; x == 'y'"])
    assert requirements() == {"pillow": "pillow>=11,<14"}


def test_a_failed_import_is_exit_code_1(capsys, monkeypatch):
    def work():
        raise ModuleNotFoundError("No module named 'lxml'", name="lxml")

    monkeypatch.setattr("ocrkit.__main__._recipes", lambda *_: work())
    for run in (lambda: exit_code(work), lambda: main(["recipes"])):
        assert run() == 1
        assert capsys.readouterr().err.count("\n") == 1
    assert can_be_found("pillow") and not can_be_found("no-such-package")
