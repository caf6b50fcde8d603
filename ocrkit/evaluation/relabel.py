"""Relabelling: a person checks the labels that a report suspects, in a new dataset folder."""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from data_prep.dataset.crops import to_png
from data_prep.dataset.files import json_lines, read_json_lines, write_whole
from data_prep.dataset.pictures import open_image, read_file
from data_prep.dataset.schema import Item, Picture, Reject
from data_prep.dataset.write import write_dataset
from data_prep.sources import slug
from ocrkit.data.rows import Row, text_of, undecoded
from ocrkit.evaluation.analysis import suspect_labels
from ocrkit.evaluation.evaluation import Evaluation
from ocrkit.evaluation.labelling import DRAFTS, SAMPLES, Labels
from ocrkit.metrics.edits import process_cer

if TYPE_CHECKING:
    from datasets import Dataset


def relabel(
    evaluation: Evaluation,
    folder: str | Path,
    data: "Mapping[str, Any] | None" = None,
    worst: int = 20,
) -> Labels:
    """Make a labelling folder of the suspect labels of an evaluation, then of its worst rows.

    Suspect: read confidently and otherwise than the label; the text box begins with the reading.
    For the worst it begins with the label. `write_corrected` writes what was changed. Where no
    label is suspect and no row is read wrong, that is printed, and the folder holds no samples.

    Args:
        evaluation: of the rows whose labels are checked.
        folder: the labelling folder; one that is there already is opened and goes on.
        data: splits whose pictures are shown where the records have none.
        worst: how many of the worst rows to show besides.
    """
    folder = Path(folder)
    if (folder / SAMPLES).is_file() and (labels := Labels(folder)).samples:
        return labels
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    suspects = [record for record, _ in suspect_labels([evaluation.records])]
    chosen = {record["id"]: (record, "suspect label") for record in suspects}
    rates = [
        process_cer([r["reference"]], [r.get("prediction") or ""]).rate for r in evaluation.records
    ]
    order = sorted(range(len(rates)), key=lambda number: -rates[number])
    for number in order[:worst]:
        if rates[number] > 0:
            record = evaluation.records[number]
            chosen.setdefault(record["id"], (record, "among the worst"))
    if not chosen:
        print(f"{evaluation.name}: no label is suspect, and nothing was read wrong.")
    pictures = _pictures_of(data or {}, set(chosen))
    samples, drafts = [], []
    for id, (record, why) in chosen.items():
        image: Any = record.get("image")
        image = image() if isinstance(image, Callable) else image
        name = f"pictures/{slug(str(id))}.png"
        picture = open_image(image if image is not None else pictures[id])
        write_whole(folder / name, to_png(picture))
        read, label = record.get("prediction") or "", record["reference"]
        samples.append(
            {
                "id": str(id),
                "file": name,
                "group": str(record.get("group") or id),
                "language": record.get("language") or "und",
                "where": str(id),
                "label": label,
                "read": read,
                "why": why,
            }
        )
        text = read if why == "suspect label" else label
        drafts.append({"id": str(id), "prediction": text, "confidence": record.get("confidence")})
    write_whole(folder / DRAFTS, json_lines(drafts))
    write_whole(folder / SAMPLES, json_lines(samples))
    return Labels(folder)


def _pictures_of(data: Mapping[str, Any], ids: set) -> dict[Any, Any]:
    rows = (row for split in data.values() for row in undecoded(split))
    return {row["id"]: row["images"][0] for row in rows if row["id"] in ids}


def write_corrected(data: "Mapping[str, Dataset]", labels: Labels, out: str | Path) -> list[dict]:
    """Write a dataset as a new folder with corrected labels, and changes.jsonl beside its splits.

    Rows that cannot be read become rejects; skipped ones, and those not answered yet, keep their
    label. The splits stay.

    Args:
        data: as `load_data` returns it; nothing of it is changed.
        labels: from `relabel`.
        out: the new dataset folder.

    Returns:
        The changes: {id, split, old, new, why}; `new` is None for a row that cannot be read.

    Raises:
        DataError: `out` holds something else.
    """
    samples = {sample["id"]: sample for sample in labels.samples}
    changes: list[dict] = []

    def items() -> Iterator[Item | Reject]:
        for split, rows in data.items():
            for row in undecoded(rows):
                answer = labels.answers.get(row["id"], {})
                old, why = text_of(row["completion"]), samples.get(row["id"], {}).get("why")
                change = {"id": row["id"], "split": split, "old": old, "new": None, "why": why}
                if answer.get("action") == "unreadable":
                    changes.append(change)
                    yield Reject(row["id"], "cannot be read", "by the person who labelled")
                    continue
                new = answer["text"] if answer.get("action") == "take" else old
                if new != old:
                    changes.append(change | {"new": new})
                yield _item(row, new, split)

    settings = {"seed": 0, "layout": "prompt_completion", "answers": labels.checksum()}
    write_dataset(items, out, "labels", [str(labels.folder)], settings, None)
    path = Path(out) / "changes.jsonl"
    if changes or not path.is_file():
        write_whole(path, json_lines(changes))
    return list(read_json_lines(path))


def _item(row: Row, text: str, split: str) -> Item:
    meta = row.get("meta")
    pictures = [Picture(partial(_picture_bytes, image)) for image in row["images"]]
    return Item(
        key=row["id"],
        where=row["id"],
        text=text,
        pictures=pictures,
        group=row.get("group") or row["id"],
        language=row.get("language") or "und",
        task=row.get("task") or "transcription",
        split=split,
        prompt=cast("list", row["prompt"]),
        meta=json.loads(meta) if meta else {},
        answers=row.get("answers"),
    )


def _picture_bytes(image: str | dict[str, Any]) -> bytes:
    if isinstance(image, dict) and image.get("bytes") is not None:
        return image["bytes"]
    return read_file(image["path"] if isinstance(image, dict) else str(image))
