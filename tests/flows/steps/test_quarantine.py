"""Quarantine: periods follow from the history alone, and rows whose features or labels fall in one are known."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pytest

from flows.errors import ContractError
from flows.steps.data import cohorts, quarantine
from flows.usecases import churn, fraud
from tests.flows import shop


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def bug(since: str, until: str, kind: str = "data_bug", **facts: Any) -> dict[str, Any]:
    found = {"release": "r1", "reason": f"bug of {since}", "columns": ["amount"], **facts}
    return {"action": f"drift: {kind}", "since": day(since).isoformat(), "until": day(until).isoformat(), **found}


def settled(action: str, id: str, **facts: Any) -> dict[str, Any]:
    return {"action": action, "id": id, "by": "a person", "reason": "known", **facts}


def spans(lines: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(f"{p.since:%m-%d}", f"{p.until:%m-%d}") for p in quarantine.holding(lines)]


MAY, JUNE = bug("2024-05-01", "2024-05-11"), bug("2024-06-01", "2024-06-11")


def test_windows_that_overlap_are_one_period_and_others_are_none() -> None:
    """Each broken window counts once, the overlap keeps the first id; sound windows quarantine nothing, end nothing."""
    lines = [MAY, JUNE, bug("2024-05-09", "2024-05-20"), bug("2024-05-01", "2024-05-30", "none")]
    assert spans(lines) == [("05-01", "05-20"), ("06-01", "06-11")]
    assert quarantine.read(lines)[0].id == quarantine.read([MAY])[0].id
    assert spans([*lines, bug("2024-05-15", "2024-06-05")]) == [("05-01", "06-11")]
    assert spans([*lines, *lines]) == spans(lines)


def test_a_lifted_period_stays_lifted_and_what_is_new_does_not() -> None:
    """Of a broken window that overlaps what was lifted, on either side, only the rest is in quarantine."""
    lines = [MAY, settled(quarantine.LIFTED, quarantine.read([MAY])[0].id)]
    assert spans(lines) == []
    assert spans([*lines, MAY]) == []
    assert spans([*lines, bug("2024-05-08", "2024-05-18")]) == [("05-11", "05-18")]
    assert spans([*lines, bug("2024-04-20", "2024-06-30")]) == [("04-20", "05-01"), ("05-11", "06-30")]


def test_a_prepare_mends_what_is_trained_on_and_no_answer() -> None:
    """Lifted by a prepare, the answers of the period stay unmeasured; lifted by a person, they count."""
    for by, counted in (("prepare", 1), ("a person", 0)):
        lines = [MAY, settled(quarantine.LIFTED, quarantine.read([MAY])[0].id, by=by)]
        assert (len(quarantine.holding(lines)), len(quarantine.answered(lines))) == (0, counted)


def test_a_row_is_touched_by_its_features_time_or_its_labels() -> None:
    """Half open at both ends: features at the period's end are sound, so are labels complete at its start."""
    (period,) = quarantine.holding([MAY])
    periods = quarantine.holding([MAY, settled(quarantine.KEPT, period.id, onwards=False)])
    days = ["2024-04-01", "2024-04-01T00:00:01", "2024-05-01", "2024-05-10", "2024-05-11"]
    times = [pd.Timestamp(text, tz="UTC") for text in days]
    assert quarantine.touched(times, 30, periods).tolist() == [False, True, True, True, False]
    assert quarantine.inside(times, periods).tolist() == [False, False, True, True, False]
    assert quarantine.touched([], 30, periods).tolist() == []
    broken = (period,)  # no prepare has looked at it
    assert quarantine.touched(times, 30, broken).tolist() == [False, True, True, True, True]
    assert quarantine.inside(times, broken).tolist() == quarantine.inside(times, periods).tolist()


def test_what_a_version_was_trained_without_is_restored_from_its_facts() -> None:
    """A reproduction leaves out the same rows, whatever was lifted since."""
    periods = quarantine.holding([MAY, JUNE])
    facts = {"periods": [p.facts() for p in periods]}
    back = quarantine.restored(facts)
    assert [(p.id, p.since, p.until, p.onwards) for p in back] == [(p.id, p.since, p.until, p.onwards) for p in periods]
    assert quarantine.restored(None) == ()


def test_the_split_goes_round_a_period() -> None:
    """The newest sound cut-off is held out, and the label's horizon stays between; too little left is an error."""
    as_of = pd.Timestamp("2024-08-03", tz="UTC")
    periods = [replace(p, onwards=False) for p in quarantine.holding([bug("2024-07-10", "2024-07-12")])]
    assert cohorts.split(shop.USE_CASE, as_of).test == pd.Timestamp("2024-07-01", tz="UTC")
    assert cohorts.split(shop.USE_CASE, as_of, periods).test == pd.Timestamp("2024-06-01", tz="UTC")
    everything = [replace(p, since=day("2024-03-05"), onwards=True) for p in periods]
    with pytest.raises(ContractError, match=f"quarantined \\({periods[0].id}\\): see `bentoflow quarantine`"):
        cohorts.split(shop.USE_CASE, as_of, everything)
    assert cohorts.split(churn.USE_CASE, pd.Timestamp("1998-01-01", tz="UTC"), periods).train


def test_event_windows_move_before_a_period_and_rows_in_it_are_left_out() -> None:
    """The days to test on end where their labels are known before the period; training days keep their sound rows."""
    case, as_of = fraud.USE_CASE, pd.Timestamp("2024-03-15", tz="UTC")
    log = fraud.payments(cards=200, terminals=400, days=75)
    events = cohorts.known(case, log, as_of)
    tested = quarantine.holding([bug("2024-03-05", "2024-03-06")])
    windows = cohorts.event_windows(case, as_of, tested)
    assert windows.end == pd.Timestamp("2024-02-27", tz="UTC")
    assert windows.end - windows.test == pd.Timedelta(days=case.test_days)
    trained = [replace(p, onwards=False) for p in quarantine.holding([bug("2024-02-10", "2024-02-12")])]
    assert cohorts.event_windows(case, as_of, trained) == cohorts.event_windows(case, as_of)
    all_rows, rows = cohorts.rows(case, events, as_of), cohorts.rows(case, events, as_of, trained)
    bad = quarantine.touched(all_rows["event_timestamp"], case.horizon_days, trained)
    assert bad.sum() > 100
    pd.testing.assert_frame_equal(rows, all_rows[~bad].reset_index(drop=True))
