"""Leaderboard: rank runs by their metrics, compare single changes, and draw learning curves."""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from ocrkit.config import TrainConfig
from ocrkit.display.tables import interval, p_text
from ocrkit.evaluation.compare import Comparison, compare
from ocrkit.evaluation.evaluation import Evaluation
from ocrkit.metrics.names import label
from ocrkit.run_folder import foreign_weights, read_log, read_run, restore

SHOWN = ("cer", "exact_match")
# In C where PyYAML was built so: a tenth of the time.
_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Settings of paths, logs and workers, which do not change the weights.
_UNRELATED = set(
    "output_dir run_name tags project report_to resume_from_checkpoint logging_steps save_steps "
    "save_total_limit num_completions_to_print dataloader_num_workers".split()
)


def leaderboard(*folders: str | Path, evaluation: str = "tuned") -> list[dict[str, Any]]:
    """Runs, best first by CER, each as {run, folder, settings, parameters, metrics, ...}.

    Args:
        folders: run folders (with a config.yaml), or folders of such, as a sweep leaves them.
        evaluation: which of a run's evaluations counts, by its folder's name.

    Returns:
        `settings` are all of a run, `parameters` those that are not the same in every run,
        `metrics` {metric: {value, low, high}} (empty without the evaluation), `minutes` how long
        it took, `state` done, failed, running, unfinished or broken (a file of it cannot be read),
        `error` the message of a failed run, or which file is broken, `foreign` why an existing
        evaluation does not count: it measured other weights than the run's, or does not name them.

    Raises:
        ValueError: a folder holds no run.
    """
    defaults = TrainConfig().to_dict()
    runs = [
        _run_or_broken(folder, evaluation, defaults)
        for name in folders
        for folder in _run_folders(Path(name))
    ]
    if foreign := [run for run in runs if run["foreign"]]:
        print(
            f"{len(foreign)} of {len(runs)} runs are shown without their evaluation "
            f"{evaluation!r}, {foreign[0]['folder']} among them: {foreign[0]['foreign']}; run "
            "`python -m ocrkit evaluate` on each again."
        )
    names = sorted({name for run in runs for name in run["settings"]} - _UNRELATED)
    varying = [name for name in names if len({_key(run["settings"].get(name)) for run in runs}) > 1]
    for run in runs:
        run["parameters"] = {name: run["settings"].get(name) for name in varying}
    return sorted(runs, key=_rank)


def _rank(run: dict) -> tuple:
    return (not run["metrics"], run["metrics"].get("cer", {}).get("value", 0), run["run"])


def _run_folders(folder: Path) -> list[Path]:
    if _is_run(folder):
        return [folder]
    folders = sorted(filter(_is_run, folder.iterdir())) if folder.is_dir() else []
    if not folders:
        raise ValueError(
            f"{folder} holds no run, which is a folder with a config.yaml; give run folders or a "
            "folder of them, as `python -m ocrkit sweep` makes it."
        )
    return folders


def _is_run(folder: Path) -> bool:
    return (folder / "config.yaml").exists() or (folder / "status.json").exists()


def _run_or_broken(folder: Path, evaluation: str, defaults: dict[str, Any]) -> dict[str, Any]:
    """The row of a run; one whose files cannot be read has the state broken and the reason."""
    try:
        return _run(folder, evaluation, defaults)
    except (ValueError, OSError) as error:
        return {
            "run": folder.name,
            "folder": str(folder),
            "evaluation": evaluation,
            "settings": {},
            "metrics": {},
            "state": "broken",
            "minutes": 0.0,
            "error": " ".join(str(error).split()),
            "foreign": None,
        }


def _run(folder: Path, evaluation: str, defaults: dict[str, Any]) -> dict[str, Any]:
    restore(folder)
    status = _read(folder / "status.json", json.loads)
    settings = _mapping(status.get("parameters") or {}, folder / "status.json")
    if saved := _read(folder / "config.yaml", lambda text: yaml.load(text, _YAML)):
        # A setting that was added to the kit later had its default then.
        settings = settings | defaults | saved
    dataset, place = str(settings.get("dataset") or ""), str(settings.get("output_dir") or "")
    if place and dataset.startswith(place):
        # Data that each run draws in its own folder is the same data at another path.
        settings["dataset"] = dataset.replace(place, "<run>", 1)
    state = status.get("state")
    file = folder / "eval" / evaluation / "metrics.json"
    scored = _read(file, json.loads) if state != "failed" else {}
    metrics = _mapping(scored.get("metrics") or {}, file)
    for name, measured in metrics.items():
        if not all(_is_number(_mapping(measured, file).get(k)) for k in ("value", "low", "high")):
            raise ValueError(f"{file} has no numbers for {name}: evaluate again.")
    foreign = foreign_weights(scored, read_run(folder)) if scored else None
    metrics = {} if foreign else metrics
    log = read_log(folder / "train_log.jsonl", "train_runtime")
    runtimes = [e["train_runtime"] for e in log if _is_number(e["train_runtime"])]
    seconds = status.get("seconds") or (runtimes[0] if runtimes else 0)
    if not _is_number(seconds):
        raise ValueError(f"{folder / 'status.json'} has seconds={seconds!r}, which is no number.")
    return {
        "run": folder.name,
        "folder": str(folder),
        "evaluation": evaluation,
        "settings": settings,
        "metrics": metrics,
        "state": state or ("done" if metrics else "unfinished"),
        "minutes": seconds / 60,
        "error": status.get("error"),
        "foreign": foreign,
    }


def _read(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    """Read a mapping from a file; an empty one if there is no such file.

    Raises:
        ValueError, OSError: the file cannot be read, or holds something else.
    """
    if not path.exists():
        return {}
    if not path.is_file():
        raise ValueError(f"{path} is no file; move it away.")
    try:
        value = parse(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path} is cut off or damaged ({error}).") from None
    return _mapping({} if value is None else value, path)


def _mapping(value: object, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{path} holds no names with values where it should.")
    return value


def _is_number(value: object) -> bool:
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    return numeric and math.isfinite(value)


def one_at_a_time(rows: Sequence[dict], metrics: Sequence[str] = SHOWN) -> list[dict[str, Any]]:
    """Compare runs that differ in exactly one parameter, over the same rows.

    Within a group of runs that are equal except for one parameter, the others are compared with the
    run that has its smallest value.

    Returns:
        {parameter, before, after, others, runs, differences, p} each: two values, the other
        parameters of both runs, both runs' names, {metric: {value, low, high}} as after minus
        before with the paired 95 % bootstrap interval of `ocrkit.evaluation.compare.compare`, and
        McNemar's p for exact matches. Where the two read different rows, `differences` is empty
        and `why` says so.
    """
    done, changes = [row for row in rows if row["metrics"]], []
    loaded: dict[str, Evaluation] = {}
    for parameter in done[0]["parameters"] if done else ():
        groups = defaultdict(list)
        for row in done:
            others = {k: v for k, v in row["parameters"].items() if k != parameter}
            groups[_key(others)].append(row)
        for group in groups.values():
            first, *later = sorted(group, key=lambda row: _order(row["parameters"][parameter]))
            for row in later:
                before, after = (r["parameters"][parameter] for r in (first, row))
                if _key(before) == _key(after):
                    continue
                others = {k: v for k, v in row["parameters"].items() if k != parameter}
                change = {"parameter": parameter, "before": before, "after": after}
                change |= {"others": others, "runs": (first["run"], row["run"])}
                changes.append(change | _difference(first, row, metrics, loaded))
    return changes


def _difference(first: dict, other: dict, metrics: Sequence[str], loaded: dict) -> dict[str, Any]:
    pair = []
    for name, run in (("before", first), ("after", other)):
        folder = run["folder"]
        if folder not in loaded:
            loaded[folder] = Evaluation.load(Path(folder) / "eval" / run["evaluation"])
        pair.append(replace(loaded[folder], name=name))
    try:
        comparison = compare(*pair)
    except ValueError as error:
        return {"differences": {}, "p": None, "why": str(error)}
    differences = comparison.differences["after"]
    return {
        "differences": {name: differences[name] for name in metrics if name in differences},
        "p": comparison.p_values["after"].get("exact_match"),
        "why": None,
    }


def best_beside_worst(rows: Sequence[dict]) -> Comparison:
    """Compare the best run with the worst that read the same rows; or show the best alone.

    Args:
        rows: as `leaderboard` returns them, at least one of them with the evaluation.

    Raises:
        ValueError: none has.
    """
    done = [row for row in rows if row["metrics"]]
    if not done:
        raise ValueError("No run has been evaluated yet, so there is none that reads best.")
    best, *others = done
    for row in reversed(others):
        try:
            return compare(_evaluation(row), _evaluation(best))
        except ValueError:  # of other rows, as runs that draw their own data with their own seed
            continue
    return compare(_evaluation(best))


def _evaluation(row: dict) -> Evaluation:
    folder = Path(row["folder"]) / "eval" / row["evaluation"]
    return replace(Evaluation.load(folder), name=row["run"])


def _key(value: object) -> str:
    try:
        return json.dumps(value, sort_keys=True, default=str)
    except (TypeError, ValueError):  # keys of several types, or a value that holds itself
        return repr(value)


def _order(value: object) -> tuple:
    number = isinstance(value, int | float)
    return (not number, value if number else 0, _key(value))


def table(rows: Sequence[dict], metrics: Sequence[str] = SHOWN) -> list[dict[str, str]]:
    """The leaderboard as cells of text, a column each for run, parameters, metrics and state."""
    return [
        {
            "run": row["run"],
            **{name: _text(value) for name, value in row["parameters"].items()},
            **{label(m): interval(row["metrics"].get(m)) for m in metrics},
            "minutes": f"{row['minutes']:.1f}",
            "state": f"broken: {row['error']}" if row["state"] == "broken" else row["state"],
        }
        for row in rows
    ]


def change_table(changes: Sequence[dict], metrics: Sequence[str] = SHOWN) -> list[dict[str, str]]:
    """The changes of `one_at_a_time` as cells of text."""
    return [
        {
            "changed": _change(c),
            "others": _others(c) or "all equal",
            **{
                f"{label(m)}, after − before": interval(c["differences"].get(m), sign=True)
                for m in metrics
            },
            "p (matches)": p_text(c["p"]) if c["p"] is not None else "not the same rows",
        }
        for c in changes
    ]


def _change(change: dict) -> str:
    return f"{change['parameter']} {_text(change['before'])} → {_text(change['after'])}"


def _others(change: dict) -> str:
    return ", ".join(f"{name} {_text(value)}" for name, value in change["others"].items())


def _text(value: object) -> str:
    return format(value, "g") if isinstance(value, float) else str(value)


def plot_leaderboard(rows: Sequence[dict], metric: str = "cer") -> Any:
    """Draw each run's metric with its 95 % interval, the best on top, as a matplotlib figure."""
    scored = [row for row in rows if metric in row["metrics"]][::-1]
    points = [row["metrics"][metric] for row in scored]
    return _forest([row["run"] for row in scored], points, f"{label(metric)}, %")


def plot_changes(changes: Sequence[dict], metric: str = "cer") -> Any:
    """Draw the difference of a metric at each change; an interval across 0 is not significant."""
    scored = [change for change in changes if metric in change["differences"]][::-1]
    names = [f"{_change(c)} ({_others(c)})" if c["others"] else _change(c) for c in scored]
    points = [change["differences"][metric] for change in scored]
    figure = _forest(names, points, f"{label(metric)}, after − before, points")
    figure.axes[0].axvline(0, color="black", linewidth=0.8)
    return figure


def _forest(names: list[str], points: list[dict], title: str) -> Any:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 0.8 + 0.4 * len(names)), layout="constrained")
    values = [100 * point["value"] for point in points]
    below = [100 * (point["value"] - point["low"]) for point in points]
    above = [100 * (point["high"] - point["value"]) for point in points]
    # A bootstrap's percentiles may lie on one side of the value by a rounding error.
    errors = [[max(0.0, length) for length in side] for side in (below, above)]
    axes.errorbar(values, range(len(names)), xerr=errors, fmt="o", capsize=3)
    axes.set(yticks=range(len(names)), yticklabels=names, xlabel=title, ylim=(-0.6, len(names)))
    axes.grid(axis="x", alpha=0.3)
    pyplot.close(figure)
    return figure


def plot_curves(rows: Sequence[dict], keys: Sequence[str] = ("loss", "eval_cer")) -> Any:
    """Draw logged values over steps, one panel a key, with the runs overlaid."""
    from matplotlib import pyplot

    size = (5.5 * len(keys), 3.6)
    figure, panels = pyplot.subplots(
        1, len(keys), figsize=size, layout="constrained", squeeze=False
    )
    for axes, key in zip(panels[0], keys):
        for row in rows:
            log = read_log(Path(row["folder"]) / "train_log.jsonl")
            logged = [entry for entry in log if key in entry and "step" in entry]
            if logged:
                xs, ys = zip(*((entry["step"], entry[key]) for entry in logged))
                axes.plot(xs, ys, label=row["run"], marker="." if len(xs) < 30 else None)
        axes.set(title=_title(key), xlabel="step", ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if axes.lines:
            axes.legend(fontsize="small")
    pyplot.close(figure)
    return figure


def _title(key: str) -> str:
    """The label of a logged value; `eval_loss` keeps its name beside `loss`."""
    return key if key.endswith("loss") else label(key.removeprefix("eval_"))
