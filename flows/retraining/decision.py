"""The decision that precedes an automatic training: conditions, a quick fit, the use case's policy, a person."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext

from bentos.runtime import clock
from flows.examples import Examples, examples
from flows.retraining import approval
from flows.steps.data import cohorts
from flows.steps.monitoring import policy
from flows.steps.monitoring.triggers import Cause
from flows.steps.training import prospect as prospects
from flows.steps.training.prospect import Prospect
from flows.stores import history, locks, registry, versions
from flows.usecases.spec import UseCase

BUSY = "another training is running"
NAMED = ("trigger", "severity", "drift_kind")


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether to train, why not ("" if so), and what was found out on the way."""

    cause: Cause
    skipped: str = ""
    prospect: Prospect | None = None
    examples: Examples | None = None


def decide(case: UseCase, cause: Cause, as_of: datetime | None, home: Path) -> Decision:
    """A person's own training starts. An automatic one must pass the conditions, the quick fit and the policy."""
    if not cause.automatic:
        return Decision(cause=cause)
    tag(cause)
    with locks.held(home, f"train-{case.name}") as alone:
        if wait := waits(case, cause, home) if alone else BUSY:
            return hold(case, cause, wait, home)
        if case.retraining.policy == "never":
            return decline(case, cause, "policy", "the use case's policy is never: it would have trained", home)
        ready = examples(case, as_of, home) if cause.by_measurement and case.retraining.probe != "off" else None
        found = try_out(case, ready, home) if ready else None
    if prospects.vain(found, cause.kind, case.retraining.probe):
        return decline(case, cause, "probe", f"a {cause.kind} drift, and training {found}", home, found)
    if case.retraining.policy == "ask":
        return asked(case, cause, found, home)
    return Decision(cause=cause, prospect=found, examples=ready)


def waits(case: UseCase, cause: Cause, home: Path) -> str | None:
    """Why a training must wait, or None; for a person's own always None."""
    if not cause.automatic:
        return None
    lines, now = history.read(home, case.name), clock.now(home, case.name)
    return policy.broken(lines, now) or policy.held(lines, now, cause, case.retraining, case.drift.cooldown_days)


def asked(case: UseCase, cause: Cause, found: Prospect | None, home: Path) -> Decision:
    """What a person says; one question at a time. The examples are not kept meanwhile: newer ones may come."""
    with locks.held(home, f"ask-{case.name}") as alone:
        if not alone:
            return hold(case, cause, "a question whether to train is open already", home)
        if wait := waits(case, cause, home):  # an answer may have come since
            return hold(case, cause, wait, home)
        yes, by = approval.ask(case, cause, approval.question(case, cause, found), home)
        if not yes:
            why = "nobody answered in time" if by == "silence" else "the answer was no"
            return decline(case, cause, by, why, home, found)
    get_run_logger().info("%s said yes", by)
    return Decision(cause=cause, prospect=found)


@task(cache_policy=NO_CACHE)
def try_out(case: UseCase, ready: Examples, home: Path) -> Prospect | None:
    """Whether a training would help; None before the first release. A quick fit that fails stops nothing."""
    champion = registry.by_alias(case.name, "champion")
    try:
        found = versions.rival(case, ready.joined, ready.cutoff, home)
        if champion is None or found is None:
            return None
        recipe, as_of = versions.recipe(champion)
        unseen = np.datetime64(cohorts.unseen_from(case, cohorts.utc(as_of)).tz_localize(None))
        return prospects.measure(case, ready.train, ready.test, found[1], recipe, unseen)
    except Exception as error:
        get_run_logger().warning("the quick fit failed", exc_info=True)
        return prospects.unknown(f"the quick fit failed: {type(error).__name__}: {error}"[:300])


def hold(case: UseCase, cause: Cause, why: str, home: Path) -> Decision:
    """A training that a condition holds up: a line of history, so that the event is seen to have been followed."""
    return _kept(case, Decision(cause=cause, skipped=why), policy.HELD, "a condition", home)


def decline(case: UseCase, cause: Cause, by: str, why: str, home: Path, found: Prospect | None = None) -> Decision:
    """A training that the policy, the quick fit, a person or silence declined: recorded, and quiet for a while."""
    made = Decision(cause=cause, skipped=f"declined by {by}: {why}", prospect=found)
    return _kept(case, made, policy.DECLINED, by, home)


def _kept(case: UseCase, made: Decision, action: str, by: str, home: Path) -> Decision:
    facts = {"reason": made.cause.trigger, "why": made.skipped, "by": by, **evidence(made)}
    history.append(home, case.name, action, at=clock.now(home, case.name), **facts)
    publish(case, made)
    return made


def evidence(made: Decision) -> dict[str, Any]:
    """Cause and prospect as they are kept in the history and with a version."""
    return {"cause": made.cause.facts(), "prospect": made.prospect.facts() if made.prospect else None}


def publish(case: UseCase, made: Decision) -> None:
    """The decision as an artifact of the flow run, for a person to read."""
    said = made.cause
    create_markdown_artifact(
        key=f"{case.name}-decision",
        markdown=f"# {case.title}: {'not trained' if made.skipped else 'trains'}\n\n"
        f"- Asked for by: {said.trigger}, severity {said.severity}{f', {said.kind}' if said.kind else ''}\n"
        f"- Evidence: {said.evidence or 'none'}\n"
        f"- Would it help: {made.prospect or 'not tried'}\n"
        + (f"- Not trained: {made.skipped}\n" if made.skipped else ""),
    )


def tag(cause: Cause) -> None:
    """Trigger, severity and kind as tags of the Prefect run, by which runs are found."""
    run = FlowRunContext.get().flow_run
    told = {f"{name}:{value}" for name, value in cause.tags().items() if value and name in NAMED}
    with get_client(sync_client=True) as client:
        client.update_flow_run(run.id, tags=sorted({*run.tags, *told}))
