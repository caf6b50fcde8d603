"""Screenshots and UI tests: drive JupyterLab in headless Chromium with mouse and keyboard.

`python -m tests.tools.lab RUN` takes the screenshots in notebooks/benchmarks from a finished run of
the quickstart.
"""

import argparse
import base64
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import nbformat
from PIL import Image, ImageOps

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
ROOT = Path(__file__).parents[2]
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --no-first-run --disable-extensions "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--remote-allow-origins=* --hide-scrollbars --force-device-scale-factor=1"
).split()


class Page:
    """A Chromium page controlled over its DevTools socket; times are in seconds."""

    def __init__(self, port: int):
        import websocket

        pages = json.loads(_get(f"http://127.0.0.1:{port}/json/list"))
        url = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
        self.socket = websocket.create_connection(url, timeout=120)
        self.sent = 0

    def call(self, method: str, **parameters: Any) -> dict:
        """Send a command and return its result."""
        self.sent += 1
        self.socket.send(json.dumps({"id": self.sent, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == self.sent:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def js(self, expression: str) -> Any:
        """Evaluate a JavaScript expression and await its value."""
        response = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in response:
            raise RuntimeError(f"{expression}: {response['exceptionDetails']}")
        return response["result"].get("value")

    def wait(self, expression: str, seconds: float = 240) -> Any:
        """Wait until a JavaScript expression is true; returns its value."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with suppress(RuntimeError):
                if self.js(f"!!({expression})"):
                    return self.js(expression)
            time.sleep(0.3)
        raise TimeoutError(f"{expression} was not true within {seconds} s")

    def box(self, element: str) -> dict[str, float]:
        """Scroll to the element of a JavaScript expression; returns its bounding box."""
        return self.js(
            f"(() => {{const e = {element}; e.scrollIntoView({{block: 'center'}});"
            "const {x, y, width, height} = e.getBoundingClientRect();"
            "return {x, y, width, height}})()"
        )

    def click(self, element: str) -> None:
        """Click the centre of an element."""
        box = self.box(element)
        where = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **where)

    def key(self, key: str) -> None:
        """Press a named key, such as ArrowDown."""
        numbers = {"ArrowDown": 40, "ArrowUp": 38, "Enter": 13, "Tab": 9, "PageUp": 33}
        number = (numbers | {"PageDown": 34, "Delete": 46, "F2": 113, "F4": 115})[key]
        names = {"key": key, "code": key, "windowsVirtualKeyCode": number}
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, nativeVirtualKeyCode=number, **names)

    def type(self, text: str) -> None:
        """Type a text key by key over what stands in the focused element; "" empties it."""
        everything = {"key": "a", "code": "KeyA", "modifiers": 2, "commands": ["selectAll"]}
        self.call("Input.dispatchKeyEvent", type="rawKeyDown", **everything)
        self.call("Input.dispatchKeyEvent", type="keyUp", key="a", code="KeyA")
        if not text:
            self.key("Delete")
        for character in text:
            self.call("Input.dispatchKeyEvent", type="keyDown", key=character, text=character)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=character)

    def paste(self) -> None:
        """Paste the clipboard into the focused element."""
        keys = {"key": "v", "code": "KeyV", "modifiers": 2, "windowsVirtualKeyCode": 86}
        self.call("Input.dispatchKeyEvent", type="rawKeyDown", commands=["paste"], **keys)
        self.call("Input.dispatchKeyEvent", type="keyUp", **keys)

    def upload(self, button: str, path: Path) -> None:
        """Click a button that opens a dialog for files, and choose a file."""
        self.js("void (HTMLInputElement.prototype.click = function() {window.field = this})")
        self.click(button)
        field = self.call("Runtime.evaluate", expression="window.field")["result"]
        self.call("DOM.setFileInputFiles", files=[str(path)], objectId=field["objectId"])

    def write(self, text: str) -> None:
        """Type a text into the focused element."""
        self.call("Input.insertText", text=text)

    def size(self, width: int, height: int = 900) -> None:
        """Set the size of the viewport in pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        time.sleep(1)  # until everything is laid out again

    def whole(self, path: Path, width: int) -> None:
        """Save a screenshot of the whole notebook at a width; the viewport keeps this width."""
        self.size(width)
        height = self.js("document.querySelector('.jp-WindowedPanel-inner').scrollHeight")
        self.size(width, min(16000, int(height) + 160))
        self.js("document.querySelector('.jp-WindowedPanel-outer').scrollTop = 0")
        time.sleep(1)
        self.picture(path)
        self.size(width)

    def picture(self, path: Path, element: str | None = None) -> None:
        """Save a screenshot of the viewport, or of one element, as a PNG."""
        options = {"clip": {**self.box(element), "scale": 1}} if element else {}
        screenshot = self.call("Page.captureScreenshot", format="png", **options)
        path.write_bytes(base64.b64decode(screenshot["data"]))


def _get(url: str, seconds: float = 240) -> bytes:
    end = time.monotonic() + seconds
    while True:
        try:
            return urllib.request.urlopen(url, timeout=10).read()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def lab(folder: Path, notebook: str, theme: str = "Light") -> Generator[Page]:
    """Open a notebook of `folder` in JupyterLab at 1440 x 900 pixels, and wait for its kernel.

    Settings and caches are kept in `folder`; server and browser are terminated at the end.
    """
    own = folder / ".lab"
    settings = own / "settings" / "@jupyterlab"
    _write(settings / "notebook-extension/tracker", {"windowingMode": "none"})
    _write(settings / "apputils-extension/themes", {"theme": f"JupyterLab {theme}"})
    _write(settings / "apputils-extension/notification", {"fetchNews": "false"})
    environment = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(own / "config"),
        "JUPYTER_RUNTIME_DIR": str(own / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(own / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(own / "workspaces"),
        "PYTHONPATH": str(ROOT),
    }
    ports, token = (_free_port(), _free_port()), secrets.token_hex()
    server = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    server += [f"--port={ports[0]}", f"--ServerApp.root_dir={folder}"]
    server += [f"--IdentityProvider.token={token}", "--expose-app-in-browser"]
    browser = [CHROMIUM, *FLAGS, f"--remote-debugging-port={ports[1]}", "about:blank"]
    browser += [f"--user-data-dir={own / 'chromium'}"]
    started = []
    try:
        for command in (server, browser):
            with (own / f"{len(started)}.log").open("wb") as log:
                process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
                started.append(process)
        _get(f"http://127.0.0.1:{ports[0]}/api")
        page = Page(ports[1])
        page.size(1440)
        address = f"http://127.0.0.1:{ports[0]}/doc/tree/{notebook}?token={token}"
        page.call("Page.navigate", url=address)
        page.wait(f"{KERNEL}.status == 'idle'")
        yield page
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(30)


def _write(path: Path, settings: dict) -> None:
    path = path.with_suffix(".jupyterlab-settings")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings))


def place(folder: Path, name: str, parameters: Mapping[str, object]) -> str:
    """Copy a notebook with parameters into `folder`; returns its file name."""
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    source = load_notebook_node(str(ROOT / "notebooks" / f"{name}.ipynb"))
    nbformat.write(parameterize_notebook(source, parameters), folder / f"{name}.ipynb")
    return f"{name}.ipynb"


def run_all(page: Page) -> None:
    """Start all cells of the notebook, without waiting for their end."""
    page.js(f"jupyterapp.shell.activateById({OPENED}.id)")
    page.js("void jupyterapp.commands.execute('notebook:run-all-cells')")


def change_parameters(page: Page, line: str) -> None:
    """Add a line to the cell of parameters, or to those that `place` gave."""
    tags = "(c.model.getMetadata('tags') || []).some(t => t.endsWith('parameters'))"
    cell = f"{OPENED}.content.widgets.findLast(c => {tags}).model.sharedModel"
    page.js(f"(c => c.setSource(c.getSource() + '\\n' + {json.dumps(line)}))({cell})")


def button(name: str) -> str:
    """JavaScript expression of a widget button, by its label."""
    return f"[...document.querySelectorAll('.jupyter-button')].find(b => b.innerText == '{name}')"


OPENED = "[...jupyterapp.shell.widgets('main')][0]"
KERNEL = f"{OPENED}.sessionContext.session.kernel"
#: JavaScript of the box of a panel or browser, and of the browser's list, search and position.
VBOX = "[...document.querySelectorAll('.jp-OutputArea-output > .widget-vbox')].at(-1)"
LIST = "document.querySelector('.widget-select select')"
SEARCH = "document.querySelector('.widget-text input[type=text]')"
PLACE = "document.querySelector('.widget-text input[type=number]')"
BROWSE = """
from ocrkit import TrainConfig, compare, load_data
from ocrkit.evaluation.evaluation import Evaluation
from ocrkit.evaluation.browser import browse

run = "{run}"
config = TrainConfig.from_recipe("quickstart", dataset=f"{{run}}/data")
base, tuned = (Evaluation.load(f"{{run}}/eval/{{name}}") for name in ("base", "tuned"))
browse(compare(base, tuned), rows=load_data(config)["test"])
"""
#: JavaScript of the progress of a training panel in percent.
SHARE = "parseFloat(document.querySelector('.ocrkit .track i').style.width)"
#: JavaScript of the errors among the outputs, and of whether every cell was run.
_CELLS = f"{OPENED}.content.model.toJSON().cells.filter(c => c.cell_type == 'code')"
_ERRORS = "flatMap(c => c.outputs).filter(o => o.output_type == 'error')"
ERRORS = f"{_CELLS}.{_ERRORS}.map(o => o.ename + ': ' + o.evalue)"
#: JavaScript of what was written on red ground.
WARNINGS = f"{_CELLS}.flatMap(c => c.outputs).filter(o => o.name == 'stderr').map(o => o.text)"
_DONE = f"{KERNEL}.status == 'idle' && {_CELLS}.every(c => c.execution_count)"
ENDED = f"{ERRORS}.length || ({_DONE})"
#: JavaScript of how often cells were run, all together.
RUN_COUNT = f"Math.max(...{_CELLS}.map(c => c.execution_count || 0))"
#: JavaScript of what is cut: wider than its cell, and nothing around it scrolls.
CUT = """
[...document.querySelectorAll('.ocrkit :is(table, img, iframe, pre)')].filter(e => {
  for (let box = e.parentElement; !box.matches('.jp-OutputArea'); box = box.parentElement) {
    if (['auto', 'scroll'].includes(getComputedStyle(box).overflowX)) return false;
  }
  const right = e => e.getBoundingClientRect().right;
  return right(e) > right(e.closest('.jp-OutputArea')) + 1;
}).map(e => e.outerHTML.slice(0, 200))
"""
#: JavaScript of the height of the notebook's viewport and of every cell's output, in pixels.
SEEN = "document.querySelector('.jp-WindowedPanel-outer').clientHeight"
HEIGHTS = "[...document.querySelectorAll('.jp-Cell-outputWrapper')].map(e => e.clientHeight)"


def main() -> None:
    """Take the screenshots of panel, browser and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished run of the quickstart")
    parser.add_argument("--out", type=Path, default=ROOT / "notebooks" / "benchmarks")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "lab")
    parser.add_argument("--theme", default="Light", choices=("Light", "Dark"))
    parser.add_argument("--only", default="", help="panel, or browser")
    parser.add_argument("--parameters", default="{}", help="of the quickstart, as JSON")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    options.work.mkdir(parents=True, exist_ok=True)
    if options.only != "browser":
        _panel(options)
    if options.only != "panel":
        _browser_and_report(options)


def _panel(options: argparse.Namespace) -> None:
    """Screenshot the panel at 70% of the quickstart's steps, then stop training by its button."""
    notebook = place(options.work, "quickstart", json.loads(options.parameters))
    with lab(options.work.resolve(), notebook, options.theme) as page:
        run_all(page)
        page.wait(f"{SHARE} > 70", 3600)
        page.picture(options.out / "panel.png", VBOX)
        _finish(options.out / "panel.png")
        page.click(button("Stop and save"))
        page.wait("document.body.innerText.includes('Stopped at step')", 600)
        print("tallest outputs, pixels:", sorted(page.js(HEIGHTS))[-3:], "of", page.js(SEEN))


def _browser_and_report(options: argparse.Namespace) -> None:
    code = BROWSE.format(run=str(options.run.resolve()))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, options.work / "browser.ipynb")
    with lab(options.work.resolve(), "browser.ipynb", options.theme) as page:
        run_all(page)
        page.wait(LIST, 600)
        page.click(SEARCH)
        page.write("total")
        page.wait(f"{LIST}.options.length < 100")
        page.click(PLACE)
        page.key("ArrowUp")
        page.wait(f"{LIST}.selectedIndex == 1")
        page.picture(options.out / "browser.png", VBOX)
    report = (options.run.resolve() / "report" / "index.html").as_uri()
    flags = [*FLAGS, "--window-size=1060,760", f"--screenshot={options.out / 'report.png'}"]
    subprocess.run([CHROMIUM, *flags, report], check=True, capture_output=True)
    _finish(options.out / "browser.png")
    _finish(options.out / "report.png", margin=0)


def _finish(path: Path, margin: int = 14) -> None:
    """Add a margin and reduce the colours, for a quarter of the bytes."""
    wide = ImageOps.expand(Image.open(path).convert("RGB"), margin, "white")
    wide.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
