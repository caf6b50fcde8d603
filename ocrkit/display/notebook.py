"""Notebook cells: HTML with a plain-text fallback, widgets, and the kernel's messages."""

import sys
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from ocrkit.errors import NotRunError

if TYPE_CHECKING:
    from types import TracebackType

    from IPython.core.interactiveshell import InteractiveShell
    from ipywidgets import Widget

STYLE = Markup("<style>{}</style>").format(
    Markup((Path(__file__).parents[1] / "assets" / "notebook.css").read_text(encoding="utf-8"))
)

_MISSING = (
    "{!r} is missing, as this kernel has not run the cell that makes it since it was started: run "
    "the cells above again (JupyterLab: Run → Run All Above Selected Cell; Colab: Runtime → Run "
    'before); with resume_from_checkpoint = "auto" among the parameters what is on disk is not '
    "trained again."
)


class Shown:
    """HTML output of a notebook cell, with a plain-text fallback.

    GitHub keeps only tables and pictures of the HTML, so these hold everything; `STYLE` improves
    the looks where styles are allowed.
    """

    def __init__(self, html: str, text: str):
        self.html, self.text = Markup("{}<div class='ocrkit'>{}</div>").format(STYLE, html), text

    def __repr__(self) -> str:
        return self.text

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        return {"text/html": str(self.html), "text/plain": self.text}


def show(shown: Shown) -> None:
    """Display in a notebook's cell, and print elsewhere."""
    if kernel():
        from IPython.display import display

        display(shown)
    else:
        print(shown)


def framed(page: str | Path, height: int = 640, most: float = 8.0) -> Shown:
    """A self-contained HTML page in a frame, with its path as a link.

    Works in Jupyter, Colab, Kaggle and VS Code, as the frame holds the page itself; a page of more
    than `most` megabytes is only linked to.

    Args:
        page: the file.
        height: of the frame, in pixels.
        most: largest page that is put into the notebook.
    """
    page = Path(page)
    text = page.read_text(encoding="utf-8")
    link = Markup("<p><a href='{0}' target='_blank'>{0}</a></p>").format(page)
    if len(text) > most * 1e6:
        return Shown(link, str(page))
    frame = Markup("<iframe srcdoc=\"{}\" style='width:100%;height:{}px;border:0'></iframe>")
    return Shown(link + frame.format(text, height), str(page))


def widget_bundle(box: "Widget", fallback: Shown) -> dict[str, Any]:
    """MIME bundle of a widget, with a fallback for viewers without a kernel.

    ipywidgets 7, which Colab has, makes no MIME bundle itself.
    """
    view = {"version_major": 2, "version_minor": 0, "model_id": box.model_id}
    bundle = fallback._repr_mimebundle_()
    return {"application/vnd.jupyter.widget-view+json": view, **bundle}


def kernel() -> Any | None:
    """Return the IPython kernel that runs this code; None in a script or a terminal."""
    ipython = sys.modules.get("IPython")
    return getattr(ipython.get_ipython(), "kernel", None) if ipython else None


def explain_missing_names() -> None:
    """Let a cell that needs a name of the cells above say so in a sentence, as after a restart.

    Every cell of the kit's notebooks imports the kit before it uses such a name, so the sentence is
    also shown by a kernel that was started anew. All other errors look as before, and so do names
    that are missing inside of functions, or that are misspelt, as they resemble one that is there.
    Outside of a kernel nothing is changed.
    """
    running = kernel()
    if running is None:
        return
    shell = running.shell
    # A shell has one handler for all errors, and Colab's own is for imports that fail.
    handled, show_other = shell.custom_exceptions, shell.CustomTB

    def show(
        shell: "InteractiveShell",
        kind: type[BaseException],
        error: BaseException,
        trace: "TracebackType",
        tb_offset: int | None = None,
    ) -> None:
        if not isinstance(error, NameError):
            show_other(kind, error, trace, tb_offset=tb_offset)
            return
        last = trace
        while last.tb_next:
            last = last.tb_next
        name, known = str(error.name or ""), shell.user_ns
        in_cell = last.tb_frame.f_globals is known and last.tb_frame.f_code.co_name == "<module>"
        others = [other for other in known if other.rstrip("s") != name.rstrip("s")]
        if in_cell and name and not get_close_matches(name, others, n=1, cutoff=0.9):
            error = NotRunError(_MISSING.format(name))
        shell.showtraceback((kind, error, trace), tb_offset=tb_offset)

    shell.set_custom_exc((NameError, *handled), show)


def is_interactive() -> bool:
    """Tell whether a person runs the present cell, and not papermill or nbconvert.

    Front ends allow a cell to ask for input (`allow_stdin`); batch runners do not.
    """
    running = kernel()
    if running is None:
        return False
    request = running.shell.get_parent().get("content", {})
    return "google.colab" in sys.modules or bool(request.get("allow_stdin"))


def handle_widget_messages() -> bool:
    """Run the callbacks of widgets that were used while the present cell is running.

    A kernel handles widget messages only after the cell, as they wait in the queue of cells; all
    other messages keep their place in the queue. Works with ipykernel 6 and 7; returns False, and
    does nothing, in a kernel with other internals.
    """
    import zmq

    running = kernel()
    if running is None:
        return False
    try:
        thread = getattr(running, "shell_channel_thread", None)
        if thread is None:
            stream = running.shell_stream
        else:
            stream = thread.manager.get_shell_channel_to_subshell_pair(None).to_stream
        enqueue = stream._recv_callback
    except AttributeError:
        return False
    session = running.session

    def receive(frames: list[zmq.Frame]) -> Any:
        senders, rest = session.feed_identities(frames, copy=False)
        if session.unpack(rest[1].bytes)["msg_type"] != "comm_msg":
            return enqueue(frames)
        message = session.deserialize(rest, copy=False)
        # A front end may still speak to a widget that is closed; comm warns of it on red ground.
        if message["content"].get("comm_id") in running.comm_manager.comms:
            running.comm_manager.comm_msg(stream, senders, message)
        # A front end sends a widget's next change only after an idle status for this one, and
        # takes that status for the whole kernel's, which is still busy.
        for state, parent in (("idle", message), ("busy", running.get_parent())):
            status = {"execution_state": state}
            session.send(running.iopub_socket, "status", status, parent, b"kernel.status")
        return None

    stream.on_recv(receive, copy=False)
    try:
        stream.flush(zmq.POLLIN)
    finally:
        stream.on_recv(enqueue, copy=False)
    return True
