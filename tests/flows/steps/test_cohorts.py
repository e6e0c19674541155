"""Cohorts: mature labels only, and the horizon between training and test."""

from dataclasses import replace

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.errors import ContractError
from flows.steps.data import cohorts
from flows.usecases import churn, fraud

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


def payments() -> pd.DataFrame:
    """Sixty days of a few simulated payments."""
    return fraud.payments(cards=40, terminals=200, days=60)


def test_event_windows_leave_the_label_time_on_both_sides() -> None:
    """Held out is the week that matured last; training ends a horizon before it, so that its labels were known then."""
    found = cohorts.event_windows(fraud.USE_CASE, at("2024-03-01 15:00"))
    assert (found.test, found.end) == (at("2024-02-16"), at("2024-02-23"))
    assert found.train == (at("2024-01-16"), at("2024-02-09"))
    later = cohorts.event_windows(fraud.USE_CASE, at("2024-06-01"))
    assert later.train[1] - later.train[0] == pd.Timedelta(days=28)


def test_events_too_young_to_train_on_say_from_when_on() -> None:
    """The first moment that the message names is the first one that works."""
    with pytest.raises(ContractError, match="train on 2024-02-07 or later"):
        cohorts.event_windows(fraud.USE_CASE, at("2024-02-06"))
    assert cohorts.event_windows(fraud.USE_CASE, at("2024-02-07")).train == (at("2024-01-16"), at("2024-01-17"))


def test_event_rows_are_the_mature_events_at_their_own_times() -> None:
    """One row per event of the two windows with its keys, what its request brings and its label; none twice."""
    log, moment = payments(), at("2024-03-01")
    rows, windows = cohorts.rows(fraud.USE_CASE, log, moment), cohorts.event_windows(fraud.USE_CASE, moment)
    assert list(rows) == ["card_id", "terminal_id", "event_timestamp", "amount", "hour", "fraud"]
    inside = log["time"].between(*windows.train, inclusive="left") | log["time"].between(
        windows.test, windows.end, inclusive="left"
    )
    assert rows["event_timestamp"].tolist() == log.loc[inside, "time"].tolist()
    assert rows["fraud"].tolist() == log.loc[inside, "fraud"].tolist()
    assert (rows["event_timestamp"] + pd.Timedelta(days=7) <= moment).all()
    seconds = (rows["event_timestamp"] - rows["event_timestamp"].dt.floor("D")).dt.total_seconds()
    assert rows["hour"].tolist() == pytest.approx((seconds / 3_600).tolist())


def test_rows_are_the_same_whatever_happens_later() -> None:
    """Neither later events nor labels that were not known yet change a row (rule 3)."""
    log, moment = payments(), at("2024-03-01")
    young = log["time"] > moment - pd.Timedelta(days=7)
    forged = log.assign(fraud=log["fraud"].mask(young, 1), amount=log["amount"].mask(young, 9_999.0))
    pd.testing.assert_frame_equal(
        cohorts.rows(fraud.USE_CASE, forged, moment), cohorts.rows(fraud.USE_CASE, log, moment)
    )
    known = cohorts.known(fraud.USE_CASE, log, moment)
    pd.testing.assert_frame_equal(
        cohorts.rows(fraud.USE_CASE, known, moment), cohorts.rows(fraud.USE_CASE, log, moment)
    )


def test_what_was_not_known_yet_is_missing() -> None:
    """Of events up to a moment, delayed values are there once their delay has passed, to the second."""
    log, moment = payments(), at("2024-02-10")
    known = cohorts.known(fraud.USE_CASE, log, moment)
    assert len(known) == (log["time"] < moment).sum()
    hidden = known["fraud"].isna()
    assert (hidden == (known["time"] > moment - pd.Timedelta(days=7))).all()
    assert 0 < hidden.sum() < len(known)
