"""Training panel of a notebook: progress, metrics, throughput, and a button to stop.

Imports transformers, so it is imported only after a backend has been chosen.
"""

import base64
import contextvars
import io
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from IPython.display import display
from markupsafe import Markup
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ocrkit.display.charts import begun_at, learning_curves
from ocrkit.display.notebook import (
    STYLE,
    Shown,
    handle_widget_messages,
    is_interactive,
    widget_bundle,
)
from ocrkit.evaluation.report import differences
from ocrkit.metrics.edits import process_cer
from ocrkit.run_folder import cer_before, read_log
from ocrkit.training.callbacks import StopOnSignal

LONGEST = 160  # characters of a sample that are shown
BEGUN = "at step 0 the base's on its test rows"


class TrainingPanel(TrainerCallback):
    """Shows progress, metrics and samples of a run in a notebook's cell.

    In an interactive notebook it shows widgets and a button that stops the run; elsewhere, such as
    under papermill, text. Where no front end has drawn the widgets a second later, as without a
    widget manager, text is shown below them until one does. At the end all are replaced by a table
    and a picture of the curves, which need neither a kernel nor a script. Use as a context around
    `trainer.train`.

    Args:
        folder: the run folder, whose train_log.jsonl is shown.
        stop: asked to stop by the button.
    """

    def __init__(self, folder: Path, stop: StopOnSignal):
        self.folder, self.stop = folder, stop
        self.live = is_interactive()
        self.handle: Any = None
        self.box: Any = None
        self.lines: Any = None  # text below widgets that no front end has drawn
        self.ended = threading.Event()
        self.doing = "Training"
        self.log: list[dict] = []

    def __enter__(self) -> "TrainingPanel":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Replace the widgets by a static table and picture."""
        self.ended.set()
        if self.handle is None:
            return
        self.log = self._read()
        self.doing = self._ending(error)
        self.handle.update(self._shown())
        if self.live:
            for widget in (*self.box.children, *self.top.children, self.box):
                widget.close()
            if self.lines:
                self.lines.update(Shown("", ""))
        picture = curves_picture(self._history())
        if picture:
            content = {"image/png": base64.b64encode(picture).decode(), "text/plain": "curves"}
            display(content, raw=True, metadata={"image/png": {"width": 820}})

    def _read(self) -> list[dict]:
        # Before its first step the folder may be that of an earlier run.
        return read_log(self.folder / "train_log.jsonl") if self.state.global_step else []

    def _history(self) -> list[dict]:
        """The log, begun with the base's CER at step 0 where that was evaluated."""
        return begun_at(cer_before(self.folder) if self.log else None, self.log)

    def _ending(self, error: BaseException | None) -> str:
        step = self.state.global_step
        if error is not None:
            return f"Failed after step {step}: {str(error) or type(error).__name__}"
        if self.stop.caught:
            return f"Stopped after step {step}, and saved checkpoint-{step}"
        return "Ended early" if step < self.state.max_steps else "Done"

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Show the panel."""
        self.state = state
        self.first, self.started = state.global_step, time.perf_counter()
        self.drawn = {"progress": self.started, "curves": self.started}
        if state.is_world_process_zero:
            self.log = self._read()
            if self.live:
                self._make_box()
            self.handle = display(self if self.live else self._shown(), display_id=True)
            if self.live:
                run = contextvars.copy_context().run
                threading.Thread(target=run, args=(self._tick,), daemon=True).start()

    def _tick(self) -> None:
        """Move the clock every second, also while a step takes long."""
        while not self.ended.wait(1):
            self._draw()

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        return widget_bundle(self.box, self._shown())

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Handle a click on the button, and draw the progress."""
        if self.handle is None:
            return
        if self.live:
            handle_widget_messages()
        self.doing = "Training"
        if control.should_evaluate:
            self.doing = "Reading validation rows"
        elif self.stop.caught:
            self.doing = "Saving a checkpoint"
        if control.should_evaluate or self.stop.caught or self._due("progress", 1):
            self._draw()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: object,
    ) -> None:
        """Draw the curves from train_log.jsonl."""
        evaluated = "eval_cer" in (logs or {})
        if self.handle is not None and (evaluated or self._due("curves", 2)):
            self.log, self.doing = self._read(), "Training"
            self._draw(curves=True)

    def _due(self, part: str, seconds: float) -> bool:
        """Whether a part was last drawn that many seconds ago; ten if nothing is interactive."""
        now = time.perf_counter()
        if now - self.drawn[part] < (seconds if self.live else 10):
            return False
        self.drawn[part] = now
        return True

    def _draw(self, curves: bool = False) -> None:
        if not self.live:
            self.handle.update(self._shown())
        else:
            self.head.value = str(wrapped(self._progress() + self._numbers()))
            if self.drawn_by_none():
                self.lines = self.lines or display(self._shown(), display_id=True)
                self.lines.update(self._shown())
            elif self.lines:
                self.lines.update(Shown("", ""))
                self.lines = None
            if curves:
                self.body.value = str(wrapped(self._curves() + sample_table(self.log)))

    def drawn_by_none(self) -> bool:
        """Whether no front end has drawn the widgets, a second after they were made."""
        return self.box._view_count == 0 and time.perf_counter() - self.started > 1

    def _make_box(self) -> None:
        import ipywidgets as widgets

        self.head = widgets.HTML(
            str(STYLE + wrapped(self._progress() + self._numbers())), layout={"flex": "1 1 auto"}
        )
        self.body = widgets.HTML(str(wrapped(self._curves() + sample_table(self.log))))
        self.button = widgets.Button(
            description="Stop and save",
            icon="stop",
            tooltip="Saves a checkpoint after this step and ends the run, as an interrupt does",
            layout={"width": "150px", "flex": "0 0 auto", "margin": "0 0 0 20px"},
        )
        self.button.on_click(self._clicked)
        # Where a click would only arrive after the cell's end, the interrupt stops the run.
        heard = handle_widget_messages()
        if not heard:
            self.button.layout.display = "none"
        self.top = widgets.HBox([self.head, self.button])
        # Front ends count the views of a widget whose count begins with 0.
        views = 0 if heard else None
        layout = {"max_width": "1040px"}
        self.box = widgets.VBox([self.top, self.body], layout=layout, _view_count=views)

    def _clicked(self, button: Any) -> None:
        self.stop.request()
        button.disabled, button.description = True, "Stopping"

    def _shown(self) -> Shown:
        html = self._progress() + self._numbers() + sample_table(self.log)
        texts = [f"{name} {value} {note}".strip() for name, value, note in latest_numbers(self.log)]
        lines = [f"{self._line()}: {', '.join(texts)}"]
        for sample in last_samples(self.log):
            lines += [f"TRU {shorten(sample['reference'])}", f"PRE {shorten(sample['prediction'])}"]
        return Shown(html, "\n".join(lines))

    def _line(self) -> str:
        done, steps = self.state.global_step, self.state.max_steps
        seconds = time.perf_counter() - self.started
        line = f"{self.doing}: step {done} of {steps}, {clock(seconds)} so far"
        if self.doing == "Training" and done > self.first:
            left = seconds * (steps - done) / (done - self.first)
            line += f", about {clock(left)} left"
        return line

    def _progress(self) -> Markup:
        share = 100 * self.state.global_step / max(self.state.max_steps, 1)
        bar = Markup("<div class='track'><i style='width:{:.1f}%'></i></div>").format(share)
        return Markup("<p><b>{}</b>{}</p>").format(*self._line().partition(":")[::2]) + bar

    def _numbers(self) -> Markup:
        numbers = latest_numbers(self.log)
        names = Markup("").join(Markup("<th>{}</th>").format(name) for name, _, _ in numbers)
        cell = Markup("<td>{} <small>{}</small></td>")
        values = Markup("").join(cell.format(value, note) for _, value, note in numbers)
        table = Markup("<table class='numbers'><tr>{}</tr><tr>{}</tr></table>")
        return table.format(names, values)

    def _curves(self) -> Markup:
        history = self._history()
        curves = Markup("").join(learning_curves(history)[:2])
        note = (
            Markup("<p class='soft'>{}</p>").format(BEGUN) if len(history) > len(self.log) else ""
        )
        return Markup("<div class='curves'>{}</div>{}").format(curves, note)


def wrapped(html: Markup) -> Markup:
    """HTML under the style of `notebook.STYLE`."""
    return Markup("<div class='ocrkit'>{}</div>").format(html)


def latest_numbers(log: Sequence[dict]) -> list[tuple[str, str, str]]:
    """(name, value, remark) of the last loss, metrics, throughput and memory in a training log."""
    last = {key: value for entry in log for key, value in entry.items() if value is not None}
    read = [entry for entry in log if "eval_cer" in entry]
    best = min(read, key=lambda entry: entry["eval_cer"], default={})
    rate, tokens = last.get("samples_per_second"), last.get("image_tokens_per_second")
    host, gpu = last.get("host_memory_gb"), last.get("gpu_memory_gb")
    numbers = [
        ("loss", _number(last.get("loss"), ".3g"), ""),
        (
            "validation CER",
            _number(last.get("eval_cer"), ".1%"),
            f"best {best['eval_cer']:.1%} at step {best['step']}" if best else "",
        ),
        ("exact match", _number(last.get("eval_exact_match"), ".1%"), ""),
        ("samples/s", _number(rate, ".1f"), f"{tokens:,.0f} image tokens/s" if tokens else ""),
        ("memory, GiB", _number(host, ".2f"), f"GPU {gpu:.2f}" if gpu else ""),
    ]
    return [item for item in numbers if item[1] != "—" or item[0] == "loss"]


def _number(value: float | None, form: str) -> str:
    return "—" if value is None else format(value, form)


def last_samples(log: Sequence[dict]) -> list[dict]:
    """The rows {id, reference, prediction} that the last evaluation of a log shows."""
    return next((entry["samples"] for entry in reversed(log) if entry.get("samples")), [])


def sample_table(log: Sequence[dict]) -> Markup:
    """The rows of the last evaluation, truth above reading, as an HTML table."""
    rows, row = [], Markup("<tr><th>TRU<br>PRE</th><td class='text'>{}<br>{}</td>")
    row += Markup("<td class='rate'>CER {:.0%}</td></tr>")
    for sample in last_samples(log):
        truth, read = shorten(sample["reference"]), shorten(sample["prediction"])
        cer = process_cer([sample["reference"]], [sample["prediction"]]).rate
        rows.append(row.format(truth, differences(truth, read), cer))
    return Markup("<table>{}</table>").format(Markup("").join(rows)) if rows else Markup("")


def shorten(text: str) -> str:
    """A text on one line, of `LONGEST` characters at the most."""
    text = text.replace("\n", "⏎")
    return f"{text[:LONGEST]}…" if len(text) > LONGEST else text


def clock(seconds: float) -> str:
    """Seconds as people read them: 1:05, or 2:03:05."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def curves_picture(log: Sequence[dict]) -> bytes | None:
    """Loss and CER over the steps as a PNG for light and dark pages; None with nothing to draw."""
    from matplotlib.figure import Figure

    curves = []
    cer = "CER in validation, %" + (f"; {BEGUN}" if log and log[0]["step"] == 0 else "")
    for title, keys in (("loss", ("loss", "eval_loss")), (cer, ("eval_cer",))):
        lines = [(key, [(e["step"], e[key]) for e in log if key in e]) for key in keys]
        lines = [(key, points) for key, points in lines if points]
        if lines:
            curves.append((title, lines))
    if not curves:
        return None
    grey, colours = "#7d838e", {"loss": "#b27a1e", "eval_loss": "#0f9484", "eval_cer": "#0f9484"}
    figure = Figure(figsize=(8.2, 2.4), layout="constrained")
    for axes, (title, lines) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves):
        for key, points in lines:
            scale = 100 if key == "eval_cer" else 1
            xs, ys = [x for x, _ in points], [scale * y for _, y in points]
            marker = "o" if len(points) < 20 else None
            axes.plot(xs, ys, color=colours[key], label=key, marker=marker, markersize=3.5)
        axes.set_title(title, color=grey, fontsize=9, loc="left")
        axes.set_ylim(0, 1.06 * axes.get_ylim()[1])
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.tick_params(colors=grey, labelsize=8, length=0)
        axes.grid(color=grey, alpha=0.25, linewidth=0.6)
        for side in axes.spines.values():
            side.set_visible(False)
        if len(lines) > 1:
            axes.legend(frameon=False, labelcolor=grey, fontsize=8)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=160, transparent=True)
    return file.getvalue()
