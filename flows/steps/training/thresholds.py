"""Thresholds: where one risk ends and the next begins, chosen on scores of rows that the model had not seen."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bentos.runtime.scoring.categories import Raw
from flows.steps.training.metrics import best_threshold
from flows.steps.training.resampling import Floats, checked
from flows.usecases.spec import UseCase


def chosen(use_case: UseCase, names: Sequence[str], x: Raw, y: NDArray[np.int64], scores: Floats) -> tuple[float, ...]:
    """One threshold between each two risks, rising: the cheapest for each alarm's sum, else the most accurate one.

    `x` raw values [n, k] in the order of `names`, `y` int64[n] of 0/1, `scores` float64[n]. A row whose amount is
    missing costs nothing when missed. Raises ValueError if the costs name no input, or are not as many as thresholds.
    """
    costs, needed = use_case.costs, len(use_case.risks) - 1
    if costs is None:
        if needed != 1:
            raise ValueError(f"{needed + 1} risks of {use_case.name} need costs to be told apart; declare them")
        return (best_threshold(y, scores, goal="accuracy"),)
    if len(costs.alarms) != needed or list(costs.alarms) != sorted(costs.alarms):
        raise ValueError(f"alarms {costs.alarms} of {use_case.name} for {needed + 1} risks; give {needed}, rising")
    if costs.miss not in names:
        raise ValueError(
            f"a miss of {use_case.name} costs {costs.miss!r}, which is no input; known: {', '.join(names)}"
        )
    missed = np.nan_to_num(x[:, list(names).index(costs.miss)].astype(np.float64))
    return tuple(cheapest(y, scores, missed, alarm) for alarm in costs.alarms)


def total_cost(y: ArrayLike, scores: ArrayLike, missed: Floats, alarm: float, threshold: float) -> float:
    """What answers at a threshold cost: `alarm` for each row at or above it, `missed` [n] of each 1 below it."""
    labels, values = checked(y, scores)
    raised = values >= threshold
    return float(alarm * raised.sum() + missed[(labels == 1) & ~raised].sum())


def cheapest(y: ArrayLike, scores: ArrayLike, missed: Floats, alarm: float) -> float:
    """The threshold of least total cost, midway between neighbouring scores, so that rounding is harmless.

    Of equally cheap ones the lowest, so that a dearer alarm never has a lower threshold than a cheaper one. Never 0;
    a constant score gives 0.5.
    """
    labels, values = checked(y, scores)
    distinct, position = np.unique(values, return_inverse=True)
    if len(distinct) == 1:
        return 0.5
    rows = np.bincount(position)
    at_stake = np.bincount(position, weights=np.where(labels == 1, missed, 0.0))
    below = np.concatenate([[0.0], np.cumsum(at_stake)])
    raised = len(labels) - np.concatenate([[0], np.cumsum(rows)])
    borders = np.concatenate([[0.0], distinct, [1.0]])
    middle = (borders[:-1] + borders[1:]) / 2
    middle = np.where(middle <= borders[:-1], borders[1:], middle)
    usable = middle > 0
    usable[-1] &= distinct[-1] < 1
    total = (below + alarm * raised)[usable]
    return float(middle[usable][np.argmin(total)])
