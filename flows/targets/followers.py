"""Targets where the rollout file alone moves requests: this machine's service, and images that lie in a registry."""

from collections.abc import Callable
from pathlib import Path

from flows import walk
from flows.errors import ReleaseError
from flows.settings import Settings
from flows.stores import images
from flows.stores.engines import Say
from flows.stores.transaction import Transaction
from flows.targets import golden, local, registry
from flows.walk import Plan


class Follower:
    """A place of which the transaction itself writes all that changes."""

    def check(self, chosen: Settings, use_case: str, plan: Plan) -> None:
        """There is nothing to reach."""

    def runs(self, chosen: Settings, pending: Transaction) -> bool:
        """Where the image is, it is where it belongs."""
        return True

    def walk(
        self, chosen: Settings, pending: Transaction, plan: Plan, *, say: Say, checkpoint: Callable[[str], None]
    ) -> None:
        """Nobody to lead there."""

    def switch(self, chosen: Settings, pending: Transaction, *, say: Say) -> None:
        """The rollout file does."""

    def revert(self, chosen: Settings, pending: Transaction, *, say: Say) -> None:
        """The rollout file does."""


class Local(Follower):
    """`bentoml serve` on this machine, which has the release as an arm of its own while it is staged."""

    def stage(self, chosen: Settings, pending: Transaction, folder: Path, *, say: Say) -> str:
        """Ask the staged arm for the golden rows."""
        arm = "champion" if pending.release == pending.champion_before else "challenger"
        service = local.ensure(chosen, pending.use_case, pending.bento or None)
        return golden.told(local.smoke(service.url, folder, pending.release, arm=arm), by=service.url)

    def walk(
        self, chosen: Settings, pending: Transaction, plan: Plan, *, say: Say, checkpoint: Callable[[str], None]
    ) -> None:
        """By shares of entities, judged by the journal too."""
        if plan.steps:
            walk.walk(chosen, pending, plan, say=say, checkpoint=checkpoint)


class Registry(Follower):
    """An image by its digest, for whoever runs it."""

    def check(self, chosen: Settings, use_case: str, plan: Plan) -> None:
        """ReleaseError if there are steps."""
        if plan.steps:
            raise ReleaseError("a canary is judged by the answers of a service; --target registry releases an image")

    def stage(self, chosen: Settings, pending: Transaction, folder: Path, *, say: Say) -> str:
        """Ask the image, as the registry has it, for the golden rows."""
        return registry.verify(chosen, images.parsed(pending.image), folder, pending.release, say=say)
