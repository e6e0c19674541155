"""Prospect of a training: would a model fitted on newer labels beat the champion? One quick fit, no search."""

import time
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from flows.steps.training import search
from flows.steps.training.arrays import Table
from flows.steps.training.candidate import Rival
from flows.steps.training.metrics import MIN_CLASS_ROWS
from flows.steps.training.resampling import Interval, paired_gain
from flows.steps.training.search import Trial
from flows.usecases.spec import UseCase


@dataclass(frozen=True, kw_only=True)
class Prospect:
    """Whether a training would help, why, and what it cost to find out.

    `gain` is the paired gain of Brier skill of a fresh fit over the champion, `seconds` the time of fit and comparison,
    the rows those that were fitted on and compared on.
    """

    answer: Literal["helps", "does not help", "cannot tell"]
    why: str
    gain: Interval | None = None
    seconds: float = 0.0
    train_rows: int = 0
    test_rows: int = 0

    def __str__(self) -> str:
        cost = f" ({self.seconds:.1f} s, {self.train_rows:,} rows fitted, {self.test_rows:,} compared)"
        return f"{self.answer}: {self.why}{cost if self.gain else ''}"

    def facts(self) -> dict[str, Any]:
        """It as it is kept in the history and with a version."""
        return {**asdict(self), "seconds": round(self.seconds, 3)}


def unknown(why: str) -> Prospect:
    """A prospect that could not be measured."""
    return Prospect(answer="cannot tell", why=why)


def measure(
    case: UseCase, train: Table, test: Table, rival: Rival, recipe: Trial, unseen_from: np.datetime64
) -> Prospect:
    """Fit the champion's own estimator and parameters on the newest training rows, compare both on rows new to both.

    `train` and `test` are split by time with the label's horizon between; of `test` only rows from `unseen_from` on
    count, which the champion was neither fitted nor judged on. The interval is the gates' paired bootstrap. It helps
    where the gate `champion_gain` would pass, it does not where even the upper bound is below that gate's `min_gain`.
    """
    began, rules = time.perf_counter(), case.retraining
    new = test.times >= unseen_from
    y = test.y[new]
    if len(y) < rules.min_probe_rows or min(np.bincount(y, minlength=2)) < MIN_CLASS_ROWS:
        return unknown(
            f"{len(y)} labelled rows are newer than those the champion was judged on, {int(y.sum())} of them positive; "
            f"{rules.min_probe_rows} are needed, and {MIN_CLASS_ROWS} of each class"
        )
    rows = newest(train, rules.probe_rows, case.seed)
    model = search.pipeline(case, train.names, recipe.estimator, recipe.params, train.categorical)
    fresh = model.fit(train.x[rows], train.y[rows]).predict_proba(test.x[new])[:, 1]
    gain = paired_gain(
        y,
        fresh,
        rival.scorer.score(rival.x[new]),
        n=case.gates.bootstrap,
        confidence=case.gates.confidence,
        seed=case.seed,
        groups=test.entities[new] if test.grouped else None,
    )
    answer, why = judged(gain, case.gates.min_gain)
    return Prospect(
        answer=answer,
        why=f"a quick fit of {recipe.estimator} {why}",
        gain=gain,
        seconds=time.perf_counter() - began,
        train_rows=len(rows),
        test_rows=len(y),
    )


def judged(gain: Interval, min_gain: float) -> tuple[Literal["helps", "does not help", "cannot tell"], str]:
    """The answer that a gain gives, and the end of its sentence."""
    shown = f"gains {gain.value:+.4f} of Brier skill over the champion ({gain.low:+.4f} to {gain.high:+.4f})"
    if gain.low > 0 and gain.value >= min_gain:
        return "helps", f"{shown}, the {min_gain:.4f} that the gate asks for and more than noise"
    if gain.high < min_gain:
        return "does not help", f"{shown}, at best less than the {min_gain:.4f} that the gate asks for"
    return "cannot tell", f"{shown}; the gate asks for {min_gain:.4f} and an interval above 0"


def newest(train: Table, max_rows: int, seed: int) -> NDArray[np.int64]:
    """Positions of the newest rows, drawn at random among rows of one time, in the order of the table."""
    mixed = np.random.default_rng(seed).permutation(len(train.y))
    order = mixed[np.argsort(train.times[mixed], kind="stable")]
    return np.sort(order[-max_rows:])


def vain(found: Prospect | None, kind: str, probe: str) -> bool:
    """Whether a training for that kind of drift is skipped: by the use case's `probe`, and only on a clear no.

    `benign` skips refreshes alone. Harm trains all the same: a search may find what the champion's own parameters on
    newer rows do not; with `all` it is skipped too.
    """
    if found is None or found.answer != "does not help":
        return False
    return probe == "all" or (probe == "benign" and kind == "benign")
