"""Quality without labels: what calibrated scores promise of themselves on the rows of a window.

If a score s, recalibrated on labelled held-out rows, means that a share p(s) of such rows is positive, then the
expected confusion of a window follows from its scores alone (confidence-based performance estimation: Białek et al.,
Estimating Model Performance Under Covariate Shift Without Labels, 2024). It sees a shift of the inputs; a change of
p(s) itself, concept drift, it cannot see.

The interval is one for the figure that will be measured on the very rows of the window, once their labels are in. The
rows' scores are known, so what is uncertain, and replayed, is: the draw of the rows' labels, wider where an entity has
several rows; the curve p(s), its form included; and how far such estimates were off from one cohort to a later one.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from flows.steps.monitoring import recalibration
from flows.steps.monitoring.recalibration import MOST, Curve
from flows.steps.training.resampling import accuracy, brier, roc_auc, tally

FILE = "estimates.json"  # beside the reference in a release's folder
BORDERS = np.linspace(-MOST, MOST, 385)  # of the cells of scores, in log odds
MIDDLES = np.concatenate([[-MOST], (BORDERS[1:] + BORDERS[:-1]) / 2, [MOST]])
REPLAYS, CONFIDENCE = 400, 0.95
BOUNDS = {"roc_auc": (0.0, 1.0), "accuracy": (0.0, 1.0), "brier": (0.0, 1.0)}

Floats = NDArray[np.float64]
Scores = tuple[tuple[int, int], ...]  # cell of log odds and number of scores, rising
Estimate = dict[str, dict[str, float]]  # roc_auc, accuracy, brier: value, low, high


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What labelled rows say of a release's scores: the share of positives by score, and how sure that is.

    `threshold` is that of the decision. `between` are standard deviations by metric: the error of estimates from one
    cohort for a later one, beyond chance. `dependence` is the correlation of the labels of one entity's rows, 0..1.
    """

    curve: Curve
    threshold: float
    between: Mapping[str, float] = field(default_factory=dict)
    dependence: float = 1.0


def count(scores: ArrayLike) -> Scores:
    """Scores 0..1 [n] counted into cells of log odds; those of parts add up. What is not a number is left out."""
    values = np.asarray(scores, dtype=np.float64)
    values = np.clip(values[np.isfinite(values)], 1e-9, 1 - 1e-9)
    tally = np.bincount(np.searchsorted(BORDERS, np.log(values / (1 - values)), side="right"), minlength=MIDDLES.size)
    used = np.flatnonzero(tally)
    return tuple(zip(used.tolist(), tally[used].tolist(), strict=True))


def recalibrate(
    labels: ArrayLike, scores: ArrayLike, threshold: float, groups: ArrayLike | None = None
) -> Quality | None:
    """What held-out labels 0/1 [n] say of their scores [n]; `groups` [n] names each row's entity. None for one class.

    Where no entity has two rows nothing is known of their dependence, and the worst is assumed: equal labels.
    """
    curve = recalibration.fit(labels, scores, groups)
    if curve is None:
        return None
    found = None if groups is None else recalibration.dependence(curve, labels, scores, groups)
    return Quality(curve=curve, threshold=threshold, dependence=1.0 if found is None else found)


def estimate(quality: Quality, scores: Scores, *, repeats: float = 1.0, seed: int = 7) -> Estimate:
    """Expected ROC AUC, accuracy and Brier score of rows with those scores, each with a 95 % interval; {} for no row.

    `repeats` is how many rows the entity of a row has in the window, on average over the rows.
    """
    if not scores:
        return {}
    rng = np.random.default_rng(seed)
    x, rows = MIDDLES[[i for i, _ in scores]], np.array([n for _, n in scores], dtype=np.int64)
    p = recalibration.shares(quality.curve, x)
    value = _figures(rows * p, rows * (1 - p), x, quality.threshold)
    expected = recalibration.drawn(quality.curve, x, REPLAYS, rng)
    positive = _labels(expected, rows, 1 + quality.dependence * (repeats - 1), rng)
    replays = _figures(positive, rows - positive, x, quality.threshold)
    return {
        name: _interval(value[name], replays[name] + rng.normal(0, quality.between.get(name, 0.0), REPLAYS), name)
        for name in value
        if np.isfinite(value[name]) and np.isfinite(replays[name]).any()
    }


def measured(labels: ArrayLike, scores: ArrayLike, threshold: float) -> dict[str, float]:
    """The figures that `estimate` expects, from labels 0/1 [n] of both classes and scores [n]."""
    counted = tally(labels, scores, threshold)
    return {"roc_auc": roc_auc(counted), "accuracy": accuracy(counted), "brier": brier(counted)}


def _interval(value: Floats, replays: Floats, name: str) -> dict[str, float]:
    tail, (least, most) = (1 - CONFIDENCE) / 2, BOUNDS[name]
    low, high = np.clip(np.nanquantile(replays, [tail, 1 - tail]), least, most)
    return {"value": float(value), "low": float(min(low, value)), "high": float(max(high, value))}


def _labels(p: Floats, rows: NDArray[np.int64], effect: float, rng: np.random.Generator) -> Floats:
    """Positives [n, k] drawn of the rows [k] of each cell at shares [n, k]; their variance is `effect` times binomial.

    The design effect of rows that come in clusters (Kish 1965), by a beta-binomial draw.
    """
    many = np.maximum(rows, 2)
    clustered = np.clip((effect - 1) / (many - 1), 0.0, 1 - 1e-6)
    if clustered.any():
        size = 1 / np.maximum(clustered, 1e-9) - 1
        p = rng.beta(np.maximum(p * size, 1e-9), np.maximum((1 - p) * size, 1e-9))
    return np.asarray(rng.binomial(rows, p), dtype=np.float64)


def _figures(positive: Floats, negative: Floats, x: Floats, threshold: float) -> dict[str, Floats]:
    """ROC AUC, accuracy and Brier score [...] of rows [..., k] of each class in cells of log odds x [k].

    Of the rows in the threshold's own cell the part beyond it is answered with 1, as if they were spread evenly.
    """
    score, rows = expit(x), (positive + negative).sum(axis=-1)
    under = np.cumsum(negative, axis=-1) - negative / 2
    pairs = positive.sum(axis=-1) * negative.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        auc = np.where(pairs > 0, (positive * under).sum(axis=-1) / pairs, math.nan)
    cut = recalibration.log_odds(threshold)
    answered = np.clip(0.5 + (x - cut) / (BORDERS[1] - BORDERS[0]), 0.0, 1.0)
    right = (positive * answered + negative * (1 - answered)).sum(axis=-1)
    squares = (positive * (1 - score) ** 2 + negative * score**2).sum(axis=-1)
    return {"roc_auc": auc, "accuracy": right / rows, "brier": squares / rows}


def to_json(quality: Quality) -> str:
    """Canonical JSON: sorted keys, no NaN."""
    return json.dumps(asdict(quality), sort_keys=True, allow_nan=False)


def from_json(text: str) -> Quality:
    """The quality that `to_json` wrote; ValueError if it is none."""
    try:
        raw = json.loads(text)
        return Quality(**{**raw, "curve": recalibration.of(raw["curve"])})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not a release's quality: {error!r}") from error
