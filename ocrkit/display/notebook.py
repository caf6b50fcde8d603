"""What a notebook's kernel is asked: whether someone looks on, and which clicks wait."""

import sys
from pathlib import Path
from typing import Any

from markupsafe import Markup

STYLE = Markup("<style>{}</style>").format(
    Markup((Path(__file__).parents[1] / "assets" / "notebook.css").read_text(encoding="utf-8"))
)


class Shown:
    """HTML for a notebook's cell, and the plain text that stands for it elsewhere.

    Tables and pictures are all that GitHub leaves of the HTML, so it has to say everything with
    them; `STYLE` only makes it look better where styles are allowed.
    """

    def __init__(self, html: str, text: str):
        self.html, self.text = Markup("{}<div class='ocrkit'>{}</div>").format(STYLE, html), text

    def __repr__(self) -> str:
        return self.text

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        return {"text/html": str(self.html), "text/plain": self.text}


def widget_bundle(box: Any, fallback: Shown) -> dict[str, Any]:
    """A widget as a cell's output, beside what stands for it where no kernel runs.

    Written out here, for ipywidgets 7, which Colab has, makes no bundle of its own.
    """
    view = {"version_major": 2, "version_minor": 0, "model_id": box.model_id}
    bundle = fallback._repr_mimebundle_()
    return {"application/vnd.jupyter.widget-view+json": view, **bundle}


def kernel() -> Any | None:
    """The IPython kernel that this code runs in; None in a script or a terminal."""
    ipython = sys.modules.get("IPython")
    return getattr(ipython.get_ipython(), "kernel", None) if ipython else None


def is_interactive() -> bool:
    """Whether a person runs the cell at hand, and not papermill or nbconvert.

    A front end lets a cell ask for input, and what runs notebooks in batches does not.
    """
    found = kernel()
    if found is None:
        return False
    request = found.shell.get_parent().get("content", {})
    return "google.colab" in sys.modules or bool(request.get("allow_stdin"))


def handle_widget_messages() -> bool:
    """Run the callbacks of widgets that were used while the cell at hand was busy.

    A kernel does so only after the cell's end, as front ends send them to where cells wait. All
    other messages keep their place in the line. Works with ipykernel 6 and 7; in a kernel that is
    built in another way nothing happens, and False is returned.
    """
    import zmq

    found = kernel()
    try:
        thread = getattr(found, "shell_channel_thread", None)
        if thread is None:
            stream = found.shell_stream
        else:
            stream = thread.manager.get_shell_channel_to_subshell_pair(None).to_stream
        wait = stream._recv_callback
    except AttributeError:
        return False
    session = found.session

    def take(frames: list[zmq.Frame]) -> Any:
        senders, rest = session.feed_identities(frames, copy=False)
        if session.unpack(rest[1].bytes)["msg_type"] != "comm_msg":
            return wait(frames)
        message = session.deserialize(rest, copy=False)
        found.comm_manager.comm_msg(stream, senders, message)
        # A front end holds a widget's next change back until it hears that this one is done. It
        # takes that for the kernel's own state, which is still busy.
        for state, parent in (("idle", message), ("busy", found.get_parent())):
            status = {"execution_state": state}
            session.send(found.iopub_socket, "status", status, parent, b"kernel.status")
        return None

    stream.on_recv(take, copy=False)
    try:
        stream.flush(zmq.POLLIN)
    finally:
        stream.on_recv(wait, copy=False)
    return True
