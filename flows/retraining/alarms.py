"""Alarms: what a check of drift tells others, once: an event that asks for a training, or one for a person."""

import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from prefect.events import emit_event

from bentos.runtime.home import replace
from flows.stores import history

EVENT = "bentoflow.drift.detected"  # asks for a training
ALERT = "bentoflow.data_bug.detected"  # asks for a person
KEPT = ("release", "since", "until", "rows", "state", "reasons", "report", "waits", "severity")
PAYLOAD = ("use_case", "release", "since", "until", "rows", "kind", "severity", "why", "reasons", "drifted")


def announce(result: dict[str, Any], path: Path, at: datetime, home: Path, *, emit: bool) -> dict[str, str | None]:
    """Keep the verdict; emit its event once for these answers.

    Gives the ids of the event that asks for a training and of the alert, also if they were emitted before.
    """
    found: dict[str, str | None] = {"event": None, "alert": None}
    if emit and result["asks"] and not result["waits"]:
        found["event"] = _event_id(result, EVENT)
    if emit and result["kind"] == "data_bug":
        found["alert"] = _event_id(result, ALERT)
    before = json.loads(path.read_text()) if path.exists() else {}
    told = {name: before.get(name) for name in found}
    same = ("profiles", "kind")
    if before and all(before.get(name) == result[name] for name in same) and told == found:
        return found
    for name, event in (("event", EVENT), ("alert", ALERT)):
        if found[name] is not None and found[name] != told[name]:
            emit_event(
                event=event,
                resource={"prefect.resource.id": f"bentoflow.{result['use_case']}"},
                id=UUID(found[name]),
                payload={k: result[k] for k in PAYLOAD},
            )
    marks = [path.name, result["profiles"], result["kind"], *found.values()]
    key = hashlib.sha256(json.dumps(marks).encode()).hexdigest()[:16]
    if not any(line.get("key") == key for line in history.read(home, result["use_case"])):
        kept = {k: result[k] for k in KEPT}
        kept["columns"] = [sign["column"] for sign in result["signatures"]]
        action = f"drift: {result['kind']}"
        history.append(home, result["use_case"], action, at=at, reason=result["why"], key=key, **kept, **found)
    replace(path, json.dumps({**result, **found}, indent=1).encode())  # last: a killed check is told again
    return found


def _event_id(result: dict[str, Any], event: str) -> str:
    """One event per release and window, however often it is checked."""
    days = [result["since"][:10], result["until"][:10]]
    return str(uuid5(NAMESPACE_URL, json.dumps([event, result["release"], *days])))
