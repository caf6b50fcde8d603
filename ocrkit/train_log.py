"""A run's train_log.jsonl: what was logged at which step."""

import json
from pathlib import Path
from typing import Any


def append_log(path: str | Path, entry: dict[str, Any]) -> None:
    """Add one line to a train_log.jsonl; `entry` holds its `step`."""
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """The entries of a train_log.jsonl; a line cut off by a crash is left out."""
    entries = []
    if Path(path).is_file():
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            try:
                entries.append(json.loads(line))
            except ValueError:
                continue
    return entries
