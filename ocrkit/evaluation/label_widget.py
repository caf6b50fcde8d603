"""Labelling widget for notebooks: a picture, its draft in a text box, and keys for every answer."""

import base64
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup
from PIL import Image

from data_prep.dataset.crops import to_png
from data_prep.dataset.pictures import open_image
from ocrkit.display.notebook import Shown, is_interactive, widget_bundle
from ocrkit.evaluation.labelling import Labels

if TYPE_CHECKING:
    from anywidget import AnyWidget

_ASSETS = Path(__file__).parents[1] / "assets"
_WIDEST, _HIGHEST = 2000, 1600  # pixels of a picture that is sent to the browser
_LISTED = 10  # samples of the table without a kernel


class LabelView:
    """Output of a notebook cell that shows a labelling folder, one picture after another.

    Without a person at the keyboard (papermill, nbconvert) it is a table of the samples.
    """

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.widget = _widget(labels) if is_interactive() else None

    def _repr_mimebundle_(self, **kwargs: object) -> dict[str, Any]:
        fallback = table(self.labels)
        if self.widget is None:
            return fallback._repr_mimebundle_()
        return widget_bundle(self.widget, fallback)


def label(labels: Labels) -> LabelView:
    """Show a labelling folder: Enter takes the text, the keys for the rest stand below it.

    Each answer is on the disk before the next picture shows, and the same cell goes on after a
    restart of the kernel.

    Raises:
        RuntimeError: anywidget is not installed.
    """
    return LabelView(labels)


def view(labels: Labels, sample: Mapping[str, Any] | None, note: str = "") -> dict[str, Any]:
    """What the browser shows of a sample; {"done": true} after the last one."""
    shown: dict[str, Any] = {"progress": labels.progress(), "note": note}
    shown |= {"folder": str(labels.folder.absolute()), "undo": labels.last is not None}
    if sample is None:
        done = "All pictures have an answer. F4 takes the last one back."
        message = done if labels.samples else "Nothing is to be checked."
        return shown | {"done": True, "id": "", "note": f"{note} {message}".strip()}
    draft = labels.drafts.get(sample["id"], {})
    answer = labels.answers.get(sample["id"], {})
    facts = [(key, sample[key]) for key in ("why", "label", "read") if sample.get(key)]
    try:
        picture = data_url(labels.picture(sample))
    except (OSError, ValueError) as error:
        picture, shown["note"] = "", f"The picture cannot be shown: {error}"
    return shown | {
        "id": sample["id"],
        "picture": picture,
        "language": sample.get("language") or "",
        "draft": labels.draft_of(sample),
        "doubts": draft.get("doubts") or [],
        "confidence": draft.get("confidence"),
        "text": answer.get("text") or labels.draft_of(sample),
        "facts": facts,
    }


def data_url(path: Path) -> str:
    """A picture file as PNG in a data URL, shrunk where it is larger than a screen."""
    picture = open_image(path)
    if picture.width > _WIDEST or picture.height > _HIGHEST:
        picture.thumbnail((_WIDEST, _HIGHEST), Image.Resampling.BICUBIC)
        data = to_png(picture)
    else:
        data = path.read_bytes()
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def receive(labels: Labels, shown: Mapping[str, Any], message: Mapping[str, Any]) -> dict[str, Any]:
    """Handle a message of the browser; returns what it shows next.

    Args:
        labels: the labelling folder.
        shown: what the browser shows, as `view` returned it.
        message: {action, id, text, seconds}; besides the answers of `Labels` an action may be
            "previous" or "next", which answer nothing.
    """
    action, id = message.get("action"), message.get("id")
    if action in ("previous", "next"):
        place = labels.place.get(shown["id"], len(labels.samples))
        place += -1 if action == "previous" else 1
        if 0 <= place < len(labels.samples):
            return view(labels, labels.samples[place])
        return view(labels, labels.next())
    if action != "undo" and id != shown["id"]:  # sent twice
        return dict(shown)
    last = labels.last
    try:
        note = labels.answer(str(id), str(action), message.get("text", ""), message["seconds"])
    except OSError as error:
        return {**shown, "text": message.get("text", ""), "note": f"Not saved: {error}"}
    if action == "take" and id not in labels.answers:  # empty
        return {**shown, "text": message.get("text", ""), "note": note}
    if action == "undo" and last in labels.place:
        return view(labels, labels.samples[labels.place[last]], note or "")
    return view(labels, labels.next(), note or "")


def table(labels: Labels) -> Shown:
    """Table of the first samples, for viewers without a kernel."""
    row = Markup(
        "<tr><td><img src='{}' alt=''></td><td class='text' data-title='draft'>{}</td>"
        "<td data-title='answer'>{}</td></tr>"
    )
    rows, lines = Markup(""), [labels.progress()]
    for sample in labels.samples[:_LISTED]:
        answer = labels.answers.get(sample["id"], {})
        answered = answer.get("text") or answer.get("action") or ""
        rows += row.format(data_url(labels.picture(sample)), labels.draft_of(sample), answered)
        lines.append(f"{sample['id']}: {labels.draft_of(sample)!r} -> {answered!r}")
    head = Markup(
        "<p>{}</p><table><tr><th>picture</th><th>draft</th><th>answer</th></tr>{}</table>"
    )
    return Shown(head.format(labels.progress(), rows), "\n".join(lines))


@functools.cache
def _widget_class() -> Any:
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise RuntimeError(
            f"The labelling widget needs anywidget ({error}): `pip install anywidget`, then run "
            "the cell again."
        ) from None

    class LabelWidget(anywidget.AnyWidget):
        _esm = _ASSETS / "label.js"
        _css = _ASSETS / "label.css"
        sample = traitlets.Dict().tag(sync=True)

    return LabelWidget


def _widget(labels: Labels) -> Any:
    widget = _widget_class()(sample=view(labels, labels.next()))

    def answer(widget: "AnyWidget", message: dict, buffers: object) -> None:
        # A number of its own, so that the browser sees each reply, also an equal one.
        count = message.get("count")
        shown = widget.get_state("sample")["sample"]
        widget.set_trait("sample", {**receive(labels, shown, message), "count": count})

    widget.on_msg(answer)
    return widget
