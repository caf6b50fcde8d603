"""In what order a run sees its rows: batches of like length, and easy rows first if asked for.

The order depends on the rows, the settings and the seed, never on the state of a random generator:
it is the same on every process, and a resumed run goes on in it as if it had never stopped.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Sampler


class TrainRows(Dataset):
    """Rows by position: position p is row p % len, which was seen p // len times before.

    A row taken carries that number as `epoch`. So what is done to it at random can depend on it,
    whichever process takes it, and nothing has to be told to workers when an epoch begins.
    Pictures of a Dataset come as `{path, bytes}`: the collator opens them, without detours.
    """

    def __init__(self, rows: Any):
        self.rows = rows
        self.stored = rows.with_format("arrow") if hasattr(rows, "with_format") else None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> dict[str, Any]:
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[dict[str, Any]]:
        places = [position % len(self) for position in positions]
        if self.stored is None:
            rows = self.rows.__getitems__(places)
        else:
            rows = self.stored[places].to_pylist()
        return [{**row, "epoch": p // len(self)} for row, p in zip(rows, positions)]


class TrainSampler(Sampler[int]):
    """Positions of `TrainRows`, as many an epoch as there are rows.

    Without `difficulty` every epoch is all rows in a new order. With it, rows become available
    from the easiest on: of `start`, a share of the rows, at first, growing evenly to all of them
    once `growth` samples were drawn. Rows never seen are drawn first, among them at random; when
    all available ones were seen, they come again, none a third time before all came twice.
    An epoch is still as many samples as there are rows, so the number of steps does not change,
    and every row is seen as soon as the run is one epoch long.

    Args:
        rows: how many there are.
        batch: samples of one optimizer step, over all processes and accumulated batches.
        seed: of the order.
        epoch: tells which epoch begins when the sampler is iterated.
        lengths: tokens of each row; batches are made of like lengths, and the longest row comes
            first, so that too little memory shows at once. None: batches as they come.
        shuffle: False keeps the rows' own order (or that of their difficulty).
        difficulty: of each row, low is easy; None: all rows from the beginning.
        start: share of the rows available at first.
        growth: samples drawn until all rows are available.
    """

    def __init__(
        self,
        rows: int,
        batch: int,
        seed: int,
        epoch: Callable[[], int] = lambda: 0,
        lengths: Sequence[int] | None = None,
        shuffle: bool = True,
        difficulty: Sequence[float] | None = None,
        start: float = 1.0,
        growth: float = 0.0,
    ):
        self.rows, self.batch, self.seed, self.epoch, self.shuffle = (
            rows,
            batch,
            seed,
            epoch,
            shuffle,
        )
        self.lengths = None if lengths is None else np.asarray(lengths)
        self.difficulty = None if difficulty is None else np.asarray(difficulty, float)
        self.start, self.growth = start, growth
        self._coming = self._epochs()
        self._orders: list[tuple[np.ndarray, np.ndarray]] = []

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[int]:
        return iter(self.order(self.epoch())[0].tolist())

    def order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions of an epoch, and how many rows were available when each was drawn."""
        while len(self._orders) <= epoch:
            self._orders.append(next(self._coming))
        return self._orders[epoch]

    def seen(self, first: int, last: int) -> dict[str, float]:
        """What steps `first` to `last` (from 0, the last left out) saw, for the log.

        Returns:
            `curriculum_share` of the rows available at the end, `curriculum_difficulty`, the mean
            over the samples of these steps, and `curriculum_rows_seen`, different rows so far.
        """
        steps = math.ceil(self.rows / self.batch)
        positions, shares = [], [0]
        for step in range(first, last):
            order, available = self.order(step // steps)
            part = slice(step % steps * self.batch, (step % steps + 1) * self.batch)
            positions.extend(order[part].tolist())
            shares.append(available[part][-1])
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
        if self.difficulty is None or drawn >= self.growth:
            return self.rows
        share = self.start + (1 - self.start) * drawn / self.growth
        return max(1, round(share * self.rows))

    def _epochs(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        rng = np.random.default_rng(self.seed)
        mixed = rng.permutation if self.shuffle else np.asarray
        ranked = np.arange(self.rows)
        # Batches of like length are made within a chunk: larger chunks, less padding, but coarser
        # steps of a curriculum and less chance in the order.
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
                    fresh, known = mixed(np.concatenate([fresh, ranked[known:now]])), now
                if not drawn and self.lengths is not None:
                    longest = int(np.argmax(self.lengths[fresh]))
                    fresh[[0, longest]] = fresh[[longest, 0]]
                rows, fresh = fresh[:size], fresh[size:]
                while len(rows) < size:
                    if not len(again):
                        others = np.setdiff1d(ranked[:known], rows) if len(rows) else []
                        again = mixed(others if len(others) else ranked[:known])
                    missing = size - len(rows)
                    rows, again = np.concatenate([rows, again[:missing]]), again[missing:]
                for row in self._alike(rows, rng, first=not drawn).tolist():
                    order.append(seen[row] * self.rows + row)
                    seen[row] += 1
                available += [now] * size
                drawn += size
            yield np.array(order), np.array(available)

    def _alike(self, rows: np.ndarray, rng: np.random.Generator, first: bool) -> np.ndarray:
        """The rows in batches of like length, the batches mixed; the longest ahead if `first`."""
        if self.lengths is None:
            return rows
        rows = rows[np.lexsort((rng.random(len(rows)), -self.lengths[rows]))]
        full = len(rows) // self.batch
        order = rng.permutation(full)
        if first:
            order = np.concatenate([[0], order[order != 0]]).astype(int) if full else order
        batches = rows[: full * self.batch].reshape(full, self.batch)[order]
        return np.concatenate([batches.ravel(), rows[full * self.batch :]])
