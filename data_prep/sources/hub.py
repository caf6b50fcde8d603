"""A dataset of the Hugging Face Hub by its id, streamed, or a folder of parquet files.

`owner/name` or `owner/name:configuration`; its columns are named by options.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from data_prep.dataset.archive import Tree
from data_prep.dataset.pictures import PictureError, read_file
from data_prep.dataset.schema import DataError, Item, Picture, Reject, one_line
from data_prep.dataset.split import official_split
from data_prep.sources import slug, stem
from data_prep.sources._parquet import read_parquet
from data_prep.sources.table import read_text

EXAMPLE = "owner/name --image-column image --text-column text --language bn --out data/hub"
TASKS = ("transcription", "extraction")
OPTIONS = {"image_column": "image", "text_column": "text", "group_column": None, "language": "und"}


def rows(path: str, options: SimpleNamespace) -> Iterator[Item | Reject]:
    """One item per record; splits are the dataset's own."""
    tree = Tree(path) if Path(path).exists() else None
    names = list(tree.files("*.parquet")) if tree else []
    records = local_records(tree, names) if tree and names else hub_records(path, options)
    for key, where, split, record in records:
        if isinstance(record, Reject):
            yield record
            continue
        for column in (options.image_column, options.text_column, options.group_column):
            if column and column not in record:
                columns = one_line(", ".join(record))[:300]
                raise DataError(f"{where} has no column {column!r}; its columns are {columns}.")
        try:
            load = image_loader(record[options.image_column])
            text = read_text(record[options.text_column], options.task)
        except PictureError as error:
            yield Reject(where, error.reason, error.detail)
            continue
        except ValueError as error:
            yield Reject(where, *error.args)
            continue
        yield Item(
            key=key,
            where=where,
            text=text,
            pictures=[Picture(load)],
            group=str(record[options.group_column]) if options.group_column else key,
            language=options.language,
            task=options.task,
            split=split,
        )


Record = tuple[str, str, str | None, dict | Reject]


def local_records(tree: Tree, names: list[str]) -> Iterator[Record]:
    """(key, place, split, record) of parquet files."""
    for name in names:
        for number, record in read_parquet(tree, name):
            key = f"{slug(stem(name))}-{number:06d}"
            yield key, f"{name} row {number}", tree.label_split(name), record


def hub_records(path: str, options: SimpleNamespace) -> Iterator[Record]:
    """(key, place, split, record) of a dataset that `datasets` streams, its pictures undecoded."""
    import datasets

    name, _, configuration = path.partition(":")
    try:
        dataset = datasets.load_dataset(name, configuration or None, streaming=True)
    except Exception as error:  # no network, no such id, gated: errors of many types
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} cannot be loaded as a dataset ({message[:300]}).") from None
    for split_name, records in dataset.items():
        split = str(split_name)
        if isinstance((records.features or {}).get(options.image_column), datasets.Image):
            records = records.cast_column(options.image_column, datasets.Image(decode=False))
        for number, record in enumerate(records):
            place = f"{path} {split} {number}"
            yield f"{slug(split)}-{number:06d}", place, official_split(split), record


def image_loader(value: object) -> partial:
    """Reads a picture of a column: {bytes, path}, bytes or a path."""
    data = value.get("bytes") if isinstance(value, dict) else value
    path = value.get("path") if isinstance(value, dict) else value
    if isinstance(data, bytes):
        return partial(bytes, data)
    if isinstance(path, str) and Path(path).is_file():
        return partial(read_file, path)
    raise PictureError("missing image", str(path)[:200])
