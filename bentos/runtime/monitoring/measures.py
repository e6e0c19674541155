"""Measures of how far two column sketches are apart, each beside what chance alone leads to expect of it."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, chdtri, erfc

from bentos.runtime.monitoring import distances, grid

CHANCE = 0.001  # probability with which one measure of one undrifted column may pass for real
TINY = 1e-200  # nearest to zero that a knot comes
Z = 3.2905  # two-sided standard normal quantile of CHANCE

Counts = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """Counts of one column: `counts` per numeric bin or per category; `n` rows are their sum and `missing` together.

    Numeric: `edges` are the inner bin borders fixed by the reference (k edges, k + 1 counts, bins
    `(-inf, e0), [e0, e1), …, [ek, inf)`). Categorical: `categories` names the counts and `edges` is empty.
    `low` and `high` are the least and largest finite number, `cells` the counts of the finite ones on the grid that all
    columns share; `odd` of the missing rows hold something that is no number.
    """

    name: str
    kind: str  # "numeric" or "categorical"
    n: int
    missing: int
    counts: tuple[int, ...]
    edges: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    cells: grid.Cells = ()
    odd: int = 0


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
    return float(distances.psi(a, b)) if a.size else 0.0


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
    return float(distances.ks(a, b)) if reference.kind == "numeric" else 0.0


def ks_noise(reference: Sketch, current: Sketch) -> float:
    """Distance exceeded with probability `CHANCE` without drift: `sqrt(ln(2 / CHANCE) / 2 (1/n + 1/m))` (Smirnov 1948).

    1 if either side has no value at all.
    """
    n, m = sum(reference.counts), sum(current.counts)
    return math.sqrt(math.log(2 / CHANCE) / 2 * (1 / n + 1 / m)) if n and m else 1.0


def jensen_shannon(reference: Sketch, current: Sketch) -> float:
    """Jensen-Shannon distance of the bins' shares, base 2: 0 to 1; 0 if either side has no value at all.

    Source: Endres & Schindelin, A New Metric for Probability Distributions (2003).
    """
    a, b = _common(reference, current)
    return float(distances.jensen_shannon(a, b)) if a.sum() and b.sum() else 0.0


def hellinger(reference: Sketch, current: Sketch) -> float:
    """Hellinger distance of the bins' shares (Hellinger 1909): 0 to 1; 0 if either side has no value at all."""
    a, b = _common(reference, current)
    return float(distances.hellinger(a, b)) if a.sum() and b.sum() else 0.0


def distribution(sketch: Sketch) -> tuple[Counts, Counts]:
    """Knots [k], rising, and how many finite values lie below each: exact at borders of bins and cells, else straight.

    Empty for categories and where there is no finite number.
    """
    if not sketch.cells or sketch.low is None or sketch.high is None:
        return np.empty(0), np.empty(0)
    total = float(sum(n for _, n in sketch.cells))
    edges, borders = np.asarray(sketch.edges), np.concatenate(grid.borders(sketch.cells))
    within = (edges > sketch.low) & (edges <= sketch.high)
    x = np.union1d(borders[(borders > sketch.low) & (borders <= sketch.high)], edges[within])
    below = grid.below(sketch.cells, x)
    below[np.searchsorted(x, edges[within])] = np.minimum(np.cumsum(sketch.counts)[:-1][within], total)
    x = np.concatenate([[sketch.low], x, [math.nextafter(sketch.high, math.inf)]])
    x = np.where((x != 0) & (np.abs(x) < TINY), np.copysign(TINY, x), x)  # slopes over a smaller step are infinite
    return x, np.maximum.accumulate(np.concatenate([[0.0], below, [total]]))


def deviation(sketch: Sketch) -> float:
    """Standard deviation of the finite values, spread evenly between knots; 0 for categories."""
    x, below = distribution(sketch)
    if not x.size:
        return 0.0
    share, middle = np.diff(below) / below[-1], (x[:-1] + x[1:]) / 2
    mean = float((share * middle).sum())
    return float(np.sqrt((share * ((middle - mean) ** 2 + np.diff(x) ** 2 / 12)).sum()))


def quantile(sketch: Sketch, share: float) -> float:
    """The value that a share 0..1 of the finite values lies below, within a bin or cell; NaN without any."""
    x, below = distribution(sketch)
    return float(np.interp(share * below[-1], below, x)) if x.size else math.nan


def wasserstein(reference: Sketch, current: Sketch) -> float:
    """First Wasserstein distance in units of the reference's standard deviation: 0.5 for a shift of half a deviation.

    A flag's is the change of its share over `sqrt(p (1 - p))`. 0 for categories, a constant reference, and if either
    side has no number. Source: Vallender (1974), the area between the distribution functions.
    """
    _common(reference, current)
    scale, (x, f), (z, g) = deviation(reference), distribution(reference), distribution(current)
    if not scale or not x.size or not z.size:
        return 0.0
    knots = np.union1d(x, z)
    ours = np.interp(knots, x, f / f[-1])
    theirs = np.interp(knots, z, g / g[-1])
    return float(distances.wasserstein(ours, theirs, knots) / scale)


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


def missing_by_chance(reference: Sketch, current: Sketch) -> float:
    """Probability of as large a change of the missing share without drift: the pooled two-proportion z-test."""
    if not reference.n or not current.n:
        return 1.0
    pooled = (reference.missing + current.missing) / (reference.n + current.n)
    spread = math.sqrt(pooled * (1 - pooled) * (1 / reference.n + 1 / current.n))
    change = abs(missing_change(reference, current))
    return float(erfc(change / spread / math.sqrt(2))) if spread else 1.0


def unseen_share(reference: Sketch, current: Sketch) -> float:
    """Share of the window's values that fall where the reference has none: new categories, numbers outside a discrete
    column's range. 0 to 1; 0 if either side has no value at all."""
    a, b = _common(reference, current)
    return float(b[a == 0].sum() / b.sum()) if a.sum() and b.sum() else 0.0


def unseen_by_chance(reference: Sketch, current: Sketch) -> float:
    """Probability that none of the unseen rows fell into the reference, were both one sample: `(m / (n + m))^rows`."""
    a, b = _common(reference, current)
    return float((b.sum() / (a.sum() + b.sum())) ** b[a == 0].sum()) if b.sum() else 1.0


def range_violations(reference: Sketch, current: Sketch) -> float:
    """Share of the window's finite numbers outside the reference's least and largest one, within a cell; 0 to 1."""
    x, below = distribution(current)
    if not x.size or reference.low is None or reference.high is None:
        return 0.0
    above = x[min(int(np.searchsorted(x, reference.high, side="right")), x.size - 1)]
    under, upto = np.interp([reference.low, above], x, below)
    return float((under + below[-1] - upto) / below[-1])


def type_change(reference: Sketch, current: Sketch) -> float:
    """Change of the share of rows that hold something other than the column's kind, -1 to 1."""
    return current.odd / current.n - reference.odd / reference.n if reference.n and current.n else 0.0


def cardinality_change(reference: Sketch, current: Sketch) -> float:
    """Ratio of the effective numbers of values, window over reference: 1 for none, near 0 where a column went constant.

    Counted are categories, or cells of the grid of numbers; unlike a count of distinct values it does not grow with the
    number of rows. Source: Hill's number of order 1 (1973). 1 if either side has no value at all.
    """
    then, now = (
        distances.effective_number(np.array([n for _, n in s.cells] if s.kind == "numeric" else s.counts, dtype=float))
        for s in (reference, current)
    )
    return float(now / then) if then and now else 1.0
