"""Quantile sketches: the same values give the same bytes, in whatever order and however they stand for each other."""

import numpy as np
import pytest

from flows.steps.monitoring import quantiles
from flows.steps.monitoring.quantiles import KLL_K, Kept


@pytest.mark.parametrize("n", [2, KLL_K, 5_000])
def test_order_company_and_the_sign_of_zero_do_not_matter(n: int) -> None:
    """Values by themselves, shuffled, and with a weight for each of the different ones."""
    rng = np.random.default_rng(n)
    values = np.round(rng.normal(size=n), 1)  # many are alike, and some are zero
    expected = quantiles.encode(quantiles.kept(values + 0.0))
    assert quantiles.encode(quantiles.kept(rng.permutation(values))) == expected
    zeros = np.where((values == 0) & (rng.random(n) < 0.5), -0.0, values)
    assert quantiles.encode(quantiles.kept(zeros)) == expected
    distinct, times = np.unique(values, return_counts=True)
    assert quantiles.encode(Kept(distinct, times, float(values.min()), float(values.max()))) == expected


def test_ranks_are_kept_within_their_bound() -> None:
    """`quantiles` of what was encoded and decoded are off by less than 0.1 % of the ranks."""
    values = np.random.default_rng(0).lognormal(size=100_000)
    found = quantiles.decode(quantiles.encode(quantiles.kept(values)))
    shares = np.linspace(0.01, 0.99, 99)
    ranks = np.searchsorted(np.sort(values), found.quantiles(shares)) / len(values)
    assert np.abs(ranks - shares).max() < 0.001
