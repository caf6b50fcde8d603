"""Streaming: read training rows as they are needed, so memory does not grow with the dataset."""

import copy
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from ocrkit.config import TrainConfig
from ocrkit.data.conversation import ConversationTokenizer
from ocrkit.data.lengths import refusal, row_lengths
from ocrkit.data.read_rows import raw_rows, usable_row
from ocrkit.data.rows import Row, dataset_of
from ocrkit.environment import is_main_process
from ocrkit.run_folder import append_skipped

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import ProcessorMixin

# A row as its file holds it: (file, number, line or parquet row).
RawRow = tuple[Path, int, str | dict]


class RowStream(IterableDataset):
    """Endless stream of a split's rows; each epoch is shuffled in a buffer of rows.

    The order depends only on the files and the seed: every worker reads and checks all rows and
    hands on those of its own batches, so that a run resumes with any number of workers. A row holds
    what those of `load_data` do, with pictures that are not decoded yet, and `epoch`, how often it
    was read before. Rows that cannot be used are listed in `<output_dir>/skipped.jsonl` as they are
    met.

    Args:
        files: metadata.jsonl or parquet files of one split.
        config: its `seed`, `shuffle_buffer_size` and `output_dir` are used.
    """

    num_rows = None  # a Dataset knows it, a stream does not

    def __init__(self, files: list[Path], config: TrainConfig):
        self.files, self.config = files, config
        self.processor: ProcessorMixin | None = None
        self.conversation: ConversationTokenizer | None = None
        self.context = 0
        self.batches_read, self.batch_rows = 0, 1
        self.replay: RowStream | None = None
        self.replay_share = 0.0

    def fitting(self, processor: "ProcessorMixin", context: int) -> "RowStream":
        """Return this stream without rows of more than `context` tokens."""
        stream = copy.copy(self)
        stream.processor, stream.context = processor, context
        stream.conversation = ConversationTokenizer(processor)
        return stream

    def mixed_with(self, replay: "RowStream", share: float) -> "RowStream":
        """Return this stream with rows of another in between, spread evenly.

        Args:
            share: of the rows that are the other's.
        """
        stream = copy.copy(self)
        stream.replay, stream.replay_share = replay, share
        return stream

    def after(self, batches: int, batch_rows: int) -> "RowStream":
        """Return this stream from where it is after a number of batches.

        Args:
            batches: batches that were read.
            batch_rows: rows of a batch, over all processes.
        """
        stream = copy.copy(self)
        stream.batches_read, stream.batch_rows = batches, batch_rows
        return stream

    def take(self, count: int) -> "Dataset":
        """Return the first usable rows, in the files' order, as a Dataset."""
        rows: list[Row] = []
        for row, _ in self._checked(self._raw()):
            if row is not None:
                rows.append(row)
            if len(rows) == count:
                break
        return dataset_of(rows)

    def __iter__(self) -> Iterator[Row]:
        """Iterate over rows, from the batch on at which the stream begins."""
        worker = get_worker_info()
        count, number = (worker.num_workers, worker.id) if worker else (1, 0)
        for index, row in enumerate(self._mixed(lists=number == 0)):
            batch = index // self.batch_rows - self.batches_read
            # The loader asks its workers for batches in turn, beginning with the first.
            if batch >= 0 and batch % count == number:
                yield row

    def _mixed(self, lists: bool) -> Iterator[Row]:
        """Iterate over the usable rows of this stream and of `replay`."""
        own = self._usable(lists)
        if self.replay is None:
            yield from own
            return
        replayed, share = self.replay._usable(lists), self.replay_share
        for index in itertools.count():
            row = next(replayed if int((index + 1) * share) > int(index * share) else own, None)
            if row is None:
                return
            yield row

    def _usable(self, lists: bool) -> Iterator[Row]:
        """Iterate over the usable rows of all epochs.

        Args:
            lists: list the rows of the first epoch that cannot be used.
        """
        epoch, has_rows = 0, True
        while has_rows:
            rng, has_rows = np.random.default_rng([self.config.seed, epoch]), False
            for row, problem in self._checked(self._raw(rng)):
                if row is not None:
                    has_rows = True
                    yield {**row, "epoch": epoch}
                elif problem and lists and not epoch and is_main_process():
                    append_skipped(self.config.output_dir, problem)
            epoch += 1

    def _raw(self, rng: np.random.Generator | None = None) -> Iterator[RawRow]:
        """Read the rows as their files hold them, shuffled where `rng` is set."""
        order = rng.permutation(len(self.files)) if rng else range(len(self.files))
        rows = ((self.files[i], *row) for i in order for row in raw_rows(self.files[i]))
        return _shuffled(rows, self.config.shuffle_buffer_size, rng) if rng else rows

    def _checked(
        self, rows: Iterator[RawRow]
    ) -> Iterator[tuple[Row | None, dict[str, str] | None]]:
        """Yield (row, None), or (None, problem) for one that cannot be used or does not fit."""
        for path, number, raw in rows:
            row, problem = usable_row(path, number, raw, self.config.prompts)
            if row is not None and self.processor is not None and self.conversation is not None:
                known = self.processor, self.config, self.conversation
                (length,) = row_lengths([row], *known)
                if length > self.context:
                    detail = f"{length} tokens, the context holds {self.context}"
                    problem = {"reason": "longer than the context", "detail": detail}
                    if math.isinf(length):
                        problem = refusal(row, *known)
                    row, problem = None, {"where": f"{path}:{number}", **problem}
            yield row, problem


def _shuffled(rows: Iterator[RawRow], size: int, rng: np.random.Generator) -> Iterator[RawRow]:
    """Shuffle rows in a buffer of at most `size` of them."""
    buffer: list[RawRow] = []
    for row in rows:
        if len(buffer) < size:
            buffer.append(row)
            continue
        place = int(rng.integers(size))
        buffer[place], row = row, buffer[place]
        yield row
    yield from (buffer[i] for i in rng.permutation(len(buffer)))
