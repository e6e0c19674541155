"""Cohorts: mature labels only, and the horizon between training and test."""

from dataclasses import replace

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.errors import ContractError
from flows.steps import cohorts
from flows.usecases import churn

CASE = churn.USE_CASE
DAY = pd.Timedelta(days=1)


def at(text: str) -> pd.Timestamp:
    return pd.Timestamp(text, tz="UTC")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("1998-01-01", "1998-01-01T00:00:00+00:00"),
        ("1998-01-01T02:00:00+02:00", "1998-01-01T00:00:00+00:00"),
        (pd.Timestamp("1998-01-01 05:00"), "1998-01-01T05:00:00+00:00"),
    ],
)
def test_a_moment_is_in_utc(given: str, expected: str) -> None:
    """A naive moment is taken as UTC, another zone is converted."""
    assert cohorts.utc(given).isoformat() == expected


def test_the_grid_is_midnights_of_months_within_both_ends() -> None:
    """Both ends belong to the grid, and a start within a day is the next midnight's."""
    found = cohorts.grid(CASE, at("1997-03-01"), at("1997-06-01"))
    assert [f"{m:%m-%d %H:%M}" for m in found] == ["03-01 00:00", "04-01 00:00", "05-01 00:00", "06-01 00:00"]
    assert cohorts.grid(CASE, at("1997-03-01 00:01"), at("1997-05-31")) == [at("1997-04-01"), at("1997-05-01")]


def test_a_cutoff_is_mature_on_the_day_that_its_horizon_ends() -> None:
    """The test cut-off of 1997-10-01 can be used from 1997-12-30 on, one second earlier it is September's."""
    assert cohorts.split(CASE, at("1997-12-30")).test == at("1997-10-01")
    assert cohorts.split(CASE, at("1997-12-29 23:59:59")).test == at("1997-09-01")


def test_the_split_of_january() -> None:
    """As of 1998-01-01: tested on October, trained on April to July, whose labels were in by October."""
    split = cohorts.split(CASE, at("1998-01-01"))
    assert split.test == at("1997-10-01")
    assert [c.month for c in split.train] == [4, 5, 6, 7]


@settings(max_examples=200, deadline=None)
@given(
    days=st.integers(0, 800),
    horizon=st.integers(1, 200),
    grid=st.sampled_from(["MS", "W-MON", "D", "QS"]),
)
def test_every_split_leaves_the_horizon_between(days: int, horizon: int, grid: str) -> None:
    """Whatever horizon, grid and day: all labels are mature, and training ones before the test cut-off."""
    case = replace(CASE, horizon_days=horizon, grid=grid)
    as_of = at(CASE.first_cutoff) + days * DAY
    try:
        split = cohorts.split(case, as_of)
    except ContractError:
        assert days < 2 * horizon + 200
        return
    assert split.test + horizon * DAY <= as_of
    assert all(c + horizon * DAY <= split.test for c in split.train)
    assert at(CASE.first_cutoff) <= min(split.train)
    assert list(split.train) == sorted(set(split.train))


def test_too_early_says_from_when_on() -> None:
    """Where no training cut-off is left, the error says how many there are and when to train."""
    with pytest.raises(ContractError, match=r"as of 1997-08-01 churn has 2 mature cut-offs .* later than 1997-09-28"):
        cohorts.split(CASE, at("1997-08-01"))
    with pytest.raises(ContractError, match="has 0 mature cut-offs"):
        cohorts.split(CASE, at("1997-05-01"))


def test_a_cohort_is_everybody_known_before_the_cutoff() -> None:
    """Who buys first at midnight of the cut-off is not known yet; everybody else is there once, in order."""
    days = pd.to_datetime(["1997-03-01", "1997-05-31", "1997-06-01", "1997-06-02", "1997-04-01"], utc=True)
    events = pd.DataFrame({"user_id": [9, 3, 5, 3, 9], "purchased_at": days.as_unit("us"), "items": 1, "amount": 1.0})
    found = cohorts.cohort(CASE, events, at("1997-06-01"))
    assert found["user_id"].tolist() == [3, 9]
    assert found["churned"].tolist() == [0, 1]
    assert found["churned"].dtype == "int64"
    assert (found["event_timestamp"] == at("1997-06-01")).all()


def test_a_cohort_of_nobody_has_its_columns() -> None:
    """Before the first event the cohort is empty, with the columns and types of any other."""
    days = pd.to_datetime(["1997-03-01"], utc=True)
    events = pd.DataFrame({"user_id": [9], "purchased_at": days.as_unit("us"), "items": 1, "amount": 1.0})
    found = cohorts.cohort(CASE, events, at("1997-01-01"))
    assert list(found.columns) == ["user_id", "event_timestamp", "churned"]
    assert found.empty
