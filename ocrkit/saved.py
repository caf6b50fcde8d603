"""Saved evaluations of several runs: what to call them, and what their runs left beside them."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ocrkit.config_error import ConfigError
from ocrkit.evaluation import Evaluation
from ocrkit.run_folder import foreign_weights, read_log, read_run, restore, skipped_counts


def load_evaluations(
    folders: Sequence[Path], names: Sequence[str] | None = None
) -> list[Evaluation]:
    """Load evaluations under names that tell them apart.

    Args:
        folders: where they were saved, such as `runs/s1/eval/tuned`.
        names: one for each; without them its own name, or `s1/tuned` where two have the same.

    Raises:
        ConfigError: there are not as many different names as evaluations.
    """
    evaluations = [Evaluation.load(folder) for folder in folders]
    if not names:
        own = [evaluation.name for evaluation in evaluations]
        names = [
            f"{_run_of(folder).name}/{name}" if own.count(name) > 1 else name
            for folder, name in zip(folders, own)
        ]
    if len(names) != len(evaluations) or len(set(names)) < len(names):
        raise ConfigError(
            f"The names {', '.join(names)} do not tell {len(evaluations)} evaluations apart: "
            "give --names, a different one for each."
        )
    return [replace(evaluation, name=name) for evaluation, name in zip(evaluations, names)]


def told_by_run(folder: Path) -> dict[str, Any]:
    """The `history` and `skipped` of a report, from the run that an evaluation lies in.

    Nothing, which is said, where the evaluation is not of that run's weights.
    """
    run = _run_of(folder)
    restore(run)
    summary = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    if foreign := foreign_weights(summary, read_run(run)):
        print(f"The learning curve in {run} is left out of the report of {folder}: {foreign}.")
        return {}
    return {"history": read_log(run / "train_log.jsonl"), "skipped": skipped_counts(run)}


def _run_of(folder: Path) -> Path:
    """The run folder of an evaluation, which lies there as `eval/NAME`."""
    return folder.resolve().parent.parent
