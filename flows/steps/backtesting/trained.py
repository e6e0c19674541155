"""A training of the replay: the real fit, export, evaluation and calibration, and what they cost."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import pandas as pd

from bentos.runtime.monitoring import calibration, sketches
from bentos.runtime.monitoring.measures import Sketch
from bentos.runtime.scoring.manifest import Manifest
from bentos.runtime.scoring.scorer import Scorer
from flows.steps.gating import gates
from flows.steps.monitoring import estimates
from flows.steps.monitoring.kinds import METRIC, Promise
from flows.steps.training import candidate as candidates
from flows.steps.training import dossier, search
from flows.steps.training.arrays import Table
from flows.steps.training.candidate import Rival
from flows.steps.training.resampling import Interval
from flows.steps.training.search import Trial
from flows.usecases.spec import UseCase

T = TypeVar("T")


@dataclass(frozen=True)
class Costed(Generic[T]):
    """What a piece of work gave, and the CPU seconds of this process that it took."""

    value: T
    seconds: float


def costed(work: Callable[[], T]) -> Costed[T]:
    """Do it and measure it."""
    began = time.process_time()
    value = work()
    return Costed(value, time.process_time() - began)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A model with what a release keeps beside it; `rows` it was fitted on, `promised` quality on held-out ones."""

    moment: pd.Timestamp
    recipe: Trial
    manifest: Manifest
    model: bytes
    scorer: Scorer
    rows: int
    parity: float
    latency_us: float
    promised: Promise | None
    reference: tuple[Sketch, ...]
    known: calibration.Calibration
    quality: estimates.Quality | None

    @property
    def name(self) -> str:
        """The day it was trained as of."""
        return str(self.moment.date())


def train(
    case: UseCase, moment: pd.Timestamp, tables: tuple[Table, Table], draft: Manifest, recipe: Trial | None
) -> Trained:
    """Fit on the training rows by the recipe, or by the use case's own bounded search; evaluate on the held-out ones.

    Everything that a real training computes but the pictures and the writing to MLflow.
    """
    rows, test = tables
    recipe = recipe or searched(case, rows)
    fitted, model, scorer = candidates.fit(case, rows, recipe, draft)
    built = candidates.evaluate(case, fitted, model, scorer, train=rows, test=test, as_of=moment, rival=None)
    built = replace(built, unseen=candidates.unseen(fitted, rows, case.max_search_rows, case.seed))
    reference = sketches.reference(test.frame().assign(score=built.test_scores), bins=case.drift.bins)
    found = built.intervals
    return Trained(
        moment=moment,
        recipe=recipe,
        manifest=replace(scorer.manifest, metrics={name: float(level.value) for name, level in found.items()}),
        model=model,
        scorer=scorer,
        rows=len(rows.y),
        parity=built.evidence.parity,
        latency_us=built.evidence.latency_us,
        promised=_promise(found.get(METRIC), test),
        reference=reference,
        known=calibration.calibrate(reference, case.drift, seed=case.seed),
        quality=dossier.promised_quality(built, rows, test),
    )


def _promise(found: Interval | None, test: Table) -> Promise | None:
    """What the model's windows are held to; None where the held-out rows could not be measured."""
    if found is None:
        return None
    since = str(pd.Timestamp(test.times.min()).date())
    return Promise(value=found.value, low=found.low, high=found.high, since=since)


def searched(case: UseCase, rows: Table) -> Trial:
    """The trial that the use case's bounded search chooses on these rows."""
    found = search.search(case, rows.names, rows.x, rows.y, rows.entities, categorical=rows.categorical)
    return found.chosen


def judge(case: UseCase, made: Trained, champion: Trained | None, tables: tuple[Table, Table]) -> gates.Verdict:
    """What the gates say of a training, beside the model in charge on the same held-out rows."""
    rows, test = tables
    evidence = candidates.evidence(
        case,
        made.scorer,
        made.model,
        train=rows,
        test=test,
        as_of=made.moment,
        parity=made.parity,
        latency_us=made.latency_us,
        rival=None if champion is None else Rival(champion.scorer, test.x),
    )
    return gates.judge(evidence, case.gates)
