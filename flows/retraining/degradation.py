"""Degradation: live quality that labels measured below what the gates promised asks for a training, once."""

import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from flows.retraining import events
from flows.steps.monitoring import kinds, policy, triggers
from flows.steps.monitoring.kinds import Level
from flows.stores import history, promises, transaction, verdicts
from flows.usecases.spec import UseCase

EVENT = "bentoflow.quality.degraded"  # asks for a training


def announce(case: UseCase, months: list[dict[str, Any]], at: datetime, home: Path) -> dict[str, Any] | None:
    """What the newest of the measured months of the release in charge lost, None while that is little or not sure.

    Keeps a line of history and, unless a training must wait, emits one event per release, month and severity, which
    an automation turns into a `train` run with the reason degradation.
    """
    release = transaction.champion_release(home, case.name)
    if release is None:
        return None
    month = verdicts.newest(months, release)
    level = kinds.level("measured", month, promises.promised(release))
    severity = triggers.degraded(level, case.retraining)
    if level is None or severity is None:
        return None
    cause = triggers.Cause(trigger="degradation", severity=severity, kind="harmful")
    lines = history.read(home, case.name)
    waits = policy.broken(lines, at) or policy.held(lines, at, cause, case.retraining, case.drift.cooldown_days)
    marks, kept = [EVENT, release, month["month"], severity], {line.get("key") for line in lines}
    event = None if waits else str(uuid5(NAMESPACE_URL, json.dumps(marks)))
    found = _found(level, severity, month["month"], release, waits, event)
    if _key(marks, event) in kept:
        return found
    if event and not events.tell(EVENT, id=event, use_case=case.name, payload={"use_case": case.name, **found}):
        found["event"] = None
    if (key := _key(marks, found["event"])) not in kept:
        history.append(home, case.name, f"degraded: {severity}", at=at, key=key, **found)
    return found


def _key(marks: list[str], event: str | None) -> str:
    return hashlib.sha256(json.dumps([*marks, event]).encode()).hexdigest()[:16]


def _found(
    level: Level, severity: str, month: str, release: str, waits: str | None, event: str | None
) -> dict[str, Any]:
    lost = triggers.loss(level)
    return {
        "severity": severity,
        "reason": f"in {month} {level}: {lost:.1%} of it is gone",
        "loss": lost,
        "release": release,
        "month": month,
        "waits": waits,
        "event": event,
    }
