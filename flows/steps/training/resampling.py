"""Metrics of 0/1 labels and scores as sums over distinct scores: a bootstrap draw costs one count, not one sort.

Sums are written without `@`: a threaded BLAS adds in changing order, and waits for cores that are busy.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
BINS = 10


@dataclass(frozen=True)
class Interval:
    """A value and the bounds of its percentile bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Tally:
    """How many rows of each label have each score: all a metric needs to know.

    `scores` float64[g] are the distinct scores, ascending; `negatives` and `positives` float64[g] count rows;
    `cut` is the position of the first score that is answered with 1 (score >= threshold).
    """

    scores: Floats
    negatives: Floats
    positives: Floats
    cut: int


def roc_auc(t: Tally) -> float:
    """Share of (1, 0) pairs in the right order, a tie counting half (Mann-Whitney U / (n1 n0))."""
    below = np.cumsum(t.negatives) - t.negatives / 2
    return float(np.sum(t.positives * below) / (t.positives.sum() * t.negatives.sum()))


def average_precision(t: Tally) -> float:
    """Sum of precision times gain in recall from the highest score down, as scikit-learn defines it."""
    hits = t.positives[::-1]
    answered = np.cumsum(hits + t.negatives[::-1])
    return float(np.sum(hits * (np.cumsum(hits) / np.maximum(answered, 1))) / hits.sum())


def accuracy(t: Tally) -> float:
    """Share of rows answered rightly at the threshold."""
    right = t.positives[t.cut :].sum() + t.negatives[: t.cut].sum()
    return float(right / (t.positives.sum() + t.negatives.sum()))


def precision(t: Tally) -> float:
    """Share of rows answered with 1 that are 1; 0 when none is."""
    hits = t.positives[t.cut :].sum()
    return float(hits / max(hits + t.negatives[t.cut :].sum(), 1))


def recall(t: Tally) -> float:
    """Share of rows that are 1 answered with 1."""
    return float(t.positives[t.cut :].sum() / t.positives.sum())


def f1(t: Tally) -> float:
    """Harmonic mean of precision and recall; 0 when no 1 is found."""
    hits = t.positives[t.cut :].sum()
    return float(2 * hits / (t.positives.sum() + hits + t.negatives[t.cut :].sum()))


def brier(t: Tally) -> float:
    """Mean squared difference of score and label (Brier 1950)."""
    loss = t.positives * (1 - t.scores) ** 2 + t.negatives * t.scores**2
    return float(loss.sum() / (t.positives.sum() + t.negatives.sum()))


def brier_skill(t: Tally) -> float:
    """1 - brier / (base (1 - base)): 0 answers the base rate to everybody, 1 is perfect."""
    base = t.positives.sum() / (t.positives.sum() + t.negatives.sum())
    return float(1 - brier(t) / (base * (1 - base)))


def calibration_error(t: Tally) -> float:
    """Expected calibration error: mean gap of score and outcome over 10 equal-frequency bins, weighted by rows.

    Naeini et al. 2015, with bins by rank: a run of equal scores goes whole into the bin of its middle rank, so the
    order of tied rows does not matter. Noise alone makes it positive, about 0.25 sqrt(bins / n).
    """
    total = t.positives + t.negatives
    rank = np.cumsum(total)
    rows = rank[-1]
    borders = np.searchsorted(rank - total / 2, rows * np.arange(1, BINS) / BINS)
    gaps = np.concatenate([[0.0], np.cumsum(total * t.scores - t.positives)])
    return float(np.abs(np.diff(gaps[np.concatenate([[0], borders, [len(total)]])])).sum() / rows)


MEASURES: dict[str, Callable[[Tally], float]] = {
    measure.__name__: measure
    for measure in (roc_auc, average_precision, accuracy, precision, recall, f1, brier, brier_skill, calibration_error)
}


def checked(y: ArrayLike, scores: ArrayLike) -> tuple[Ints, Floats]:
    """The labels as int64[n] and the scores as float64[n].

    Raises ValueError when there are no rows, lengths differ, a label is not 0 or 1, only one class occurs, or a score
    is NaN, infinite or outside 0..1.
    """
    labels, values = np.asarray(y, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if labels.ndim != 1 or labels.shape != values.shape:
        raise ValueError(f"labels have shape {labels.shape}, scores {values.shape}; give two vectors of one length")
    if not len(labels):
        raise ValueError("no rows: labels and scores are empty; a metric needs rows of both classes")
    odd = np.flatnonzero((labels != 0) & (labels != 1))
    if len(odd):
        raise ValueError(f"label {labels[odd[0]]} in row {odd[0]}; labels are 0 or 1")
    if labels.min() == labels.max():
        raise ValueError(f"all {len(labels)} labels are {labels[0]:.0f}; a metric needs rows of both classes")
    bad = np.flatnonzero(~((values >= 0) & (values <= 1)))
    if len(bad):
        raise ValueError(f"score {values[bad[0]]} in row {bad[0]} ({len(bad)} such rows); scores are within 0..1")
    return labels.astype(np.int64), values


def tally(y: ArrayLike, scores: ArrayLike, threshold: float = 0.5) -> Tally:
    """Count the rows per distinct score; raises ValueError as `checked` does, or for a threshold that is not finite."""
    labels, values = checked(y, scores)
    if not np.isfinite(threshold):
        raise ValueError(f"threshold {threshold}; give a finite number")
    distinct, code = _coded(labels, values)
    return _counted(distinct, np.bincount(code, minlength=2 * len(distinct)), threshold)


def bootstrap(
    y: ArrayLike,
    scores: ArrayLike,
    threshold: float,
    *,
    metrics: Sequence[str] = tuple(MEASURES),
    n: int = 500,
    confidence: float = 0.95,
    seed: int = 7,
    groups: ArrayLike | None = None,
) -> dict[str, Interval]:
    """Percentile intervals of metrics over n resamples of the rows (Efron 1979).

    `groups` [n rows] names each row's entity when entities occur in several rows: entities are resampled then. Draws
    that miss a class are left out. Raises ValueError as `tally` does, and for an unknown metric.
    """
    unknown = [name for name in metrics if name not in MEASURES]
    if unknown:
        raise ValueError(f"no metric '{unknown[0]}'; known: {', '.join(MEASURES)}")
    point = tally(y, scores, threshold)
    labels, values = checked(y, scores)
    distinct, code = _coded(labels, values)
    draws = [
        [MEASURES[name](drawn) for name in metrics]
        for (counts,) in _draws(labels, (code,), (distinct,), n=n, seed=seed, groups=groups)
        for drawn in (_counted(distinct, counts, threshold),)
    ]
    low, high = _bounds(draws, n, confidence)
    return {name: Interval(MEASURES[name](point), float(low[i]), float(high[i])) for i, name in enumerate(metrics)}


def paired_gain(
    y: ArrayLike,
    a: ArrayLike,
    b: ArrayLike,
    *,
    metric: str = "brier_skill",
    n: int = 500,
    confidence: float = 0.95,
    seed: int = 7,
    groups: ArrayLike | None = None,
) -> Interval:
    """Metric of scores `a` minus metric of scores `b`, both on the same rows of every resample.

    The metric is `brier_skill` or `roc_auc`. What both models find hard cancels out, so the interval is narrower than
    the two single ones. Raises ValueError as `bootstrap` does.
    """
    if metric not in ("brier_skill", "roc_auc"):
        raise ValueError(f"no paired metric '{metric}'; known: brier_skill, roc_auc")
    measure = MEASURES[metric]
    labels, first = checked(y, a)
    _, second = checked(y, b)
    (da, ca), (db, cb) = _coded(labels, first), _coded(labels, second)
    draws = [
        [measure(_counted(da, in_a)) - measure(_counted(db, in_b))]
        for in_a, in_b in _draws(labels, (ca, cb), (da, db), n=n, seed=seed, groups=groups)
    ]
    low, high = _bounds(draws, n, confidence)
    return Interval(measure(tally(y, a)) - measure(tally(y, b)), float(low[0]), float(high[0]))


def _coded(labels: Ints, values: Floats) -> tuple[Floats, Ints]:
    """Distinct scores, and per row 2 * (position of its score) + label."""
    distinct, position = np.unique(values, return_inverse=True)
    return distinct, 2 * position.astype(np.int64) + labels


def _counted(distinct: Floats, counts: NDArray[np.int64 | np.float64], threshold: float = 0.5) -> Tally:
    table = counts.astype(np.float64).reshape(-1, 2)
    return Tally(distinct, table[:, 0], table[:, 1], int(np.searchsorted(distinct, threshold)))


def _draws(
    labels: Ints, codes: tuple[Ints, ...], distincts: tuple[Floats, ...], *, n: int, seed: int, groups: ArrayLike | None
) -> Iterator[tuple[NDArray[np.int64 | np.float64], ...]]:
    """Counts per code for each of n draws of the same rows; a draw without both classes is skipped."""
    rng = np.random.default_rng(seed)
    rows = len(labels)
    entity = None if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    if entity is not None and entity.shape != labels.shape:
        raise ValueError(f"{len(entity)} groups for {rows} rows; name the entity of every row")
    for _ in range(n):
        if entity is None:
            drawn = rng.integers(rows, size=rows)
            counts = tuple(np.bincount(c[drawn], minlength=2 * len(d)) for c, d in zip(codes, distincts, strict=True))
        else:
            entities = int(entity.max()) + 1
            weight = np.bincount(rng.integers(entities, size=entities), minlength=entities)[entity]
            counts = tuple(
                np.bincount(c, weights=weight, minlength=2 * len(d)) for c, d in zip(codes, distincts, strict=True)
            )
        if counts[0][::2].any() and counts[0][1::2].any():
            yield counts


def _bounds(draws: list[list[float]], n: int, confidence: float) -> tuple[Floats, Floats]:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence}; give a share between 0 and 1")
    if n < 1 or 2 * len(draws) < n:
        raise ValueError(f"{len(draws)} of {n} resamples hold both classes; give more resamples or more rows")
    low, high = np.quantile(np.array(draws), [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return low, high
