"""The judgement of a canary's step: may a release answer more entities than it does now?

Each check compares the canary with the champion and fails only for a difference that is both large (beyond its limit)
and real (beyond what chance shows with probability `CHANCE`), so that an equal release passes through all steps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import fisher_exact, rankdata

from bentos.runtime.monitoring import sketches
from bentos.runtime.monitoring.measures import CHANCE, Z, ks, ks_noise, psi, psi_noise
from flows.steps.training.metrics import paired_gain

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a service counted of one arm: rows answered, rows that got a 5xx, and its parts of batches.

    `seconds` is their time together, `within` the number that took at most so many seconds, by rising bounds.
    """

    answered: int = 0
    failed: int = 0
    seconds: float = 0.0
    parts: int = 0
    within: tuple[tuple[float, int], ...] = ()

    @property
    def rows(self) -> int:
        """Rows that reached the arm."""
        return self.answered + self.failed

    def slower(self, seconds: float) -> int:
        """Parts that took longer than the first bound from `seconds` on."""
        return self.parts - next((n for bound, n in self.within if bound >= seconds), self.parts)

    def since(self, earlier: "Figures") -> "Figures":
        """What was counted since; all of it if the counters began anew, as when a service restarts."""
        if self.rows < earlier.rows or self.parts < earlier.parts:
            return self
        return Figures(
            answered=self.answered - earlier.answered,
            failed=self.failed - earlier.failed,
            seconds=self.seconds - earlier.seconds,
            parts=self.parts - earlier.parts,
            within=tuple((bound, n - dict(earlier.within).get(bound, 0)) for bound, n in self.within),
        )


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How different a canary may be from the champion."""

    max_error_share: float = 0.01  # of its rows, above the champion's share
    max_slow_share: float = 0.05  # of its parts of batches, above the champion's share
    max_slowdown: float = 2.0  # a part is slow from that many times the champion's mean on
    min_seconds: float = 0.005  # and never below that: on a busy machine a ratio of small times is noise
    max_psi: float = 0.5  # twice the usual sign of a shift (Siddiqi 2006): two good models differ more than two months
    max_ks: float = 0.3
    min_agreement: float = 0.3  # rank correlation with the champion's scores of the same rows
    max_loss: float = 0.01  # of Brier skill on labelled rows, as in the gates
    min_entities: int = 10
    min_labels: int = 50


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of the canary's answers, one per entity; `champion` holds the champion's of the same rows if `paired`.

    Otherwise the champion could not score them (it has other features), and its are those of other entities. Labels
    are 0, 1 or NaN where not known yet, and may be empty.
    """

    canary: Floats
    champion: Floats
    paired: bool
    labels: Floats


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at; `reason` is a sentence with its figures, whether it passed or not."""

    name: str
    passed: bool
    reason: str


def judge(canary: Figures, champion: Figures, scores: Scores, limits: Limits, *, seed: int = 7) -> tuple[Check, ...]:
    """All checks of a step; it is passed if each of them is."""
    return (
        errors(canary, champion, limits),
        latency(canary, champion, limits),
        distribution(scores, limits),
        agreement(scores, limits),
        labels(scores, limits, seed=seed),
    )


def comparable(canary: Figures, step: Figures, walk: Figures) -> Figures:
    """What the champion is compared by: its parts of the same `step`, or of the whole `walk` where it has too few then.

    In the same step both met the same machine: what slows all of them down is no fault of the canary. With half as many
    parts as the canary's or fewer, such as at 100 %, the champion's earlier steps say what is usual.
    """
    return step if 2 * step.parts > canary.parts else walk


def errors(canary: Figures, champion: Figures, limits: Limits) -> Check:
    """The share of failed rows, beyond what a fair draw gives."""
    bad = _more((canary.failed, canary.rows), (champion.failed, champion.rows), limits.max_error_share)
    reason = f"{canary.failed} of {canary.rows} rows failed, {champion.failed} of the champion's {champion.rows}"
    return Check(name="errors", passed=not bad, reason=reason)


def latency(canary: Figures, champion: Figures, limits: Limits) -> Check:
    """The share of batches that the canary makes slow, since a batch is answered when its slowest part is done.

    A share, not a mean: one pause of the machine would spoil the mean of a few hundred.
    """
    usual = champion.seconds / champion.parts if champion.parts else 0.0
    limit = max(limits.max_slowdown * usual, limits.min_seconds)
    ours, theirs = canary.slower(limit), champion.slower(limit)
    bad = _more((ours, canary.parts), (theirs, champion.parts), limits.max_slow_share)
    reason = (
        f"{ours} of {canary.parts} parts of batches took over {1000 * limit:.1f} ms, {theirs} of the champion's "
        f"{champion.parts}"
    )
    return Check(name="latency", passed=not bad, reason=reason)


def _more(ours: tuple[int, int], theirs: tuple[int, int], limit: float) -> bool:
    """Whether k of n is more than the other's share by over `limit`, and that by no chance.

    One-sided exact test of Fisher (1922), p below `CHANCE`; where the other has no n, by the share alone.
    """
    (k, n), (other, m) = ours, theirs
    share = k / n - (other / m if m else 0.0) if n else 0.0
    if share <= limit or not m:
        return share > limit
    return float(fisher_exact([[k, n - k], [other, m - other]], alternative="greater").pvalue) < CHANCE


def distribution(scores: Scores, limits: Limits) -> Check:
    """PSI and KS of the canary's scores against the champion's in the champion's deciles, beyond chance."""
    n = len(scores.canary)
    if n < limits.min_entities or len(scores.champion) < limits.min_entities:
        return Check(name="distribution", passed=False, reason=f"{n} entities, {limits.min_entities} are needed")
    reference = sketches.reference(pd.DataFrame({"score": scores.champion}))
    (then,), (now,) = reference, sketches.bin_counts(pd.DataFrame({"score": scores.canary}), reference)
    index, distance = psi(then, now), ks(then, now)
    expected, rare = psi_noise(then, now)
    shifted = index - expected > limits.max_psi and index > rare
    apart = distance > max(limits.max_ks, ks_noise(then, now))
    same = "the same rows" if scores.paired else "other entities"
    reason = (
        f"PSI {index:.2f} against the champion's scores of {same} (limit {limits.max_psi:g} beyond the {expected:.2f} "
        f"of chance), KS {distance:.2f} (limit {limits.max_ks:g}), {n} entities"
    )
    return Check(name="distribution", passed=not (shifted or apart), reason=reason)


def agreement(scores: Scores, limits: Limits) -> Check:
    """Spearman's rank correlation with the champion on the same rows; fails when surely below the limit.

    Inverted scores keep their distribution where it is symmetric, but not their order. The interval is Fisher's
    transform with standard error `1.03 / sqrt(n - 3)` (Fieller, Hartley & Pearson 1957).
    """
    n, name = len(scores.canary), "agreement"
    if not scores.paired or n < limits.min_entities:
        return Check(name=name, passed=True, reason="the champion cannot score the canary's rows: not compared")
    found = rank_correlation(scores.canary, scores.champion)
    highest = math.tanh(math.atanh(max(min(found, 0.999999), -0.999999)) + Z * 1.03 / math.sqrt(n - 3))
    reason = (
        f"rank correlation with the champion is {found:.2f}, at best {highest:.2f}; "
        f"at least {limits.min_agreement:g} is required"
    )
    return Check(name=name, passed=highest >= limits.min_agreement, reason=reason)


def labels(scores: Scores, limits: Limits, *, seed: int = 7) -> Check:
    """Early labels: the paired interval of Brier skill against the champion is not all below 0 and past the limit."""
    known = ~np.isnan(scores.labels) if len(scores.labels) else np.zeros(0, dtype=bool)
    y = scores.labels[known]
    if not scores.paired or len(y) < limits.min_labels or len(np.unique(y)) < 2:
        return Check(name="labels", passed=True, reason=f"{len(y)} labels so far: not compared")
    gain = paired_gain(y.astype(np.int64), scores.canary[known], scores.champion[known], seed=seed)
    reason = (
        f"Brier skill against the champion on {len(y)} labels: {gain.value:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})"
    )
    return Check(name="labels", passed=gain.high >= 0 or gain.low >= -limits.max_loss, reason=reason)


def rank_correlation(a: Floats, b: Floats) -> float:
    """Spearman's correlation [n], ties sharing their mean rank; 0 where only one side is constant, 1 where both are."""
    x, y = rankdata(a), rankdata(b)
    if x.std() == 0 or y.std() == 0:
        return 1.0 if x.std() == y.std() else 0.0
    return float(np.corrcoef(x, y)[0, 1])


def checked_steps(steps: Sequence[int]) -> tuple[int, ...]:
    """The steps if they are percentages that rise from at least 1 to at most 100; ValueError otherwise."""
    found = tuple(int(step) for step in steps)
    if any(not 1 <= step <= 100 for step in found) or any(a >= b for a, b in pairwise(found)):
        raise ValueError(f"canary steps are rising percentages from 1 to 100, such as 1,10,50,100, not {found}")
    return found
