"""Whether a drift verdict may start a training now."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

RETRY_DAYS = 1  # after a training that started and left no verdict


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
