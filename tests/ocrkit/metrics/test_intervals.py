import math

import numpy as np
import pytest

from ocrkit.metrics import intervals as uncertainty


def test_mcnemar_by_hand():
    assert uncertainty.mcnemar(0, 0) == 1
    assert uncertainty.mcnemar(5, 5) == 1
    assert uncertainty.mcnemar(0, 6) == uncertainty.mcnemar(6, 0) == 2 / 64
    assert uncertainty.mcnemar(1, 8) == 2 * (1 + 9) / 2**9
    with pytest.raises(ValueError, match="negative"):
        uncertainty.mcnemar(-1, 2)


def test_wilson_by_hand():
    assert uncertainty.wilson(0, 0) == (0, 1)
    low, high = uncertainty.wilson(0, 10)
    assert low == 0 and high == pytest.approx(0.27754, abs=1e-5)
    low, high = uncertainty.wilson(5, 10)
    assert (low, high) == pytest.approx((0.23659, 0.76341), abs=1e-5)
    with pytest.raises(ValueError, match="no share"):
        uncertainty.wilson(3, 2)


def test_bootstrap_is_seeded_and_contains_the_rate():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 50, 300)
    errors = rng.binomial(lengths, 0.1)
    low, high = uncertainty.bootstrap_ci(errors, lengths)
    assert (low, high) == uncertainty.bootstrap_ci(errors, lengths)
    assert low < errors.sum() / lengths.sum() < high
    assert uncertainty.bootstrap_ci(errors, lengths, seed=1) != (low, high)


def test_bootstrap_over_groups_is_wider_when_groups_agree():
    errors = np.repeat([0, 10] * 10, 20)
    lengths = np.full(400, 10)
    low, high = uncertainty.bootstrap_ci(errors, lengths)
    groups = np.repeat(range(20), 20).tolist()
    low_g, high_g = uncertainty.bootstrap_ci(errors, lengths, groups=groups)
    assert high_g - low_g > 3 * (high - low)


def test_bootstrap_of_one_group_falls_back_to_samples():
    errors, lengths = [1, 0, 5, 2], [10, 10, 10, 10]
    low, high = uncertainty.bootstrap_ci(errors, lengths, groups=["a"] * 4)
    assert (low, high) == uncertainty.bootstrap_ci(errors, lengths) and low < high


def test_bootstrap_shortcut_draws_the_same_distribution():
    rng = np.random.default_rng(0)
    errors = rng.integers(0, 3, 400).astype(float)  # few kinds of sample: the shortcut
    nudged = errors + rng.random(400) * 1e-9  # every sample its own kind: plain resampling
    interval = uncertainty.bootstrap_ci(errors, np.ones(400), n=4000)
    other = uncertainty.bootstrap_ci(nudged, np.ones(400), n=4000)
    assert interval == pytest.approx(other, abs=0.01)


def test_bootstrap_refuses_no_samples_and_a_wrong_number_of_groups():
    with pytest.raises(ValueError, match="no samples to resample"):
        uncertainty.bootstrap_ci([], [])
    with pytest.raises(ValueError, match="2 samples but 1 groups"):
        uncertainty.bootstrap_ci([1, 2], [3, 4], groups=["a"])
    assert not math.isnan(uncertainty.bootstrap_ci([1, 2], [0, 0])[0])


def test_mcnemar_of_many_is_exact_and_takes_no_time():
    for low, high in ((0, 7), (3, 40), (210, 260)):
        total = low + high
        tail = sum(math.comb(total, k) for k in range(low + 1))
        assert uncertainty.mcnemar(low, high) == min(1.0, 2 * tail / 2**total)
    # The normal approximation with a continuity correction.
    z = (10_200 - 10_000 - 1) / 20_200**0.5
    assert uncertainty.mcnemar(10_000, 10_200) == pytest.approx(math.erfc(z / 2**0.5), rel=1e-3)
