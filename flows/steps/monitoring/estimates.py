"""Quality without labels: what calibrated scores promise of themselves on the rows of a window.

If a score s, recalibrated on labelled held-out rows, means that a share p(s) of such rows is positive, then the
expected confusion of a window follows from its scores alone (confidence-based performance estimation: Białek et al.,
Estimating Model Performance Under Covariate Shift Without Labels, 2024). It sees a shift of the inputs; a change of
p(s) itself, concept drift, it cannot see.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

FILE = "quality.json"  # beside the reference in a release's folder
BORDERS = np.linspace(-12.0, 12.0, 385)  # of the cells of scores, in log odds
MIDDLES = np.concatenate([[-12.0], (BORDERS[1:] + BORDERS[:-1]) / 2, [12.0]])
REPLAYS, CONFIDENCE = 400, 0.95
STEPS = 50  # of Newton's method; it needs fewer than ten

Floats = NDArray[np.float64]
Scores = tuple[tuple[int, int], ...]  # cell of log odds and number of scores, rising
Estimate = dict[str, dict[str, float]]  # roc_auc, accuracy, brier: value, low, high


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What the held-out rows say of a release's scores: `p(s) = 1 / (1 + exp(-(a + b logit s)))`, with its error.

    `promise` is the estimate for the held-out rows themselves, `threshold` that of the decision.
    """

    a: float
    b: float
    covariance: tuple[tuple[float, float], tuple[float, float]]
    threshold: float
    promise: Mapping[str, Mapping[str, float]]


def count(scores: ArrayLike) -> Scores:
    """Scores 0..1 [n] counted into cells of log odds; those of parts add up. What is not a number is left out."""
    values = np.asarray(scores, dtype=np.float64)
    values = np.clip(values[np.isfinite(values)], 1e-9, 1 - 1e-9)
    tally = np.bincount(np.searchsorted(BORDERS, np.log(values / (1 - values)), side="right"), minlength=MIDDLES.size)
    used = np.flatnonzero(tally)
    return tuple(zip(used.tolist(), tally[used].tolist(), strict=True))


def recalibrate(labels: ArrayLike, scores: ArrayLike, threshold: float) -> Quality | None:
    """Logistic recalibration on labels 0/1 [n] (Platt 1999), by Newton's method; None where one class is absent.

    A normal prior of deviation 1 around a = 0, b = 1 keeps it finite where scores tell the classes apart perfectly.
    """
    y, s = np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    y, s = y[np.isfinite(s)], np.clip(s[np.isfinite(s)], 1e-9, 1 - 1e-9)
    if y.size == 0 or y.min() == y.max():
        return None
    x = np.stack([np.ones_like(s), np.log(s / (1 - s))], axis=1)
    prior = np.array([0.0, 1.0])
    weights = prior
    for _ in range(STEPS):
        p = expit(x @ weights)
        information = (x * (p * (1 - p))[:, None]).T @ x + np.eye(2)
        step = np.linalg.solve(information, x.T @ (y - p) - (weights - prior))
        weights = weights + step
        if np.abs(step).max() < 1e-9:
            break
    (a, b), error = weights.tolist(), np.linalg.inv(information).tolist()
    made = Quality(a=a, b=b, covariance=(tuple(error[0]), tuple(error[1])), threshold=threshold, promise={})
    return Quality(**{**vars(made), "promise": estimate(made, count(s))})


def estimate(quality: Quality, scores: Scores, *, seed: int = 7) -> Estimate:
    """Expected ROC AUC, accuracy and Brier score of rows with those scores, each with a 95 % interval; {} for no row.

    The interval is that of the figure measured once labels come: it holds the draw of the rows, of their labels and of
    the recalibration's own error.
    """
    if not scores:
        return {}
    rng = np.random.default_rng(seed)
    x, rows = MIDDLES[[i for i, _ in scores]], np.array([n for _, n in scores], dtype=np.float64)
    p = expit(quality.a + quality.b * x)
    value = _figures(rows * p, rows * (1 - p), x, quality.threshold)
    drawn = rng.multinomial(int(rows.sum()), rows / rows.sum(), size=REPLAYS)
    ab = rng.multivariate_normal([quality.a, quality.b], quality.covariance, size=REPLAYS)
    positive = rng.binomial(drawn, expit(ab[:, :1] + ab[:, 1:] * x))
    replays = _figures(positive.astype(float), (drawn - positive).astype(float), x, quality.threshold)
    tail = (1 - CONFIDENCE) / 2
    return {
        name: {
            "value": float(value[name]),
            "low": float(np.nanquantile(replays[name], tail)),
            "high": float(np.nanquantile(replays[name], 1 - tail)),
        }
        for name in value
        if np.isfinite(value[name]) and np.isfinite(replays[name]).any()
    }


def _figures(positive: Floats, negative: Floats, x: Floats, threshold: float) -> dict[str, Floats]:
    """ROC AUC, accuracy and Brier score [...] of rows [..., k] of each class in cells of log odds x [k]."""
    score, rows = expit(x), (positive + negative).sum(axis=-1)
    under = np.cumsum(negative, axis=-1) - negative / 2
    pairs = positive.sum(axis=-1) * negative.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        auc = np.where(pairs > 0, (positive * under).sum(axis=-1) / pairs, math.nan)
    right = np.where(score >= threshold, positive, negative).sum(axis=-1)
    squares = (positive * (1 - score) ** 2 + negative * score**2).sum(axis=-1)
    return {"roc_auc": auc, "accuracy": right / rows, "brier": squares / rows}


def to_json(quality: Quality) -> str:
    """Canonical JSON: sorted keys, no NaN."""
    return json.dumps(asdict(quality), sort_keys=True, allow_nan=False)


def from_json(text: str) -> Quality:
    """The quality that `to_json` wrote; ValueError if it is none."""
    try:
        raw = json.loads(text)
        first, second = raw["covariance"]
        return Quality(**{**raw, "covariance": (tuple(first), tuple(second))})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not a release's quality: {error!r}") from error
