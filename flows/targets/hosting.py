"""Hosts that run an image for us, such as SageMaker and Vertex: an endpoint in charge, and a candidate beside it.

A release comes up as the candidate and is asked for its golden rows there. In charge it becomes by the host's own
change of the endpoint, which answers with the release before until the new one is up. Each step may be done again.
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from flows.errors import ReleaseError
from flows.settings import Settings
from flows.stores import images
from flows.stores.containers import ENVIRONMENT
from flows.stores.engines import Say
from flows.stores.transaction import Transaction
from flows.targets import golden
from flows.walk import Plan

PORT = 8080  # where SageMaker asks, and Vertex unless told otherwise
UP_S, POLL_S = 1800.0, 5.0
ROWS = 100  # of one request: hosts refuse bodies over 1.5 MB


class Host(Protocol):
    """What a host does with endpoints and models, by their names; each waits until it is done. ReleaseError if not."""

    def run(self, endpoint: str, model: str, image: str) -> None:
        """Let all of an endpoint be answered by the image, under the name of a model; makes what is not there."""

    def runs(self, endpoint: str, model: str) -> bool:
        """Whether all of an endpoint is answered by the model."""

    def ask(self, endpoint: str, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The predictions for rows with keys and features side by side, as MLflow's scoring protocol has them."""

    def remove(self, endpoint: str) -> None:
        """Take an endpoint away, if it is there."""


@dataclass(frozen=True)
class Place:
    """A target for the images of releases; `connect` gives its host, ReleaseError where a setting is missing."""

    connect: Callable[[Settings], Host]

    def check(self, chosen: Settings, use_case: str, plan: Plan) -> None:
        """Whether the host is known; ReleaseError if there are steps, which are judged by counters that none shows."""
        self.connect(chosen)
        if plan.steps:
            raise ReleaseError("SageMaker and Vertex take no canary: they show no counters of one release")

    def runs(self, chosen: Settings, pending: Transaction) -> bool:
        """Whether all of the endpoint is answered by the release."""
        return self.connect(chosen).runs(endpoint(pending.use_case), model(pending))

    def stage(self, chosen: Settings, pending: Transaction, folder: Path, *, say: Say) -> str:
        """Run the release as the candidate and ask it for its golden rows; says so, or ReleaseError."""
        host, at = self.connect(chosen), candidate(pending.use_case)
        signed = images.check_signature(chosen, images.parsed(pending.image), say=say)
        host.run(at, model(pending), pending.image)
        asked = golden.read(folder)
        rows = [keys | given for keys, given in zip(asked.keys, asked.features, strict=True)]
        answers = [found for i in range(0, len(rows), ROWS) for found in host.ask(at, rows[i : i + ROWS])]
        return golden.told(asked.check(answers, pending.release), by=f"{pending.image} at {at}", signed=signed)

    def walk(
        self, chosen: Settings, pending: Transaction, plan: Plan, *, say: Say, checkpoint: Callable[[str], None]
    ) -> None:
        """There is no canary."""

    def switch(self, chosen: Settings, pending: Transaction, *, say: Say) -> None:
        """Put the release in charge, and take the candidate away."""
        host, at, name = self.connect(chosen), endpoint(pending.use_case), model(pending)
        if not self.runs(chosen, pending):
            host.run(at, name, pending.image)
            say(f"{at} answers with {name}")
        host.remove(candidate(pending.use_case))

    def revert(self, chosen: Settings, pending: Transaction, *, say: Say) -> None:
        """Take the candidate away; what is in charge was not touched."""
        self.connect(chosen).remove(candidate(pending.use_case))
        say(f"{candidate(pending.use_case)} is removed")


def endpoint(use_case: str) -> str:
    """Name of the endpoint that answers for a use case."""
    return f"bentoflow-{use_case}".replace("_", "-")


def candidate(use_case: str) -> str:
    """Name of the endpoint beside it."""
    return f"{endpoint(use_case)}-candidate"


def model(pending: Transaction) -> str:
    """Name of a release with its image, in the letters and length that both hosts take."""
    release = re.sub(r"[^a-z0-9]+", "-", pending.release.lower())
    return f"bentoflow-{release[:42].strip('-')}-{images.parsed(pending.image).digest[7:15]}"


def environment(chosen: Settings) -> dict[str, str]:
    """What the container is told: its port, a folder to write to, and the online store if there is one for it."""
    store = chosen.hosted_online_store.get_secret_value()
    return {**ENVIRONMENT, "PORT": str(PORT), **({"BENTOFLOW_ONLINE_STORE": store} if store else {})}


def wait(what: str, done: Callable[[], bool]) -> None:
    """Ask until it is done; ReleaseError after half an hour."""
    deadline = time.monotonic() + UP_S
    while not done():
        if time.monotonic() >= deadline:
            raise ReleaseError(f"{what} was not done within {UP_S:.0f} s; see the host's console")
        time.sleep(POLL_S)
