"""What a check of drift leads to: whether it asks for a training, and whether one may start now."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from flows.usecases.spec import DriftRules

RETRY_DAYS = 1  # after a training that started and left no verdict
BLOCK_DAYS = 31  # that a broken pipe stops automatic trainings, unless a later check finds it mended
BROKEN = "drift: data_bug"
AUTOMATIC = ("drift", "schedule")  # reasons of trainings that nobody asked for


def asks(kind: str, earlier: Sequence[str], rules: DriftRules) -> str:
    """Why a window asks for a training, "" if it does not; `earlier` are the kinds of the windows before, newest last.

    Harm does. Benign drift does only where the use case declares it, after so many windows in a row; a broken pipe, too
    few rows and no drift never do.
    """
    if kind == "harmful":
        return "quality fell"
    needed = rules.refresh_windows
    row = [*earlier, kind][-needed:] if needed else []
    if needed and len(row) == needed and set(row) == {"benign"}:
        return f"benign drift in {needed} windows in a row: a refresh on newer labels"
    return ""


def broken(history: Iterable[dict[str, Any]], now: datetime) -> str | None:
    """Why no automatic training may start, or None: the newest check of drift found a broken pipe, not long ago."""
    checks = [line for line in history if str(line["action"]).startswith("drift: ")]
    if not checks or checks[-1]["action"] != BROKEN:
        return None
    when = datetime.fromisoformat(checks[-1]["at"])
    if now >= when + timedelta(days=BLOCK_DAYS):
        return None
    return f"the drift check of {when.date()} found broken data; mend it and check again, or train by hand"


def cooldown(history: Iterable[dict[str, Any]], now: datetime, days: int) -> str | None:
    """Why a drift-triggered training must wait, or None: the last judged one is under `days` ago, or one just failed.

    Both times are on the use case's clock; drills do not count. Fewer days than the label's horizon bring no new
    labels to learn from.
    """
    lines = [line for line in history if str(line["action"]).startswith("train") and not line.get("drill")]
    waits = [
        (when + timedelta(days=wait), when, wait)
        for line in lines
        for when in [datetime.fromisoformat(line["at"])]
        for wait in [RETRY_DAYS if line["action"] == "training started" else days]
    ]
    if not waits or now >= max(waits)[0]:
        return None
    until, when, wait = max(waits)
    return f"in cooldown until {until.date()}: trained {when.date()}, {wait} days apart"
