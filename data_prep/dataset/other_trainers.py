"""Writes a dataset as other trainers read it: pairs of picture and text, or Donut's metadata."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from data_prep.dataset.schema import DataError, content_text, dump_json, parse_json

TEXT_SEQUENCE = "text_sequence"  # how Donut names the text of a picture that is only read


def write_pairs(staging: Path, split: str) -> None:
    """Make a split's folder pairs: `<id>.png` and `<id>.gt.txt`, or `<id>.json` of an extraction.

    So tesstrain, kraken and Calamari read lines.

    Raises:
        DataError: a row shows several pictures or asks a question, which no pair holds.
    """
    folder = staging / split
    for row in rows_of(folder, "pairs", ("transcription", "extraction")):
        text = row["completion"][0]["content"]
        ending = ".json" if row["task"] == "extraction" else ".gt.txt"
        (picture,) = row["images_file_names"]
        os.link(folder / picture, folder / f"{row['id']}{Path(picture).suffix}")
        (folder / f"{row['id']}{ending}").write_text(f"{text}\n", encoding="utf-8")
    (folder / "metadata.jsonl").unlink()
    shutil.rmtree(folder / "images")


def write_donut(staging: Path, split: str) -> None:
    """Make a split's metadata.jsonl Donut's: `file_name` and `ground_truth`, a text of JSON.

    An extraction is its `gt_parse`; a text stands there under `text_sequence`; a question and its
    right answers are `gt_parses`.

    Raises:
        DataError: a row shows several pictures, which Donut does not read.
    """
    folder = staging / split
    kept = ("id", "group", "language", "task")
    with (folder / "donut.jsonl").open("w", encoding="utf-8", newline="\n") as file:
        for row in rows_of(folder, "donut", ("transcription", "extraction", "vqa")):
            (picture,) = row["images_file_names"]
            truth = dump_json(donut_truth(row))
            line = {"file_name": picture, "ground_truth": truth} | {
                name: row[name] for name in kept
            }
            file.write(dump_json(line) + "\n")
    (folder / "donut.jsonl").replace(folder / "metadata.jsonl")


def donut_truth(row: dict) -> dict:
    """What a row's picture says, as Donut's training data has it."""
    text = row["completion"][0]["content"]
    if row["task"] == "extraction":
        return {"gt_parse": parse_json(text)}
    if row["task"] == "transcription":
        return {"gt_parse": {TEXT_SEQUENCE: text}}
    question = content_text(row["prompt"][-1]["content"])
    answers = row.get("answers") or [text]
    return {"gt_parses": [{"question": question, "answer": answer} for answer in answers]}


def rows_of(folder: Path, format: str, tasks: tuple[str, ...]) -> Iterator[dict]:
    """The rows of a split, which must all be of the tasks and show one picture."""
    unfit: Counter[str] = Counter()
    for row in read_rows(folder):
        if len(row["images_file_names"]) != 1:
            unfit["show several pictures"] += 1
        elif row["task"] not in tasks:
            unfit[f"are of the task {row['task']}"] += 1
    if unfit:
        kinds = ", ".join(f"{count} rows {kind}" for kind, count in unfit.items())
        raise DataError(f"--format {format} cannot hold this dataset: {kinds}; leave it out.")
    yield from read_rows(folder)


def read_rows(folder: Path) -> Iterator[dict]:
    """The rows of a split's metadata.jsonl."""
    with (folder / "metadata.jsonl").open(encoding="utf-8", newline="\n") as file:
        yield from map(json.loads, file)


WRITERS = {"pairs": write_pairs, "donut": write_donut}
