"""The trial of a release that runs beside the one in charge: a share of the requests, judged by the counters of both.

Errors and slow requests are compared; scores are not, since the journal is where the two run.
"""

import time
from collections.abc import Callable

from flows.errors import ReleaseError
from flows.steps.rollouts import canary
from flows.steps.rollouts.canary import Figures
from flows.stores.engines import Say
from flows.targets import counters
from flows.walk import Plan


def step(
    release: str,
    plan: Plan,
    percent: int,
    lead: Callable[[], object],
    *,
    ours: str,
    theirs: str,
    say: Say,
    checkpoint: Callable[[str], None],
) -> None:
    """Lead a share of the requests to the release and judge it; ReleaseError with the reasons if it is not passed.

    `ours` and `theirs` are the URLs at which the release and the one in charge show their counters.
    """
    began = counters.of_release(ours), counters.of_release(theirs)
    lead()
    checkpoint(f"canary_{percent}")
    found = _judged(plan, ours, theirs, began)
    why = "; ".join(f"{check.name}: {check.reason}" for check in found)
    if not all(check.passed for check in found):
        raise ReleaseError(f"the canary of {release} was stopped at {percent} %: {why}")
    say(f"canary at {percent} %: {why}")


def _judged(plan: Plan, ours: str, theirs: str, began: tuple[Figures, Figures]) -> tuple[canary.Check, ...]:
    """Wait until the release has answered enough rows, then compare it with the one in charge."""
    deadline = time.monotonic() + 60 * plan.max_minutes
    while True:
        now = counters.of_release(ours).since(began[0])
        if now.rows >= plan.min_answers:
            whole = counters.of_release(theirs)
            usual = canary.comparable(now, whole.since(began[1]), whole)
            return canary.errors(now, usual, plan.limits), canary.latency(now, usual, plan.limits)
        if time.monotonic() >= deadline:
            reason = f"{now.rows} rows within {plan.max_minutes:g} minutes, {plan.min_answers} are needed"
            return (canary.Check(name="answers", passed=False, reason=reason),)
        time.sleep(plan.poll_s)
