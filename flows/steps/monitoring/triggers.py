"""Triggers of a training: what asked for it, how severe it is, and on what evidence."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from flows.steps.monitoring.kinds import Level
from flows.usecases.retraining import Retraining

Trigger = Literal["drift", "degradation", "schedule", "person"]
Severity = Literal["low", "medium", "high"]
AUTOMATIC = ("drift", "degradation", "schedule")  # reasons of trainings that nobody asked for
RANK: dict[str, int] = {"low": 0, "medium": 1, "high": 2}


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Why a training is to start: `kind` is the drift's, "" without one; `event` the id of the event that asked."""

    trigger: Trigger
    severity: Severity = "low"
    kind: str = ""
    evidence: str = ""
    event: str | None = None

    @property
    def automatic(self) -> bool:
        """Whether nobody asked for it, so that the use case's policy applies."""
        return self.trigger != "person"

    @property
    def by_measurement(self) -> bool:
        """Whether something that was measured asked for it, and neither a schedule nor a person."""
        return self.trigger in ("drift", "degradation")

    def tags(self) -> dict[str, str]:
        """It as tags of a run or a version, each a text."""
        found = {"trigger": self.trigger, "severity": self.severity, "drift_kind": self.kind}
        return {**found, "evidence": self.evidence, "event": self.event or ""}

    def facts(self) -> dict[str, Any]:
        """It as it is kept in the history."""
        return asdict(self)


def loss(level: Level) -> float:
    """The share of the promised quality that is gone; negative where more came than was promised."""
    return 1.0 - level.value / level.promised


def degraded(level: Level | None, rules: Retraining) -> Severity | None:
    """How far quality fell below the promise: None while the interval holds the promise or the loss is small."""
    if level is None or level.high >= level.promised or loss(level) <= rules.medium:
        return None
    return "high" if loss(level) > rules.high else "medium"


def severity(kind: str, levels: Iterable[Level], rules: Retraining) -> Severity:
    """How severe a window's drift is: harm at least medium, by the largest sure loss; everything else low."""
    if kind != "harmful":
        return "low"
    return "high" if "high" in [degraded(level, rules) for level in levels] else "medium"


def cause(reason: str, history: Iterable[Mapping[str, Any]]) -> Cause:
    """What a training's reason stands for, with the evidence of the newest line of history that asked for it.

    `drift`, `degradation` and `schedule` are automatic; any other reason is a person's own.
    """
    if reason not in AUTOMATIC:
        return Cause(trigger="person", evidence=reason)
    if reason == "schedule":
        return Cause(trigger="schedule", evidence="the schedule of prefect.yaml")
    start = "drift: " if reason == "drift" else "degraded: "
    asked = [line for line in history if str(line["action"]).startswith(start) and line.get("event")]
    trigger: Trigger = "drift" if reason == "drift" else "degradation"
    if not asked:
        return Cause(trigger=trigger, evidence=f"started with the reason {reason}; no check has asked for it")
    line, said = asked[-1], str(asked[-1]["action"]).removeprefix(start)
    kind = said if reason == "drift" else "harmful"
    known: Severity = line.get("severity") or ("medium" if kind == "harmful" else "low")
    return Cause(
        trigger=trigger, severity=known, kind=kind, evidence=str(line.get("reason", "")), event=str(line["event"])
    )
