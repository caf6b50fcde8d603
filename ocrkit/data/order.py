"""Sampler of training rows: length-grouped batches, and a curriculum from easy to hard.

The order depends only on the rows, the settings and the seed, not on the state of a global random
generator: it is the same in every process, and a resumed run continues it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Sampler

from ocrkit.data.rows import Row

# Column of a Dataset with replay: the slots of `TrainRows`.
SLOT = "slot"


class TrainRows(Dataset):
    """Training rows by position: position p is slot p % len, in epoch p // len.

    A slot is one row, or with replay several rows of like length that take turns by epoch. A row
    carries how often it was seen before as `epoch`, from which augmentation draws, so that it does
    not depend on the worker and workers need no message when an epoch begins. Pictures of a Dataset
    come as `{path, bytes}`, which the collator opens.

    Args:
        rows: a Dataset or a list of rows.
        slots: number of each row's slot, ascending; None: every row is a slot.
    """

    def __init__(self, rows: Any, slots: Sequence[int] | None = None):
        self.rows = rows
        self.stored = rows.with_format("arrow") if hasattr(rows, "with_format") else None
        numbers = np.arange(len(rows)) if slots is None else np.asarray(slots)
        # First row of each slot, and number of its rows.
        _, self.first, self.count = np.unique(numbers, return_index=True, return_counts=True)

    def __len__(self) -> int:
        return len(self.first)

    def column(self, name: str) -> np.ndarray:
        """Return the largest number of each slot in a column, such as `length`."""
        return np.maximum.reduceat(np.asarray(self.rows[name][:], float), self.first)

    def __getitem__(self, index: int) -> Row:
        return self.__getitems__([index])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[Row]:
        turns = [divmod(position, len(self)) for position in positions]
        numbers = [int(self.first[n] + epoch % self.count[n]) for epoch, n in turns]
        if self.stored is None:
            rows = self.rows.__getitems__(numbers)
        else:
            rows = self.stored[numbers].to_pylist()
        seen = [int(epoch // self.count[n]) for epoch, n in turns]
        return [{**row, "epoch": epoch} for row, epoch in zip(rows, seen)]


class TrainSampler(Sampler[int]):
    """Sample positions of `TrainRows`, as many an epoch as there are rows.

    Without `difficulty` every epoch is all rows in a new order. With it (a curriculum), the easiest
    `start` share of the rows is available first, and the share grows evenly until `growth` samples
    were drawn. Rows not yet seen are drawn first, at random; when all available rows were seen,
    they are drawn again, none a third time before all were drawn twice. An epoch is still as many
    samples as there are rows, so the number of steps does not change, and every row is seen as
    soon as the run is one epoch long.

    Args:
        rows: number of rows.
        batch: samples of one optimizer step, over all processes and accumulated batches.
        seed: of the order.
        epoch: returns the number of the epoch that begins when the sampler is iterated.
        lengths: tokens of each row; batches hold rows of like length, and the longest row comes
            first, so that out of memory shows at once. None: no length grouping.
        shuffle: False keeps the rows' own order (or that of their difficulty).
        difficulty: of each row, low is easy; None: no curriculum.
        start: share of the rows available at first.
        growth: samples drawn until all rows are available.
    """

    def __init__(
        self,
        rows: int,
        batch: int,
        seed: int,
        epoch: Callable[[], int] = lambda: 0,
        lengths: Sequence[float] | None = None,
        shuffle: bool = True,
        difficulty: Sequence[float] | None = None,
        start: float = 1.0,
        growth: float = 0.0,
    ):
        self.rows, self.batch, self.seed = rows, batch, seed
        self.epoch, self.shuffle = epoch, shuffle
        self.lengths = None if lengths is None else np.asarray(lengths)
        self.difficulty = None if difficulty is None else np.asarray(difficulty, float)
        self.start, self.growth = start, growth
        self._epoch_orders = self._epochs()
        self._orders: list[tuple[np.ndarray, np.ndarray]] = []

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[int]:
        return iter(self.order(self.epoch())[0].tolist())

    def order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return an epoch's positions, and how many rows were available when each was drawn."""
        while len(self._orders) <= epoch:
            self._orders.append(next(self._epoch_orders))
        return self._orders[epoch]

    def seen(self, first: int, last: int) -> dict[str, float]:
        """Summarize the curriculum in steps `first` to `last` (from 0, last excluded) for the log.

        Returns:
            `curriculum_share`: share of the rows available at the end; `curriculum_difficulty`:
            mean over the samples of these steps; `curriculum_rows_seen`: different rows so far.

        Raises:
            ValueError: the sampler has no `difficulty`.
        """
        if self.difficulty is None:
            raise ValueError("seen() needs a sampler with a difficulty of each row.")
        steps = math.ceil(self.rows / self.batch)
        positions, shares = [], [0]
        for step in range(first, last):
            order, available = self.order(step // steps)
            samples = slice(step % steps * self.batch, (step % steps + 1) * self.batch)
            positions.extend(order[samples].tolist())
            shares.append(available[samples][-1])
        epoch, step = divmod(last, steps)
        whole = [self.order(earlier)[0] for earlier in range(epoch)]
        if step:
            whole.append(self.order(epoch)[0][: step * self.batch])
        difficulty = self.difficulty[np.array(positions, int) % self.rows]
        return {
            "curriculum_share": round(float(shares[-1] / self.rows), 4),
            "curriculum_difficulty": round(float(difficulty.mean()), 4),
            # A position below the number of rows is a row's first time.
            "curriculum_rows_seen": int(sum((order < self.rows).sum() for order in whole)),
        }

    def _available(self, drawn: int) -> int:
        """Number of the easiest rows that are available after so many samples."""
        if self.difficulty is None or drawn >= self.growth:
            return self.rows
        share = self.start + (1 - self.start) * drawn / self.growth
        return max(1, round(share * self.rows))

    def _epochs(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield each epoch's `order`, without end."""
        rng = np.random.default_rng(self.seed)
        shuffled = rng.permutation if self.shuffle else np.asarray
        ranked = np.arange(self.rows)
        # Rows are grouped by length within a chunk: larger chunks mean less padding, but coarser
        # steps of a curriculum and a less random order.
        batches = min(50, max(1, self.rows // (4 * self.batch)))
        if self.difficulty is not None:
            ranked = np.lexsort((rng.random(self.rows), self.difficulty))
            batches = min(batches, max(1, int(self.growth) // (20 * self.batch)))
        chunk = batches * self.batch
        fresh = again = np.array([], int)
        seen, drawn, known = np.zeros(self.rows, int), 0, 0
        while True:
            order, available = [], []
            for begin in range(0, self.rows, chunk):
                size = min(chunk, self.rows - begin)
                now = self._available(drawn + size)
                if now > known:
                    fresh, known = shuffled(np.concatenate([fresh, ranked[known:now]])), now
                if not drawn and self.lengths is not None:
                    longest = int(np.argmax(self.lengths[fresh]))
                    fresh[[0, longest]] = fresh[[longest, 0]]
                rows, fresh = fresh[:size], fresh[size:]
                while len(rows) < size:
                    if not len(again):
                        others = np.setdiff1d(ranked[:known], rows) if len(rows) else []
                        again = shuffled(others if len(others) else ranked[:known])
                    missing = size - len(rows)
                    rows, again = np.concatenate([rows, again[:missing]]), again[missing:]
                for row in self._group_by_length(rows, rng, first=not drawn).tolist():
                    order.append(seen[row] * self.rows + row)
                    seen[row] += 1
                available += [now] * size
                drawn += size
            yield np.array(order), np.array(available)

    def _group_by_length(
        self, rows: np.ndarray, rng: np.random.Generator, first: bool
    ) -> np.ndarray:
        """Group rows to batches of like length in random order; the longest leads if `first`."""
        if self.lengths is None:
            return rows
        rows = rows[np.lexsort((rng.random(len(rows)), -self.lengths[rows]))]
        full = len(rows) // self.batch
        order = rng.permutation(full)
        if first:
            order = np.concatenate([[0], order[order != 0]]).astype(int) if full else order
        batches = rows[: full * self.batch].reshape(full, self.batch)[order]
        return np.concatenate([batches.ravel(), rows[full * self.batch :]])
