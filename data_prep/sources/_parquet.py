"""Parquet files, read in small batches."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from data_prep.dataset.archive import Tree
from data_prep.dataset.pictures import PictureError
from data_prep.dataset.schema import Reject

if TYPE_CHECKING:
    from pyarrow import RecordBatch


def read_batches(tree: Tree, name: str, rows: int) -> "Iterator[RecordBatch | Reject]":
    """Batches of at most `rows` rows; a broken file ends with a Reject."""
    import pyarrow.parquet

    try:
        with tree.open(name) as stream:
            file = pyarrow.parquet.ParquetFile(stream, buffer_size=2**20, pre_buffer=False)
            yield from file.iter_batches(rows, use_threads=False)
    except PictureError as error:
        yield Reject(name, error.reason, error.detail)
    except Exception as error:  # pyarrow, zlib and lzma raise errors without a common type
        message = f"{type(error).__name__}: {error}".splitlines()[0]
        yield Reject(name, "unreadable parquet", message[:200])


def read_parquet(tree: Tree, name: str) -> Iterator[tuple[int, dict | Reject]]:
    """(row number from 0, {column: value}); batches are small, for rows may hold pictures."""
    number = 0
    for batch in read_batches(tree, name, rows=16):
        if isinstance(batch, Reject):
            yield number, batch
            return
        for record in batch.to_pylist():
            yield number, record
            number += 1
