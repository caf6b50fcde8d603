"""Two sides measured in turns, and the rows of a table that come of it.

A row holds `what` was done, `beside` whom (or None), its `inputs`, `unit`, what `ours` and `theirs`
came to, for a comparison `ratio` {value, low, high} over `rounds`, and the `aim` with whether it
was `met`. Ratios are taken round by round, so a busy machine, which slows both sides of a round
alike, shows in their spread.
"""

import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ocrkit.models.base import TINY

# What stands for the figure of a side whose process ran out of memory.
UNFIT = "does not fit"


def in_turns(
    sides: dict[str, Callable[[], float | None]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of every side in every round; each takes its turn, and the order alternates.

    A round before the first warms up and does not count. A side that returns a number says itself
    how many seconds count.

    Args:
        clock: `time.process_time` where one thread works, so that other processes do not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        order = list(sides) if number % 2 else list(reversed(sides))
        for name in order:
            began = clock()
            counted = sides[name]()
            took = clock() - began if counted is None else counted
            if number:
                seconds[name].append(took)
    return seconds


def ratio_row(
    what: str,
    beside: str,
    ours: list[float],
    theirs: list[float],
    aim: float | None,
    unit: str = "seconds",
    count: int | None = None,
    their_count: int | None = None,
    inputs: str = "",
) -> dict[str, Any]:
    """A row of a comparison: how many times faster (or smaller) ours is.

    A side that does not fit the memory gives no seconds, and then there is no ratio: the aim is met
    where it is ours that fits.

    Args:
        ours, theirs: seconds (or sizes), one a round.
        aim: the ratio wanted at least; None: the peer is shown for comparison only.
        count: units of work in a turn; rates are shown where it is given, seconds elsewhere.
        their_count: units of work in a turn of theirs, where it differs.
    """
    shown = [_shown(ours, count), _shown(theirs, their_count or count)]
    row = {"what": what, "beside": beside, "inputs": inputs, "unit": unit}
    wanted = "" if aim is None else f"at least {aim:g} times"
    row |= {"ours": shown[0], "theirs": shown[1], "aim": wanted}
    if not (ours and theirs):
        return {**row, "met": bool(ours)}
    share = 1.0 if their_count is None else count / their_count
    ratios = [share * their / our for our, their in zip(ours, theirs)]
    ratio = statistics.median(ratios)
    return {
        **row,
        "ratio": {
            "value": _rounded(ratio),
            "low": _rounded(min(ratios)),
            "high": _rounded(max(ratios)),
        },
        "rounds": len(ratios),
        "met": aim is None or ratio >= aim,
    }


def _shown(seconds: list[float], count: int | None) -> float | str:
    """The median, or the rate that it means."""
    if not seconds:
        return UNFIT
    middle = statistics.median(seconds)
    return _rounded(middle if count is None else count / middle)


def limit_row(
    what: str,
    value: float | Sequence[float] | None,
    unit: str,
    most: float | None = None,
    inputs: str = "",
    beside: str | None = None,
    least: float | None = None,
) -> dict[str, Any]:
    """A row of one figure that should be at most `most`, or at least `least`; or has no aim.

    Args:
        value: several were measured in as many rounds, and their median counts; None: no memory.
    """
    spread = {}
    if isinstance(value, Sequence):
        spread = {"low": _rounded(min(value)), "high": _rounded(max(value)), "rounds": len(value)}
        value = statistics.median(value)
    aim, met = "", value is not None
    if most is not None:
        aim, met = f"at most {most:g}", met and value <= most
    elif least is not None:
        aim, met = f"at least {least:g}", met and value >= least
    return {
        "what": what,
        "beside": beside,
        "inputs": inputs,
        "unit": unit,
        "ours": UNFIT if value is None else _rounded(value),
        **spread,
        "aim": aim,
        "met": bool(met),
    }


def _rounded(value: float) -> float:
    """Four figures: more would say more than was measured."""
    return float(f"{value:.4g}")


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as a table in Markdown; what misses its aim says so."""
    lines = ["| what | ours | beside | theirs | ratio | aim |", f"|{' --- |' * 6}"]
    for row in rows:
        ratio = ""
        if "ratio" in row:
            ratio = "{value:.3g} [{low:.3g}, {high:.3g}]".format(**row["ratio"])
        ours, theirs = (_figure(row.get(side, "")) for side in ("ours", "theirs"))
        if "low" in row:
            ours += " [{low:.3g}, {high:.3g}]".format(**row)
        unit = "" if ours == UNFIT else f" {row['unit']}"
        missed = "" if row["met"] else " (**below aim**)"
        lines.append(
            f"| {row['what']} | {ours}{unit} | {row['beside'] or ''} | {theirs} | {ratio} "
            f"| {row['aim']}{missed} |"
        )
    return "\n".join(lines)


def _figure(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def peak_memory() -> float:
    """MB that this process had resident at most."""
    status = Path("/proc/self/status")
    if status.exists():
        # A parent's size at the fork would count in `ru_maxrss`.
        return int(status.read_text().rpartition("VmHWM:")[2].split()[0]) / 1024
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def in_own_process(module: str, *arguments: object, limit: float | None = None) -> Any:
    """What `python -m MODULE ARGUMENTS` prints as its last line, in JSON.

    Raises:
        RuntimeError: it failed; the message holds the end of what it said.
        subprocess.TimeoutExpired: it took more than `limit` seconds.
    """
    command = [sys.executable, "-m", module, *map(str, arguments)]
    # The kit may lie beside a notebook instead of being installed.
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=limit,
        env={**os.environ, "PYTHONPATH": path},
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def model_digest() -> str:
    """Digest of the embedded model's weights, by which a figure says what it was measured with."""
    return hashlib.sha256((TINY / "model.safetensors").read_bytes()).hexdigest()[:16]
