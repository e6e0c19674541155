"""The replay of one policy: at each moment it may train on what was known then; its model answers what came next."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from flows.steps.backtesting.policies import ORACLE, Policy
from flows.steps.backtesting.trained import Trained
from flows.steps.backtesting.work import METRIC, Quality, Work
from flows.steps.monitoring import policy as rules
from flows.steps.monitoring import triggers
from flows.steps.monitoring.triggers import Cause
from flows.steps.training import prospect as prospects


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a policy did at a moment, and how its model then answered: `asked` for and `outcome` are "" for nothing.

    `reason` is what held the training up, or the first one of the gates that did not promote it; `fitted` rows of it;
    seconds are CPU time.
    """

    moment: str
    model: str
    rows: int
    quality: Quality
    asked: str = ""
    outcome: str = ""
    reason: str = ""
    fitted: int = 0
    training_s: float = 0.0
    watching_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Run:
    """A policy's way through the past."""

    policy: Policy
    steps: tuple[Step, ...]

    @property
    def trainings(self) -> int:
        """How often it trained after the first version."""
        return sum(step.fitted > 0 for step in self.steps)

    @property
    def seconds(self) -> float:
        """CPU seconds of its trainings and of its watching."""
        return sum(step.training_s + step.watching_s for step in self.steps)

    def values(self, metric: str = METRIC) -> list[float]:
        """The metric of every window, NaN where it could not be measured."""
        return [step.quality[metric]["value"] if step.quality else float("nan") for step in self.steps]


@dataclass(kw_only=True)
class _Charge:
    """The model in charge and what happened so far, as the live history would have it."""

    champion: Trained
    last: pd.Timestamp
    lines: list[dict[str, Any]] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)  # of the windows that this champion answered
    moved: list[bool] = field(default_factory=list)
    spent: float = 0.0  # CPU seconds of watching at this step

    def note(self, action: str, at: pd.Timestamp, **facts: Any) -> None:
        self.lines.append({"action": action, "at": at.isoformat(), **facts})


def replay(policy: Policy, work: Work, moments: Sequence[pd.Timestamp], first: Trained, *, gated: bool = True) -> Run:
    """Follow a policy from the first model on; at the first moment nothing is decided.

    A training takes no time: its model, if the gates promote it (or always where not `gated`), answers from that moment
    on. Cooldown, budget, breaker, quick fit and the block after broken data are the live ones; nobody is there to train
    by hand.
    """
    state = _Charge(champion=first, last=moments[0])
    state.note(rules.STARTED, moments[0], reason="first version")
    state.note("trained: PROMOTE", moments[0], version=first.name)
    steps = []
    for at, moment in enumerate(moments):
        state.spent = 0.0
        cause = _cause(policy, work, state, moments[at - 1], moment) if at else None
        done = _follow(cause, work, state, moment, gated) if cause else {}
        rows, quality = work.quality(state.champion, moment)
        asked = f"{cause.trigger}: {cause.evidence}" if cause else ""
        steps.append(
            Step(
                moment=moment.isoformat(),
                model=state.champion.name,
                rows=rows,
                quality=quality,
                asked=asked,
                watching_s=state.spent,
                **done,
            )
        )
    return Run(policy=policy, steps=tuple(steps))


def _cause(policy: Policy, work: Work, state: _Charge, before: pd.Timestamp, moment: pd.Timestamp) -> Cause | None:
    """What asks for a training at a moment, by what is known then: the schedule, the answers since, mature labels."""
    if policy.due(moment, state.last):
        state.last = moment
        return Cause(trigger="schedule", evidence=policy.name)
    case, level, found = work.past.case, None, None
    if "degradation" in policy.watches:
        labels = work.measured(state.champion, before, moment)
        state.spent, level = state.spent + labels.seconds, labels.value
        severity = triggers.degraded(level, case.retraining)
        if severity and level:
            found = Cause(trigger="degradation", severity=severity, kind="harmful", evidence=str(level))
    if "drift" in policy.watches:
        sight = work.seen(state.champion, before)
        judged = sight.value.judgement(state.moved, level)
        asks = rules.asks(judged.kind, state.kinds, case.drift)
        state.spent += sight.seconds
        state.kinds.append(judged.kind)
        state.moved.append(sight.value.moved)
        state.note(f"drift: {judged.kind}", moment)
        if asks and found is None:
            severity = triggers.severity(judged.kind, judged.levels, case.retraining)
            found = Cause(trigger="drift", severity=severity, kind=judged.kind, evidence=judged.why)
    return found


def _follow(cause: Cause, work: Work, state: _Charge, moment: pd.Timestamp, gated: bool) -> dict[str, Any]:
    """Train unless something holds it up; what became of it, as fields of a step."""
    case, now = work.past.case, moment.to_pydatetime()
    retraining = case.retraining
    wait = rules.broken(state.lines, now) or rules.held(state.lines, now, cause, retraining, case.drift.cooldown_days)
    if wait:
        return {"outcome": "held", "reason": wait}
    if cause.by_measurement and retraining.probe != "off":
        tried = work.prospect(state.champion, moment)
        state.spent += tried.seconds
        if prospects.vain(tried.value, cause.kind, retraining.probe):
            state.note(rules.DECLINED, moment, by="probe", cause=cause.facts())
            return {"outcome": "declined", "reason": tried.value.why}
    made = work.trained(moment)
    verdict = work.judged(made.value, state.champion)
    state.note(rules.STARTED, moment, reason=cause.trigger)
    state.note(f"trained: {verdict.value.verdict}", moment, version=made.value.name)
    if verdict.value.verdict == "PROMOTE" or not gated:
        state.champion, state.kinds, state.moved = made.value, [], []
    return {
        "outcome": verdict.value.verdict,
        "reason": "" if verdict.value.verdict == "PROMOTE" else verdict.value.reasons[0],
        "fitted": made.value.rows,
        "training_s": made.seconds + verdict.seconds,
    }


def oracle(work: Work, moments: Sequence[pd.Timestamp]) -> Run:
    """What no policy can beat: trained at every moment, each window answered by the model that will do best on it."""
    made, steps = [], []
    for at, moment in enumerate(moments):
        newest = work.trained(moment)
        made.append(newest.value)
        found = [(work.quality(model, moment), model) for model in made]
        (rows, quality), best = max(found, key=lambda pair: _value(pair[0][1]))
        steps.append(
            Step(
                moment=moment.isoformat(),
                model=best.name,
                rows=rows,
                quality=quality,
                fitted=newest.value.rows if at else 0,
                training_s=newest.seconds if at else 0.0,
            )
        )
    return Run(policy=ORACLE, steps=tuple(steps))


def _value(quality: Quality) -> float:
    return quality[METRIC]["value"] if quality else -np.inf
