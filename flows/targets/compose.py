"""The compose target: a release beside the one in charge on one host, its share, and their change of places.

The release comes up as the `candidate` and is asked there, while the `service` answers everybody. In charge it becomes
by answering all requests as the candidate, until the `service` is of it too. Each step may be done again.
"""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx

from bentos.runtime.scoring import manifest
from flows.errors import ReleaseError
from flows.settings import Settings
from flows.steps.rollouts import canary
from flows.steps.rollouts.canary import Figures
from flows.stores import composition, engines, images
from flows.stores.engines import Say
from flows.stores.transaction import Transaction
from flows.targets import local
from flows.walk import Plan

SERVICE, CANDIDATE = "service", "candidate"
NAMES_S = 3.0  # the gateway keeps the addresses of names for 2 s, and a container that is replaced has another one


def check(chosen: Settings, use_case: str) -> None:
    """StackError unless there is a stack that serves the use case."""
    composition.find(chosen, use_case)


def bring(chosen: Settings, pending: Transaction, folder: Path, *, say: Say) -> None:
    """Bring what is champion already to where it is to run; all is as before if it does not answer there."""
    stack = composition.find(chosen, pending.use_case)
    if stack.variables.get("SERVICE_IMAGE") == pending.image and answers(stack, pending.release):
        return
    try:
        say(stage(chosen, pending, folder, say=say))
    except BaseException:
        revert(chosen, pending, say=say)
        raise
    switch(chosen, pending, say=say)


def stage(chosen: Settings, pending: Transaction, folder: Path, *, say: Say) -> str:
    """Run the release beside the one in charge and ask it for its golden rows; says so, or ReleaseError."""
    image, stack = images.parsed(pending.image), composition.find(chosen, pending.use_case)
    signed = images.check_signature(chosen, image, say=say)
    images.pull(chosen, engines.find(chosen.image_backend), image, say=say)
    stack = composition.start(stack, CANDIDATE, pending.image, say=say)
    composition.await_ready(stack, CANDIDATE)
    rows = local.smoke(stack.url(CANDIDATE), manifest.load(folder).entity, folder, pending.release, arm="champion")
    return f"{rows} golden rows answered exactly by {image}{', its signature verified' if signed else ''}"


def walk(chosen: Settings, pending: Transaction, plan: Plan, *, say: Say, checkpoint: Callable[[str], None]) -> None:
    """Take the steps of a canary; ReleaseError with the reasons at the first that is not passed.

    Both releases are watched by their own counters: failed rows, slow requests.
    """
    stack = composition.find(chosen, pending.use_case)
    for percent in plan.steps:
        began = figures(stack.url(CANDIDATE)), figures(stack.url(SERVICE))
        composition.lead(stack, percent)
        checkpoint(f"canary_{percent}")
        found = _judged(stack, plan, *began)
        why = "; ".join(f"{check.name}: {check.reason}" for check in found)
        if not all(check.passed for check in found):
            raise ReleaseError(f"the canary of {pending.release} was stopped at {percent} %: {why}")
        say(f"canary at {percent} %: {why}")


def _judged(stack: composition.Stack, plan: Plan, ours: Figures, theirs: Figures) -> tuple[canary.Check, ...]:
    """Wait until the candidate has answered enough rows, then compare it with the release in charge."""
    deadline = time.monotonic() + 60 * plan.max_minutes
    while True:
        now = figures(stack.url(CANDIDATE)).since(ours)
        if now.rows >= plan.min_answers:
            all_of_it = figures(stack.url(SERVICE))
            usual = canary.comparable(now, all_of_it.since(theirs), all_of_it)
            return canary.errors(now, usual, plan.limits), canary.latency(now, usual, plan.limits)
        if time.monotonic() >= deadline:
            reason = f"{now.rows} rows within {plan.max_minutes:g} minutes, {plan.min_answers} are needed"
            return (canary.Check(name="answers", passed=False, reason=reason),)
        time.sleep(plan.poll_s)


def figures(url: str) -> Figures:
    """What a service counted since it started: rows answered and failed with a 5xx, and the times of its requests."""
    from prometheus_client.parser import text_string_to_metric_families

    counts: Counter[str] = Counter()
    within: Counter[float] = Counter()
    for family in text_string_to_metric_families(httpx.get(f"{url}/metrics", timeout=10.0).raise_for_status().text):
        for sample in family.samples:
            if sample.name == "bentoflow_request_seconds_bucket":
                within[float(sample.labels["le"])] += int(sample.value)
            elif sample.name != "bentoflow_prediction_errors_total" or sample.labels["status"].startswith("5"):
                counts[sample.name] += sample.value
    return Figures(
        answered=int(counts["bentoflow_predictions_total"]),
        failed=int(counts["bentoflow_prediction_errors_total"]),
        seconds=counts["bentoflow_request_seconds_sum"],
        parts=int(counts["bentoflow_request_seconds_count"]),
        within=tuple(sorted(within.items())),
    )


def switch(chosen: Settings, pending: Transaction, *, say: Say) -> None:
    """Put the release in charge: no request is lost, since the candidate answers while the service is replaced."""
    stack = composition.find(chosen, pending.use_case)
    if stack.variables.get("SERVICE_IMAGE") != pending.image or not answers(stack, pending.release):
        if CANDIDATE in composition.places(stack):
            composition.await_ready(stack, CANDIDATE)
            composition.lead(stack, 100)
        stack = composition.start(stack, SERVICE, pending.image, say=say)
        composition.await_ready(stack, SERVICE)
        time.sleep(NAMES_S)
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
