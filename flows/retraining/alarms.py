"""Alarms: what a check of drift tells others, once: an event that asks for a training, or one for a person."""

import hashlib
import json
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from bentos.runtime.home import replace
from flows.retraining import events
from flows.stores import history, verdicts

EVENT = "bentoflow.drift.detected"  # asks for a training
ALERT = "bentoflow.data_bug.detected"  # asks for a person
NAMES = {"event": EVENT, "alert": ALERT}
KEPT = ("release", "since", "until", "rows", "state", "reasons", "report", "waits", "severity")
PAYLOAD = ("use_case", "release", "since", "until", "rows", "kind", "severity", "why", "reasons", "drifted")

Ids = dict[str, str | None]  # of the event that asks for a training and of the alert, None for none


def asked(result: dict[str, Any], path: Path, lines: Iterable[dict[str, Any]]) -> bool:
    """Whether these answers have asked for a training before: the check does not wait for what it started itself."""
    ids = _ids({**result, "waits": None})
    key = _key(result, path, ids)
    return bool(ids["event"]) and any(line.get("key") == key for line in lines)


def announce(result: dict[str, Any], path: Path, at: datetime, home: Path, *, emit: bool) -> Ids:
    """Keep the verdict, and emit its events once for these answers; their ids, also if they were emitted before.

    The history's line comes first, for the training to read what asked for it, and the verdict's file last: without it
    a check that is run again tells what a killed one may not have told. None for what the server did not get.
    """
    found = _ids(result) if emit else dict.fromkeys(NAMES)
    before = verdicts.read(path)
    told = {name: before.get(name) for name in found}
    same = ("profiles", "kind")
    if before and all(before.get(name) == result[name] for name in same) and told == found:
        return found
    key = _key(result, path, found)
    if not any(line.get("key") == key for line in history.read(home, result["use_case"])):
        kept = {k: result[k] for k in KEPT}
        kept["columns"] = [sign["column"] for sign in result["signatures"]]
        action = f"drift: {result['kind']}"
        history.append(home, result["use_case"], action, at=at, reason=result["why"], key=key, **kept, **found)
    payload = {k: result[k] for k in PAYLOAD}
    for name, id in found.items():
        if id and id != told[name]:
            there = events.tell(NAMES[name], id=id, use_case=result["use_case"], payload=payload)
            found[name] = id if there else None
    replace(path, json.dumps({**result, **found}, indent=1).encode())
    return found


def _key(result: dict[str, Any], path: Path, ids: Ids) -> str:
    """What a line of history says, so that it is said once."""
    marks = [path.name, result["profiles"], result["kind"], *ids.values()]
    return hashlib.sha256(json.dumps(marks).encode()).hexdigest()[:16]


def _ids(result: dict[str, Any]) -> Ids:
    """The ids of what a check has to tell."""
    return {
        "event": _id(result, EVENT) if result["asks"] and not result["waits"] else None,
        "alert": _id(result, ALERT) if result["kind"] == "data_bug" else None,
    }


def _id(result: dict[str, Any], event: str) -> str:
    """One event per release and window, however often it is checked."""
    days = [result["since"][:10], result["until"][:10]]
    return str(uuid5(NAMESPACE_URL, json.dumps([event, result["release"], *days])))
