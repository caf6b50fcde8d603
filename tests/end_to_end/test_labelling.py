"""Labelling in JupyterLab in headless Chromium: keys, input methods, a killed kernel, speed."""

import json
import os
import signal
import statistics
import time
from pathlib import Path

import nbformat
import pytest

from data_prep.synthetic.render import draw_line, load_font, shipped_fonts
from data_prep.validate import validate
from ocrkit.evaluation.labelling import Labels, collect_pictures
from tests.tools.lab import CHROMIUM, KERNEL, lab, run_all

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="needs Chromium"),
]

ROOT = "document.querySelector('.ocrkit-label')"
BOX = f"{ROOT}?.querySelector('.box')"
DIALOG = "document.querySelector('.jp-Dialog')"
SHOWN = f"{ROOT}?.dataset.shown"
CELL = """
import os
from pathlib import Path
from ocrkit.evaluation.label_widget import label
from ocrkit.evaluation.labelling import Labels

Path("pid").write_text(str(os.getpid()))
label(Labels("labels"))
"""
# Milliseconds from a key to the next picture.
TURN = f"""
(async () => {{
  const root = {ROOT}, before = root.dataset.shown, began = performance.now();
  const event = {{key: 'PageDown', bubbles: true, cancelable: true}};
  root.querySelector('.box').dispatchEvent(new KeyboardEvent('keydown', event));
  while (root.dataset.shown == before) await new Promise(done => setTimeout(done, 1));
  await root.querySelector('.picture').decode();
  return performance.now() - began;
}})()
"""


def truth(number):
    return f"TOTAL {number}.00"


def labelling_folder(folder, count):
    """Lines with drafts, of which every third is wrong; the first are the least sure."""
    (folder / "scans").mkdir()
    font = load_font(shipped_fonts("DejaVuSans")[0], 21)
    for number in range(count):
        path = folder / "scans" / f"page{number // 2:04d}_line_{number:04d}.png"
        draw_line(truth(number), font).save(path)
    labels = collect_pictures(folder / "scans", folder / "labels", language="en")
    for number, sample in enumerate(labels.samples):
        wrong = number % 3 == 0
        text = truth(number).replace(".", ",") if wrong else truth(number)
        draft = {"id": sample["id"], "prediction": text, "confidence": number / count}
        labels.drafts[sample["id"]] = draft | {"doubts": [[7, 8]] if wrong else []}
    lines = "".join(json.dumps(draft) + "\n" for draft in labels.drafts.values())
    (folder / "labels" / "drafts.jsonl").write_text(lines)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "", "language": "python"}
    nbformat.write(notebook, folder / "label.ipynb")
    return [sample["id"] for sample in labels.samples]


def shows(page, id):
    page.wait(f"{SHOWN} == {id!r} && document.activeElement == {BOX}")


def test_labelling_by_keys_survives_undo_and_a_killed_kernel(tmp_path):
    ids = labelling_folder(tmp_path, 20)
    shots = os.environ.get("OCRKIT_SCREENSHOTS")
    with lab(tmp_path, "label.ipynb") as page:
        run_all(page)
        for number in range(10):
            shows(page, ids[number])
            if number == 0 and shots:
                page.picture(Path(shots) / "label.png")
            if number % 3 == 0:
                page.type(truth(number))
            page.key("Enter")
        shows(page, ids[10])
        page.key("F4")  # take the last answer back
        shows(page, ids[9])
        page.type(truth(9))
        page.key("Enter")
        shows(page, ids[10])
        # An input method: its Enter chooses a syllable and takes no picture.
        page.type("")
        page.call("Input.imeSetComposition", text="한", selectionStart=1, selectionEnd=1)
        page.key("Enter")
        for key in ("Enter", "PageDown", "F2"):
            options = f"{{key: {key!r}, keyCode: 229, bubbles: true, isComposing: true}}"
            page.js(f"void {BOX}.dispatchEvent(new KeyboardEvent('keydown', {options}))")
        time.sleep(1)
        assert page.js(SHOWN) == ids[10]
        page.call("Input.insertText", text="한글")
        assert page.js(f"{BOX}.value") == "한글"
        assert len(Labels(tmp_path / "labels").answers) == 10
        page.js(f"void (window.before = {ROOT})")
        # The kernel dies: what was typed stays, and is there when the cell runs again.
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
        page.wait(f"{DIALOG}?.innerText.includes('Kernel Restarting')")
        page.key("Enter")
        page.wait(f"!{DIALOG} && {KERNEL}.status == 'idle'")
        run_all(page)
        page.wait(f"{ROOT} && {ROOT} != window.before")
        shows(page, ids[10])
        assert page.js(f"{BOX}.value") == "한글"
        page.key("Enter")
        shows(page, ids[11])
        page.type("")
        page.key("Enter")
        page.wait(f"{ROOT}.querySelector('.note').textContent.includes('empty')")
        page.key("F2")
        shows(page, ids[12])
        page.key("PageDown")
        for number in range(13, 20):
            shows(page, ids[number])
            if number % 3 == 0:
                page.type(truth(number))
            page.key("Enter")
        page.wait(f"{ROOT}.classList.contains('done')")
        if shots:
            page.picture(Path(shots) / "label-done.png")
    labels = Labels(tmp_path / "labels")
    answers = [labels.answers[id] for id in ids]
    assert answers[10]["text"] == "한글" and answers[11]["action"] == "unreadable"
    assert answers[12]["action"] == "skip"
    others = [number for number in range(20) if number not in (10, 11, 12)]
    assert [answers[number]["text"] for number in others] == [truth(number) for number in others]
    labels.write(tmp_path / "data")
    assert validate(tmp_path / "data")["ok"]


def test_labelling_1000_pictures_is_as_fast_as_20(tmp_path):
    medians = {}
    for count in (20, 1000):
        folder = tmp_path / str(count)
        folder.mkdir()
        ids = labelling_folder(folder, count)
        with lab(folder, "label.ipynb") as page:
            run_all(page)
            shows(page, ids[0])
            times = [page.js(TURN) for _ in range(16)]
        medians[count] = statistics.median(times[1:])
    print(medians)
    assert medians[1000] / medians[20] <= 1.5, medians
