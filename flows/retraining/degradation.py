"""Degradation: live quality that labels measured below what the gates promised asks for a training, once."""

import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from prefect.events import emit_event

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
    marks = [EVENT, release, month["month"], severity]
    event = uuid5(NAMESPACE_URL, json.dumps(marks))
    found = _found(level, severity, month["month"], release, waits, None if waits else str(event))
    key = hashlib.sha256(json.dumps([*marks, found["event"]]).encode()).hexdigest()[:16]
    if any(line.get("key") == key for line in lines):
        return found
    if found["event"]:
        payload = {"use_case": case.name, **found}
        emit_event(event=EVENT, resource={"prefect.resource.id": f"bentoflow.{case.name}"}, id=event, payload=payload)
    history.append(home, case.name, f"degraded: {severity}", at=at, key=key, **found)
    return found


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
