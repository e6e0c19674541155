"""Where a release runs, and what a transaction does there: the contract of all targets, and which there are."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from flows.settings import Settings, Target
from flows.stores import transaction
from flows.stores.engines import Say
from flows.stores.transaction import Transaction
from flows.targets import compose, followers, kubernetes, sagemaker, vertex
from flows.walk import Plan


class Place(Protocol):
    """A target, module or object. A release does `check`, `stage`, `walk`, commits, and does `switch`; a rollback too.

    A failure, and at the next start a kill, before the commit is answered by `revert`, a kill after it by `switch`. So
    each of the two must do from wherever the others were left, and all may be done again. They raise ReleaseError.
    """

    def check(self, chosen: Settings, use_case: str, plan: Plan) -> dict[str, str] | None:
        """Before anything is built or written: that the place is there and can take the plan's steps. Changes nothing.

        What runs there now, if `revert` has to be told; the transaction keeps it as `deployed_before`.
        """

    def runs(self, chosen: Settings, pending: Transaction) -> bool:
        """Whether the release is in charge there already. Changes nothing."""

    def stage(self, chosen: Settings, pending: Transaction, folder: Path, *, say: Say) -> str:
        """After the intent is on disk: bring the release up, given no requests, and ask it for its golden rows.

        Says what was seen. `folder` is the release's. What is in charge must answer as before.
        """

    def walk(
        self, chosen: Settings, pending: Transaction, plan: Plan, *, say: Say, checkpoint: Callable[[str], None]
    ) -> None:
        """After it answered: the steps of a canary, if there are any, each judged; then whatever may still fail.

        `checkpoint` is called as soon as a step's share is led to the release.
        """

    def switch(self, chosen: Settings, pending: Transaction, *, say: Say) -> None:
        """After the commit, before aliases and history follow: all requests to the release, no candidate left."""

    def revert(self, chosen: Settings, pending: Transaction, *, say: Say) -> None:
        """Instead of the commit: all requests to what was in charge, no candidate left.

        Where this fails the transaction stays under way, and the next start tries again.
        """


PLACES: dict[Target, Place] = {
    "local": followers.Local(),
    "registry": followers.Registry(),
    "compose": compose,
    "kubernetes": kubernetes,
    "sagemaker": sagemaker.PLACE,
    "vertex": vertex.PLACE,
}


def takes_image(target: Target) -> bool:
    """Whether a release goes there as an image, and not as a bento that this machine serves."""
    return target != "local"


def recorded(target: Target) -> str:
    """The target as transaction and history name it: empty where nothing but the rollout file moves."""
    return "" if isinstance(PLACES[target], followers.Follower) else target


def of(pending: Transaction) -> Place:
    """The place of a release under way."""
    target: Target = pending.target or ("registry" if pending.image else "local")
    return PLACES[target]


def recover(chosen: Settings, use_case: str) -> str | None:
    """Finish what a killed release left, where it runs and in its records; says which way, or None."""
    pending = transaction.read(chosen.home, use_case)
    if pending is not None:
        finish = of(pending).switch if pending.committed else of(pending).revert
        finish(chosen, pending, say=logging.getLogger(__name__).info)
    return transaction.recover(chosen.home, use_case)
