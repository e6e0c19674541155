"""The compose target: a release beside the one in charge on one host, its share, and their change of places.

The release comes up as the `candidate` and is asked there, while the `service` answers everybody. In charge it becomes
by answering all requests as the candidate, until the `service` is of it too. Each step may be done again.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from flows.settings import Settings
from flows.stores import composition, engines, images
from flows.stores.engines import Say
from flows.stores.transaction import Transaction
from flows.targets import golden, local, trial
from flows.walk import Plan

SERVICE, CANDIDATE = "service", "candidate"


def check(chosen: Settings, use_case: str, plan: Plan) -> None:
    """StackError unless there is a stack that serves the use case."""
    composition.find(chosen, use_case)


def runs(chosen: Settings, pending: Transaction) -> bool:
    """Whether the service is to be of that image, and is ready and of that release."""
    stack = composition.find(chosen, pending.use_case)
    return stack.variables.get("SERVICE_IMAGE") == pending.image and answers(stack, pending.release)


def stage(chosen: Settings, pending: Transaction, folder: Path, *, say: Say) -> str:
    """Run the release beside the one in charge and ask it for its golden rows; says so, or ReleaseError."""
    image, stack = images.parsed(pending.image), composition.find(chosen, pending.use_case)
    signed = images.check_signature(chosen, image, say=say)
    images.pull(chosen, engines.find(chosen.image_backend), image, say=say)
    stack = composition.start(stack, CANDIDATE, pending.image, say=say)
    composition.await_ready(stack, CANDIDATE)
    rows = local.smoke(stack.url(CANDIDATE), folder, pending.release, arm="champion")
    return golden.told(rows, by=pending.image, signed=signed)


def walk(chosen: Settings, pending: Transaction, plan: Plan, *, say: Say, checkpoint: Callable[[str], None]) -> None:
    """Take the steps of a canary, by the gateway's split; ReleaseError at the first that is not passed."""
    stack = composition.find(chosen, pending.use_case)
    ours, theirs = stack.url(CANDIDATE), stack.url(SERVICE)
    for percent in plan.steps:
        lead = partial(composition.lead, stack, percent)
        trial.step(pending.release, plan, percent, lead, ours=ours, theirs=theirs, say=say, checkpoint=checkpoint)


def switch(chosen: Settings, pending: Transaction, *, say: Say) -> None:
    """Put the release in charge: no request is lost, since the candidate answers while the service is replaced."""
    stack = composition.find(chosen, pending.use_case)
    if not runs(chosen, pending):
        if CANDIDATE in composition.places(stack):
            composition.await_ready(stack, CANDIDATE)
            composition.lead(stack, 100)
        stack = composition.start(stack, SERVICE, pending.image, say=say)
        composition.await_ready(stack, SERVICE)
    revert(chosen, pending, say=say)


def answers(stack: composition.Stack, release: str) -> bool:
    """Whether the service is ready and of that release."""
    return local.health(stack.url(SERVICE)).get("release") == release


def revert(chosen: Settings, pending: Transaction, *, say: Say) -> None:
    """Let the service answer everybody, and take the candidate away."""
    stack = composition.find(chosen, pending.use_case)
    if CANDIDATE in composition.places(stack):
        composition.lead(stack, 0)
        composition.stop(stack, CANDIDATE, say=say)
