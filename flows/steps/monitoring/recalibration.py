"""Recalibration: what share of rows with a score was positive on labelled rows, as a smooth curve with its error.

The curve is a logistic regression on a natural cubic spline of the score's log odds, linear beyond its outer knots
(restricted cubic spline: Stone & Koo 1985; five knots at the quantiles that Harrell, Regression Modeling Strategies,
2015, table 2.3 gives). A straight line (Platt 1999) cannot follow a score that is overconfident on one side only, and
its interval would not say so. The error is the sandwich over entities (Liang & Zeger 1986): rows of one entity are one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

QUANTILES = (0.05, 0.275, 0.5, 0.725, 0.95)  # of the labelled rows' log odds: where the knots are
NEAREST = 0.1  # between two knots, at least
MOST = 12.0  # log odds beyond which scores are as good as 0 or 1
STEPS = 50  # of Newton's method; it needs about ten

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Weights [k] of the spline's columns and their covariance [k, k]; the first two are a line's offset and slope."""

    knots: tuple[float, ...]
    weights: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]


def log_odds(scores: ArrayLike) -> Floats:
    """Log odds of scores 0..1 [n], within -12..12."""
    inside = np.clip(np.asarray(scores, dtype=np.float64), 1e-9, 1 - 1e-9)
    return np.clip(np.log(inside / (1 - inside)), -MOST, MOST)


def basis(x: Floats, knots: tuple[float, ...]) -> Floats:
    """The spline's columns [n, k] at log odds x [n]: 1, x, and for three knots or more k - 2 curved ones."""
    columns = [np.ones_like(x), x]
    if len(knots) > 2:
        *inner, before, last = knots
        width = last - before
        for knot in inner:
            curved = (
                _cube(x - knot) - _cube(x - before) * (last - knot) / width + _cube(x - last) * (before - knot) / width
            )
            columns.append(curved / (last - knots[0]) ** 2)
    return np.stack(columns, axis=1)


def fit(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike | None = None) -> Curve | None:
    """The curve of labels 0/1 [n] over scores [n], rows of one of `groups` [n] being one; None where a class is absent.

    A wide normal prior around the scores as they are keeps it finite where they tell the classes apart perfectly, and
    its error with it.
    """
    y, s = np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    known = np.isfinite(s)
    y, x = y[known], log_odds(s[known])
    if y.size == 0 or y.min() == y.max():
        return None
    knots = spread(x)
    columns = basis(x, knots)
    weights, information = _newton(columns, y)
    gradients = columns * (y - expit(columns @ weights))[:, None]
    covariance = sandwich(gradients, information, None if groups is None else np.asarray(groups)[known])
    return curve(knots, weights, covariance)


def sandwich(gradients: Floats, information: Floats, groups: NDArray[Any] | None) -> Floats:
    """Covariance [k, k] of weights from the rows' gradients [n, k], those of one of `groups` [n] added up first."""
    if groups is not None:
        code = np.unique(groups, return_inverse=True)[1]
        gradients = np.stack([np.bincount(code, weights=g) for g in gradients.T], axis=1)
    inverse = np.linalg.inv(information)
    found = inverse @ (gradients.T @ gradients + precision(len(information))) @ inverse
    return np.asarray((found + found.T) / 2, dtype=np.float64)  # equal on both sides to the last bit


def curve(knots: tuple[float, ...], weights: Floats, covariance: Floats) -> Curve:
    """The curve of those arrays."""
    return Curve(knots=knots, weights=tuple(weights.tolist()), covariance=tuple(map(tuple, covariance.tolist())))


def _newton(columns: Floats, y: Floats) -> tuple[Floats, Floats]:
    """The most likely weights [k] under the prior, and the information [k, k] there; a step too long is halved."""
    prior, inverse = np.zeros(columns.shape[1]), precision(columns.shape[1])
    prior[1] = 1.0

    def cost(weights: Floats) -> float:
        z = columns @ weights
        return float((np.logaddexp(0.0, z) - y * z).sum() + (inverse @ (weights - prior) ** 2).sum() / 2)

    weights, information = prior, inverse
    for _ in range(STEPS):
        p = expit(columns @ weights)
        information = (columns * (p * (1 - p))[:, None]).T @ columns + inverse
        step, before = np.linalg.solve(information, columns.T @ (y - p) - inverse @ (weights - prior)), cost(weights)
        while cost(weights + step) > before + 1e-9 and np.abs(step).max() > 1e-9:
            step = step / 2
        weights = weights + step
        if np.abs(step).max() < 1e-9:
            break
    return weights, information


def precision(k: int) -> Floats:
    """Of the prior: deviation 1 of a line's offset and slope, 10 of the curved columns, whose weights are larger."""
    return np.diag([1.0, 1.0, *[0.01] * (k - 2)])


def shares(curve: Curve, x: Floats) -> Floats:
    """Expected share of positives [n] at log odds x [n]."""
    return np.asarray(expit(basis(x, curve.knots) @ np.array(curve.weights)), dtype=np.float64)


def drawn(curve: Curve, x: Floats, n: int, rng: np.random.Generator) -> Floats:
    """So many draws of the expected shares [n, k] at log odds x [k], with the curve's error."""
    weights = rng.multivariate_normal(curve.weights, np.array(curve.covariance), size=n)
    return np.asarray(expit(weights @ basis(x, curve.knots).T), dtype=np.float64)


def dependence(curve: Curve, labels: ArrayLike, scores: ArrayLike, groups: ArrayLike) -> float | None:
    """Correlation 0..1 of the labels of two rows of one group [n], given their scores; None where no group has two."""
    y, s = np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    known = np.isfinite(s)
    p = shares(curve, log_odds(s[known]))
    return correlation((y[known] - p) / np.sqrt(np.maximum(p * (1 - p), 1e-6)), np.asarray(groups)[known])


def correlation(residuals: Floats, groups: NDArray[Any]) -> float | None:
    """Intraclass correlation 0..1 of residuals [n] of mean 0, its moment estimate; None where no group has two."""
    code = np.unique(groups, return_inverse=True)[1]
    rows, own = np.bincount(code), float((residuals**2).sum())
    pairs = float((rows * (rows - 1)).sum())
    if pairs == 0:
        return None
    shared = float((np.bincount(code, weights=residuals) ** 2).sum()) - own
    return float(np.clip(shared / pairs / (own / len(residuals)), 0.0, 1.0)) if own else 0.0


def of(raw: Mapping[str, Any]) -> Curve:
    """The curve from its fields as JSON gives them."""
    covariance = tuple(tuple(float(v) for v in row) for row in raw["covariance"])
    knots, weights = (tuple(float(v) for v in raw[name]) for name in ("knots", "weights"))
    return Curve(knots=knots, weights=weights, covariance=covariance)


def _cube(x: Floats) -> Floats:
    return np.asarray(np.maximum(x, 0.0) ** 3, dtype=np.float64)


def spread(x: Floats) -> tuple[float, ...]:
    """The knots for values [n]: quantiles of them that are apart; fewer than three leave a line."""
    kept: list[float] = []
    for knot in np.quantile(x, QUANTILES).tolist():
        if not kept or knot - kept[-1] >= NEAREST:
            kept.append(knot)
    return tuple(kept)
