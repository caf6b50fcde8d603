"""What a run leaves in its folder: id, versions, log, and rows left out; and whose the folder is.

A run folder is one run. `run.json` holds the run's id and fingerprints of weights, here and in
every checkpoint, adapter and export. A new run in the folder of an earlier one takes it over when
its first step is done: what belongs to the earlier run moves to `replaced/<id>/`. Until then the
folder is as it was. The moves are journaled, so that a kill between two of them loses nothing.
"""

import errno
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.dataset.files import is_inner_path, write_whole
from data_prep.dataset.manifest import MANIFEST
from ocrkit.environment import is_main_process, process_count

# `doctor` imports this module and must run where PyYAML or filelock is not installed.
if TYPE_CHECKING:
    from filelock import FileLock

    from ocrkit.config import TrainConfig

RUN = "run.json"
# In place of the weights that an evaluation of version 0.1.0 measured.
UNKNOWN = "unknown"
LOG = "train_log.jsonl"
SKIPPED = "skipped.jsonl"
REPLACED = "replaced"
# Rows left out by what is not, or not yet, the run that the folder belongs to.
_SKIPPED_NEXT = "skipped.next.jsonl"
_LOCK = ".run.lock"
# The journal of a takeover, in `replaced/`: {"place": folder's name, "names": [paths]}.
_JOURNAL = "moving.json"
_WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
# An export is known by the manifest of `data_prep.dataset.files`, or by version 0.1.0's model card.
_OUR_CARD = re.compile(rb"exported as \w+ by ocrkit\.")
# Files that belong to one run. `lr_finder.*` and `base_cer.json` are about the base.
_OF_A_RUN = ("config.yaml", RUN, "versions.json", LOG, SKIPPED, "results.zip")
# Folders of trackers, whose entries belong to one run each.
_TRACKERS = ("tensorboard", "wandb")

PACKAGES = (
    "ocrkit unsloth torch transformers trl peft accelerate datasets bitsandbytes kornia jiwer "
    "rapidfuzz"
).split()


def package_versions(names: Iterable[str]) -> dict[str, str | None]:
    """Version of each package, None for one that is not installed."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def dataset_hash(dataset: str | Path) -> str | None:
    """A hash of a dataset's dataset.json; None where it has none."""
    path = Path(dataset) / "dataset.json"
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else None


def versions(config: "TrainConfig") -> dict[str, Any]:
    """What a run was made with: packages, Python, processes, commit, a hash of dataset.json."""
    commit = ""
    if shutil.which("git"):
        command = ["git", "rev-parse", "HEAD"]
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
        commit = done.stdout.strip()
    return {
        "python": platform.python_version(),
        "packages": package_versions(PACKAGES),
        "processes": process_count(),
        "commit": commit or None,
        "dataset": dataset_hash(config.dataset),
    }


def append_log(path: str | Path, entry: dict[str, Any]) -> None:
    """Add one line to a train_log.jsonl; `entry` holds its `step`."""
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def read_log(path: str | Path, key: str = "") -> list[dict[str, Any]]:
    """The entries of a train_log.jsonl; a line cut off by a crash is left out.

    Args:
        path: the file; without it there are no entries.
        key: only entries that have it, which are found without parsing the others.
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


def record_skipped(
    output_dir: str | os.PathLike, skipped: list[dict[str, str]], place: str = ""
) -> None:
    """List rows that were left out in `<output_dir>/skipped.jsonl` and print their number.

    In the folder of an earlier run they are listed in `skipped.next.jsonl`, until the next run
    takes the folder over.

    Args:
        skipped: `{where, reason, detail}` each.
        place: what was listed before with a `where` that begins so is replaced.
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
    path.write_text("".join(map(_line, [*kept, *skipped])), encoding="utf-8")
    counts = Counter(entry["reason"] for entry in skipped)
    if counts:
        listed = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
        print(f"{len(skipped)} rows left out ({listed}); see {path}")


def append_skipped(output_dir: str | os.PathLike, entry: dict[str, str]) -> None:
    """List a row that was left out of a stream; processes do not tear each other's lines."""
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    line = _line(entry).encode()
    # The file of a run that has not begun yet is there from the start of training on.
    for name, create in ((_SKIPPED_NEXT, 0), (SKIPPED, os.O_CREAT)):
        with suppress(FileNotFoundError):
            descriptor = os.open(folder / name, os.O_WRONLY | os.O_APPEND | create, 0o666)
            with os.fdopen(descriptor, "ab", buffering=0) as file:
                file.write(line)
            return


def skipped_counts(output_dir: str | os.PathLike) -> dict[str, int]:
    """Reasons for rows left out of this run, with their numbers."""
    return dict(Counter(entry["reason"] for entry in _skipped(Path(output_dir) / SKIPPED)))


def _skipped(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _line(entry: dict[str, str]) -> str:
    return json.dumps(entry, ensure_ascii=False) + "\n"


# --- the run's id, and whose weights were measured


def read_run(folder: str | Path) -> dict[str, Any]:
    """A folder's run.json, or {} where there is none: {id, start, weights}.

    `id` is the run's; `start` the fingerprint of the weights that it began from, `weights` that of
    the weights beside the file (`ocrkit.models.read.weights_fingerprint`).
    """
    with suppress(OSError, ValueError):
        run = json.loads((Path(folder) / RUN).read_text(encoding="utf-8"))
        if isinstance(run, dict):
            # The id names a folder, and a run may be a stranger's.
            return run if re.fullmatch(r"[\w-]{1,64}", str(run.get("id"))) else run | {"id": None}
    return {}


def write_run(folder: str | Path, run: dict[str, Any]) -> None:
    """Write a folder's run.json, atomically."""
    write_whole(Path(folder) / RUN, json.dumps(run, indent=1) + "\n")


def run_id_of_model(model: Any, name: str) -> str | None:
    """The id of the run that made a model's weights; None: no run of the kit did.

    Args:
        model: the model; one that was trained in this process carries the id itself.
        name: what it was loaded from: a run folder, a checkpoint, an adapter, an export.
    """
    folders = (Path(name), Path(name) / "adapter") if name else ()
    ids = (read_run(folder).get("id") for folder in folders)
    return getattr(model, "ocrkit_run", None) or next(filter(None, ids), None)


def describe_changes(changed: Mapping[str, list]) -> str:
    """Changed settings in words: `learning_rate 0.005 -> 1e-05, save_steps 100 -> 50`."""
    return ", ".join(f"{name} {before} -> {after}" for name, (before, after) in changed.items())


def foreign_weights(summary: dict[str, Any], run: dict[str, Any]) -> str | None:
    """Why an evaluation's metrics are not about a run; None where they are.

    Args:
        summary: what the evaluation's metrics.json holds.
        run: a run.json. Metrics of its weights, of those that it began from, and of what has no
            weights (an engine, a file of predictions) may stand beside it.
    """
    if summary.get("weights", UNKNOWN) == UNKNOWN:
        return "it does not say which weights it measured, as ocrkit 0.1.0 wrote it"
    if summary["weights"] in (None, run.get("weights"), run.get("start")):
        return None
    return f"it measured other weights ({summary['weights']}) than this run's"


# --- one training at a time


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder's lock, which the operating system releases when the process ends.

    What a killed takeover left is put back first. On a file system without locks, which is said,
    nobody is refused.

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
        # Its stand-in for a lock, a file that says who holds it, would outlive a killed process.
        return FileLock(path, fallback_to_soft=False)
    except TypeError:  # older than filelock 4, which has no such stand-in
        return FileLock(path)


# --- a new run in the folder of an earlier one


def holds_run(folder: str | Path) -> bool:
    """Whether a run has trained in this folder."""
    folder = Path(folder)
    names = (RUN, LOG, "adapter")
    return any((folder / name).exists() for name in names) or any(folder.glob("checkpoint-*"))


def id_of_run(checkpoint: Path | None) -> str:
    """The id of the run that is about to train: of the one that it resumes, or a new one."""
    known = checkpoint and (read_run(checkpoint).get("id") or read_run(checkpoint.parent).get("id"))
    return known or secrets.token_hex(4)


def resumes(folder: Path, checkpoint: Path | None) -> bool:
    """Whether a checkpoint is of the run that the folder holds, which then goes on."""
    if checkpoint is None:
        return False
    ids = read_run(folder).get("id"), read_run(checkpoint).get("id")
    if checkpoint.resolve().parent == folder.resolve():
        return None in ids or ids[0] == ids[1]
    return None not in ids and ids[0] == ids[1]


def belongings(folder: Path, start: str, used: Iterable[str | Path] = ()) -> list[str]:
    """Paths in a folder that belong to the run it holds, which a new run sets aside.

    These are the files that a run writes, its checkpoints, adapter, exports and reports, and the
    evaluations of its weights. Datasets, evaluations of other weights and other people's files are
    none.

    Args:
        start: fingerprint of the weights that the new run begins from; their evaluations stay.
        used: files and folders that the new run reads and that stay.
    """
    if not holds_run(folder):
        return []
    run = read_run(folder)
    paths = [folder / name for name in (*_OF_A_RUN, "adapter")]
    paths += sorted(folder.glob("checkpoint-*"))
    paths += [path for name in _TRACKERS for path in sorted((folder / name).glob("*"))]
    paths += [path for path in sorted(folder.iterdir()) if _is_output(path)]
    for metrics in sorted(folder.glob("eval/*/metrics.json")):
        summary = json.loads(metrics.read_text(encoding="utf-8"))
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
    """Whether a folder is an export or a report of the kit: by their files and the kit's mark."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    report = {"index.html", "report.json"} <= names
    weights = {"config.json", "adapter_config.json"} & names or any(
        name.endswith(".gguf") for name in names
    )
    if not (report or weights):
        return False
    if report or MANIFEST in names or RUN in names:
        return True
    card = folder / "README.md"
    return card.is_file() and _OUR_CARD.search(card.read_bytes()) is not None


@contextmanager
def taken_over(folder: Path, names: list[str]) -> Iterator[Path | None]:
    """Set aside what belongs to an earlier run while the block writes what the new run needs.

    The paths move to `replaced/<id>/`, which is given to the block; None where nothing moves. An
    error in the block, or a kill before its end, puts everything back (the latter at the next
    start of a training, or when the run is read).
    """
    if not names:
        yield None
        return
    place = folder / REPLACED / (read_run(folder).get("id") or secrets.token_hex(4))
    while place.exists() and any(place.iterdir()):  # copied back by hand, and set aside again
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


def path_after(path: str, folder: Path, names: Iterable[str], place: Path | None) -> str:
    """Where a path into a run folder leads after `taken_over`; the folder itself to the place."""
    if place is None or not path:
        return path
    wanted = Path(path).resolve()
    if wanted == folder.resolve():
        return str(place)
    for name in names:
        with suppress(ValueError):
            return str(place / name / wanted.relative_to((folder / name).resolve()))
    return path


def _put_back(folder: Path) -> None:
    """Undo a takeover that was not finished; nothing where there is none."""
    journal = folder / REPLACED / _JOURNAL
    if not journal.is_file():
        return
    moved = json.loads(journal.read_text(encoding="utf-8"))
    # A stranger's run may say anything.
    if not all(map(is_inner_path, (moved["place"], *moved["names"]))):
        raise ValueError(f"{journal} names files outside {folder}; delete it to go on.")
    place = folder / REPLACED / moved["place"]
    for name in set(_OF_A_RUN) - set(moved["names"]):
        (folder / name).unlink(missing_ok=True)
    for name in moved["names"]:
        if (place / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).replace(folder / name)
    shutil.rmtree(place, ignore_errors=True)
    journal.unlink()


def restore(folder: str | Path) -> None:
    """Put back what a killed takeover left, before a run folder is read."""
    if (Path(folder) / REPLACED / _JOURNAL).is_file():
        # Where it cannot be locked a training is at it, or the folder is read-only.
        with suppress(OSError), locked(Path(folder)):
            pass


def begin_run(
    folder: Path, config: "TrainConfig", run: dict[str, Any], changes: list[dict] | None = None
) -> None:
    """Write what says which run a folder holds: settings, versions, run.json, rows left out.

    Args:
        changes: settings that were changed on resume, as `ocrkit.training.resume` lists them.
    """
    config.save(folder / "config.yaml")
    about = {**versions(config), "changes": changes or []}
    write_whole(folder / "versions.json", json.dumps(about, indent=2) + "\n")
    write_run(folder, run)
    waiting, listed = folder / _SKIPPED_NEXT, folder / SKIPPED
    if waiting.is_file():
        waiting.replace(listed)
        if not listed.stat().st_size:
            listed.unlink()
