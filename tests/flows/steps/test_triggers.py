"""Triggers: what a reason stands for, and how severe a loss of quality is."""

from typing import Any

import pytest

from flows.steps.monitoring import triggers
from flows.steps.monitoring.kinds import Level
from flows.usecases.retraining import Retraining

RULES = Retraining()


def level(value: float, spread: float = 0.01) -> Level:
    return Level(how="measured", value=value, low=value - spread, high=value + spread, promised=0.8)


@pytest.mark.parametrize(
    ("found", "severity"),
    [
        (level(0.80), None),
        (level(0.77), None),  # 3.8 %
        (level(0.759), "medium"),  # 5.1 %
        (level(0.721), "medium"),  # 9.9 %
        (level(0.719), "high"),  # 10.1 %
        (level(0.719, spread=0.09), None),  # the interval holds the promise
        (level(0.85), None),
        (None, None),
    ],
)
def test_severity_is_the_sure_loss_against_the_promise(found: Level | None, severity: str | None) -> None:
    """Medium over 5 %, high over 10 % relative, and nothing while the promise is within the interval."""
    assert triggers.degraded(found, RULES) == severity


def test_limits_are_the_use_cases() -> None:
    """With other limits declared the same loss is another severity."""
    assert triggers.degraded(level(0.77), Retraining(medium=0.03, high=0.035)) == "high"
    assert triggers.degraded(level(0.70), Retraining(medium=0.2, high=0.3)) is None


@pytest.mark.parametrize(
    ("kind", "levels", "severity"),
    [
        ("harmful", [level(0.74)], "medium"),
        ("harmful", [level(0.74), level(0.6)], "high"),
        ("harmful", [], "medium"),
        ("benign", [level(0.6)], "low"),
        ("none", [], "low"),
    ],
)
def test_harm_is_at_least_medium_and_everything_else_low(kind: str, levels: list[Level], severity: str) -> None:
    """A harmful window is as severe as its largest sure loss."""
    assert triggers.severity(kind, levels, RULES) == severity


def line(action: str, **facts: Any) -> dict[str, Any]:
    return {"action": action, "at": "1998-04-01T00:00:00+00:00", **facts}


HISTORY = [
    line("drift: harmful", event="e1", reason="Quality fell.", severity="high"),
    line("drift: benign", event="e2", reason="Inputs moved.", severity="low"),
    line("drift: harmful", event=None, reason="In cooldown.", severity="high"),
    line("degraded: medium", event="e3", reason="6 % is gone", severity="medium"),
]


def test_drift_stands_for_the_newest_check_that_asked() -> None:
    """Kind, severity, evidence and event are those of the newest line with an event; one without has not asked."""
    found = triggers.cause("drift", HISTORY)
    assert (found.trigger, found.kind, found.severity, found.evidence, found.event) == (
        "drift",
        "benign",
        "low",
        "Inputs moved.",
        "e2",
    )
    assert found.automatic
    assert found.by_measurement


def test_degradation_stands_for_the_newest_measurement() -> None:
    """Its severity is the measured one, its kind harmful."""
    found = triggers.cause("degradation", HISTORY)
    assert (found.trigger, found.kind, found.severity, found.event) == ("degradation", "harmful", "medium", "e3")
    assert found.tags() == {
        "trigger": "degradation",
        "severity": "medium",
        "drift_kind": "harmful",
        "evidence": "6 % is gone",
        "event": "e3",
    }


def test_a_schedule_is_automatic_and_every_other_reason_a_persons() -> None:
    """Only three words are automatic; whatever else is given as the reason was given by somebody."""
    assert triggers.cause("schedule", HISTORY).automatic
    assert not triggers.cause("schedule", HISTORY).by_measurement
    for reason in ("manual", "first version", "demo", "Drift"):
        found = triggers.cause(reason, HISTORY)
        assert (found.trigger, found.automatic, found.evidence) == ("person", False, reason)


def test_a_reason_that_no_check_gave_says_so() -> None:
    """Started with the reason drift although no event asked: the evidence is that there is none."""
    assert "no check has asked for it" in triggers.cause("drift", []).evidence


@pytest.mark.parametrize(
    "wrong",
    [
        {"policy": "maybe"},
        {"probe": "sometimes"},
        {"budget": 0},
        {"breaker": 0},
        {"medium": 0.2, "high": 0.1},
        {"answer_hours": 0},
    ],
)
def test_what_cannot_be_meant_is_refused(wrong: dict[str, Any]) -> None:
    """A declaration with an unknown word or an impossible number names it."""
    (name, value), *_ = wrong.items()
    with pytest.raises(ValueError, match=f"{name} .*{value}"):
        Retraining(**wrong)
