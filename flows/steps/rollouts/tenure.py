"""Who was champion when, read from the history: the stack of releases that a rollback walks back."""

from collections.abc import Iterable, Sequence
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


def target(history: Sequence[dict[str, Any]], version: str) -> str:
    """Where the image of a version was last put into service; none if it was not."""
    actions = (PROMOTED, ROLLED_BACK, IMAGED)
    put = [line for line in history if line["action"] in actions and str(line["version"]) == version]
    return str(put[-1].get("target", "")) if put else ""
