"""What a run leaves in its folder: versions, log, and the rows that it left out."""

import hashlib
import json
import os
import platform
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ocrkit.config import TrainConfig
from ocrkit.processes import is_main_process, process_count

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


def versions(config: TrainConfig) -> dict[str, Any]:
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

    Args:
        skipped: `{where, reason, detail}` each.
        place: what was listed before with a `where` that begins so is replaced.
    """
    if not is_main_process():
        return
    path = Path(output_dir) / "skipped.jsonl"
    kept = [e for e in _skipped(output_dir) if not (place and e["where"].startswith(place))]
    if not kept and not skipped:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in [*kept, *skipped])
    path.write_text(text, encoding="utf-8")
    counts = Counter(entry["reason"] for entry in skipped)
    if counts:
        listed = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
        print(f"{len(skipped)} rows left out ({listed}); see {path}")


def skipped_counts(output_dir: str | os.PathLike) -> dict[str, int]:
    """Reasons for rows left out of this run, with their numbers."""
    return dict(Counter(entry["reason"] for entry in _skipped(output_dir)))


def _skipped(output_dir: str | os.PathLike) -> list[dict[str, str]]:
    path = Path(output_dir) / "skipped.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
