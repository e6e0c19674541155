"""Figures of the loop's state, from histories as flows leave them."""

from datetime import UTC, datetime, timedelta
from typing import Any

from flows.steps.monitoring import figures
from flows.usecases.churn import USE_CASE

NOW = datetime(2026, 3, 10, tzinfo=UTC)


def line(action: str, *, days: float = 0.0, **facts: Any) -> dict[str, Any]:
    """A line of history so many days ago."""
    at = (NOW - timedelta(days=days)).isoformat()
    return {"action": action, "at": at, "wall": at, **facts}


def values(*lines: dict[str, Any]) -> dict[tuple[str, ...], float]:
    """Each figure's value by name and labels."""
    found = figures.of_history(USE_CASE, lines, NOW, NOW)
    assert {f.name for f in found} <= figures.HELP.keys()
    return {(f.name, *(value for _, value in f.labels)): f.value for f in found}


PROMOTED = (
    line("trained: PROMOTE", days=40, version="1"),
    line("promoted", days=39, version="1", release="churn:v1"),
)


def test_an_empty_history_has_no_champion_and_no_check() -> None:
    """What is not known is left out, and not given as zero."""
    found = {name for name, *_ in values()}
    assert not found & {"champion_info", "champion_trained_seconds", "drift_kind", "drift_checked_seconds"}
    assert values()["candidates", "REJECT"] == 0
    assert values()["retraining_stopped", "breaker"] == 0


def test_the_champions_age_is_that_of_its_training() -> None:
    """After a rollback it is the older version's again."""
    later = (
        line("trained: PROMOTE", days=9, version="2"),
        line("promoted", days=9, version="2", release="churn:v2"),
        line("trained: REJECT", days=3, version="3"),
    )
    found = values(*PROMOTED, *later)
    assert found["champion_info", "2", "churn:v2"] == 1
    assert NOW.timestamp() - found["champion_trained_seconds",] == 9 * 86_400
    back = values(*PROMOTED, *later, line("rolled back", days=1, version="1", release="churn:v1"))
    assert back["champion_info", "1", "churn:v1"] == 1
    assert NOW.timestamp() - back["champion_trained_seconds",] == 40 * 86_400
    assert NOW.timestamp() - back["champion_since_seconds",] == 86_400
    assert (back["releases", "promoted"], back["releases", "rolled back"]) == (2, 1)


def test_only_the_newest_kind_of_drift_is_one() -> None:
    """Every kind is there, so that a state that ends goes back to zero."""
    found = values(line("drift: data_bug", days=2, rows=10), line("drift: benign", days=1, rows=900))
    kinds = {key[1]: value for key, value in found.items() if key[0] == "drift_kind"}
    assert {kind for kind, value in kinds.items() if value} == {"benign"}
    assert kinds.keys() == {"none", "benign", "harmful", "data_bug", "not_enough_data"}
    assert found["drift_window_rows",] == 900


def test_what_stops_trainings_is_told_apart() -> None:
    """Three rejected candidates open the breaker; broken data are another reason; drills count for nothing."""
    rejected = [line("trained: REJECT", days=d, version=str(d)) for d in (300, 200, 150)]
    found = values(*rejected, line("drift: data_bug", days=1))
    stopped = {key[1] for key, value in found.items() if key[0] == "retraining_stopped" and value}
    assert stopped == {"breaker", "broken_data"}
    assert found["candidates", "REJECT"] == 3
    drilled = values(*rejected[:2], line("trained: REJECT", days=150, version="9", drill="shuffled_labels"))
    assert drilled["retraining_stopped", "breaker"] == 0
    assert drilled["candidates", "REJECT"] == 2


def test_an_event_without_a_run_is_told() -> None:
    """Once the notice is over."""
    event = line("drift: harmful", days=1, event="e", rows=900)
    assert values(event)["event_unfollowed",] == 1
    assert values({**event, "wall": NOW.isoformat()})["event_unfollowed",] == 0
    assert values(event, line("training started", days=0.9))["event_unfollowed",] == 0


def test_a_months_quality_has_its_bounds() -> None:
    """Metrics with an interval, and how many labels they come from."""
    level = {"value": 0.8, "low": 0.7, "high": 0.9}
    found = figures.of_quality({"month": "2026-01", "labels": 500, "base_rate": 0.4, "roc_auc": level})
    assert {(f.labels, f.value) for f in found if f.name == "live_quality"} == {
        ((("metric", "roc_auc"), ("bound", bound)), value) for bound, value in level.items()
    }
    assert [f.value for f in found if f.name == "live_labels"] == [500]
    assert figures.of_quality({}) == []
