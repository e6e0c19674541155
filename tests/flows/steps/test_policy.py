"""Policy: drift may start a training once the last one is old enough."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flows.steps.monitoring import policy
from flows.steps.monitoring.policy import cooldown
from flows.usecases.spec import DriftRules

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
