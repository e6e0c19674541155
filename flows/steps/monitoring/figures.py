"""Figures of the loop's state for a monitoring system: who answers since when, how old data are, what drift was found.

Everything is read off the history and the other records that flows leave; times are seconds since 1970 on the use
case's own clock, so that an age is the difference to `bentoflow_clock_seconds`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, get_args

from flows.steps.monitoring import policy
from flows.steps.monitoring.kinds import Kind
from flows.steps.monitoring.triggers import Cause
from flows.usecases.spec import UseCase

Line = dict[str, Any]
TENURE = ("promoted", "rolled back")
VERDICTS = ("PROMOTE", "HOLD", "REJECT")
HELP = {
    "clock_seconds": "The use case's own time",
    "prepared_seconds": "As of when the newest snapshot was prepared",
    "champion_info": "1 for the release in charge",
    "champion_since_seconds": "When the release in charge was promoted or rolled back to",
    "champion_trained_seconds": "As of when the release in charge was trained",
    "drift_kind": "1 for the kind of drift that the newest check found",
    "drift_checked_seconds": "When the newest check of drift was",
    "drift_window_rows": "Answers in the newest check's window",
    "live_quality": "What labels measured in the newest month, with its interval",
    "live_labels": "Labels that the newest measured month has",
    "candidates": "Trained candidates by the gates' verdict, drills left out",
    "releases": "Changes of the release in charge: promoted, rolled back, reverted",
    "retraining_stopped": "1 while that keeps automatic trainings from starting",
    "question_open": "1 while a run waits for a person to say whether to train",
    "event_unfollowed": "1 while an event asked for a training and no run followed",
    "journal_bytes": "Size of the journal that this machine sees",
    "journal_segments": "Files of the journal that this machine sees",
}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One sample: a name of `HELP`, its value and its labels beside the use case."""

    name: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()


def of_history(case: UseCase, lines: Sequence[Line], now: datetime, wall: datetime) -> list[Figure]:
    """What the history says; `now` is the use case's clock, `wall` the machine's."""
    return [
        Figure(name="clock_seconds", value=now.timestamp()),
        *_champion(lines),
        *_drift(lines),
        *_counted(lines),
        *_retraining(case, lines, now, wall),
    ]


def of_quality(month: Mapping[str, Any]) -> list[Figure]:
    """What labels measured in a month, by metric and bound; a metric without an interval is left out."""
    found = [Figure(name="live_labels", value=float(month["labels"]))] if month else []
    for metric, level in month.items():
        if isinstance(level, Mapping) and {"value", "low", "high"} <= level.keys():
            found += [
                Figure(name="live_quality", value=float(level[bound]), labels=(("metric", metric), ("bound", bound)))
                for bound in ("value", "low", "high")
            ]
    return found


def _champion(lines: Sequence[Line]) -> list[Figure]:
    last = next((line for line in reversed(lines) if line["action"] in TENURE), None)
    if last is None:
        return []
    named = (("version", str(last["version"])), ("release", str(last["release"])))
    found = [
        Figure(name="champion_info", value=1.0, labels=named),
        Figure(name="champion_since_seconds", value=_seconds(last)),
    ]
    trained = [
        line
        for line in lines
        if str(line["action"]).startswith("trained: ") and str(line.get("version")) == str(last["version"])
    ]
    return found + [Figure(name="champion_trained_seconds", value=_seconds(line)) for line in trained[-1:]]


def _drift(lines: Sequence[Line]) -> list[Figure]:
    checks = [line for line in lines if str(line["action"]).startswith("drift: ")]
    if not checks:
        return []
    kind = str(checks[-1]["action"]).removeprefix("drift: ")
    return [
        *(Figure(name="drift_kind", value=float(kind == known), labels=(("kind", known),)) for known in get_args(Kind)),
        Figure(name="drift_checked_seconds", value=_seconds(checks[-1])),
        Figure(name="drift_window_rows", value=float(checks[-1].get("rows", 0))),
    ]


def _counted(lines: Sequence[Line]) -> list[Figure]:
    actions = Counter(str(line["action"]) for line in lines if not line.get("drill"))
    return [
        *(
            Figure(name="candidates", value=float(actions[f"trained: {verdict}"]), labels=(("verdict", verdict),))
            for verdict in VERDICTS
        ),
        *(
            Figure(name="releases", value=float(actions[action]), labels=(("action", action),))
            for action in (*TENURE, "reverted")
        ),
    ]


def _retraining(case: UseCase, lines: Sequence[Line], now: datetime, wall: datetime) -> list[Figure]:
    """What stops automatic trainings, each reason on its own, and what waits for a person."""
    rules, severe = case.retraining, Cause(trigger="drift", severity="high")
    stops = {
        "broken_data": policy.broken(lines, now),
        "breaker": policy.breaker(lines, rules),
        "cooldown": policy.cooldown(lines, now, case.drift.cooldown_days),
        "declined": policy.quiet(lines, now, severe, rules),
        "budget": policy.budget(lines, now, rules),
    }
    waiting = {
        "question_open": policy.open_question(lines, wall),
        "event_unfollowed": policy.unfollowed(lines, wall, rules.notice_minutes),
    }
    return [
        *(
            Figure(name="retraining_stopped", value=float(why is not None), labels=(("by", by),))
            for by, why in stops.items()
        ),
        *(Figure(name=name, value=float(why is not None)) for name, why in waiting.items()),
    ]


def _seconds(line: Line) -> float:
    return datetime.fromisoformat(str(line["at"])).timestamp()
