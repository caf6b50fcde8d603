"""Writing of a dataset folder: all of it or nothing, the same for any number of processes.

Rows and pictures are written to a staging folder beside the target, dealt to their splits in it,
and the staging folder is renamed.
"""

import argparse
import contextlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.dataset.command import check_choice, expand_home
from data_prep.dataset.files import naming
from data_prep.dataset.other_trainers import WRITERS, as_messages, write_dataset_info
from data_prep.dataset.rows import REJECTS, STAGED_PICTURES, STAGED_ROWS, write_rows
from data_prep.dataset.schema import (
    SPLITS,
    DataError,
    Item,
    Reject,
    UsageError,
    dump_json,
    in_parts,
    printable,
)
from data_prep.dataset.split import DEFAULT_SHARES, assign_splits, join_groups
from data_prep.dataset.staging import rename_folder, staging_folder
from data_prep.dataset.summary import Summary

if TYPE_CHECKING:
    import numpy as np

FORMATS = ("imagefolder", "parquet", *WRITERS)
LAYOUTS = ("prompt_completion", "messages")


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Add --layout and --format, which every command that writes a dataset has."""
    add = parser.add_argument
    add("--layout", default=LAYOUTS[0], choices=LAYOUTS, help="columns of a row")
    add(
        "--format",
        default=FORMATS[0],
        choices=FORMATS,
        help="files (default); parquet with the pictures in; pairs of picture and .gt.txt, for "
        "Tesseract, kraken and Calamari; or Donut's metadata.jsonl",
    )


def check_output(layout: str, format: str) -> None:
    """Raise a UsageError where --layout and --format do not exist or cannot be combined."""
    check_choice("layout", layout, LAYOUTS)
    check_choice("format", format, FORMATS)
    if format != FORMATS[0] and layout != LAYOUTS[0]:
        raise UsageError(f"--format {format} has --layout {LAYOUTS[0]} only.")


def output_settings(layout: str, format: str) -> dict[str, str]:
    """The settings that dataset.json of a synthesizer states for --layout and --format.

    A default format is left out, as in datasets of version 0.1.0.
    """
    check_output(layout, format)
    return {"layout": layout} | ({"format": format} if format != FORMATS[0] else {})


def write_dataset(
    items: Callable[[], Iterable[Item | Reject]],
    out: str | Path,
    source: str,
    inputs: list[str],
    settings: dict,
    shares: tuple[float, ...] | None,
    workers: int = 1,
    progress: bool = True,
    hint: str = "",
    total: int | None = None,
    notes: list[str] | None = None,
) -> dict:
    """Write items as the dataset folder `out`; returns its dataset.json.

    Args:
        items: called once, and only where `out` does not already hold this very dataset.
        settings: all that decides the result; it must hold `seed` and `layout`.
        shares: of train, validation and test; None keeps the splits that items name.
        workers: processes that read and cut pictures; the result does not depend on them.
        progress: whether to draw a progress bar on stderr.
        hint: text added to the error where the source yields nothing.
        total: items to come, where that is known, for the progress bar.
        notes: sentences for dataset.json, which the source may add to while it is read.

    Raises:
        DataError: nothing became a row, or `out` holds something else.
        OSError: the disk is full or cannot be written; nothing is left behind.
    """
    out = expand_home(Path(out))
    if done := finished(out, source, inputs, settings):
        return done
    with naming(out), staging_folder(out) as staging:
        summary = Summary()
        staged = write_rows(items(), staging, settings, workers, progress, summary, source, total)
        if not staged.keys:
            hint = "".join(f"; {note}" for note in notes or ()) + hint
            raise DataError(nothing_found(source, inputs, summary, hint, staging, out))
        first = None
        if shares is None and any(staged.official):
            # A row whose split is not stated must not get into a test set.
            places: Iterable[int] = [code - 1 if code else 0 for code in staged.official]
        else:
            keys = staged.keys
            first = join_groups(keys, staged.rows, staged.links)
            if first is not None:
                keys = [keys[row] for row in first.tolist()]
            places = assign_splits(keys, shares or DEFAULT_SHARES)
        deal_rows(staging, places, settings["layout"], summary, first)
        if settings["layout"] == "messages":
            write_dataset_info(staging, summary, out.name)
        summary.notes = notes or []
        if settings.get("format") == "parquet":
            pack_parquet(staging, summary)
        elif settings.get("format") in WRITERS:
            for split in list(summary.splits):
                WRITERS[settings["format"]](staging, split)
        result = summary.to_dict(source, inputs, settings)
        text = json.dumps(result, ensure_ascii=False, indent=1)
        (staging / "dataset.json").write_text(printable(text) + "\n", encoding="utf-8")
        (out / REJECTS).unlink(missing_ok=True)  # of a conversion that made no row
        rename_folder(staging, out)
    return result


def finished(out: Path, source: str, inputs: list[str], options: dict) -> dict | None:
    """The dataset.json of `out` where this very command made it; DataError if it holds others."""
    # A conversion that made no row leaves its rejects, for a person to look at.
    if not out.exists() or (out.is_dir() and {path.name for path in out.iterdir()} <= {REJECTS}):
        return None
    try:
        existing = json.loads((out / "dataset.json").read_text(encoding="utf-8"))
        # An option that an older version did not have counts as not given.
        known = {k: v for k, v in options.items() if v or k in existing["options"]}
        wanted = {"source": source, "inputs": inputs, "options": known}
        if {key: existing[key] for key in wanted} == json.loads(json.dumps(wanted)):
            return existing
        content = f"a dataset made from {existing['source']} with other inputs or options"
    except (OSError, ValueError, KeyError, TypeError):
        content = "something else"
    raise DataError(f"{out} already holds {content}; choose another --out or remove it.")


def nothing_found(
    source: str, inputs: list[str], summary: Summary, hint: str, staging: Path, out: Path
) -> str:
    """The error message of a conversion without a row, whose rejects are copied to `out`."""
    where = ", ".join(inputs)
    if not summary.found:
        return f"{where}: nothing of {source} is here{hint}"
    out.mkdir(exist_ok=True)
    shutil.copyfile(staging / REJECTS, out / REJECTS)
    with (out / REJECTS).open(encoding="utf-8") as file:
        rejects = [json.loads(line) for line in itertools.islice(file, 2)]
    examples = "; ".join(f"{r['where']}: {r['detail'] or r['reason']}" for r in rejects)
    reasons = ", ".join(f"{count} {reason}" for reason, count in summary.rejects.most_common(3))
    way_out = ""
    if summary.rejects.most_common(1)[0][0] == "missing image":
        way_out = (
            "--images DIR names the folder that the pictures lie below, if the source takes it; "
        )
    return (
        f"{where}: none of {summary.found} items became a row ({reasons}), such as {examples}; "
        f"{way_out}{out / REJECTS} lists all of them."
    )


# --- from staged rows to splits


def deal_rows(
    staging: Path,
    places: Iterable[int],
    layout: str,
    summary: Summary,
    first: "np.ndarray | None" = None,
) -> None:
    """Move staged rows and their pictures to their splits.

    Args:
        staging: the staging folder.
        places: the index of each row's split in SPLITS.
        layout: "prompt_completion" or "messages".
        summary: whose `splits` are counted here.
        first: the number of the row whose group each row takes; None keeps all groups.
    """
    groups: dict[int, str] = {}  # of rows whose group others take
    leaders: set[int] = set()
    if first is not None:
        leaders = {int(leader) for row, leader in enumerate(first) if leader != row}
    with (
        contextlib.ExitStack() as files,
        (staging / STAGED_ROWS).open(encoding="utf-8", newline="\n") as rows,
    ):
        writers: dict[str, Callable[[str], object]] = {}
        for number, (line, place) in enumerate(zip(rows, places)):
            split = SPLITS[place]
            if split not in writers:
                name = f"{split}.jsonl" if layout == "messages" else f"{split}/metadata.jsonl"
                (staging / split).mkdir()
                file = (staging / name).open("w", encoding="utf-8", newline="\n")
                writers[split] = files.enter_context(file).write
            row = json.loads(line)
            if number in leaders:
                groups[number] = row["group"]
            if first is not None and row["group"] != groups.get(int(first[number]), row["group"]):
                row["group"] = groups[int(first[number])]
                line = dump_json(row) + "\n"
            if summary.has_parts and layout == "prompt_completion":
                # A column of Arrow, which `load_dataset` reads into, holds one type only.
                row["prompt"] = in_parts(row["prompt"], len(row["images_file_names"]))
                line = dump_json(row) + "\n"
            for image in row["images_file_names"]:
                file_name = image.rpartition("/")[2]
                move(f"{staging}/{STAGED_PICTURES}/{file_name}", staging, split, image)
            summary.splits[split] += 1
            writers[split](line if layout == "prompt_completion" else as_messages(row, split))
    (staging / STAGED_ROWS).unlink()
    shutil.rmtree(staging / STAGED_PICTURES)


def pack_parquet(staging: Path, summary: Summary) -> None:
    """Replace the folder of every split by parquet files with its rows and pictures."""
    from data_prep.dataset.parquet import write_shards

    for split in list(summary.splits):
        columns = {"parts": summary.has_parts, "answers": summary.has_answers}
        with (staging / split / "metadata.jsonl").open(encoding="utf-8", newline="\n") as rows:
            write_shards(rows, staging / split, staging / "data", split, **columns)
        shutil.rmtree(staging / split)


def move(old: str, staging: Path, split: str, image: str) -> None:
    """Rename a staged picture to its path in a split, and make the folder.

    A picture of several rows is moved by the first, and copied where another is in another split.
    """
    new = f"{staging}/{split}/{image}"
    try:
        os.rename(old, new)  # noqa: PTH104 (a Path a row costs more than the renaming)
    except FileNotFoundError:
        if Path(new).exists():
            return
        Path(new).parent.mkdir(parents=True, exist_ok=True)
        if Path(old).exists():
            Path(old).rename(new)
            return
        moved = next(p for other in SPLITS if (p := staging / other / image).exists())
        shutil.copyfile(moved, new)
