"""Gates that every notebook passes, and headless runs of a few steps."""

import ast
import json
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from ocrkit.config import TrainConfig

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FIELDS = {spec.name for spec in fields(TrainConfig)}


def _cells(path: Path, kind: str = "code") -> list[dict]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == kind]


def _code(cell: dict) -> str:
    """A cell's Python: lines for the shell and for IPython become `pass`."""
    lines = "".join(cell["source"]).splitlines()
    blanked = []
    for line in lines:
        bare = line.lstrip()
        blanked.append(line[: len(line) - len(bare)] + "pass" if bare[:1] in ("!", "%") else line)
    return "\n".join(blanked)


def _trees(path: Path) -> list[ast.Module]:
    return [ast.parse(_code(cell)) for cell in _cells(path)]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return request.param


def test_there_are_notebooks():
    assert "quickstart" in {path.stem for path in NOTEBOOKS}


def test_built_from_its_source():
    command = [sys.executable, str(ROOT / "notebooks" / "build.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_short_and_without_outputs(notebook):
    document = json.loads(notebook.read_text(encoding="utf-8"))
    assert len(document["cells"]) <= 30
    assert document["metadata"]["kernelspec"]["language"] == "python"
    assert len({cell["id"] for cell in document["cells"]}) == len(document["cells"])
    for cell in document["cells"]:
        assert len(cell["source"]) <= 25, cell["id"]
        assert not cell.get("outputs") and not cell.get("execution_count"), cell["id"]


def test_holds_no_logic(notebook):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.While)
    for tree in _trees(notebook):
        assert not [node for node in ast.walk(tree) if isinstance(node, kinds)]


def test_parameters_are_plain_and_known(notebook):
    tagged = [cell for cell in _cells(notebook) if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1
    declared = {"recipe"}
    for tree in _trees(notebook):
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == "also":
                declared |= set(ast.literal_eval(node.value))
    for line in tagged[0]["source"]:
        assert "# @param" in line, line
        statement = ast.parse(line).body[0]
        assert isinstance(statement, ast.Assign) and len(statement.targets) == 1
        ast.literal_eval(statement.value)
        assert statement.targets[0].id in FIELDS | declared


def test_badges_point_to_the_repository(notebook):
    with (ROOT / "pyproject.toml").open("rb") as file:
        repository = tomllib.load(file)["project"]["urls"]["Repository"]
    owner = repository.removeprefix("https://github.com/")
    text = "".join(_cells(notebook, "markdown")[0]["source"])
    place = f"{owner}/blob/main/notebooks/{notebook.name}"
    assert f"colab.research.google.com/github/{place}" in text
    assert f"src=https://github.com/{place}" in text
    assert f"{repository} " in "".join("".join(cell["source"]) for cell in _cells(notebook))


def test_every_import_exists(notebook):
    for tree in _trees(notebook):
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                module = __import__(node.module, fromlist=[alias.name for alias in node.names])
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{node.module}.{alias.name}"


def _papermill(notebook: Path, out: Path, **parameters) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", str(notebook), str(out)]
    for name, value in parameters.items():
        command += ["-p", name, str(value)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_quickstart_runs_headless(tmp_path):
    out, run = tmp_path / "out.ipynb", tmp_path / "run"
    done = _papermill(
        ROOT / "notebooks" / "quickstart.ipynb",
        out,
        output_dir=run,
        receipts=10,
        max_steps=4,
        eval_steps=2,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((run / "report" / "report.json").read_text())
    assert [e["name"] for e in report["evaluations"]] == ["base", "tuned"]
    cer = report["evaluations"][1]["metrics"]["cer"]
    assert 0 <= cer["low"] <= cer["value"] <= cer["high"]
    assert report["other"][0]["title"].startswith("What was forgotten")
    page = (run / "report" / "index.html").read_text(encoding="utf-8")
    assert "data:image/png;base64" in page and "<svg" in page
    assert (run / "adapter" / "adapter_model.safetensors").is_file()
    assert (run / "merged" / "model.safetensors").is_file()
    text = out.read_text(encoding="utf-8")
    assert "Done: step 4 of 4" in text and '"image/png": "' in text
    assert "samples that tuned read worst" in text
    assert "rows are read the same by the merged model" in text and "data:image/" in text


def test_a_misspelt_parameter_stops_the_notebook(tmp_path):
    done = _papermill(ROOT / "notebooks" / "quickstart.ipynb", tmp_path / "out.ipynb", max_step=4)
    assert done.returncode != 0
    assert "did you mean 'max_steps'" in done.stderr
