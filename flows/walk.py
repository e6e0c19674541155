"""The walk of a canary: a staged release answers more entities step by step; the first step judged bad ends it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from bentos.runtime import clock
from bentos.runtime.rollouts import rollout
from bentos.runtime.scoring.categories import rows_to_raw
from bentos.runtime.scoring.scorer import Scorer
from flows.errors import ReleaseError
from flows.settings import Settings
from flows.steps.rollouts import canary
from flows.steps.rollouts.canary import Check, Figures, Limits, Scores
from flows.stores import answers, bentos, history, labels, transaction
from flows.stores.engines import Say
from flows.targets import counters, local

PICKED_UP_S = 30.0  # for the service to load a step's rollout; it takes a fraction of a second


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The steps, in percent of entities, and what each waits for: so many rows, at most that long."""

    steps: tuple[int, ...] = ()
    min_answers: int = 200
    max_minutes: float = 60.0
    labels: str | None = None  # parquet with request_id and label, read anew for each judgement
    poll_s: float = 1.0
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        try:
            canary.checked_steps(self.steps)
        except ValueError as error:
            raise ReleaseError(str(error)) from error


def parsed(text: str) -> tuple[int, ...]:
    """Steps as a command line gives them, "1,10,50,100"; none for an empty text. ReleaseError if they are no steps."""
    try:
        steps = [int(part.strip().rstrip("%")) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise ReleaseError(f"--canary {text}: give whole percentages, such as 1,10,50,100") from error
    try:
        return canary.checked_steps(steps)
    except ValueError as error:
        raise ReleaseError(f"--canary {text}: {error}") from error


@dataclass(frozen=True)
class Walk:
    """A walk under way: what is released, where it answers, and what was counted when it began."""

    home: Path
    pending: transaction.Transaction
    plan: Plan
    url: str
    began: dict[str, Figures]


def walk(
    chosen: Settings, pending: transaction.Transaction, plan: Plan, *, say: Say, checkpoint: Callable[[str], None]
) -> None:
    """Take all steps; ReleaseError with the reasons at the first that is not passed, or has too few answers in time."""
    url = local.ensure(chosen, pending.use_case).url
    under_way = Walk(chosen.home, pending, plan, url, counters.of_arms(url))
    for share in plan.steps:
        start, counted = datetime.now(UTC), counters.of_arms(url)
        transaction.share(chosen.home, pending, share / 100)
        checkpoint(f"canary_{share}")
        _picked_up(url, pending, share)
        found = _judged(under_way, start, counted)
        bad = [check for check in found if not check.passed]
        history.append(
            chosen.home,
            pending.use_case,
            f"canary at {share}%: {'stopped' if bad else 'passed'}",
            at=clock.now(chosen.home, pending.use_case),
            walk=pending.id,
            version=pending.version,
            release=pending.release,
            reasons=[f"{check.name}: {check.reason}" for check in bad or found],
        )
        if bad:
            why = "; ".join(f"{check.name}: {check.reason}" for check in bad)
            raise ReleaseError(
                f"the canary of {pending.release} was stopped at {share} %: {why}. The champion answers all"
            )
        say(f"canary at {share} %: {'; '.join(f'{check.name}: {check.reason}' for check in found)}")


def _picked_up(url: str, pending: transaction.Transaction, share: int) -> None:
    """Wait until the service answers by this step; ReleaseError with its own reason if it does not."""
    deadline, problem = time.monotonic() + PICKED_UP_S, None
    while time.monotonic() < deadline:
        health = local.health(url)
        arm = health.get("arms", {}).get(rollout.CANARY, {})
        if arm.get("release") == pending.release and abs(arm.get("weight", -1.0) - share / 100) < 1e-9:
            return
        problem = health.get("problem")
        time.sleep(0.1)
    raise ReleaseError(f"{url} did not take up the canary at {share} % within {PICKED_UP_S:.0f} s: {problem}")


def _judged(under_way: Walk, start: datetime, counted: dict[str, Figures]) -> tuple[Check, ...]:
    """Wait for enough answers, then judge them."""
    plan, pending = under_way.plan, under_way.pending
    deadline = time.monotonic() + 60 * plan.max_minutes
    while True:
        now = counters.of_arms(under_way.url)
        ours = now.get(rollout.CANARY, Figures()).since(counted.get(rollout.CANARY, Figures()))
        late = time.monotonic() >= deadline
        if late or ours.rows >= plan.min_answers:
            champion = now.get(rollout.CHAMPION, Figures())
            step, whole = (champion.since(then.get(rollout.CHAMPION, Figures())) for then in (counted, under_way.began))
            theirs = canary.comparable(ours, step, whole)
            found = scores(under_way.home, pending, start, plan.labels)
            enough = len(found.canary) >= plan.limits.min_entities or ours.failed > ours.answered
            if ours.rows >= plan.min_answers and enough:
                return canary.judge(ours, theirs, found, plan.limits)
            if late:
                reason = (
                    f"{ours.rows} rows of {len(found.canary)} entities within {plan.max_minutes:g} minutes; "
                    f"{plan.min_answers} of {plan.limits.min_entities} are needed: wait longer or take larger steps"
                )
                return (Check(name="answers", passed=False, reason=reason),)
        time.sleep(plan.poll_s)


def scores(home: Path, pending: transaction.Transaction, start: datetime, label_url: str | None) -> Scores:
    """The canary's scores since `start`, one per entity, beside the champion's of the same rows if it has them."""
    names = (rollout.CHAMPION, rollout.CANARY)
    records = answers.recent(home, pending.use_case, start, arms=names)
    ours = [r for r in records[rollout.CANARY].values() if r["release"] == pending.release]
    given = np.array([r["score"] for r in ours], dtype=np.float64)
    champion = champion_scores(pending.champion_before, ours)
    if champion is None:
        theirs = np.array([r["score"] for r in records[rollout.CHAMPION].values()], dtype=np.float64)
        return Scores(canary=given, champion=theirs, paired=False, labels=np.empty(0))
    known = labels.by_request(label_url) if label_url else {}
    found = np.array([known.get(r["request_id"], np.nan) for r in ours], dtype=np.float64)
    return Scores(canary=given, champion=champion, paired=True, labels=found)


def champion_scores(release: str | None, records: list[dict[str, Any]]) -> canary.Floats | None:
    """The champion's scores of other answers' features [n]; None if it needs a feature that they do not have."""
    if release is None:
        return None
    scorer = Scorer.load(bentos.model_folder(release))
    names = scorer.manifest.names
    if any(name not in r["features"] for r in records for name in names):
        return None
    return scorer.score(rows_to_raw([r["features"] for r in records], scorer.manifest))
