"""thresholds: the cheapest cut by brute force, dearer alarms never at lower scores, and what cannot be chosen."""

from dataclasses import replace

import numpy as np
import pytest

from flows.steps.training import thresholds
from flows.steps.training.metrics import best_threshold
from flows.usecases import churn, fraud
from flows.usecases.spec import Costs

NAMES = ("hour", "amount")


def drawn(seed: int, n: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores with ties that tell something about them, and amounts."""
    rng = np.random.default_rng(seed)
    y = (rng.uniform(size=n) < 0.1).astype(np.int64)
    scores = np.round(0.3 * y + rng.uniform(0, 0.69, n), 2)
    return y, scores, rng.uniform(1, 200, n)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("alarm", [0.5, 5.0, 50.0, 1e6])
def test_no_other_threshold_is_cheaper(seed: int, alarm: float) -> None:
    """Every score, everything between two of them and the ends cost at least as much."""
    y, scores, amounts = drawn(seed)
    found = thresholds.cheapest(y, scores, amounts, alarm)
    least = thresholds.total_cost(y, scores, amounts, alarm, found)
    every = [0.0, *np.unique(scores), *(np.unique(scores)[:-1] + 0.005), 1.001]
    assert least == pytest.approx(min(thresholds.total_cost(y, scores, amounts, alarm, t) for t in every))
    assert 0 < found <= 1


def test_costs_by_hand() -> None:
    """Two missed at 30 and 5, one alarm at 10: what is above 10 is worth it, what is below is not."""
    y, scores, amounts = np.array([1, 1, 0, 0]), np.array([0.9, 0.4, 0.3, 0.1]), np.array([30.0, 5.0, 8.0, 9.0])
    assert thresholds.total_cost(y, scores, amounts, 10.0, 0.5) == 15.0
    assert thresholds.cheapest(y, scores, amounts, 10.0) == pytest.approx(0.65)
    assert thresholds.cheapest(y, scores, amounts, 1.0) == pytest.approx(0.35)
    assert thresholds.cheapest(y, scores, amounts, 100.0) == pytest.approx(0.95)


@pytest.mark.parametrize("seed", range(5))
def test_dearer_alarms_have_higher_thresholds(seed: int) -> None:
    """The thresholds rise with the sums, so that the risks never cross."""
    y, scores, amounts = drawn(seed)
    found = [thresholds.cheapest(y, scores, amounts, alarm) for alarm in (0.1, 1.0, 3.0, 10.0, 30.0, 1e4)]
    assert found == sorted(found)
    assert found[0] < found[-1]


def test_a_constant_score_gives_a_half() -> None:
    """Nothing can be chosen where nothing differs."""
    assert thresholds.cheapest([0, 1], [0.2, 0.2], np.array([1.0, 1.0]), 1.0) == 0.5


def test_one_threshold_between_each_two_risks() -> None:
    """With costs there is one for each alarm, on the column that the costs name; without, the most accurate one."""
    y, scores, amounts = drawn(1)
    x = np.column_stack([np.full(len(y), 12.0), amounts])
    low, high = thresholds.chosen(fraud.USE_CASE, NAMES, x, y, scores)
    alarms = fraud.USE_CASE.costs.alarms
    assert (low, high) == tuple(thresholds.cheapest(y, scores, amounts, alarm) for alarm in alarms)
    assert thresholds.chosen(churn.USE_CASE, NAMES, x, y, scores) == (best_threshold(y, scores),)


@pytest.mark.parametrize(
    ("costs", "match"),
    [
        (Costs(miss="amount", alarms=(1.0,)), "alarms .* for 3 risks; give 2"),
        (Costs(miss="amount", alarms=(5.0, 1.0)), "rising"),
        (Costs(miss="price", alarms=(1.0, 5.0)), "'price', which is no input; known: hour, amount"),
        (None, "3 risks of fraud need costs"),
    ],
)
def test_costs_that_do_not_fit_are_refused(costs: Costs | None, match: str) -> None:
    """The error says what is declared and what is needed."""
    y, scores, amounts = drawn(2)
    x = np.column_stack([amounts, amounts])
    with pytest.raises(ValueError, match=match):
        thresholds.chosen(replace(fraud.USE_CASE, costs=costs), NAMES, x, y, scores)
