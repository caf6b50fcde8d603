"""What notebooks show, with and without someone who looks on."""

import base64
import io
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import ipykernel
import ipywidgets
import pytest
import torch
from jupyter_client.manager import start_new_kernel
from PIL import Image
from safetensors.torch import load_file
from transformers import TrainerCallback

from ocrkit.data.load import load_data
from ocrkit.display import notebook
from ocrkit.evaluation import browser
from ocrkit.evaluation import browser as widgets
from ocrkit.evaluation.compare import compare
from ocrkit.evaluation.evaluation import score
from ocrkit.models.load import load_model
from ocrkit.training import panel
from ocrkit.training.callbacks import StopOnSignal
from ocrkit.training.checkpoints import whole_checkpoints
from ocrkit.training.train import train

TEXTS = [
    "TOTAL 9.00",
    "total due",
    "서울특별시",
    '{"total": "1.00", "date": "x"}',
    "a long line, read",
]
READ = ["TOTAL 9.0O", "TOTAL due", "서울특별시", '{"total": "1.00", "date": "y"}', "a long line"]


def evaluation(predictions, name, **more):
    picture = Image.new("RGB", (60, 20), "white")
    return score(
        [
            {
                "id": f"row-{n}",
                "reference": text,
                "prediction": prediction,
                "language": "ko" if "서울" in text else "en",
                "confidence": 0.5 + n / 10,
                "image": picture,
                **more,
            }
            for n, (text, prediction) in enumerate(zip(TEXTS, predictions))
        ],
        name,
    )


BASE, TUNED = evaluation(["?"] * 4 + [TEXTS[4]], "base"), evaluation(READ, "tuned")


@pytest.fixture
def is_interactive(monkeypatch):
    """A notebook that a person looks at, as far as code can tell."""
    monkeypatch.setattr(notebook, "kernel", lambda: object())
    for module in (widgets, panel):
        monkeypatch.setattr(module, "is_interactive", lambda: True)
    monkeypatch.setattr(panel, "handle_widget_messages", lambda: True)


# --- the browser


def chosen(browser):
    assert [value for _, value in browser.list.options] == browser.chosen
    return [f"row-{n}" for n in browser.chosen]


def place(browser):
    return f"{browser.place.value} {browser.count.value}"


def test_browser_filters_keep_matching_samples(is_interactive):
    browser = widgets.browse(compare(BASE, TUNED))
    everything = ["row-1", "row-4", "row-0", "row-3", "row-2"]
    assert chosen(browser) == everything
    assert "CER of base → tuned, and truth" in browser.heading.value
    for filter_, value, left in (
        (browser.kind, "wrong", ["row-1", "row-4", "row-0", "row-3"]),
        (browser.kind, "right", ["row-2"]),
        (browser.kind, "case", ["row-1"]),
        (browser.kind, "missing content", ["row-4"]),
        (browser.kind, "worse", ["row-4"]),
        (browser.kind, "better", ["row-1", "row-0", "row-3", "row-2"]),
        (browser.language, "ko", ["row-2"]),
        (browser.search, "tOtAl", ["row-1", "row-0", "row-3"]),
        (browser.search, "9.0o", ["row-0"]),
        (browser.length, (0, 9), ["row-1", "row-2"]),
        (browser.rate, (1, 20), ["row-0", "row-3"]),
        (browser.order, "as in the data", [f"row-{n}" for n in range(5)]),
        (browser.order, "least confident first", [f"row-{n}" for n in range(5)]),
        (browser.order, "largest loss first", ["row-4"]),
    ):
        before, filter_.value = filter_.value, value
        assert chosen(browser)[: len(left)] == left, value
        assert len(browser.chosen) == (5 if filter_ is browser.order else len(left)), value
        filter_.value = before
    assert chosen(browser) == everything
    browser.search.value = "nowhere"
    assert chosen(browser) == [] and browser.count.value == "no sample fits"
    browser.next.click()
    browser.search.value = ""
    assert chosen(browser) == everything and place(browser) == "1 of 5"


def test_browser_filters_by_wrong_field(is_interactive):
    read = ['{"total": "1.00", "date": "y"}', '{"total": "2.00", "date": "x"}', "no JSON"]
    truth = '{"total": "1.00", "date": "x"}'
    rows = [{"id": n, "reference": truth, "prediction": text} for n, text in enumerate(read)]
    browser = widgets.browse(score(rows))
    assert dict(browser.field.options) == {"any": None, "date (2)": "date", "total (2)": "total"}
    browser.field.value = "total"
    assert sorted(browser.chosen) == [1, 2]
    assert browser.field in browser.filters and browser.language not in browser.filters


def test_browser_buttons_and_list_change_the_sample(is_interactive):
    browser = widgets.browse(compare(BASE, TUNED))
    assert browser.previous.disabled and not browser.next.disabled
    for _ in range(7):
        browser.next.click()
    assert place(browser) == "5 of 5" and browser.next.disabled
    assert "서울특별시" in browser.detail.value and "row-2 · ko" in browser.detail.value
    browser.previous.click()
    assert place(browser) == "4 of 5"
    browser.list.index = 0
    assert place(browser) == "1 of 5"
    browser.place.value += 2  # as the arrow keys do
    assert place(browser) == "3 of 5" and browser.list.index == 2
    page = browser.detail.value
    assert "data:image/png;base64" in page and "TOTAL 9.0<del>0</del><ins>O</ins>" in page
    assert "50% sure" in page and "CER 10 %" in page and "base" in page


def test_browser_escapes_markup_in_texts(is_interactive):
    rows = [{"id": 0, "reference": "<b>a</b>", "prediction": "<script>", "error": "<i>"}]
    browser = widgets.browse(score(rows))
    assert "<script>" not in browser.detail.value and "<b>" not in browser.detail.value
    assert "failed: &lt;i&gt;" in browser.detail.value


def test_browser_states_that_a_long_list_is_cut(is_interactive, monkeypatch):
    monkeypatch.setattr(browser, "LISTED", 2)
    panel = widgets.browse(TUNED)
    assert len(panel.list.options) == 2 and place(panel) == "1 of 5, the first 2 listed"


def test_browse_without_widgets_shows_the_worst_as_a_table():
    shown = widgets.browse(compare(BASE, TUNED), 2)
    bundle = shown._repr_mimebundle_()
    assert set(bundle) == {"text/html", "text/plain"}
    assert bundle["text/html"].count("data:image/png;base64") == 2
    assert "<del>total</del><ins>TOTAL</ins> due" in bundle["text/html"]
    assert bundle["text/plain"].splitlines()[:4] == [
        "The 2 of 5 samples that tuned read worst.",
        "truth: total due",
        "base: ?",
        "tuned: TOTAL due",
    ]


def test_browser_shows_the_question_above_its_answers(is_interactive):
    rows = [{"id": n, "reference": "7", "prediction": "1", "question": f"How {n}?"} for n in "ab"]
    browser = widgets.browse(score(rows))
    assert "<th>question</th><td class='text'>How a?</td>" in browser.detail.value
    browser.search.value = "how B"
    assert browser.chosen == [1]
    bundle = browser._repr_mimebundle_()
    assert "<th>question</th><th>truth</th>" in bundle["text/html"]
    assert bundle["text/plain"].splitlines()[1:3] == ["question: How a?", "truth: 7"]


def test_a_saved_browser_falls_back_to_the_table(is_interactive):
    bundle = widgets.browse(TUNED, 1)._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/html"] == widgets.browse(TUNED, 1).fallback._repr_mimebundle_()["text/html"]
    assert bundle["text/plain"].startswith("The 1 of 5 samples")


def test_browser_takes_pictures_of_a_loaded_evaluation_from_rows(thermal, config):
    rows = load_data(config)["test"].select([0, 1])
    records = [{"id": key, "reference": "a", "prediction": "b"} for key in rows["id"]]
    assert "<img" not in widgets.browse(score(records))._repr_mimebundle_()["text/html"]
    elsewhere = [record | {"image": "/of/another/machine.png"} for record in records]
    for evaluation in (records, elsewhere):
        page = widgets.browse(score(evaluation), rows=rows)._repr_mimebundle_()["text/html"]
        assert page.count("<img src='data:image/") == 2


def test_the_gallery_shows_pictures_and_texts(config):
    bundle = widgets.gallery(load_data(config)["train"], 3)._repr_mimebundle_()
    assert bundle["text/html"].count("<img src='data:image/") == 3
    assert len(bundle["text/plain"].splitlines()) == 3


# --- the panel


class Screen:
    """Takes what is displayed, as a cell's outputs; a front end that draws widgets, or does not."""

    def __init__(self):
        self.outputs, self.updates, self.draws = [], [], True

    def display(self, content, **options):
        box = getattr(content, "box", None)
        if box and self.draws:
            box._view_count = 1
        self.outputs.append(content)
        return SimpleNamespace(update=partial(self.update, len(self.outputs) - 1))

    def update(self, number, content):
        self.outputs[number] = content
        self.updates.append(content)


@pytest.fixture
def screen(monkeypatch):
    display = Screen()
    monkeypatch.setattr(panel, "display", display.display)
    return display


def test_training_prints_text_lines_without_a_front_end(is_interactive, screen, tmp_path):
    screen.draws = False
    training = panel.TrainingPanel(tmp_path, StopOnSignal())
    state = SimpleNamespace(global_step=1, max_steps=4, is_world_process_zero=True)
    training.on_train_begin(None, state, None)
    assert screen.outputs == [training]
    training.started -= 60
    time.sleep(1.5)  # the clock moves although no step ends
    assert repr(screen.outputs[1]).startswith("Training: step 1 of 4, 1:0")
    assert "1:0" in training.head.value
    # A front end that was slow draws the widgets after all.
    training.box._view_count = 1
    training._draw()
    assert repr(screen.outputs[1]) == ""
    with training:
        pass
    assert training.ended.is_set() and repr(screen.outputs[0]).startswith("Ended early")


@pytest.mark.parametrize("name", ["_repr_mimebundle_", "_ipython_display_"])
def test_widgets_are_shown_by_ipywidgets_7_and_8(
    is_interactive, screen, monkeypatch, tmp_path, name
):
    """Of version 7 widgets display themselves, of version 8 they make a bundle: neither is used."""
    monkeypatch.delattr(ipywidgets.Widget, name, raising=False)
    training = panel.TrainingPanel(tmp_path, StopOnSignal())
    state = SimpleNamespace(global_step=1, max_steps=4, is_world_process_zero=True)
    training.on_train_begin(None, state, None)
    assert screen.outputs == [training]
    for shown in (widgets.browse(TUNED, 1), training):
        bundle = shown._repr_mimebundle_()
        view = bundle["application/vnd.jupyter.widget-view+json"]
        assert view == {"version_major": 2, "version_minor": 0, "model_id": shown.box.model_id}
        assert bundle["text/plain"] and "<table" in bundle["text/html"]


def picture_of(output):
    return Image.open(io.BytesIO(base64.b64decode(output["image/png"])))


def test_stop_button_saves_and_the_run_can_be_resumed(
    config, tmp_path, is_interactive, screen, capsys
):
    def run(callbacks=None):
        model, processor = load_model(config)
        seen = train(model, processor, load_data(config), config, callbacks=callbacks)
        return seen, {n: w.detach().clone() for n, w in model.named_parameters() if w.requires_grad}

    class Click(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 1:
                box = screen.outputs[0].box
                head, button = box.children[0].children
                assert "step 1 of 4" in head.value and not button.disabled
                assert "CER" in box.children[1].value and "TRU" in box.children[1].value
                button.click()
                assert button.disabled and button.description == "Stopping"

    config.eval_steps, config.eval_samples = 1, 4
    whole, weights = run()
    screen.outputs.clear()
    config.output_dir = str(tmp_path / "stopped")
    capsys.readouterr()
    result, reached = run([Click()])
    assert (result.stopped, result.global_step, whole.stopped) == (True, 2, False)
    # What was reached is saved, so that the cells below can evaluate and report it.
    saved = load_file(result.adapter_dir / "adapter_model.safetensors")
    assert any(torch.equal(tensor, w) for tensor in saved.values() for w in reached.values())
    assert "config.resume_from_checkpoint='auto', running this cell again goes on" in (
        capsys.readouterr().out
    )
    assert [path.name for path in whole_checkpoints(config.output_dir)] == ["checkpoint-2"]
    table, curves = screen.outputs
    assert repr(table).startswith("Stopped after step 2, and saved checkpoint-2: step 2 of 4")
    assert "TRU " in repr(table) and "<script" not in str(table.html)
    assert picture_of(curves).width > 1000
    config.resume_from_checkpoint = "auto"
    rest, resumed = run()
    assert [e["loss"] for e in rest.history if "loss" in e] == [
        e["loss"] for e in whole.history if "loss" in e
    ]
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)


def test_panel_is_a_text_table_in_batch_runs(config, monkeypatch, screen, capsys):
    monkeypatch.setattr(notebook, "kernel", lambda: object())
    monkeypatch.setattr(panel, "is_interactive", lambda: False)
    config.eval_steps = config.max_steps = 2
    model, processor = load_model(config)
    capsys.readouterr()
    train(model, processor, load_data(config), config)
    table, curves = screen.outputs
    assert set(table._repr_mimebundle_()) == {"text/html", "text/plain"}
    assert repr(table).startswith("Done: step 2 of 2, ") and "validation CER" in repr(table)
    assert picture_of(curves).width > 1000
    output = capsys.readouterr()
    # The panel has what would be printed otherwise.
    assert "TRU" not in output.out and "it/s" not in output.err


def test_a_run_that_fails_is_reported_on_the_panel(config, is_interactive, screen):
    class Fail(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        train(*load_model(config), load_data(config), config, callbacks=[Fail()])
    assert repr(screen.outputs[0]).startswith("Failed after step 1: no space left: step 1 of 4")


def test_no_panel_when_disabled_or_outside_a_notebook(config, is_interactive, screen, monkeypatch):
    config.max_steps = 1
    model, processor = load_model(config)
    train(model, processor, load_data(config), config, panel=False)
    monkeypatch.setattr(notebook, "kernel", lambda: None)
    train(model, processor, load_data(config), config)
    assert screen.outputs == []


def test_panel_numbers_equal_the_log():
    log = [
        {"step": 1, "loss": 2.0, "samples_per_second": 10.0, "image_tokens_per_second": 1234.0},
        {"step": 1, "eval_cer": 0.2, "eval_exact_match": 0.5},
        {"step": 2, "loss": 1.5, "samples_per_second": 12.0, "host_memory_gb": 1.25},
        {"step": 2, "eval_cer": 0.3, "eval_exact_match": 0.4, "gpu_memory_gb": 7.0},
    ]
    assert panel.latest_numbers(log) == [
        ("loss", "1.5", ""),
        ("validation CER", "30.0%", "best 20.0% at step 1"),
        ("exact match", "40.0%", ""),
        ("samples/s", "12.0", "1,234 image tokens/s"),
        ("memory, GiB", "1.25", "GPU 7.00"),
    ]
    assert panel.latest_numbers([]) == [("loss", "—", "")]
    assert panel.curves_picture([]) is None
    assert [panel.clock(s) for s in (5, 65, 7384)] == ["0:05", "1:05", "2:03:04"]


# --- the kernel


@pytest.fixture(scope="module")
def client():
    """A kernel, and what talks to it as a front end does."""
    manager, kernel_client = start_new_kernel(kernel_name="python3", cwd=str(Path.cwd()))
    yield kernel_client
    kernel_client.stop_channels()
    manager.shutdown_kernel(now=True)


def outputs(client, code, allow_stdin=True):
    texts = []
    reply = client.execute_interactive(
        code,
        timeout=60,
        allow_stdin=allow_stdin,
        output_hook=lambda m: texts.append(m["content"].get("text", "")),
    )
    assert reply["content"]["status"] == "ok", reply["content"]
    return "".join(texts).split()


BUSY = """
import time
from functools import partial
from pathlib import Path
print(button.comm.comm_id, flush=True)
end = time.monotonic() + 60
while not clicks and time.monotonic() < end:
    assert handle_widget_messages()
    time.sleep(0.02)
print("clicked", len(clicks), flush=True)
"""


def next_line(client, cell):
    """The words of the next line that a cell prints; one print may come in several messages."""
    text = ""
    while "\n" not in text:
        message = client.get_iopub_msg(timeout=60)
        if message["parent_header"].get("msg_id") == cell and message["msg_type"] == "stream":
            text += message["content"]["text"]
    return text.split()


SUBSHELL = pytest.mark.skipif(ipykernel.version_info < (7,), reason="ipykernel 6 has no subshells")


@pytest.mark.parametrize("subshell", [False, pytest.param(True, marks=SUBSHELL)])
def test_panel_click_is_handled_while_its_cell_runs(client, subshell):
    """JupyterLab sends clicks to a subshell where the kernel has them, other front ends do not."""
    outputs(
        client,
        "import ipywidgets, threading\n"
        "from ocrkit.display.notebook import handle_widget_messages, is_interactive\n"
        "clicks, button = [], ipywidgets.Button()\n"
        "button.on_click(lambda _: clicks.append(1))",
    )
    header = {}
    if subshell:
        request = client.session.msg("create_subshell_request")
        client.control_channel.send(request)
        reply = client.control_channel.get_msg(timeout=60)
        header["subshell_id"] = reply["content"]["subshell_id"]
    busy = client.execute(BUSY)
    (comm_id,) = next_line(client, busy)
    # A cell that waits in line, and then the click.
    after = client.execute("print('after', len(clicks), flush=True)")
    click = {"method": "custom", "content": {"event": "click"}}
    message = client.session.msg("comm_msg", {"comm_id": comm_id, "data": click})
    message["header"].update(header)
    client.shell_channel.send(message)
    assert next_line(client, busy) == ["clicked", "1"]
    assert next_line(client, after) == ["after", "1"]
    time.sleep(0.1)
    assert outputs(client, "print(len(clicks))") == ["1"]


def test_is_interactive_distinguishes_front_end_and_batch_run(client):
    code = "from ocrkit.display.notebook import is_interactive\nprint(is_interactive())"
    assert outputs(client, code) == ["True"]
    assert outputs(client, code, allow_stdin=False) == ["False"]
    assert notebook.is_interactive() is False and notebook.kernel() is None
