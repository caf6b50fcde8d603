"""Tallies of rates and their uncertainty: bootstrap, McNemar's test, Wilson's interval."""

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np


def resample(
    columns: np.ndarray, groups: Sequence[Hashable] | None = None, n: int = 1000, seed: int = 0
) -> np.ndarray:
    """Bootstrap over groups: draw as many groups as there are, with replacement, `n` times.

    Args:
        columns: shape (samples, k), what each sample adds to k sums.
        groups: the document or writer of each sample; None, as a whole or for one sample, makes
            the sample a group of its own. Where all samples are of one group there is no variation
            between groups to draw from, and samples are drawn instead.
        n: replicates.
        seed: the same seed draws the same groups, so that two systems can be paired.

    Returns:
        Sums of every replicate, shape (n, k).

    Raises:
        ValueError: there are no samples, or not as many groups as samples.
    """
    sums = np.asarray(columns, dtype=np.float64)
    if len(sums) == 0:
        raise ValueError("There are no samples to resample: the lists are empty.")
    if groups is not None:
        if len(groups) != len(sums):
            raise ValueError(
                f"There are {len(sums)} samples but {len(groups)} groups: give one each."
            )
        codes: dict[Hashable, int] = {}
        index = [
            codes.setdefault(("", number) if group is None else (group,), len(codes))
            for number, group in enumerate(groups)
        ]
        if len(codes) > 1:
            sums = np.stack([np.bincount(index, weights=column) for column in sums.T], axis=1)
    rng, size = np.random.default_rng(seed), len(sums)
    cells, counts = np.unique(sums, axis=0, return_counts=True)
    if 8 * len(cells) < size:
        # Groups with equal sums are interchangeable: a multinomial draw of how often each sum
        # occurs is the same bootstrap, many times cheaper.
        return rng.multinomial(size, counts / size, size=n) @ cells
    replicates = np.empty((n, sums.shape[1]))
    for row in replicates:
        drawn = rng.integers(size, size=size, dtype=np.int32)
        row[:] = np.bincount(drawn, minlength=size).astype(np.float64) @ sums
    return replicates


def bootstrap_ci(
    errors: Sequence[float],
    lengths: Sequence[float],
    groups: Sequence[Hashable] | None = None,
    n: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of sum(errors)/sum(lengths) (Efron 1979).

    Args:
        errors: errors of each sample.
        lengths: units of each sample.
        groups: document or writer of each sample, as for `resample`.
        n: replicates.
        seed: seed of the draws.
    """
    sums = resample(np.column_stack([errors, lengths]), groups, n, seed)
    low, high = np.percentile(ratio(sums[:, 0], sums[:, 1]), [2.5, 97.5])
    return float(low), float(high)


def mcnemar(only_first_right: int, only_second_right: int) -> float:
    """Return the p-value of the exact two-sided McNemar test of two systems.

    Args:
        only_first_right: samples that only the first system has right.
        only_second_right: samples that only the second system has right.
    """
    low, high = sorted((int(only_first_right), int(only_second_right)))
    if low < 0:
        raise ValueError(f"A count of samples cannot be negative, but one is {low}.")
    total = low + high
    tail = term = 1
    for k in range(low):
        term = term * (total - k) // (k + 1)  # the binomial coefficient of k + 1
        tail += term
    return min(1.0, 2 * tail / 2**total)


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a share (Wilson 1927); (0, 1) where n is 0."""
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} is no share.")
    if n == 0:
        return 0.0, 1.0
    z = 1.959963984540054
    share = successes / n
    middle = share + z * z / (2 * n)
    reach = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (middle - reach) / scale), min(1.0, (middle + reach) / scale)


class Tally(NamedTuple):
    """Numerator `part` and denominator `whole` of each sample, arrays of shape (samples,)."""

    part: np.ndarray
    whole: np.ndarray

    @property
    def rate(self) -> float:
        """Sum of parts over sum of wholes; over 1 where the sum of wholes is 0."""
        return float(ratio(self.part.sum(), self.whole.sum()))


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divide; where the denominator is 0 the rate is the count itself, as in jiwer 4."""
    return part / np.where(whole == 0, 1, whole)


def shares(values: Sequence[float] | np.ndarray) -> Tally:
    """Make a tally of one value a sample, whose rate is the mean."""
    part = np.asarray(values, dtype=np.float64)
    return Tally(part, np.ones(len(part)))


def rate_of_samples(tally: Tally) -> float:
    """Return the rate of a tally of at least one sample.

    Raises:
        ValueError: there is no sample.
    """
    if len(tally.part) == 0:
        raise ValueError("There are no samples to score: the lists are empty.")
    return tally.rate
