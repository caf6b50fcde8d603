"""What metrics are made of: what each sample adds to a rate."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Tally(NamedTuple):
    """What each sample adds to a rate: arrays `part` and `whole`, shape (samples,)."""

    part: np.ndarray
    whole: np.ndarray

    @property
    def rate(self) -> float:
        """Sum of parts over sum of wholes; over 1 where there is nothing to divide by."""
        return float(ratio(self.part.sum(), self.whole.sum()))


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divide; without any reference unit the rate is the count itself, as jiwer 4 has it."""
    return part / np.where(whole == 0, 1, whole)


def shares(values: Sequence[float]) -> Tally:
    """Make a tally of one value a sample, whose rate is their mean."""
    part = np.asarray(values, dtype=np.float64)
    return Tally(part, np.ones(len(part)))


def some(tally: Tally) -> float:
    """Return the rate of at least one sample.

    Raises:
        ValueError: there is no sample.

    """
    if len(tally.part) == 0:
        raise ValueError("There are no samples to score: the lists are empty.")
    return tally.rate
