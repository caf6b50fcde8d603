"""Datasets for other trainers: tesstrain's pairs, Donut's metadata, LLaMA-Factory's messages."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from data_prep.dataset.schema import IMAGE, SPLITS, DataError, content_text, dump_json, parse_json
from data_prep.dataset.summary import Summary

TEXT_SEQUENCE = "text_sequence"  # Donut's key of a transcription


def write_pairs(staging: Path, split: str) -> None:
    """Write a split as pairs of `<id>.png` and `<id>.gt.txt` (of an extraction `<id>.json`).

    tesstrain, kraken and Calamari read lines so. The split's metadata.jsonl is deleted.

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
    """Rewrite a split's metadata.jsonl for Donut: `file_name` and `ground_truth`, a text of JSON.

    An extraction is the `gt_parse` of it; a transcription is its `text_sequence`; a question with
    its right answers is `gt_parses`.

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
    """The ground truth of a row in the form of Donut's training data."""
    text = row["completion"][0]["content"]
    if row["task"] == "extraction":
        return {"gt_parse": parse_json(text)}
    if row["task"] == "transcription":
        return {"gt_parse": {TEXT_SEQUENCE: text}}
    question = content_text(row["prompt"][-1]["content"])
    answers = row.get("answers") or [text]
    return {"gt_parses": [{"question": question, "answer": answer} for answer in answers]}


def rows_of(folder: Path, format: str, tasks: tuple[str, ...]) -> Iterator[dict]:
    """Read the rows of a split; DataError for other tasks or several pictures in a row."""
    unfit: Counter[str] = Counter()
    for row in read_rows(folder):
        if len(row["images_file_names"]) != 1:
            unfit["show several pictures"] += 1
        elif row["task"] not in tasks:
            unfit[f"are of the task {row['task']}"] += 1
    if unfit:
        kinds = ", ".join(f"{count} rows {kind}" for kind, count in unfit.items())
        raise DataError(f"--format {format} cannot hold this dataset: {kinds}; convert without it.")
    yield from read_rows(folder)


def read_rows(folder: Path) -> Iterator[dict]:
    """Read the rows of a split's metadata.jsonl."""
    with (folder / "metadata.jsonl").open(encoding="utf-8", newline="\n") as file:
        yield from map(json.loads, file)


def as_messages(row: dict, split: str) -> str:
    """Convert a row to the line of JSON that ms-swift and LLaMA-Factory read.

    `<image>` marks each picture; pictures are named from the dataset's folder. Changes `row`.
    """
    images = row.pop("images_file_names")
    messages = row.pop("prompt") + row.pop("completion")
    if any(isinstance(message["content"], list) for message in messages):
        for message in messages:
            message["content"] = content_text(message["content"], IMAGE)
    else:
        first = next(message for message in messages if message["role"] == "user")
        first["content"] = IMAGE * len(images) + first["content"]
    paths = [f"{split}/{image}" for image in images]
    return dump_json({"id": row.pop("id"), "messages": messages, "images": paths, **row}) + "\n"


def write_dataset_info(staging: Path, summary: Summary, name: str) -> None:
    """Write dataset_info.json, by which LLaMA-Factory reads rows of messages.

    Its `dataset_dir` is the dataset's folder, from which pictures are named; it calls a split
    `<folder>_<split>`.
    """
    tags = {"role_tag": "role", "content_tag": "content"}
    tags |= {"user_tag": "user", "assistant_tag": "assistant", "system_tag": "system"}
    info = {
        f"{name}_{split}": {
            "file_name": f"{split}.jsonl",
            "formatting": "sharegpt",
            "columns": {"messages": "messages", "images": "images"},
            "tags": tags,
        }
        for split in SPLITS
        if summary.splits[split]
    }
    text = json.dumps(info, ensure_ascii=False, indent=1)
    (staging / "dataset_info.json").write_text(text + "\n", encoding="utf-8")


WRITERS = {"pairs": write_pairs, "donut": write_donut}
