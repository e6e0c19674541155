"""Where a release's image runs, and what a transaction does there; nothing where the rollout file alone moves requests.

A place is a module with `check`, `stage`, `walk`, `switch`, `revert` and `bring`, each of which may be done again.
"""

import logging
from typing import Any

from flows.settings import Settings
from flows.stores import transaction
from flows.targets import compose, sagemaker, vertex

PLACES: dict[str, Any] = {"compose": compose, "sagemaker": sagemaker.PLACE, "vertex": vertex.PLACE}


def of(pending: transaction.Transaction) -> Any | None:
    """The place of a release, None if it has none."""
    return PLACES[pending.target] if pending.target else None


def recover(chosen: Settings, use_case: str) -> str | None:
    """Finish what a killed release left, where it runs and in its records; says which way, or None."""
    pending = transaction.read(chosen.home, use_case)
    if pending is not None and (place := of(pending)) is not None:
        finish = place.switch if pending.committed else place.revert
        finish(chosen, pending, say=logging.getLogger(__name__).info)
    return transaction.recover(chosen.home, use_case)
