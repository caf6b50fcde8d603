"""What a run or a measurement was made with."""

import hashlib
import platform
import shutil
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ocrkit.config import TrainConfig
from ocrkit.processes import process_count

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


def versions(config: TrainConfig) -> dict[str, Any]:
    """What a run was made with: packages, Python, processes, commit, a hash of dataset.json."""
    commit = ""
    if shutil.which("git"):
        command = ["git", "rev-parse", "HEAD"]
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
        commit = done.stdout.strip()
    description = Path(config.dataset) / "dataset.json"
    digest = None
    if description.is_file():
        digest = hashlib.sha256(description.read_bytes()).hexdigest()[:16]
    return {
        "python": platform.python_version(),
        "packages": package_versions(PACKAGES),
        "processes": process_count(),
        "commit": commit or None,
        "dataset": digest,
    }
