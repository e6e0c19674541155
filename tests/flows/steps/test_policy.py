"""Policy: drift may start a training once the last one is old enough."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flows.steps.monitoring import policy
from flows.steps.monitoring.policy import cooldown
from flows.steps.monitoring.triggers import Cause
from flows.usecases.spec import DriftRules, Retraining

NOW = datetime(1998, 4, 1, tzinfo=UTC)


def line(action: str, day: str, **facts: Any) -> dict[str, Any]:
    return {"action": action, "at": f"{day}T00:00:00+00:00", **facts}


def test_without_a_training_there_is_no_cooldown() -> None:
    """An empty history, or one of other things, holds nothing up."""
    assert cooldown([], NOW, 90) is None
    assert cooldown([line("promoted", "1998-03-31"), line("drift: drift", "1998-03-31")], NOW, 90) is None


@pytest.mark.parametrize("action", ["trained: PROMOTE", "trained: HOLD", "trained: REJECT"])
def test_any_verdict_starts_the_cooldown(action: str) -> None:
    """A training that was refused has used the same labels: another one brings nothing new."""
    assert cooldown([line(action, "1998-03-01")], NOW, 90) == (
        "in cooldown until 1998-05-30: trained 1998-03-01, 90 days apart"
    )


def test_it_ends_on_the_day() -> None:
    """Exactly so many days later a training may start, a second earlier it may not."""
    lines = [line("trained: PROMOTE", "1998-01-01")]
    assert cooldown(lines, NOW, 90) is None
    assert cooldown(lines, NOW.replace(day=1, month=3, hour=23), 90) is not None
    assert cooldown(
        [line("trained: HOLD", "1998-01-01T00:00:01"[:10])], datetime(1998, 3, 31, 23, 59, 59, tzinfo=UTC), 90
    )


def test_the_last_training_counts_and_drills_do_not() -> None:
    """The order of lines does not matter; a drill trains on purpose on nothing useful and starts no cooldown."""
    lines = [
        line("trained: PROMOTE", "1998-03-20"),
        line("trained: HOLD", "1998-01-01"),
        line("trained: REJECT", "1998-03-31", drill="shuffled_labels"),
    ]
    assert "trained 1998-03-20" in (cooldown(lines, NOW, 20) or "")
    assert cooldown(lines[1:], NOW, 20) is None


def test_a_training_that_failed_waits_a_day() -> None:
    """One that started and left no verdict is tried again, but not at once."""
    lines = [line("training started", "1998-03-31")]
    assert cooldown(lines, datetime(1998, 3, 31, 23, tzinfo=UTC), 90) is not None
    assert cooldown(lines, NOW, 90) is None


def test_a_training_that_failed_does_not_shorten_the_cooldown() -> None:
    """After a judged training and a failed one, the judged one's cooldown still holds."""
    lines = [line("training started", "1998-03-01"), line("trained: HOLD", "1998-03-01")]
    assert "until 1998-05-30" in (cooldown([*lines, line("training started", "1998-03-20")], NOW, 90) or "")


def test_no_days_no_cooldown() -> None:
    """With 0 days drift may always start a training."""
    assert cooldown([line("trained: PROMOTE", "1998-04-01")], NOW, 0) is None


@pytest.mark.parametrize(
    ("kind", "earlier", "windows", "asked"),
    [
        ("harmful", [], 0, True),
        ("benign", ["benign"] * 9, 0, False),
        ("benign", ["benign"], 3, False),
        ("benign", ["none", "benign", "benign"], 3, True),
        ("benign", ["benign", "data_bug"], 2, False),
        ("data_bug", ["benign"] * 9, 3, False),
        ("none", ["benign"] * 9, 3, False),
        ("not_enough_data", ["harmful"] * 9, 3, False),
    ],
)
def test_only_harm_and_declared_lasting_drift_ask_for_a_training(
    kind: str, earlier: list[str], windows: int, asked: bool
) -> None:
    """Harm asks at once, benign drift after the declared number of windows in a row, and nothing else ever."""
    assert bool(policy.asks(kind, earlier, DriftRules(refresh_windows=windows))) == asked


def test_broken_data_block_until_a_later_check_or_for_a_month() -> None:
    """The newest check counts, whatever else happened since, and an old one no more."""

    def check(kind: str, day: int) -> dict[str, Any]:
        return {"action": f"drift: {kind}", "at": datetime(1998, 5, day, tzinfo=UTC).isoformat()}

    now, feedback = datetime(1998, 5, 20, tzinfo=UTC), {"action": "feedback", "at": "1998-05-19T00:00:00+00:00"}
    assert policy.broken([], now) is None
    assert "1998-05-10 found broken data" in str(
        policy.broken([check("none", 1), check("data_bug", 10), feedback], now)
    )
    assert policy.broken([check("data_bug", 10), check("benign", 11)], now) is None
    assert policy.broken([check("data_bug", 10)], now + timedelta(days=22)) is None


RULES = Retraining()
DRIFT = Cause(trigger="drift", severity="medium", kind="harmful")
SCHEDULE, PERSON = Cause(trigger="schedule"), Cause(trigger="person")


def started(moment: datetime, reason: str = "drift", **facts: Any) -> dict[str, Any]:
    return {"action": "training started", "at": moment.isoformat(), "reason": reason, **facts}


def test_the_budget_of_a_week_is_used_up_by_automatic_trainings() -> None:
    """Three in the last 7 days stop the fourth, until the first of them is a week old; a person's do not count."""
    days = [NOW - timedelta(days=d) for d in (6, 4, 2)]
    lines = [started(day, reason) for day, reason in zip(days, ("drift", "schedule", "degradation"), strict=True)]
    found = policy.budget(lines, NOW, RULES)
    assert found is not None
    assert "budget of 3 automatic trainings in 7 days is used up until 1998-04-02 00:00" in found
    assert policy.budget(lines[1:], NOW, RULES) is None
    assert policy.budget(lines, NOW + timedelta(days=1), RULES) is None
    assert policy.budget([*lines[1:], started(NOW, "manual")], NOW, RULES) is None
    assert policy.budget([*lines[1:], started(NOW, drill="shuffled_labels")], NOW, RULES) is None
    assert policy.budget(lines[2:], NOW, Retraining(budget=1)) is not None


def test_the_budget_holds_a_schedule_too_and_never_a_person() -> None:
    """Whatever trains by itself shares one budget; what somebody starts waits for nothing."""
    lines = [started(NOW - timedelta(days=d), "schedule") for d in (3, 2, 1)]
    assert "budget" in str(policy.held(lines, NOW, SCHEDULE, RULES, 0))
    assert "budget" in str(policy.held(lines, NOW, DRIFT, RULES, 0))
    assert policy.held(lines, NOW, PERSON, RULES, 90) is None


def test_three_rejected_candidates_open_the_breaker_until_one_is_not() -> None:
    """Two do not, drills do not count, and a later candidate that is held or promoted closes it."""
    lines = [line("trained: REJECT", f"1998-03-0{day}", version=str(day)) for day in (1, 2, 3)]
    found = policy.breaker(lines, RULES)
    assert found is not None
    assert "the last 3 candidates (versions 1, 2, 3) were rejected" in found
    assert policy.breaker(lines[1:], RULES) is None
    assert policy.breaker([*lines[:2], line("trained: REJECT", "1998-03-04", drill="shuffled_labels")], RULES) is None
    assert policy.breaker([*lines, line("trained: REJECT", "1998-03-09", drill="shuffled_labels")], RULES) is not None
    for verdict in ("HOLD", "PROMOTE"):
        assert policy.breaker([*lines, line(f"trained: {verdict}", "1998-03-05")], RULES) is None
    assert policy.held(lines, NOW, SCHEDULE, RULES, 0) == policy.held(lines, NOW, DRIFT, RULES, 0) == found
    assert policy.held(lines, NOW, PERSON, RULES, 0) is None


def test_a_no_is_quiet_for_a_week_unless_it_gets_worse() -> None:
    """What was declined does not ask again the next day; a higher severity does, and a schedule has its own pace."""
    no = line("training declined", "1998-03-30", by="Ann", cause={"severity": "medium"})
    assert policy.quiet([no], NOW, DRIFT, RULES) == "declined on 1998-03-30 by Ann: quiet until 1998-04-06"
    assert policy.quiet([no], NOW + timedelta(days=5), DRIFT, RULES) is None
    worse = Cause(trigger="drift", severity="high", kind="harmful")
    assert policy.quiet([no], NOW, worse, RULES) is None
    assert policy.quiet([no], NOW, Cause(trigger="drift"), RULES) is not None
    assert policy.held([no], NOW, SCHEDULE, RULES, 0) is None


def test_what_only_was_asked_held_or_declined_starts_no_cooldown() -> None:
    """The cooldown counts trainings, and none of these was one."""
    lines = [line(f"training {what}", "1998-03-31") for what in ("asked", "held", "declined")]
    assert cooldown(lines, NOW, 90) is None


def asked_at(hour: int, event: str | None = "e1", action: str = "drift: harmful") -> dict[str, Any]:
    return {"action": action, "event": event, "wall": f"1998-04-01T{hour:02d}:00:00+00:00", "at": NOW.isoformat()}


@pytest.mark.parametrize("answer", ["training started", "training held", "training declined", "training asked"])
def test_an_event_that_a_run_followed_is_no_matter(answer: str) -> None:
    """A run leaves a line whatever it decides; the same event told again by a later check asks for nothing new."""
    now = NOW + timedelta(hours=9)
    assert policy.unfollowed([asked_at(1), line(answer, "1998-04-01"), asked_at(2)], now, 30) is None


def test_an_event_that_nothing_followed_is_noticed_in_time() -> None:
    """Half an hour after the event, not before; a drill and the training of before the event do not count."""
    before, drill = line("training started", "1998-04-01"), line("training started", "1998-04-01", drill="x")
    lines = [before, asked_at(1), asked_at(2, None), drill]
    assert policy.unfollowed(lines, NOW + timedelta(hours=1, minutes=29), 30) is None
    found = policy.unfollowed(lines, NOW + timedelta(hours=1, minutes=30), 30)
    assert found is not None
    assert (
        "asked for a training at 1998-04-01 01:00 UTC (drift: harmful) and no run followed within 30 minutes" in found
    )
    assert "prefect.automation.action.failed" in found
    degraded = [asked_at(1, action="degraded: high")]
    assert "degraded: high" in str(policy.unfollowed(degraded, NOW + timedelta(hours=9), 30))
    assert policy.unfollowed([asked_at(1, None)], NOW + timedelta(hours=9), 30) is None


def test_an_open_question_is_shown_until_it_is_answered_or_too_late() -> None:
    """A held run meanwhile does not answer it."""
    asked = {**line("training asked", "1998-04-01"), "run": "calm-owl", "until": "1998-04-01T12:00:00+00:00"}
    found = policy.open_question([asked, line("training held", "1998-04-01")], NOW)
    assert "run 'calm-owl' asks whether to train, until 1998-04-01T12:00 UTC" in str(found)
    assert policy.open_question([asked], NOW + timedelta(hours=12)) is None
    assert policy.open_question([asked, line("training declined", "1998-04-01")], NOW) is None
    assert policy.open_question([], NOW) is None
