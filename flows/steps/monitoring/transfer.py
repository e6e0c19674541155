"""Transfer: how far quality that one cohort promised was off on a later one, beyond what chance explains.

A curve p(s) learned at one time is used at another. How much it moves in between cannot be seen without labels, but
how much it moved between the cut-offs of the training can: each cohort estimates every later one, as a release
estimates its windows, and the mean squared error beyond the expected one is the variance of what moved (the moment
estimate of a random effect: DerSimonian & Laird 1986). With a cohort or two this is a rough figure, never below 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from flows.steps.monitoring import estimates
from flows.steps.monitoring.estimates import Quality

MOST = 6  # cohorts of rows that come at their own times
NORMAL = norm.ppf((1 + estimates.CONFIDENCE) / 2)  # deviations in half an interval
MIN_CLASS_ROWS = 50  # of each class in a cohort; fewer tell of chance alone


@dataclass(frozen=True)
class Cohort:
    """Labels 0/1 [n], scores [n] of a model that had not seen them, and each row's entity [n]."""

    labels: NDArray[Any]
    scores: NDArray[np.float64]
    entities: NDArray[Any]


def cohorts(cohort: Cohort, times: NDArray[np.datetime64]) -> list[Cohort]:
    """The rows of each of the times [n], rising; where there are more than six, of six equally large stretches."""
    distinct, code = np.unique(times, return_inverse=True)
    if len(distinct) > MOST:
        code = np.searchsorted(np.quantile(code, np.arange(1, MOST) / MOST), code, side="right")
    parts = [code == k for k in np.unique(code)]
    return [Cohort(cohort.labels[m], cohort.scores[m], cohort.entities[m]) for m in parts]


def widened(quality: Quality, rising: Sequence[Cohort]) -> Quality:
    """The quality with the error between cohorts by metric; the last of the cohorts is the held-out one.

    It is the larger of two: that of all pairs of an earlier and a later cohort, and that of the pairs with the last
    one, the only rows whose time the model has not seen either.
    """
    sound = [c for c in rising if min(c.labels.sum(), (1 - c.labels).sum()) >= MIN_CLASS_ROWS]
    excess: dict[str, list[tuple[bool, float]]] = {}
    for first, second in combinations(range(len(sound)), 2):
        for name, more in _excess(sound[first], sound[second], quality.threshold).items():
            excess.setdefault(name, []).append((second == len(sound) - 1, more))
    between = {}
    for name, found in sorted(excess.items()):
        largest = max(np.mean([more for _, more in found]), np.mean([more for last, more in found if last]))
        between[name] = max(0.0, float(largest)) ** 0.5
    return replace(quality, between=between)


def _excess(source: Cohort, target: Cohort, threshold: float) -> dict[str, float]:
    """By metric the squared error of the target's figures as the source estimates them, less what chance explains."""
    learned = estimates.recalibrate(source.labels, source.scores, threshold, source.entities)
    if learned is None:
        return {}
    measured = estimates.measured(target.labels, target.scores, threshold)
    found = estimates.estimate(learned, estimates.count(target.scores))
    deviations = {name: (e["high"] - e["low"]) / (2 * NORMAL) for name, e in found.items()}
    return {name: (measured[name] - found[name]["value"]) ** 2 - deviations[name] ** 2 for name in found}
