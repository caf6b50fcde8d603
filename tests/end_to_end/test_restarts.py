"""A kernel that was started anew in the middle of a notebook: what cells say, and how to go on."""

import json
import os
import re
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from tests.end_to_end.test_notebooks import FEW, NOTEBOOKS

ROOT = Path(__file__).parents[2]
MISSING = re.compile(r"'\w+' is missing, as this kernel has not run .*is not trained again\.")
NO_PARAMETERS = re.compile(r"There are no parameters, as this kernel .*, then this cell again\.")


def code_of(name):
    cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4).cells
    return [cell.source for cell in cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def run():
    """Run code in a kernel; returns the lines of the error that is shown, if any."""
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(ROOT))

    def run(code):
        shown = []

        def keep(message):
            shown.extend(message["content"].get("traceback", []))

        client.execute_interactive(code, timeout=120, output_hook=keep)
        return "\n".join(shown).splitlines()

    yield run
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def test_restarted_kernel_explains_missing_names_only(run):
    (line,) = run("from ocrkit import baseline\nbaseline(data['test'], config)")
    assert MISSING.fullmatch(line) and line.startswith("'data' ")
    (line,) = run("from ocrkit import TrainConfig\nTrainConfig.from_parameters(globals())")
    assert NO_PARAMETERS.fullmatch(line)
    run("data = {'test': []}")
    (line,) = run("baseline(data['test'], config)")
    assert line.startswith("'config' ")
    # Slips of the pen, mistakes in functions and other errors are shown as before.
    for code in ("comparison = 1\ncomparsion", "(lambda: nowhere)()", "1 / 0", "import nowhere"):
        lines = run(code)
        assert len(lines) > 3 and "Traceback" in lines[1], code
    assert run("data") == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [path.stem for path in NOTEBOOKS])
def test_restarted_kernel_explains_every_cell(name, run):
    """The modules that cells import stay in the kernel; names and the history of cells do not."""
    for code in code_of(name)[2:]:
        run("get_ipython().reset(new_session=True)")
        lines = run(code)
        sentence = NO_PARAMETERS if "from_parameters" in code else MISSING
        assert len(lines) == 1 and sentence.fullmatch(lines[0]), (code, lines)


def execute(codes, folder):
    """Run cells in a new kernel; returns their outputs as one text."""
    document = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in codes])
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(document, timeout=300, kernel_name="python3", resources=resources)
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    client.execute(env={**os.environ, "PYTHONPATH": paths})
    return json.dumps([cell.outputs for cell in document.cells])


@pytest.mark.slow
def test_restarted_notebook_neither_trains_nor_reads_again(tmp_path):
    codes = code_of("korean_signboards")
    few = {**FEW, "output_dir": "run"}
    codes[1] += "".join(f"\n{key} = {value!r}" for key, value in few.items())
    after = 1 + next(number for number, code in enumerate(codes) if "= train(" in code)
    execute(codes[:after], tmp_path)
    with pytest.raises(CellExecutionError, match="is missing, as this kernel has not run"):
        execute(codes[after:], tmp_path)
    run = tmp_path / "run"
    weights = (run / "adapter" / "adapter_model.safetensors").read_bytes()
    log = (run / "train_log.jsonl").read_bytes()
    # A reading that no model gives stays, as it is not made again.
    base = run / "eval" / "base" / "predictions.jsonl"
    rows = [json.loads(line) for line in base.read_text(encoding="utf-8").splitlines()]
    rows[0]["prediction"] = "read before the restart"
    base.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    codes[1] += '\nresume_from_checkpoint = "auto"'
    execute(codes, tmp_path)
    assert (run / "adapter" / "adapter_model.safetensors").read_bytes() == weights
    assert (run / "train_log.jsonl").read_bytes() == log
    assert "read before the restart" in base.read_text(encoding="utf-8")
    assert (run / "report" / "index.html").is_file()
