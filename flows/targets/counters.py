"""What services count about themselves, for canaries that are judged where the journal is not at hand."""

import time
from collections import Counter

import httpx

from flows.errors import ReleaseError
from flows.steps.rollouts import canary
from flows.steps.rollouts.canary import Figures
from flows.stores.engines import Say
from flows.walk import Plan


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


def judge(
    release: str, percent: int, plan: Plan, *, ours: str, theirs: str, began: tuple[Figures, Figures], say: Say
) -> None:
    """Pass a canary's step, or ReleaseError with the reasons: failed rows and slow requests, beside the champion's.

    `ours` and `theirs` are the base URLs of the two, `began` what they had counted before the step.
    """
    found = _compared(plan, ours, theirs, *began)
    why = "; ".join(f"{check.name}: {check.reason}" for check in found)
    if not all(check.passed for check in found):
        raise ReleaseError(f"the canary of {release} was stopped at {percent} %: {why}")
    say(f"canary at {percent} %: {why}")


def _compared(plan: Plan, ours: str, theirs: str, before: Figures, usual_before: Figures) -> tuple[canary.Check, ...]:
    """Both releases' checks once the canary has answered enough rows."""
    deadline = time.monotonic() + 60 * plan.max_minutes
    while True:
        now = figures(ours).since(before)
        if now.rows >= plan.min_answers:
            whole = figures(theirs)
            usual = canary.comparable(now, whole.since(usual_before), whole)
            return canary.errors(now, usual, plan.limits), canary.latency(now, usual, plan.limits)
        if time.monotonic() >= deadline:
            reason = f"{now.rows} rows within {plan.max_minutes:g} minutes, {plan.min_answers} are needed"
            return (canary.Check(name="answers", passed=False, reason=reason),)
        time.sleep(plan.poll_s)
