"""Whether a drift verdict may start a training now."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any


def cooldown(history: Iterable[dict[str, Any]], now: datetime, days: int) -> str | None:
    """Why a drift-triggered training must wait, or None: the last training (drills aside) is under `days` ago.

    Both times are on the use case's clock. Fewer days than the label's horizon bring no new labels to learn from.
    """
    trained = [
        datetime.fromisoformat(line["at"])
        for line in history
        if str(line["action"]).startswith("trained") and not line.get("drill")
    ]
    if not trained:
        return None
    until = max(trained) + timedelta(days=days)
    return (
        f"in cooldown until {until.date()}: trained {max(trained).date()}, {days} days apart" if now < until else None
    )
