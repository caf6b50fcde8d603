"""Gates that every notebook passes, and headless runs of a few steps."""

import ast
import builtins
import copy
import inspect
import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import nbformat
import pytest
import yaml
from nbclient import NotebookClient

from data_prep.synthetic.toys import REPHRASED_SCHEMA
from notebooks.build import badges, repository, shared_cells
from notebooks.run import run, summary, to_html
from ocrkit.config import TrainConfig
from ocrkit.errors import ConfigError

ROOT = Path(__file__).parents[2]
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


def _through_config(path: Path) -> list[str]:
    """The code of the cells from the top to the one that makes the config."""
    cells = _cells(path)
    first = next(n for n, c in enumerate(cells) if "parameters" in c["metadata"].get("tags", []))
    return [_code(cell) for cell in cells[: first + 2]]


def _run_cells(cells: list[str], space: dict) -> None:
    """Execute cells in the same globals, which have IPython's history of them."""
    space["In"] = [""]
    for cell in cells:
        space["In"].append(cell)
        exec(cell, space)


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return request.param


def test_notebooks_exist():
    assert {"quickstart", "compare_runs", *SHOWN} <= {path.stem for path in NOTEBOOKS}


def test_notebook_equals_its_built_source():
    command = [sys.executable, str(ROOT / "notebooks" / "build.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_notebook_is_short_and_without_outputs(notebook):
    document = json.loads(notebook.read_text(encoding="utf-8"))
    assert len(document["cells"]) <= 34
    assert document["metadata"]["kernelspec"]["language"] == "python"
    assert len({cell["id"] for cell in document["cells"]}) == len(document["cells"])
    for cell in document["cells"]:
        assert len(cell["source"]) <= 25, cell["id"]
        assert not cell.get("outputs") and not cell.get("execution_count"), cell["id"]
    code = [line for cell in _cells(notebook) for line in cell["source"]]
    assert len([line for line in code if line.strip() and not line.strip().startswith("#")]) <= 110


def test_notebook_defines_no_functions(notebook):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.While)
    for tree in _trees(notebook):
        assert not [node for node in ast.walk(tree) if isinstance(node, kinds)]


def test_notebook_cells_import_the_kit_first(notebook):
    """So that a kernel that was started anew says which name is missing, and the way out."""
    # The benchmark's own module imports the kit.
    kit = ("ocrkit", "tests.benchmarks.suite")
    for cell in _cells(notebook)[2:]:
        for statement in ast.parse(_code(cell)).body:
            if isinstance(statement, ast.ImportFrom) and statement.module.startswith(kit):
                break
            assert isinstance(statement, ast.Import | ast.ImportFrom), "".join(cell["source"])


def test_notebook_parameters_are_literals_and_known_settings(notebook):
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
    address = repository()
    place = f"{address.removeprefix('https://github.com/')}/blob/main/notebooks/{notebook.name}"
    text = "".join(_cells(notebook, "markdown")[0]["source"])
    assert f"colab.research.google.com/github/{place}" in text
    assert f"src=https://github.com/{place}" in text
    assert f' {address}"' in "".join("".join(cell["source"]) for cell in _cells(notebook))


def test_the_address_stands_in_pyproject_alone():
    for source in sorted((ROOT / "notebooks" / "src").rglob("*.py")):
        assert "github.com" not in source.read_text(encoding="utf-8"), source.name


def test_every_import_and_call_exists(notebook):
    known = {}
    for tree in _trees(notebook):
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                module = __import__(node.module, fromlist=[alias.name for alias in node.names])
                for alias in node.names:
                    known[alias.name] = getattr(module, alias.name)
    for tree in _trees(notebook):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                function = known.get(node.func.id) or getattr(builtins, node.func.id)
                if inspect.isfunction(function) and not any(
                    isinstance(argument, ast.Starred) for argument in node.args
                ):
                    names = [word.arg for word in node.keywords if word.arg]
                    inspect.signature(function).bind_partial(*node.args, **dict.fromkeys(names))


#: What each notebook has to show beside its pictures: pieces of text among its outputs.
SHOWN = {
    "bangla_handwriting": ["conjunct", "CER, graphemes", "of letters read right"],
    "korean_signboards": ["wholly wrong", "similarity of 0.8 or more", "exact match"],
    "chinese_handwriting": ["CR (Chinese)", "AR (Chinese)", "one line at a time", "local disk"],
    "financial_documents": ["passes the schema", "numeric accuracy", "TEDS", "trained on"],
    "visual_question_answering": ["need_external_knowledge: True", "squad", "no-knowledge"],
}
FEW = {
    "max_steps": 2,
    "eval_steps": 2,
    "logging_steps": 1,
    "eval_samples": 4,
    "max_train_samples": 24,
    "max_eval_samples": 8,
    "max_new_tokens": 24,
    # What was hardly trained reads at random, and rounding then changes every reading.
    "export_format": "adapter",
}


#: Stories whose training rows are streamed here.
STREAMED = {"chinese_handwriting"}


def _outputs(executed: Path) -> str:
    cells = json.loads(executed.read_text(encoding="utf-8"))["cells"]
    return json.dumps([cell.get("outputs") for cell in cells], ensure_ascii=False)


@pytest.mark.parametrize("name", SHOWN)
def test_notebook_runs_headless(name, tmp_path):
    result = run(name, tmp_path, FEW | {"streaming": name in STREAMED})
    assert result["error"] is None
    report = json.loads((tmp_path / "run" / "report" / "report.json").read_text(encoding="utf-8"))
    names = [evaluation["name"] for evaluation in report["evaluations"]]
    assert (names[0], names[-1]) == ("base", "tuned")
    for evaluation in report["evaluations"]:
        cer = evaluation["metrics"]["cer"]
        assert evaluation["n"] == 8 and 0 <= cer["low"] <= cer["value"] <= cer["high"]
    executed = tmp_path / f"{name}.ipynb"
    shown = _outputs(executed)
    for expected in SHOWN[name]:
        assert expected in shown, expected
    assert "data:image/" in shown and "results.zip" in shown
    assert "data:image/" in (tmp_path / "run" / "report" / "index.html").read_text(encoding="utf-8")
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()
    table = summary([result]).splitlines()[-1]
    assert table.startswith(f"| {name} |") and table.endswith(" done |") and "%" in table
    assert table.count("|") == 9


def test_quickstart_runs_headless(tmp_path):
    few = {"receipts": 10, "max_steps": 4, "eval_steps": 2}
    result = run("quickstart", tmp_path, few)
    assert result["error"] is None
    folder, executed = tmp_path / "run", tmp_path / "quickstart.ipynb"
    report = json.loads((folder / "report" / "report.json").read_text(encoding="utf-8"))
    assert [e["name"] for e in report["evaluations"]] == ["base", "tuned"]
    cer = report["evaluations"][1]["metrics"]["cer"]
    assert 0 <= cer["low"] <= cer["value"] <= cer["high"]
    assert report["other"][0]["title"].startswith("What was forgotten")
    page = (folder / "report" / "index.html").read_text(encoding="utf-8")
    assert "data:image/png;base64" in page and "<svg" in page
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()
    assert (folder / "merged" / "model.safetensors").is_file()
    shown = _outputs(executed)
    assert "rows are read the same by the exported" in shown and "data:image/" in shown
    assert "Done: step 4 of 4" in shown and '"image/png": "' in shown
    assert "samples that tuned read worst" in shown
    assert "data:image/" in to_html(executed).read_text(encoding="utf-8")


#: Stories whose cells are run again here; the others' in `make check`.
AGAIN = [
    name if name == "quickstart" else pytest.param(name, marks=pytest.mark.slow)
    for name in ("quickstart", *SHOWN, "label_pictures", "compare_runs")
]


@pytest.mark.parametrize("name", AGAIN)
def test_notebook_cells_can_be_run_again(name, tmp_path):
    """In one kernel: each cell twice, then all cells with a changed and an added parameter."""
    own = {"quickstart": {"receipts": 6}, "label_pictures": {"round_size": 4}, "compare_runs": {}}
    few = own.get(name, {"export_format": "adapter"})
    few |= {"max_train_samples": 12, "max_eval_samples": 4, "max_new_tokens": 12}
    few |= {"max_steps": 2, "eval_steps": 2, "logging_steps": 1, "eval_samples": 2}
    document = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4)
    codes = [cell for cell in document.cells if cell.cell_type == "code"]
    first = next(c for c in codes if "parameters" in c.metadata.get("tags", []))
    lines = [f"{key} = {value!r}" for key, value in {**few, "output_dir": "run"}.items()]
    first.source = "\n".join([first.source, *lines])
    # A user's own names between the cells are no parameters.
    between = nbformat.v4.new_code_cell("i, data_folder = 3, 'x'\nclean = 'mine'")
    changed = [copy.deepcopy(cell) for cell in codes]
    changed[codes.index(first)].source += "\nmax_steps = 3\nlora_r = 4"
    again = [copy.deepcopy(cell) for cell in codes for _ in range(2)]
    document.cells = [*again, between, *changed]
    for number, cell in enumerate(document.cells):
        cell["id"] = f"cell-{number}"
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    resources = {"metadata": {"path": str(tmp_path)}}
    client = NotebookClient(document, timeout=900, kernel_name="python3", resources=resources)
    client.execute(env={**os.environ, "PYTHONPATH": paths})
    if name in {"quickstart", *SHOWN}:  # the others train in folders of their own
        settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text(encoding="utf-8"))
        assert (settings["max_steps"], settings["lora_r"]) == (3, 4)
    errors = [o for c in document.cells for o in c.outputs if o.get("name") == "stderr"]
    assert not errors, errors[0]["text"]


def test_the_benchmark_runs_headless_and_shows_its_table_once(tmp_path):
    result = run("benchmark", tmp_path, {"parts": "start"})
    assert result["error"] is None
    parts = json.loads((tmp_path / "run" / "bench.json").read_text(encoding="utf-8"))["parts"]
    assert list(parts) == ["start"]
    shown = _outputs(tmp_path / "benchmark.ipynb")
    assert f"start: {len(parts['start']['rows'])} rows, " in shown
    assert shown.count(parts["start"]["rows"][0]["what"]) == 1


def test_a_misspelt_parameter_stops_the_notebook(notebook):
    cells = _through_config(notebook)
    cells[-2] += "\noutput_dr = 'runs/other'"
    with pytest.raises(ConfigError, match="did you mean 'output_dir'"):
        _run_cells(cells, {})


def test_notebook_metadata_requests_the_gpu_on_colab_and_kaggle(notebook):
    metadata = json.loads(notebook.read_text(encoding="utf-8"))["metadata"]
    gpu = notebook.stem not in ("quickstart", "compare_runs")
    assert metadata.get("accelerator") == ("GPU" if gpu else None)
    assert metadata["colab"].get("gpuType") == ("T4" if gpu else None)
    assert metadata["kaggle"]["accelerator"] == ("nvidiaTeslaT4" if gpu else "none")


def test_the_install_cell_is_the_same_in_all(notebook):
    markdown, code = shared_cells("install")
    sources = ["".join(cell["source"]) for cell in json.loads(notebook.read_text("utf-8"))["cells"]]
    assert sources[1:3] == [markdown.source, code.source]


@pytest.mark.parametrize("given", ["", "dataset", "raw_data", "schema_file"])
def test_documents_of_a_user_have_the_schema_that_is_named(given, tmp_path):
    path = ROOT / "notebooks" / "financial_documents.ipynb"
    data = next(_code(c) for c in _cells(path) if "local_dataset(" in _code(c))
    # Neither data nor its pictures are needed here.
    data = data.replace("from ocrkit import load_data", "load_data = lambda config: {}")
    data = data.replace("from ocrkit.places import local_dataset", "local_dataset = given")
    data = data.replace('gallery(data["train"], 6)', "")
    cells = [*_through_config(path), data]
    named = str(REPHRASED_SCHEMA.with_name("toy_receipt.schema.json"))
    if given:
        cells = [cell.replace(f'{given} = ""', f"{given} = {named!r}") for cell in cells]
    space: dict = {"given": lambda *paths, **options: ""}
    _run_cells(cells, space)
    expected = {"": REPHRASED_SCHEMA, "schema_file": Path(named)}.get(given)
    assert space["schema"] == (expected and json.loads(expected.read_text(encoding="utf-8")))


def test_a_failure_is_reported_and_counted(tmp_path):
    result = run("quickstart", tmp_path, {"max_step": 4})
    assert "did you mean 'max_steps'" in result["error"]
    assert "did you mean" in summary([result])


def test_pictures_are_labelled_headless_by_the_truth_of_the_sample(tmp_path):
    few = {"max_train_samples": 24, "max_eval_samples": 8, "max_new_tokens": 24}
    result = run("label_pictures", tmp_path, few | {"round_size": 6, "max_steps": 2})
    assert result["error"] is None
    shown = _outputs(tmp_path / "label_pictures.ipynb")
    for expected in ("6 pictures: ", "least sure", "random", "labels changed"):
        assert expected in shown
    (dataset,) = (tmp_path / "run").glob("data-*/dataset.json")
    assert sum(json.loads(dataset.read_text())["rows"].values()) == 6


def test_every_notebook_has_its_badges_and_a_line_for_papermill():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    page = (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        for badge in badges(path.stem).splitlines():
            assert badge.rpartition("](")[2] in readme, path.stem
        assert f"papermill notebooks/{path.name} " in page, path.stem
