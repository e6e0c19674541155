"""Where a release's image runs, and what a transaction does there; a release on this machine has no such place."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from flows.settings import Settings
from flows.stores import transaction
from flows.stores.engines import Say
from flows.stores.transaction import Transaction
from flows.targets import compose, kubernetes, sagemaker, vertex
from flows.walk import Plan

Checkpoint = Callable[[str], None]


class Place(Protocol):
    """What a target for images does, in this order; each step may be done again after a kill.

    Until the commit a failure is followed by `revert`, from the commit on the next start goes on with `switch`.
    """

    def check(self, chosen: Settings, use_case: str, steps: Sequence[int]) -> dict[str, str] | None:
        """Before anything is built: ReleaseError for a missing setting, or steps that cannot be taken there.

        Gives what runs there now, kept in the transaction, as far as `revert` needs that.
        """

    def runs(self, chosen: Settings, pending: Transaction) -> bool:
        """Whether the release with this image is in charge already."""

    def stage(self, chosen: Settings, pending: Transaction, folder: Path, *, say: Say) -> str:
        """Ask the image for its golden rows, nobody else being answered by it; says what was seen."""

    def walk(
        self, chosen: Settings, pending: Transaction, folder: Path, plan: Plan, *, say: Say, checkpoint: Checkpoint
    ) -> None:
        """Take the canary's steps, if there are any, and whatever else can still be taken back."""

    def switch(self, chosen: Settings, pending: Transaction, *, say: Say) -> None:
        """After the commit: put the release in charge, and leave nothing beside it."""

    def revert(self, chosen: Settings, pending: Transaction, *, say: Say) -> None:
        """Bring back what was before, and leave nothing beside it."""


PLACES: dict[str, Place] = {
    "compose": compose,
    "kubernetes": kubernetes,
    "sagemaker": sagemaker.PLACE,
    "vertex": vertex.PLACE,
}


def of(pending: Transaction) -> Place | None:
    """The place of a release, None if it has none."""
    return PLACES[pending.target] if pending.target else None


def bring(
    place: Place, chosen: Settings, pending: Transaction, folder: Path, *, say: Say, checkpoint: Checkpoint
) -> bool:
    """Bring what is champion already to its place, if it is not in charge there; whether that was so.

    All is as before if it does not answer there.
    """
    if place.runs(chosen, pending):
        return False
    try:
        say(place.stage(chosen, pending, folder, say=say))
        place.walk(chosen, pending, folder, Plan(), say=say, checkpoint=checkpoint)
    except BaseException:
        place.revert(chosen, pending, say=say)
        raise
    place.switch(chosen, pending, say=say)
    return True


def recover(chosen: Settings, use_case: str) -> str | None:
    """Finish what a killed release left, where it runs and in its records; says which way, or None."""
    pending = transaction.read(chosen.home, use_case)
    if pending is not None and (place := of(pending)) is not None:
        finish = place.switch if pending.committed else place.revert
        finish(chosen, pending, say=logging.getLogger(__name__).info)
    return transaction.recover(chosen.home, use_case)
