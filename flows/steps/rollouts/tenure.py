"""Who was champion when, read from the history: the stack of releases that a rollback walks back."""

from collections.abc import Iterable
from typing import Any

PROMOTED, ROLLED_BACK = "promoted", "rolled back"


def stack(history: Iterable[dict[str, Any]]) -> list[str]:
    """Version numbers from the first champion to today's; a rollback takes the last one off."""
    champions: list[str] = []
    for line in history:
        if line["action"] == PROMOTED:
            champions.append(str(line["version"]))
        elif line["action"] == ROLLED_BACK and champions:
            champions.pop()
    return champions
