"""Sweep: run a notebook for every combination of parameters, each in a separate process."""

import ast
import hashlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from data_prep.dataset.files import write_whole
from ocrkit.config import TrainConfig
from ocrkit.display.tables import columns_of_text
from ocrkit.errors import ConfigError
from ocrkit.run_folder import read_json
from ocrkit.runs.leaderboard import leaderboard, table

_DONE_BEFORE = "done before"


def sweep(
    notebook: str | Path,
    grid: Mapping[str, Sequence[Any]],
    parameters: Mapping[str, Any] | None = None,
    out: str | Path = "runs/sweep",
) -> list[dict[str, Any]]:
    """Run `notebook` for every combination of `grid` and return `leaderboard` rows, best first.

    Args:
        notebook: with a cell tagged `parameters`, among them `output_dir`.
        grid: {parameter: values}.
        parameters: {parameter: value} that all members share.
        out: a folder for each member is made in it; `sweep.json` holds the rows.

    Raises:
        ConfigError: no such notebook, a parameter that nothing uses, or a value that cannot be;
            nothing was run then.
    """
    import papermill  # noqa: F401 (a package that is missing is told before any member fails)

    notebook, out, parameters = Path(notebook), Path(out), dict(parameters or {})
    for name in grid:
        if name in parameters:
            raise ConfigError(f"{name} is both varied and the same for all; give it once.")
    code = _code(notebook)
    all_members = {
        name: {**parameters, **combination} for name, combination in members(grid).items()
    }
    _check(notebook, code, all_members.values())
    digest = hashlib.sha256("\n".join(code).encode()).hexdigest()[:16]
    summary = out / "sweep.json"
    if summary.exists() and "members" not in read_json(summary):
        raise ConfigError(f"{summary} is of no sweep: move it, or give another --out.")
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / "sweep.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(
            f"{out} is being worked on by another sweep; wait for it, or give another --out."
        ) from None
    # The default SIGTERM would leave the member running and on the GPU.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for number, (name, values) in enumerate(all_members.items(), 1):
            print(f"[{number}/{len(all_members)}] {name}", end=" ... ", flush=True)
            outcome = _member(notebook, digest, out / name, values)
            print(outcome, flush=True)
            # Members that were done before are read together, once.
            if outcome != _DONE_BEFORE or number == len(all_members):
                rows = _save(out, notebook, digest, all_members, list(grid))
    finally:
        signal.signal(signal.SIGTERM, before)
        lock.release()
    return rows


def members(grid: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, Any]]:
    """{folder name: parameters} of every combination of a grid {parameter: values}.

    Raises:
        ConfigError: there is nothing to vary.
    """
    if not grid or not all(grid.values()):
        raise ConfigError("There is nothing to vary; give --grid NAME=VALUE,VALUE or --seeds.")
    named = {}
    for values in itertools.product(*grid.values()):
        combination = dict(zip(grid, values))
        text = ",".join(f"{name}={value}" for name, value in combination.items())
        name = re.sub(r"[^\w.,=+-]+", "-", text).strip(".-")
        if name != text or len(name) > 120:
            # Two values may become equal when characters that no folder name can hold are replaced.
            name = f"{name[:100]}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
        named[name] = combination
    return named


def parse_grid(grid: Sequence[str], seeds: str | None = None) -> dict[str, list[Any]]:
    """{parameter: values} from `name=value,value` each; `seeds` are values of `seed`.

    Raises:
        ConfigError: an entry that cannot be read, or a name given twice.
    """
    values_of: dict[str, list[Any]] = {}
    for entry in [*grid, *([f"seed={seeds}"] if seeds else [])]:
        name, _, values = entry.partition("=")
        parts = [part.strip() for part in _split(values)]
        if not name.isidentifier() or not all(parts):
            raise ConfigError(f"--grid {entry!r} cannot be read; write NAME=VALUE,VALUE.")
        parsed = [value_of(part) for part in parts]
        if name in values_of or len(set(map(str, parsed))) < len(parsed):
            raise ConfigError(f"--grid {entry!r} comes twice; give every name and value once.")
        values_of[name] = parsed
    return values_of


def _split(text: str) -> list[str]:
    """Split at commas outside brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def value_of(text: str) -> Any:
    """A parameter as papermill's `-p` reads it: a number, True, False, None, or the text."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return {"True": True, "False": False, "None": None}.get(text, text)


def _code(notebook: Path) -> list[str]:
    """The code cells; the first one is the parameters cell."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except OSError as error:
        raise ConfigError(f"{notebook} cannot be read ({error.strerror}).") from None
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{notebook} is no Jupyter notebook; give an .ipynb file.") from None
    cells = [cell for cell in cells if cell["cell_type"] == "code"]
    tagged = [c for c in cells if "parameters" in c.get("metadata", {}).get("tags", [])]
    if not tagged:
        raise ConfigError(
            f"{notebook} has no cell tagged 'parameters', so nothing in it can be varied; tag one."
        )
    cells.sort(key=lambda cell: cell is not tagged[0])
    return ["".join(cell["source"]) for cell in cells]


def _check(notebook: Path, code: list[str], members: Iterable[Mapping[str, Any]]) -> None:
    """Validate the members' parameters before a kernel is started for any of them."""
    try:
        statements = ast.parse(code[0]).body
    except SyntaxError as error:
        raise ConfigError(f"{notebook}: the parameters cell is no Python ({error}).") from None
    declared: dict[str, Any] = {}
    for statement in statements:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name = statement.targets[0].id
            declared[name] = None
            with suppress(ValueError):
                declared[name] = ast.literal_eval(statement.value)
    own = set(declared) - set(TrainConfig.__dataclass_fields__)
    for values in members:
        if "output_dir" in values:
            raise ConfigError(
                "output_dir is set by the sweep, a folder for each member; give --out."
            )
        TrainConfig.from_parameters({**declared, **values}, also=own)


def _member(notebook: Path, digest: str, folder: Path, values: dict[str, Any]) -> str:
    """Run a member unless it is done already; returns the outcome as text."""
    origin = json.loads(json.dumps({"parameters": values, "notebook": digest}, default=str))
    status = read_json(folder / "status.json")
    _stop(_alive(status))
    same = all(status.get(key) == value for key, value in origin.items())
    if same and status.get("state") == "done":
        return _DONE_BEFORE
    if status and not same:
        _set_aside(folder)
    for name in ("notebook.ipynb", "log.txt"):
        if not status and (folder / name).exists():
            raise ConfigError(
                f"{folder} holds a {name} but no status.json, so no sweep wrote it: move it, or "
                "give another --out."
            )
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", "--log-output"]
    command += [str(notebook), str(folder / "notebook.ipynb")]
    for name, value in {**values, "output_dir": str(folder)}.items():
        command += ["-p", name, str(value)]
    # The member runs the kit that the sweep runs, installed or not.
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    start = time.time()
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        # A new session keeps the terminal's Ctrl+C from the member; `_wait` passes it on.
        process = psutil.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        running = {"state": "running", "pid": process.pid, "started": process.create_time()}
        _write(folder, origin | running)
        try:
            _wait(process)
        except KeyboardInterrupt:
            _write(folder, origin | {"state": "stopped"})
            raise
    error = _error(process.returncode, folder)
    state = "failed" if error else "done"
    seconds = round(time.time() - start, 1)
    _write(folder, origin | {"state": state, "seconds": seconds, "error": error})
    return f"{state} after {seconds / 60:.1f} min" + (f": {error}" if error else "")


def _wait(process: psutil.Popen) -> None:
    """Wait for a member and its child processes: a kernel outlives a papermill that is killed."""
    started: set[psutil.Process] = set()
    try:
        while process.poll() is None:
            with suppress(psutil.NoSuchProcess):
                started.update(process.children(recursive=True))
            time.sleep(0.3)
        process.wait()
    except KeyboardInterrupt:
        print("stopping", flush=True)
        # As Ctrl+C in a notebook: training saves a checkpoint before it ends.
        with suppress(psutil.NoSuchProcess):
            for kernel in process.children():
                kernel.send_signal(signal.SIGINT)
        psutil.wait_procs([process], timeout=120)
        started.add(process)
        raise
    finally:
        _stop(started)


def _stop(processes: Collection[psutil.Process]) -> None:
    """Kill processes that still run, and wait until they have released the GPU's memory."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    end = time.time() + 30
    while any(map(_is_running, processes)) and time.time() < end:
        time.sleep(0.05)


def _is_running(process: psutil.Process) -> bool:
    # In a container an orphan that has ended may stay a zombie, which holds no memory.
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _alive(status: Mapping[str, Any]) -> list[psutil.Process]:
    """Processes that an earlier sweep left running when it was killed."""
    try:
        process = psutil.Process(status["pid"])
        # The operating system may have reused the process id.
        if process.create_time() == status["started"]:
            return [*process.children(recursive=True), process]
    except (KeyError, psutil.NoSuchProcess):
        pass
    return []


def _error(code: int, folder: Path) -> str | None:
    """The error of a member in one line; None if it succeeded."""
    if code == 0:
        return None
    if code < 0:
        hint = "; out of memory?" if -code == signal.SIGKILL else ""
        return f"killed by {signal.Signals(-code).name}{hint}"
    for cell in read_json(folder / "notebook.ipynb").get("cells", []):
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                return " ".join(f"{output['ename']}: {output['evalue']}".split())
    lines = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "no message")
    return f"papermill ended with {code}: {last.strip()}"


def _set_aside(folder: Path) -> None:
    """Move a member that ran with other settings to `replaced/`, outside the leaderboard."""
    replaced = folder.parent / "replaced"
    replaced.mkdir(exist_ok=True)
    number = sum(1 for _ in replaced.glob("*")) + 1
    folder.rename(replaced / f"{number}-{folder.name}")


def _write(folder: Path, status: dict[str, Any]) -> None:
    write_whole(folder / "status.json", json.dumps(status, indent=1, default=str) + "\n")


def _save(
    out: Path, notebook: Path, digest: str, all_members: Mapping[str, dict], varied: Sequence[str]
) -> list[dict[str, Any]]:
    """Write sweep.json over the members that have run so far, and return their rows."""
    folders = [out / name for name in all_members if (out / name / "status.json").is_file()]
    rows = leaderboard(*folders)
    for row in rows:
        row["parameters"] = {name: all_members[row["run"]][name] for name in varied}
    kept = [{key: value for key, value in row.items() if key != "settings"} for row in rows]
    summary = {
        "notebook": str(notebook),
        "hash": digest,
        "planned": len(all_members),
        "members": kept,
    }
    write_whole(out / "sweep.json", json.dumps(summary, indent=1, default=str) + "\n")
    return rows


def report(rows: Sequence[dict]) -> str:
    """The members as a plain table: parameters, metrics with 95 % intervals, minutes, state."""
    cells = [{k: v for k, v in row.items() if k != "run"} for row in table(rows)]
    return columns_of_text([list(cells[0]), *(list(row.values()) for row in cells)])
