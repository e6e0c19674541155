"""Measures of how far two column sketches are apart, each beside what chance alone leads to expect of it."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, chdtri

CHANCE = 0.001  # probability with which one measure of one undrifted column may pass for real
Z = 3.2905  # two-sided standard normal quantile of CHANCE

Counts = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """Counts of one column: `counts` per numeric bin or per category; `n` rows are their sum and `missing` together.

    Numeric: `edges` are the inner bin borders fixed by the reference (k edges, k + 1 counts, bins
    `(-inf, e0), [e0, e1), …, [ek, inf)`). Categorical: `categories` names the counts and `edges` is empty.
    """

    name: str
    kind: str  # "numeric" or "categorical"
    n: int
    missing: int
    counts: tuple[int, ...]
    edges: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()


def _common(reference: Sketch, current: Sketch) -> tuple[Counts, Counts]:
    """Counts of both, without the bins that are empty in both; ValueError if their bins differ."""
    ours = (reference.name, reference.kind, reference.edges, reference.categories)
    if ours != (current.name, current.kind, current.edges, current.categories):
        raise ValueError(
            f"sketches of {reference.name!r} and {current.name!r} have different bins; "
            "count the window with bin_counts(frame, reference)"
        )
    a, b = np.asarray(reference.counts, dtype=float), np.asarray(current.counts, dtype=float)
    used = (a + b) > 0
    return a[used], b[used]


def psi(reference: Sketch, current: Sketch) -> float:
    """Population stability index, `sum((q - p) ln(q / p))` over the bins: 0 for equal shares, symmetric, unbounded.

    Shares are smoothed as `(count + 0.5) / (n + 0.5 k)` (Krichevsky & Trofimov 1981), so that an empty bin is finite.
    0 if either side has no value at all; `missing_change` speaks then. Source: Siddiqi, Credit Risk Scorecards (2006).
    """
    a, b = _common(reference, current)
    if a.sum() == 0 or b.sum() == 0:
        return 0.0
    p, q = (a + 0.5) / (a.sum() + 0.5 * a.size), (b + 0.5) / (b.sum() + 0.5 * b.size)
    return float(np.sum((q - p) * np.log(q / p)))


def psi_noise(reference: Sketch, current: Sketch) -> tuple[float, float]:
    """PSI of two samples of one distribution: its expectation and the value exceeded with probability `CHANCE`.

    Without drift, PSI is about `(1/n + 1/m)` times chi-square with k - 1 degrees of freedom (Yurdakul, Statistical
    Properties of Population Stability Index, 2018): expectation `(k - 1)(1/n + 1/m)`.
    """
    a, b = _common(reference, current)
    if a.size < 2 or a.sum() == 0 or b.sum() == 0:
        return 0.0, 0.0
    scale = 1 / a.sum() + 1 / b.sum()
    return float((a.size - 1) * scale), float(chdtri(a.size - 1, CHANCE) * scale)


def ks(reference: Sketch, current: Sketch) -> float:
    """Kolmogorov-Smirnov distance over the bins, `max |F - G|` at their borders: 0 to 1, symmetric.

    A lower bound of the raw statistic, short of it by at most the mass of one bin. 0 for categories, which have no
    order, and if either side has no value at all.
    """
    a, b = _common(reference, current)
    if reference.kind != "numeric" or a.sum() == 0 or b.sum() == 0:
        return 0.0
    return float(np.abs(np.cumsum(a) / a.sum() - np.cumsum(b) / b.sum()).max())


def ks_noise(reference: Sketch, current: Sketch) -> float:
    """Distance exceeded with probability `CHANCE` without drift: `sqrt(ln(2 / CHANCE) / 2 (1/n + 1/m))` (Smirnov 1948).

    1 if either side has no value at all.
    """
    n, m = sum(reference.counts), sum(current.counts)
    return math.sqrt(math.log(2 / CHANCE) / 2 * (1 / n + 1 / m)) if n and m else 1.0


def chi_square(reference: Sketch, current: Sketch) -> tuple[float, float]:
    """Pearson's statistic and p of the 2 x k table of both counts, unseen values being a bin like any other.

    For information only: with enough rows any difference, however small, has p near 0. (0, 1) if nothing to compare.
    """
    a, b = _common(reference, current)
    if a.size < 2 or a.sum() == 0 or b.sum() == 0:
        return 0.0, 1.0
    total = a.sum() + b.sum()
    expected_a, expected_b = (a + b) * a.sum() / total, (a + b) * b.sum() / total
    statistic = float(np.sum((a - expected_a) ** 2 / expected_a + (b - expected_b) ** 2 / expected_b))
    return statistic, float(chdtrc(a.size - 1, statistic))


def missing_change(reference: Sketch, current: Sketch) -> float:
    """Share of missing rows in the window minus that in the reference, -1 to 1; 0 if either has no row."""
    if not reference.n or not current.n:
        return 0.0
    return current.missing / current.n - reference.missing / reference.n


def missing_noise(reference: Sketch, current: Sketch) -> float:
    """Change exceeded with probability `CHANCE` without drift: the pooled two-proportion z-test."""
    if not reference.n or not current.n:
        return 1.0
    pooled = (reference.missing + current.missing) / (reference.n + current.n)
    return Z * math.sqrt(pooled * (1 - pooled) * (1 / reference.n + 1 / current.n))


def unseen_share(reference: Sketch, current: Sketch) -> float:
    """Share of the window's values that fall where the reference has none: new categories, numbers outside a discrete
    column's range. 0 to 1; 0 if either side has no value at all."""
    a, b = _common(reference, current)
    return float(b[a == 0].sum() / b.sum()) if a.sum() and b.sum() else 0.0


def unseen_by_chance(reference: Sketch, current: Sketch) -> float:
    """Probability that none of the unseen rows fell into the reference, were both one sample: `(m / (n + m))^rows`."""
    a, b = _common(reference, current)
    return float((b.sum() / (a.sum() + b.sum())) ** b[a == 0].sum()) if b.sum() else 1.0
