"""Run folder: a run's id, versions, log and skipped rows, its lock, and its replacement by another.

A run folder holds one run. `run.json` holds the run's id and fingerprints of weights, here and in
every checkpoint, adapter and export. A new run in the folder of an earlier one replaces it when the
new run's first step is done: the earlier run's files move to `replaced/<id>/`. Until then the
folder stays as it is. A journal of the moves lets a killed replacement be undone. The module is a
little above 400 lines, so that everything that knows which files belong to a run is in one file.
"""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections import Counter
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.dataset.files import is_inner_path, json_lines, write_whole
from data_prep.dataset.manifest import MANIFEST
from ocrkit.environment import is_main_process, software_versions

# `doctor` imports this module and must run where PyYAML or filelock is not installed.
if TYPE_CHECKING:
    from filelock import FileLock

    from ocrkit.config import TrainConfig

RUN = "run.json"
# Placeholder for the fingerprint of weights in evaluations of version 0.1.0.
UNKNOWN = "unknown"
LOG = "train_log.jsonl"
SKIPPED = "skipped.jsonl"
REPLACED = "replaced"
# Rows skipped by a run that has not replaced the folder's run yet.
_SKIPPED_NEXT = "skipped.next.jsonl"
_LOCK = ".run.lock"
# Journal of a replacement, in `replaced/`: {"place": folder's name, "names": [paths]}.
_JOURNAL = "moving.json"
_WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
# Model card by which an export of version 0.1.0, which wrote no manifest, is recognized.
_OUR_CARD = re.compile(rb"exported as \w+ by ocrkit\.")
# Files of one run. `lr_finder.*` and `base_cer.json` are about the base.
_RUN_FILES = ("config.yaml", RUN, "versions.json", LOG, SKIPPED, "results.zip")
# Folders of trackers, with an entry per run.
_TRACKERS = ("tensorboard", "wandb")


def dataset_hash(dataset: str | Path) -> str | None:
    """Hash a dataset's dataset.json; None where there is none."""
    path = Path(dataset) / "dataset.json"
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else None


def append_log(path: str | Path, entry: dict[str, Any]) -> None:
    """Append a line to a train_log.jsonl; `entry` holds its `step`."""
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def read_log(path: str | Path, key: str = "") -> list[dict[str, Any]]:
    """Read the entries of a train_log.jsonl; a line cut off by a crash is left out.

    Args:
        path: the file; [] where there is none.
        key: only entries with this key; lines without it are not parsed.
    """
    entries = []
    if Path(path).is_file():
        with Path(path).open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if f'"{key}' not in line:
                    continue
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue
                if isinstance(entry, dict) and (not key or key in entry):
                    entries.append(entry)
    return entries


def record_skipped(output_dir: str | Path, skipped: list[dict[str, str]], place: str = "") -> None:
    """List skipped rows in `<output_dir>/skipped.jsonl` and print their number.

    In the folder of an earlier run they are listed in `skipped.next.jsonl`, until the next run
    replaces it.

    Args:
        skipped: `{where, reason, detail}` each.
        place: earlier entries whose `where` begins with this text are replaced.
    """
    if not is_main_process():
        return
    path = before = Path(output_dir) / SKIPPED
    if another := holds_run(output_dir):
        path = path.with_name(_SKIPPED_NEXT)
        before = path if path.is_file() else before
    kept = [e for e in _skipped(before) if not (place and e["where"].startswith(place))]
    if not (kept or skipped or another):
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json_lines([*kept, *skipped]), encoding="utf-8")
    counts = Counter(entry["reason"] for entry in skipped)
    if counts:
        listed = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
        print(f"{len(skipped)} rows left out ({listed}); see {path}")


def append_skipped(output_dir: str | Path, entry: dict[str, str]) -> None:
    """List a row that was skipped in training, in one write: processes do not mix their lines.

    A row that is listed already is not listed again: a resumed run meets it once more.
    """
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    line = json_lines([entry]).encode()
    # The file of a run that has not begun yet exists from the start of training on.
    for name, create in ((_SKIPPED_NEXT, 0), (SKIPPED, os.O_CREAT)):
        with suppress(FileNotFoundError):
            descriptor = os.open(folder / name, os.O_RDWR | os.O_APPEND | create, 0o666)
            with os.fdopen(descriptor, "ab+", buffering=0) as file:
                file.seek(0)
                if line not in file.readlines():
                    file.write(line)
            return


def discard_skipped(output_dir: str | Path) -> None:
    """Delete the list of rows that a run skipped which did not replace the folder's run."""
    if is_main_process():
        (Path(output_dir) / _SKIPPED_NEXT).unlink(missing_ok=True)


def skipped_counts(output_dir: str | Path) -> dict[str, int]:
    """Count the rows that this run skipped, by reason."""
    return dict(Counter(entry["reason"] for entry in _skipped(Path(output_dir) / SKIPPED)))


def _skipped(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# --- id of the run, fingerprints of weights


def read_run(folder: str | Path) -> dict[str, Any]:
    """Read a folder's run.json, {} where there is none.

    Returns:
        `id` of the run; `start`: fingerprint of the weights that the run began from; `weights`:
        fingerprint of the weights beside the file (`ocrkit.models.read.weights_fingerprint`).
    """
    run = read_json(Path(folder) / RUN)
    # The id becomes a folder's name, and a run folder may come from a stranger.
    return run if re.fullmatch(r"[\w-]{1,64}", str(run.get("id", "none"))) else run | {"id": None}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; {} where the file is missing, broken or holds something else."""
    with suppress(OSError, ValueError, RecursionError):
        value = json.loads(path.read_text(encoding="utf-8"))
        return value if isinstance(value, dict) else {}
    return {}


def write_run(folder: str | Path, run: dict[str, Any]) -> None:
    """Write a folder's run.json (atomic write)."""
    write_whole(Path(folder) / RUN, json.dumps(run, indent=1) + "\n")


def run_id_of_model(model: Any, name: str) -> str | None:
    """Look up the id of the run that made a model's weights; None where no run of the kit did.

    Args:
        model: the model; after training in this process it carries the id as an attribute.
        name: path that it was loaded from: a run folder, checkpoint, adapter or export.
    """
    folders = (Path(name), Path(name) / "adapter") if name else ()
    ids = (read_run(folder).get("id") for folder in folders)
    return getattr(model, "ocrkit_run", None) or next(filter(None, ids), None)


def describe_changes(changed: Mapping[str, list]) -> str:
    """Changed settings in words: `learning_rate 0.005 -> 1e-05, save_steps 100 -> 50`."""
    return ", ".join(f"{name} {before} -> {after}" for name, (before, after) in changed.items())


def foreign_weights(summary: dict[str, Any], run: dict[str, Any]) -> str | None:
    """Explain why an evaluation measured other weights than a run's; None where it did not.

    Args:
        summary: content of the evaluation's metrics.json.
        run: content of a run.json. Metrics of its weights, of those that it began from, and
            metrics without weights (an engine, a file of predictions) belong to it.
    """
    if summary.get("weights", UNKNOWN) == UNKNOWN:
        return "it does not say which weights it measured, as ocrkit 0.1.0 wrote it"
    if summary["weights"] in (None, run.get("weights"), run.get("start")):
        return None
    return f"it measured other weights ({summary['weights']}) than this run's"


def cer_before(folder: str | Path) -> float | None:
    """CER of the evaluation `base` in a run folder, if it measured the weights a run began from."""
    start = read_run(folder).get("start")
    base = read_json(Path(folder) / "eval" / "base" / "metrics.json")
    if not start or base.get("weights") != start:
        return None
    return base.get("metrics", {}).get("cer", {}).get("value")


# --- lock: one training at a time


@contextmanager
def locked(folder: Path) -> Generator[None]:
    """Hold a run folder's file lock, which the operating system releases when the process ends.

    A killed replacement is undone first. A file system without locks refuses nobody; a line says
    so.

    Raises:
        BlockingIOError: another process, or another thread of this one, trains in this folder.
    """
    from filelock import Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = _file_lock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BlockingIOError(
            f"Another run is training in output_dir={str(folder)!r}; wait for it to end, or give "
            "another output_dir."
        ) from None
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _WITHOUT_LOCKS:
            raise
        print(f"{folder} is on a file system without locks: start no second run in it meanwhile.")
    try:
        _put_back(folder)
        yield
    finally:
        lock.release()


def _file_lock(path: Path) -> "FileLock":
    from filelock import FileLock

    try:
        # A soft lock, filelock's fallback, would outlive a killed process.
        return FileLock(path, fallback_to_soft=False)
    except TypeError:  # filelock before 4, which has no such fallback
        return FileLock(path)


# --- replacement of an earlier run in the same folder


def holds_run(folder: str | Path) -> bool:
    """Whether a run has trained in this folder."""
    folder = Path(folder)
    names = (RUN, LOG, "adapter")
    return any((folder / name).exists() for name in names) or any(folder.glob("checkpoint-*"))


def next_run_id(checkpoint: Path | None) -> str:
    """Return the id of the run that a checkpoint resumes, or a new id."""
    folders = (checkpoint, checkpoint.parent) if checkpoint else ()
    ids = (read_run(folder).get("id") for folder in folders)
    return next(filter(None, ids), None) or secrets.token_hex(4)


def continues_run(folder: Path, checkpoint: Path | None) -> bool:
    """Whether a checkpoint belongs to the run in the folder, which then continues."""
    if checkpoint is None:
        return False
    ids = read_run(folder).get("id"), read_run(checkpoint).get("id")
    if checkpoint.resolve().parent == folder.resolve():
        return None in ids or ids[0] == ids[1]
    return None not in ids and ids[0] == ids[1]


def paths_of_run(folder: Path, start: str, used: Iterable[str | Path] = ()) -> list[str]:
    """List the paths of the run in a folder, relative to it, which a new run sets aside.

    These are the files that a run writes, its checkpoints, adapter, exports and reports, and the
    evaluations of its weights; not datasets, evaluations of other weights or other files.

    Args:
        start: fingerprint of the weights that the new run begins from; their evaluations stay.
        used: files and folders that the new run reads; they stay.
    """
    if not holds_run(folder):
        return []
    run = read_run(folder)
    paths = [folder / name for name in (*_RUN_FILES, "adapter")]
    paths += sorted(folder.glob("checkpoint-*"))
    paths += [path for name in _TRACKERS for path in sorted((folder / name).glob("*"))]
    paths += [path for path in sorted(folder.iterdir()) if _is_output(path)]
    for metrics in sorted(folder.glob("eval/*/metrics.json")):
        summary = read_json(metrics)
        measured = summary.get("weights", UNKNOWN)
        of_the_run = measured in (UNKNOWN, run.get("weights", "")) or (
            summary.get("run") == run.get("id", "")
        )
        if of_the_run and measured != start:
            paths.append(metrics.parent)
    kept = [Path(name).resolve() for name in used if name]
    names = dict.fromkeys(path.relative_to(folder).as_posix() for path in paths if path.exists())
    return [
        name
        for name in names
        if not any(path.is_relative_to((folder / name).resolve()) for path in kept)
    ]


def _is_output(folder: Path) -> bool:
    """Whether a folder is an export or a report of the kit, by its files and manifest or card."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    report = {"index.html", "report.json"} <= names
    weights = {"config.json", "adapter_config.json"} & names or any(
        name.endswith(".gguf") for name in names
    )
    if report or (weights and names & {MANIFEST, RUN}):
        return True
    card = folder / "README.md"
    return bool(weights) and card.is_file() and bool(_OUR_CARD.search(card.read_bytes()))


@contextmanager
def replacing_run(folder: Path, names: list[str]) -> Generator[Path | None]:
    """Move an earlier run's paths to `replaced/<id>/` while the block writes the new run's files.

    Yields that folder, None where nothing moves. An error in the block moves everything back; after
    a kill that happens when the next training starts or the run is read.
    """
    if not names:
        yield None
        return
    place = folder / REPLACED / (read_run(folder).get("id") or secrets.token_hex(4))
    while place.exists() and any(place.iterdir()):  # the same run was set aside before
        place = place.with_name(f"{place.name}-again")
    place.mkdir(parents=True, exist_ok=True)
    journal = folder / REPLACED / _JOURNAL
    write_whole(journal, json.dumps({"place": place.name, "names": names}))
    try:
        for name in filter(lambda name: (folder / name).exists(), names):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).replace(place / name)
        yield place
    except BaseException:
        _put_back(folder)
        raise
    journal.unlink()
    print(f"The run that was in {folder} is now in {place}; delete it when nobody needs it.")


def moved_path(path: str, folder: Path, names: Iterable[str], place: Path | None) -> str:
    """Translate a path into a run folder after `replacing_run`; the folder becomes `place`."""
    if place is None or not path:
        return path
    absolute = Path(path).resolve()
    if absolute == folder.resolve():
        return str(place)
    for name in names:
        with suppress(ValueError):
            return str(place / name / absolute.relative_to((folder / name).resolve()))
    return path


def _put_back(folder: Path) -> None:
    """Undo an unfinished replacement, if there is one."""
    journal = folder / REPLACED / _JOURNAL
    if not journal.is_file():
        return
    moved = json.loads(journal.read_text(encoding="utf-8"))
    # A run folder may come from a stranger.
    if not all(map(is_inner_path, (moved["place"], *moved["names"]))):
        raise ValueError(f"{journal} names files outside {folder}; delete it to go on.")
    place = folder / REPLACED / moved["place"]
    for name in set(_RUN_FILES) - set(moved["names"]):
        (folder / name).unlink(missing_ok=True)
    for name in moved["names"]:
        if (place / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).replace(folder / name)
    shutil.rmtree(place, ignore_errors=True)
    journal.unlink()


def restore(folder: str | Path) -> None:
    """Undo a killed replacement before a run folder is read."""
    if (Path(folder) / REPLACED / _JOURNAL).is_file():
        # A folder that cannot be locked is in training or read-only.
        with suppress(OSError), locked(Path(folder)):
            pass


def begin_run(
    folder: Path, config: "TrainConfig", run: dict[str, Any], changes: list[dict] | None = None
) -> None:
    """Write the files that identify a folder's run: settings, versions, run.json, skipped rows.

    Args:
        changes: settings changed on resume, as `ocrkit.training.resume` lists them.
    """
    config.save(folder / "config.yaml")
    about = {
        **software_versions(),
        "dataset": dataset_hash(config.dataset),
        "changes": changes or [],
    }
    write_whole(folder / "versions.json", json.dumps(about, indent=2) + "\n")
    write_run(folder, run)
    waiting, listed = folder / _SKIPPED_NEXT, folder / SKIPPED
    if waiting.is_file():
        waiting.replace(listed)
        if not listed.stat().st_size:
            listed.unlink()
