"""Training rows read as they are needed: memory does not grow with the dataset."""

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from ocrkit.config import TrainConfig
from ocrkit.data.collate import Collator, refusal, token_lengths
from ocrkit.data.rows import dataset_of, raw_rows, usable_row
from ocrkit.environment import is_main_process
from ocrkit.run_folder import append_skipped


class RowStream(IterableDataset):
    """The rows of a split without end, each epoch shuffled anew among `shuffle_buffer_size` rows.

    The order depends on the files, the seed and the number of workers alone, and each worker reads
    its own share. A row holds what those of `load_data` do, but its pictures are not decoded yet,
    and `epoch`, how often it was read before. Rows that cannot be used are listed in
    `<output_dir>/skipped.jsonl` as they are met.

    Args:
        files: metadata.jsonl or parquet files of one split.
        config: `seed`, `shuffle_buffer_size` and `output_dir` count.
    """

    num_rows = None  # as of a Dataset, and not known here

    def __init__(self, files: list[Path], config: TrainConfig):
        self.files, self.config = files, config
        self.processor: Any = None
        self.collator: Collator | None = None
        self.context = 0
        self.begun, self.unit = 0, 1

    def fitting(self, processor: Any, context: int) -> "RowStream":
        """The same stream without rows of more than `context` tokens."""
        stream = copy.copy(self)
        stream.processor, stream.context = processor, context
        stream.collator = Collator(processor, self.config.image_height)
        return stream

    def after(self, batches: int, unit: int) -> "RowStream":
        """The same stream where `batches` batches, of `unit` rows over all processes, were read."""
        stream = copy.copy(self)
        stream.begun, stream.unit = batches, unit
        return stream

    def take(self, rows: int) -> Any:
        """The first usable rows of the files in their order, as a Dataset, for a look at them."""
        found: list[dict] = []
        for row, _ in self._checked(self._raw()):
            if row is not None:
                found.append(row)
            if len(found) == rows:
                break
        return dataset_of(found)

    def __iter__(self) -> Iterator[dict]:
        """Rows, from the batch on where the stream begins."""
        worker = get_worker_info()
        count, number = (worker.num_workers, worker.id) if worker else (1, 0)
        # The loader asks its workers in turn, beginning with the first; a stream that goes on
        # after some batches has to begin with the worker whose turn it was.
        share = (number + self.begun) % count
        skip = (self.begun // count + (share < self.begun % count)) * self.unit
        epoch, found = 0, True
        while found:
            rng, found = np.random.default_rng([self.config.seed, epoch]), False
            for row, problem in self._checked(self._raw(rng, share, count)):
                found = found or row is not None
                if row is None:
                    if not epoch and is_main_process():
                        append_skipped(self.config.output_dir, problem)
                elif skip:
                    skip -= 1
                else:
                    yield {**row, "epoch": epoch}
            epoch += 1

    def _raw(self, rng: Any = None, share: int = 0, count: int = 1) -> Iterator[tuple]:
        """(file, number, row as written) of one of `count` shares, shuffled if `rng` is given."""
        order = rng.permutation(len(self.files)) if rng else range(len(self.files))
        rows = ((self.files[i], *row) for i in order for row in raw_rows(self.files[i]))
        if rng:
            rows = _shuffled(rows, self.config.shuffle_buffer_size, rng)
        return (row for index, row in enumerate(rows) if index % count == share)

    def _checked(self, rows: Iterator[tuple]) -> Iterator[tuple[dict | None, dict | None]]:
        for path, number, raw in rows:
            row, problem = usable_row(path, number, raw, self.config.prompts)
            if row is not None and self.processor is not None:
                images, texts = token_lengths([row], self.processor, self.config, self.collator)
                length = images[0] + texts[0]
                if length > self.context:
                    detail = f"{length} tokens, the context holds {self.context}"
                    problem = {"reason": "longer than the context", "detail": detail}
                    if math.isinf(length):
                        problem = refusal(row, self.processor, self.config, self.collator)
                    row, problem = None, {"where": f"{path}:{number}", **problem}
            yield row, problem


def _shuffled(rows: Iterator[tuple], size: int, rng: np.random.Generator) -> Iterator[tuple]:
    """Rows in another order, with at most `size` of them in memory."""
    buffer: list[tuple] = []
    for row in rows:
        if len(buffer) < size:
            buffer.append(row)
            continue
        place = int(rng.integers(size))
        buffer[place], row = row, buffer[place]
        yield row
    yield from (buffer[i] for i in rng.permutation(len(buffer)))
