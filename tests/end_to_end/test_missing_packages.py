"""A package that is missing is one sentence with its installation, from every command."""

import json
import os
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

# They come with the packages of requirements.txt.
BROUGHT = ("packaging", "safetensors", "tokenizers", "huggingface_hub", "IPython", "pandas")


def run_without(jobs):
    """{(package, command): (exit code, output)} of commands that lack a package each."""
    script = Path(__file__).parents[1] / "helpers" / "hidden_packages.py"
    lines = "".join(json.dumps(job) + "\n" for job in jobs)
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(
        [sys.executable, str(script)],
        input=lines,
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == len(jobs), done.stderr
    return {(package, " ".join(given)): (code, text) for package, given, code, text in results}


def check(results):
    """Each command works, or says in one sentence what to install."""
    for job, (code, text) in results.items():
        if "doctor" in job[1]:
            assert code in (0, 1) and len(text.splitlines()) >= 10, (job, text)
        elif code != 0:
            assert code == 1, (job, text)
            assert text.count("\n") == 1 and "`pip install '" in text, (job, text)


def test_commands_that_lack_a_package_say_so(tmp_path):
    results = run_without(
        [
            ("yaml", "ocrkit.__main__", ["doctor"]),
            ("regex", "ocrkit.__main__", ["recipes"]),
            ("yaml", "ocrkit.__main__", ["train", "--recipe", "quickstart"]),
            ("PIL", "data_prep.convert", ["--list"]),
            ("numpy", "data_prep.synthesize", ["receipts", "--out", str(tmp_path / "made")]),
            ("pyarrow", "data_prep.validate", [str(sample("bangla"))]),
        ]
    )
    check(results)
    text = {package: text for (package, _), (code, text) in results.items() if code == 1}
    assert (
        "fail pyyaml        is not installed: `pip install 'pyyaml<7,>=6'`"
        in (results["yaml", "doctor"][1])
    )
    assert text["regex"].startswith("ocrkit: the package regex is not installed; install it with")
    assert "`pip install 'pyyaml>=6,<7'`" in text["yaml"]
    assert text["PIL"].startswith("error: the package pillow is not installed;")
    assert "`pip install 'numpy>=1.26,<3'`" in text["numpy"]


@pytest.mark.slow
def test_every_command_without_every_package(tmp_path, thermal):
    raw = tmp_path / "raw"
    raw.mkdir()
    picture = next(thermal.rglob("*.png"))
    (raw / "word_1.png").write_bytes(picture.read_bytes())
    run = ["--dataset", str(thermal), "--max_steps", "1", "--max_new_tokens", "2"]
    run += ["--max_eval_samples", "2", "--output_dir"]
    sides = []
    for name in ("a", "b"):
        line = json.dumps({"id": 1, "reference": "a", "prediction": name})
        (tmp_path / f"{name}.jsonl").write_text(line)
        scored = ["evaluate", "--predictions", str(tmp_path / f"{name}.jsonl"), "--name", name]
        assert main([*scored, "--output_dir", str(tmp_path)]) == 0
        sides.append(str(tmp_path / "eval" / name))
    jobs = []
    for package in [*requirements(), *BROUGHT]:
        name, out = IMPORT_NAMES.get(package, package), str(tmp_path / package)
        kit, drawn = "ocrkit.__main__", "data_prep.synthesize"
        jobs += [
            (name, kit, ["doctor"]),
            (name, kit, ["recipes"]),
            (name, kit, ["train", *run, f"{out}-train"]),
            (name, kit, ["evaluate", *run, f"{out}-evaluate"]),
            (name, kit, ["evaluate", "--engine", "tesseract", *run, f"{out}-tesseract"]),
            (name, kit, ["predict", str(picture), "--max_new_tokens", "2"]),
            (name, kit, ["compare", *sides, "--out", f"{out}-report"]),
            (name, kit, ["export", "--out", f"{out}-export", "--format", "adapter"]),
            (name, "data_prep.convert", ["--list"]),
            (name, "data_prep.convert", ["folder", str(raw), "--out", f"{out}-converted"]),
            (name, "data_prep.validate", [str(sample("bangla")), "--workers", "1"]),
            (name, drawn, ["receipts", "--receipts", "1", "--out", f"{out}-receipts"]),
            (name, drawn, ["toys", "--count", "2", "--out", f"{out}-toys"]),
            (name, "data_prep.pack", [str(thermal), f"{out}.tar"]),
        ]
    results = run_without(jobs)
    tracebacks = [job for job, (code, _) in results.items() if code == "traceback"]
    assert tracebacks == []
    assert {job[0] for job, (code, _) in results.items() if code == 1} >= {"torch", "PIL", "yaml"}


def test_sentences_for_failed_imports(monkeypatch):
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
