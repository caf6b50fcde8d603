"""A notebook opened in JupyterLab and used with mouse and keys, in headless Chromium."""

import importlib.util
import json
import os
import time
from pathlib import Path

import nbformat
import pytest

from ocrkit.training.checkpoints import whole_checkpoints
from tests.end_to_end.test_notebooks import FEW, SHOWN
from tests.tools import lab
from tests.tools.lab import LIST, PLACE, SEARCH

MISSING = [
    name
    for name, installed in (
        ("Chromium", lab.CHROMIUM),
        ("jupyterlab", importlib.util.find_spec("jupyterlab")),
        ("websocket-client", importlib.util.find_spec("websocket")),
    )
    if not installed
]
DETAIL = "document.querySelector('.ocrkit .sample').innerText"
STEP = "parseInt(/step (\\d+) of/.exec(document.body.innerText)[1])"
CELLS = """
from ocrkit import TrainConfig, compare, evaluate, load_data, load_model, train
from ocrkit.evaluation.browser import browse

settings = {settings}
config = TrainConfig.from_recipe("quickstart", **settings)
data = load_data(config)
model, processor = load_model(config)
# ---
browse(evaluate(model, processor, data["test"], config))
# ---
train(model, processor, data, config)
"""
OWN_PICTURE = """
from ocrkit import TrainConfig, load_model
from ocrkit.data.read_rows import drawn_rows
from ocrkit.evaluation.own_picture import read_own_picture

config = TrainConfig.from_recipe("quickstart", max_new_tokens=12)
read_own_picture(*load_model(config), config, drawn_rows(1))
"""
# JavaScript that puts a drawn picture, or a text, into the clipboard.
COPY_PICTURE = """
(async () => {
  const canvas = Object.assign(document.createElement('canvas'), {width: 200, height: 32});
  const blob = await new Promise(done => canvas.toBlob(done));
  await navigator.clipboard.write([new ClipboardItem({'image/png': blob})]);
})()
"""
COPY_TEXT = "navigator.clipboard.writeText('no picture')"


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}"),
]


def test_browser_filters_and_button_stops(config, tmp_path):
    config.max_steps, config.eval_steps, config.eval_samples = 5000, 2, 4
    settings = {key: value for key, value in config.to_dict().items() if value is not None}
    cells = CELLS.format(settings=repr(settings)).split("# ---\n")
    notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, cells)))
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    (tmp_path / "n.ipynb").write_text(nbformat.writes(notebook), encoding="utf-8")
    with lab.lab(tmp_path, "n.ipynb") as page:
        lab.run_all(page)
        page.wait(f"{LIST} && {DETAIL}", 900)
        _use_browser(page)
        page.wait(f"{STEP} >= 2", 900)
        page.click(lab.button("Stop and save"))
        page.wait("document.body.innerText.includes('Stopped at step')", 900)
        step = page.js("parseInt(/Stopped at step (\\d+)/.exec(document.body.innerText)[1])")
        assert 2 <= step < 5000
        assert page.js("document.querySelectorAll('.ocrkit .track').length") == 1
        assert page.js(lab.button("Stop and save")) is None
        page.wait("[...document.images].every(i => i.naturalWidth)")
        assert max(page.js(lab.HEIGHTS)) < page.js(lab.SEEN)
    saved = [path.name for path in whole_checkpoints(config.output_dir)]
    assert saved == [f"checkpoint-{step}"]
    log = (tmp_path / "run" / "train_log.jsonl").read_text().splitlines()
    assert max(json.loads(line)["step"] for line in log) == step


@pytest.mark.parametrize("name", ["bangla_handwriting", "financial_documents"])
def test_notebook_runs_in_jupyterlab(name, tmp_path):
    # Enough steps for the panel to be seen while it trains.
    few = {**FEW, "max_steps": 8, "eval_steps": 4, "output_dir": str(tmp_path / "run")}
    with lab.lab(tmp_path, lab.place(tmp_path, name, few)) as page:
        lab.run_all(page)
        state = f"{lab.button('Stop and save')} ? 'training' : ({lab.ENDED}) && 'ended'"
        assert (page.wait(state, 900), page.js(lab.ERRORS)) == ("training", [])
        assert page.js(STEP) <= 8
        page.wait(lab.ENDED, 900)
        assert page.js(lab.ERRORS) == []
        assert "Done step 8 of 8" in page.js("document.body.innerText")
        assert page.js(f"{LIST}.options.length") == 8
        page.click(SEARCH)
        page.write("nowhere")
        page.wait("document.body.innerText.includes('no sample fits')")
        assert page.js(f"{LIST}.options.length") == 0
        page.wait("[...document.querySelectorAll('.ocrkit img')].every(i => i.naturalWidth)")
        assert max(page.js(lab.HEIGHTS)) < page.js(lab.SEEN)


def test_pasted_picture_is_read_and_other_text_is_one_sentence(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(OWN_PICTURE)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, tmp_path / "n.ipynb")
    (tmp_path / "notes.txt").write_text("no picture")
    body, field = "document.querySelector('.widget-vbox').innerText", "input[placeholder*=paste]"
    with lab.lab(tmp_path, "n.ipynb") as page:
        page.call(
            "Browser.grantPermissions",
            permissions=["clipboardReadWrite", "clipboardSanitizedWrite"],
        )
        lab.run_all(page)
        page.wait(f"{body}.includes('truth') && {lab.ENDED}")
        for copy, expected in ((COPY_PICTURE, "confidence"), (COPY_TEXT, "cannot be read")):
            page.click(f"document.querySelector('{field}')")
            page.js(copy)
            page.paste()
            page.wait(f"{body}.includes('{expected}') && !{body}.includes('truth')")
        page.click(lab.button("Read"))  # the row's own, again
        page.wait(f"{body}.includes('truth') && {body}.includes('after')")
        page.upload("document.querySelector('.widget-upload')", tmp_path / "notes.txt")
        page.wait(f"{body}.includes('The upload cannot be read')")
        page.click(lab.button("Read"))
        page.wait(f"{body}.includes('truth') && {body}.includes('after')")
        assert page.js(lab.ERRORS) == []


AGAIN = {
    "quickstart": {"receipts": 6},
    **{name: {} for name in SHOWN},
    "korean_signboards": {"export_format": "adapter"},
    "label_pictures": {"round_size": 6},
    "compare_runs": {},
}


@pytest.mark.parametrize("name", AGAIN)
def test_notebook_runs_again_with_another_parameter_in_jupyterlab(name, tmp_path):
    few = {key: value for key, value in FEW.items() if key != "export_format"}
    few |= {**AGAIN[name], "output_dir": str(tmp_path / "run")}
    shots = Path(os.environ.get("OCRKIT_SCREENSHOTS") or tmp_path)
    with lab.lab(tmp_path, lab.place(tmp_path, name, few)) as page:
        lab.run_all(page)
        page.wait(lab.ENDED, 1800)
        assert page.js(lab.ERRORS) == []
        cells = page.js(lab.RUN_COUNT)
        lab.change_parameters(page, "max_steps = 3")
        lab.run_all(page)
        page.wait(f"{lab.ERRORS}.length || ({lab.RUN_COUNT} == {2 * cells} && {lab.ENDED})", 1800)
        assert page.js(lab.ERRORS) == page.js(lab.WARNINGS) == []
        if name in ("quickstart", *SHOWN):
            assert "Done step 3 of 3" in page.js("document.body.innerText")
        page.wait("[...document.querySelectorAll('.ocrkit img')].every(i => i.naturalWidth)")
        for width in (1280, 390):
            page.whole(shots / f"{name}-{width}.png", width)
            assert page.js(lab.CUT) == [], width


def _use_browser(page):
    """All that a person can do with the browser, while the next cell trains."""
    count = page.js(f"{LIST}.options.length")
    assert count == 10
    first = page.js(DETAIL)
    page.click(PLACE)
    page.key("ArrowUp")
    second = page.wait(f"{DETAIL} != {json.dumps(first)} && {DETAIL}")
    page.key("ArrowUp")
    page.wait(f"{LIST}.selectedIndex == 2")
    page.key("ArrowDown")
    page.wait(f"{DETAIL} == {json.dumps(second)}")
    page.click(lab.button("Previous"))
    page.wait(f"{DETAIL} == {json.dumps(first)}")
    page.click(SEARCH)
    page.write("TOTAL")
    page.wait(f"{LIST}.options.length < {count}")
    assert page.js(f"[...{LIST}.options].every(o => o.text.length)")
    time.sleep(0.5)
