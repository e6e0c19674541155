"""Transfer: cohorts whose scores mean something else widen the interval, cohorts that only differ by chance do not."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from flows.steps.monitoring import estimates, transfer
from tests.flows.steps.quality_windows import WORLDS

WORLD = WORLDS[0]


def quality(cohort: transfer.Cohort) -> estimates.Quality:
    made = estimates.recalibrate(cohort.labels, cohort.scores, 0.5, cohort.entities)
    assert made is not None
    return made


def test_cohorts_of_one_world_add_little_and_those_of_others_what_they_differ() -> None:
    """By chance alone the error between cohorts is near zero; with a base rate that wanders it is that of the error."""
    rng = np.random.default_rng(0)
    same = [WORLD.draw(rng, 8_000) for _ in range(5)]
    assert transfer.widened(quality(same[-1]), same).between["accuracy"] < 0.006
    wandering = [
        replace(c, labels=np.where(rng.random(8_000) < share, 1, c.labels))
        for c, share in zip(same, (0.3, 0.1, 0.4, 0.0, 0.2), strict=True)
    ]
    found = transfer.widened(quality(wandering[-1]), wandering).between
    assert 0.03 < found["accuracy"] < 0.2
    assert 0.02 < found["roc_auc"] < 0.2


def test_the_held_out_cohort_counts_for_itself() -> None:
    """Where only the last cohort, whose time no model has seen, is different, it is not averaged away."""
    rng = np.random.default_rng(1)
    same = [WORLD.draw(rng, 6_000) for _ in range(5)]
    last = WORLD.draw(rng, 6_000)
    last = replace(last, labels=np.where(rng.random(6_000) < 0.2, 1, last.labels))
    found = transfer.widened(quality(last), [*same, last])
    error = (
        estimates.measured(last.labels, last.scores, 0.5)["accuracy"]
        - estimates.measured(same[0].labels, same[0].scores, 0.5)["accuracy"]
    )
    assert found.between["accuracy"] == pytest.approx(abs(error), rel=0.25)


def test_one_cohort_or_too_few_of_a_class_tell_nothing() -> None:
    """Without a pair nothing is known, and a cohort with a handful of positives is no evidence."""
    rng = np.random.default_rng(2)
    one, two = WORLD.draw(rng, 4_000), WORLD.draw(rng, 4_000)
    assert transfer.widened(quality(one), [one]).between == {}
    few = replace(two, labels=(np.arange(4_000) < 49).astype(np.int64))
    assert transfer.widened(quality(one), [few, one]).between == {}


@pytest.mark.parametrize(("times", "parts"), [(3, [40, 40, 40]), (120, [20] * 6)])
def test_cohorts_are_cut_by_time(times: int, parts: list[int]) -> None:
    """Cut-offs are cohorts as they are; rows at their own times are cut into six stretches, none of them mixed."""
    moments = np.datetime64("1998-01-01", "us") + np.arange(120) % times * np.timedelta64(1, "D")
    rows = transfer.Cohort(np.zeros(120), moments.astype(np.float64), np.arange(120))
    found = transfer.cohorts(rows, moments)
    assert [len(c.labels) for c in found] == parts
    assert all(a.scores.max() < b.scores.min() for a, b in pairwise(found))
