"""bengali.ai handwritten graphemes: train.csv and parquet files of 137x236 pixels."""

import csv
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace

from data_prep.dataset.archive import Tree
from data_prep.dataset.pictures import bitmap
from data_prep.dataset.schema import DataError, Item, Picture, Reject
from data_prep.sources import folder_of
from data_prep.sources._parquet import read_batches

EXAMPLE = "bengaliai-cv19 --out data/graphemes"
TASKS = ("transcription",)
OPTIONS: dict = {}
HEIGHT, WIDTH = 137, 236
ID = "image_id"
BATCH = 256
PARTS = ("grapheme_root", "vowel_diacritic", "consonant_diacritic")


def rows(path: str, options: SimpleNamespace) -> Iterator[Item | Reject]:
    """One item per picture; pictures are read from the parquet files beside train.csv.

    The competition's light parts of test.csv have no graphemes and are not read.
    """
    tree = Tree(path, options)
    for table in tree.files("train.csv"):
        labels = read_labels(tree, table)
        seen = 0
        for name in tree.files("train*.parquet"):
            if folder_of(name) != folder_of(table):
                continue
            for number, record in read_pixels(tree, name):
                where = f"{name} row {number}"
                if isinstance(record, Reject):
                    yield record
                    continue
                yield read_record(record, labels, where, f"{seen:06d}")
                seen += 1
        for image in labels:
            yield Reject(f"{table} {image}", "missing image", "no parquet file has its pixels")


def read_labels(tree: Tree, name: str) -> dict[str, tuple[str, dict]]:
    """{image id: (grapheme, classes of its parts)} of train.csv."""
    reader = csv.DictReader(line + "\n" for _, line in tree.lines(name, blank=True))
    if not {"image_id", "grapheme"} <= set(reader.fieldnames or ()):
        raise DataError(f"{name} lacks the columns image_id and grapheme; is it bengali.ai's?")
    return {
        record["image_id"]: (record["grapheme"] or "", {part: record.get(part) for part in PARTS})
        for record in reader
    }


def read_pixels(tree: Tree, name: str) -> Iterator[tuple[int, tuple[str, bytes] | Reject]]:
    """(row number, (image id, its pixels)) of a parquet file, one column per pixel.

    Whole columns are turned at once: 32,332 values a row are too many to handle one by one.
    """
    import numpy as np

    number = 0
    for batch in read_batches(tree, name, BATCH):
        if isinstance(batch, Reject):
            yield number, batch
            return
        columns = [column for field, column in zip(batch.schema, batch.columns) if field.name != ID]
        if ID not in batch.schema.names or any(str(column.type) != "uint8" for column in columns):
            yield number, Reject(name, "unreadable parquet", f"no {ID} and uint8 pixels")
            return
        pixels = np.stack([column.to_numpy(zero_copy_only=False) for column in columns], axis=1)
        for image, line in zip(batch.column(ID).to_pylist(), pixels):
            yield number, (str(image), line.tobytes())
            number += 1


def read_record(record: tuple[str, bytes], labels: dict, where: str, key: str) -> Item | Reject:
    """A parquet row as an item; what is left in `labels` afterwards has no picture."""
    image, pixels = record
    if image not in labels:
        return Reject(where, "missing annotation", f"train.csv has no {image}")
    text, parts = labels.pop(image)
    if len(pixels) != WIDTH * HEIGHT:
        return Reject(where, "malformed record", f"{len(pixels)} pixels, not {WIDTH * HEIGHT}")
    picture = Picture(partial(bitmap, pixels, WIDTH, HEIGHT))
    return Item(key, where, text, [picture], image, "bn", meta={"id": image, **parts})
