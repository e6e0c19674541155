"""Distances between counts in the same bins, for one pair or for thousands of replays at once.

Every function takes counts [..., k] of the reference and of the window; the last axis runs over the bins.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def shares(counts: Floats) -> Floats:
    """Counts as shares of their sum, 0 where there is nothing."""
    total = counts.sum(axis=-1, keepdims=True)
    found: Floats = np.divide(counts, total, out=np.zeros(counts.shape), where=total > 0)
    return found


def psi(a: Floats, b: Floats) -> Floats:
    """Population stability index, `sum((q - p) ln(q / p))`, over the bins that are not empty in both.

    Shares are smoothed as `(count + 0.5) / (n + 0.5 k)` (Krichevsky & Trofimov 1981), so that an empty bin is finite.
    Source: Siddiqi, Credit Risk Scorecards (2006).
    """
    used = (a + b) > 0
    k = used.sum(axis=-1, keepdims=True)
    n, m = a.sum(axis=-1, keepdims=True), b.sum(axis=-1, keepdims=True)
    there = (n > 0) & (m > 0)
    p = np.where(used & there, (a + 0.5) / (n + 0.5 * k + ~there), 1.0)
    q = np.where(used & there, (b + 0.5) / (m + 0.5 * k + ~there), 1.0)
    found: Floats = np.sum((q - p) * np.log(q / p), axis=-1)
    return found


def ks(a: Floats, b: Floats) -> Floats:
    """Kolmogorov-Smirnov distance at the bins' borders, `max |F - G|`; 0 to 1."""
    gap: Floats = np.abs(np.cumsum(shares(a), axis=-1) - np.cumsum(shares(b), axis=-1)).max(axis=-1, initial=0.0)
    return np.where((a.sum(axis=-1) > 0) & (b.sum(axis=-1) > 0), gap, 0.0)


def jensen_shannon(a: Floats, b: Floats) -> Floats:
    """Jensen-Shannon distance, base 2: root of the mean divergence from the mixture; 0 to 1, a metric.

    Source: Endres & Schindelin, A New Metric for Probability Distributions (2003).
    """
    p, q = shares(a), shares(b)
    mixture = (p + q) / 2

    def divergence(share: Floats) -> Floats:
        ratio = np.divide(share, mixture, out=np.ones_like(share), where=share > 0)
        found: Floats = np.sum(share * np.log2(ratio), axis=-1)
        return found

    found: Floats = np.sqrt(np.maximum(0.0, (divergence(p) + divergence(q)) / 2))
    return found


def hellinger(a: Floats, b: Floats) -> Floats:
    """Hellinger distance, `sqrt(sum((sqrt p - sqrt q)^2) / 2)`; 0 to 1, a metric (Hellinger 1909)."""
    found: Floats = np.sqrt(((np.sqrt(shares(a)) - np.sqrt(shares(b))) ** 2).sum(axis=-1) / 2)
    return found


def wasserstein(f: Floats, g: Floats, knots: Floats) -> Floats:
    """First Wasserstein distance in the unit of the values: the area between two distribution functions.

    f and g are the shares [..., k] below each of the rising knots [k], straight between them (Vallender 1974).
    """
    gap = np.abs(f - g)
    found: Floats = ((gap[..., 1:] + gap[..., :-1]) / 2 * np.diff(knots)).sum(axis=-1)
    return found


def effective_number(counts: Floats) -> Floats:
    """How many equally frequent values would be as diverse: `exp` of the entropy, Hill's number of order 1 (1973).

    1 for a constant, k for k equal shares, 0 for no value.
    """
    p = shares(counts)
    entropy = -np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=-1)
    found: Floats = np.where(counts.sum(axis=-1) > 0, np.exp(entropy), 0.0)
    return found
