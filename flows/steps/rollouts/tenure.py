"""Who was champion when, read from the history: the stack of releases that a rollback walks back."""

from collections.abc import Iterable
from typing import Any

PROMOTED, ROLLED_BACK, IMAGED = "promoted", "rolled back", "imaged"


def stack(history: Iterable[dict[str, Any]]) -> list[str]:
    """Version numbers from the first champion to today's; a rollback takes the last one off."""
    champions: list[str] = []
    for line in history:
        if line["action"] == PROMOTED:
            champions.append(str(line["version"]))
        elif line["action"] == ROLLED_BACK and champions:
            champions.pop()
    return champions


def target(history: Iterable[dict[str, Any]]) -> str:
    """Where the champion's image runs, such as compose; empty where only the rollout file moves requests."""
    found = ""
    for line in history:
        if line["action"] in (PROMOTED, ROLLED_BACK):
            found = line.get("target", "")
        elif line["action"] == IMAGED:
            found = line.get("target") or found
    return found
