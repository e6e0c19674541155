"""Which policy to recommend: the cheapest of those that are not surely worse than the best, on the same rows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import t as student

from flows.steps.backtesting import past as pasts
from flows.steps.backtesting.past import Past
from flows.steps.backtesting.replay import Run
from flows.steps.backtesting.work import Work
from flows.steps.training.resampling import Floats, Interval
from flows.usecases.spec import GateRules

RULE = (
    "the cheapest policy, in CPU seconds, of those that are as good as the best. Not as good is a policy whose mean "
    "loss of Brier skill against the best is {gain:g} or more, what a promotion must gain, with a {confidence:.0%} "
    "interval above 0 when entities are drawn again, each in all windows"
)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A policy beside the best one: what it loses of the mean Brier skill, and whether it counts as good as it.

    `loss` has the interval over entities on these very windows, `elsewhere` the one over windows.
    """

    policy: str
    mean: float
    loss: Interval
    elsewhere: Interval
    as_good: bool
    seconds: float
    trainings: int


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The policy to take ("" where too little was seen), why, by which rule, and every policy beside the best."""

    policy: str
    best: str
    why: str
    rule: str
    windows: int
    compared: tuple[Compared, ...]


def recommend(work: Work, runs: Sequence[Run], moments: Sequence[pd.Timestamp]) -> Recommendation:
    """The cheapest policy that is as good as the best; of equally cheap ones the first.

    Source of the rule: the one-standard-error choice of Breiman et al. (1984), with a paired interval in its place and
    the gates' `min_gain` as the least loss that matters.
    """
    gates = work.past.case.gates
    rule = RULE.format(gain=gates.min_gain, confidence=gates.confidence)
    used = [at for at in range(len(moments)) if all(run.steps[at].quality for run in runs)]
    if len(used) < pasts.ENOUGH:
        why = f"{len(used)} windows could be measured, {pasts.ENOUGH} are needed"
        return Recommendation(policy="", best="", why=why, rule=rule, windows=len(used), compared=())
    values = np.array([[run.values()[at] for at in used] for run in runs])
    drawn = resampled(work, [[run.steps[at].model for run in runs] for at in used], [moments[at] for at in used])
    best, lags = int(values.mean(axis=1).argmax()), overlap(work.past, moments)
    compared = [
        _compared(run, values[[best, at]], drawn[:, best] - drawn[:, at], lags, gates) for at, run in enumerate(runs)
    ]
    chosen = min((c for c in compared if c.as_good), key=lambda c: (c.seconds, c.trainings))
    return Recommendation(
        policy=chosen.policy,
        best=compared[best].policy,
        why=_why(chosen, compared[best], compared[0], len(used)),
        rule=rule,
        windows=len(used),
        compared=tuple(compared),
    )


def _compared(run: Run, pair: Floats, drawn: Floats, lags: int, gates: GateRules) -> Compared:
    """A run beside the best: `pair` the skills [2, windows] of the best and of its own, `drawn` its losses [draws]."""
    value, tail = float(pair[0].mean() - pair[1].mean()), (1 - gates.confidence) / 2
    low, high = (float(bound) for bound in np.nanquantile(drawn, [tail, 1 - tail]))
    return Compared(
        policy=run.policy.name,
        mean=float(pair[1].mean()),
        loss=Interval(value, low, high),
        elsewhere=difference(pair[0], pair[1], lags, gates.confidence),
        as_good=not (low > 0 and value >= gates.min_gain),
        seconds=run.seconds,
        trainings=run.trainings,
    )


def resampled(work: Work, models: Sequence[Sequence[str]], moments: Sequence[pd.Timestamp]) -> Floats:
    """Mean Brier skill over the windows, [draws, runs], when entities are drawn again; `models` by window and run.

    An entity is drawn with all of its rows in all windows: its labels overlap from one window to the next.
    """
    case = work.past.case
    known = np.unique(work.past.rows.entities)
    rng, entities = np.random.default_rng(case.seed), len(known)
    windows = []
    for moment, names in zip(moments, models, strict=True):
        rows, distinct = pasts.answered(work.past, moment), sorted(set(names))
        errors = [(work.scores(name, moment) - rows.y) ** 2 for name in distinct]
        of_run = [distinct.index(name) for name in names]
        windows.append((np.searchsorted(known, rows.entities), rows.y.astype(np.float64), errors, of_run))
    found = np.empty((case.gates.bootstrap, len(models[0])))
    for draw in range(len(found)):
        weight = np.bincount(rng.integers(entities, size=entities), minlength=entities).astype(np.float64)
        skills = [_skills(weight[who], y, errors)[of_run] for who, y, errors, of_run in windows]
        found[draw] = np.mean(skills, axis=0)
    return found


def _skills(weight: Floats, y: Floats, errors: Sequence[Floats]) -> Floats:
    """Brier skill of weighted rows [n] for each model's squared errors; NaN without both classes."""
    rows = weight.sum()
    base = (weight * y).sum() / rows if rows else math.nan
    spread = base * (1 - base)
    return np.array([1 - (weight * e).sum() / rows / spread if spread > 0 else math.nan for e in errors])


def overlap(past: Past, moments: Sequence[pd.Timestamp]) -> int:
    """How many windows in a row a label's horizon covers, so that their errors go together; at least 1."""
    days = np.median(np.diff([m.value for m in moments])) / 86_400e9
    return max(1, math.ceil(past.case.horizon_days / float(days)))


def difference(a: ArrayLike, b: ArrayLike, lags: int, confidence: float = 0.95) -> Interval:
    """Mean of a - b over windows [n] as one draw of many windows, errors of `lags` of them in a row being dependent.

    Diebold and Mariano (1995) with Bartlett's weights, and the small-sample correction and Student's t of Harvey,
    Leybourne and Newbold (1997).
    """
    d = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    n, h = len(d), max(1, min(lags, len(d) // 2))
    mean, centred = float(d.mean()), d - d.mean()
    spread = [float(np.sum(centred[k:] * centred[: n - k])) / n for k in range(h)]
    variance = max(0.0, spread[0] + 2 * sum((1 - k / h) * spread[k] for k in range(1, h))) / n
    correction = (n + 1 - 2 * h + h * (h - 1) / n) / n
    half = float(student.ppf((1 + confidence) / 2, n - 1)) * math.sqrt(variance / correction)
    return Interval(mean, mean - half, mean + half)


def _why(chosen: Compared, best: Compared, never: Compared, windows: int) -> str:
    """The choice in a sentence, and what not training at all would lose."""
    spent = f"{times(chosen.trainings)} and {chosen.seconds:.1f} CPU seconds over {windows} windows"
    if chosen.policy == best.policy:
        why = f"it has the best mean Brier skill, {best.mean:.4f}, for {spent}; none as good is cheaper"
    else:
        lost = f"losing {shown(chosen.loss)}" if chosen.loss.value > 0 else "losing nothing"
        instead = f"instead of {times(best.trainings)} and {best.seconds:.1f}"
        why = f"it is as good as {best.policy}, the best with a mean Brier skill of {best.mean:.4f}, {lost}, "
        why += f"for {spent} {instead}"
    if chosen.policy == never.policy:
        return why
    weak = "; over other windows like these it might not" if never.elsewhere.low <= 0 else ""
    return f"{why}. Against the best, {never.policy} loses {shown(never.loss)} on these windows{weak}"


def times(trainings: int) -> str:
    """A number of trainings in words."""
    return "1 training" if trainings == 1 else f"{trainings or 'no'} trainings"


def shown(found: Interval) -> str:
    """A loss with its interval."""
    return f"{found.value:.4f} ({found.low:+.4f} to {found.high:+.4f})"
