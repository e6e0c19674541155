"""Prospect: a quick fit on newer labels against the champion, on rows that neither has seen."""

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest

from bentos.runtime.scoring.scorer import Scorer
from flows.steps.data import cohorts
from flows.steps.training import candidate, prospect
from flows.steps.training.arrays import Table
from flows.steps.training.candidate import Rival
from flows.steps.training.prospect import Prospect, measure
from flows.steps.training.resampling import Interval
from flows.usecases import churn, fraud
from tests.flows.steps.test_candidate import CASE, DRAFT, LOGISTIC, table

OLD, NEW = np.datetime64("1997-06-01"), np.datetime64("1997-12-01")


@cache
def champion() -> Scorer:
    """Fitted on the old relation of inputs and label."""
    return candidate.fit(CASE, table(1_500, "1997-06-01", 1), LOGISTIC, DRAFT)[2]


def turned(rows: Table) -> Table:
    """The relation of inputs and label the other way round: what the champion learned is wrong."""
    return replace(rows, y=1 - rows.y)


def measured(train: Table, test: Table, unseen: np.datetime64 = OLD) -> Prospect:
    return measure(CASE, train, test, Rival(champion(), test.x), LOGISTIC, unseen)


def test_a_changed_relation_is_worth_a_training() -> None:
    """Where the label now depends on the inputs otherwise, a quick fit gains beyond noise, and says what it cost."""
    found = measured(turned(table(1_500, "1997-09-01", 3)), turned(table(1_000, "1997-12-01", 4)))
    assert found.answer == "helps"
    assert found.gain is not None
    assert found.gain.low > 0.1
    assert (found.train_rows, found.test_rows) == (1_500, 1_000)
    assert found.seconds > 0
    assert "rows fitted" in str(found)


def test_the_same_world_is_not() -> None:
    """With nothing new to learn from, the interval's upper bound is below what the gate asks for."""
    found = measured(table(1_500, "1997-09-01", 1), table(20_000, "1997-12-01", 4))
    assert found.gain is not None
    assert found.gain.high < CASE.gates.min_gain
    assert found.answer == "does not help"


@pytest.mark.parametrize(
    ("gain", "answer"),
    [
        (Interval(0.01, 0.001, 0.02), "helps"),
        (Interval(0.0019, 0.001, 0.0021), "cannot tell"),
        (Interval(0.01, -0.001, 0.02), "cannot tell"),
        (Interval(0.0, -0.01, 0.002), "cannot tell"),
        (Interval(0.0, -0.01, 0.0019), "does not help"),
    ],
)
def test_the_answer_is_the_gates(gain: Interval, answer: str) -> None:
    """Yes where the gate `champion_gain` would pass, no where it cannot, and else it cannot tell."""
    assert prospect.judged(gain, 0.002)[0] == answer


def test_only_rows_that_the_champion_has_not_seen_count() -> None:
    """Rows of before the moment are left out of the comparison, however well the quick fit does on them."""
    seen, new = turned(table(2_000, "1997-06-01", 5)), table(1_000, "1997-12-01", 6)
    both = replace(
        new,
        x=np.vstack([seen.x, new.x]),
        y=np.concatenate([seen.y, new.y]),
        entities=np.arange(3_000),
        times=np.concatenate([seen.times, new.times]),
    )
    train = turned(table(1_500, "1997-05-01", 7))  # right about the seen rows, wrong about the new ones
    found = measured(train, both, NEW)
    assert found.test_rows == 1_000
    assert found.answer == "does not help"
    assert measured(train, both, OLD).answer == "helps"


@pytest.mark.parametrize("few", ["rows", "positives"])
def test_without_enough_newer_labels_it_cannot_tell(few: str) -> None:
    """Too few rows, or of one class, decide nothing and cost no fit."""
    test = table(499, "1997-12-01", 4) if few == "rows" else table(1_000, "1997-12-01", 4)
    if few == "positives":
        test = replace(test, y=np.zeros(1_000, dtype=np.int64))
    found = measured(table(1_500, "1997-09-01", 3), test)
    assert (found.answer, found.gain, found.train_rows) == ("cannot tell", None, 0)
    assert "newer than those the champion was judged on" in found.why


def test_the_fit_is_made_on_the_newest_rows() -> None:
    """With fewer rows allowed than there are, the oldest are left out, and ties are drawn the same way each time."""
    old, new = table(600, "1997-01-01", 1), table(600, "1997-09-01", 2)
    both = replace(
        old,
        x=np.vstack([new.x, old.x]),
        y=np.concatenate([new.y, old.y]),
        entities=np.arange(1_200),
        times=np.concatenate([new.times, old.times]),
    )
    assert set(prospect.newest(both, 600, 7)) == set(range(600))
    some = prospect.newest(both, 700, 7)
    assert (some < 600).sum() == 600
    assert some.tolist() == prospect.newest(both, 700, 7).tolist()


@pytest.mark.parametrize(
    ("answer", "kind", "probe", "skipped"),
    [
        ("does not help", "benign", "benign", True),
        ("does not help", "harmful", "benign", False),
        ("does not help", "harmful", "all", True),
        ("cannot tell", "benign", "all", False),
        ("helps", "benign", "benign", False),
        ("does not help", "benign", "off", False),
    ],
)
def test_only_a_clear_no_skips_and_harm_trains_all_the_same(answer: str, kind: str, probe: str, skipped: bool) -> None:
    """A refresh is skipped when it cannot help; harm only where the use case says so; ignorance skips nothing."""
    assert prospect.vain(Prospect(answer=answer, why=""), kind, probe) is skipped  # type: ignore[arg-type]
    assert not prospect.vain(None, kind, probe)


def test_unseen_begins_after_what_a_training_was_judged_on() -> None:
    """Of cohorts the cut-offs after the tested one, of events those from the end of the tested days on."""
    as_of = pd.Timestamp("1998-01-01", tz="UTC")
    tested = cohorts.split(churn.USE_CASE, as_of).test
    assert tested < cohorts.unseen_from(churn.USE_CASE, as_of) <= tested + pd.Timedelta(seconds=1)
    day = pd.Timestamp("2024-03-01", tz="UTC")
    assert cohorts.unseen_from(fraud.USE_CASE, day) == cohorts.event_windows(fraud.USE_CASE, day).end
    later = day + pd.Timedelta(days=fraud.USE_CASE.test_days)
    assert cohorts.test_start(fraud.USE_CASE, later) == cohorts.unseen_from(fraud.USE_CASE, day)
