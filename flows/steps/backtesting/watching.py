"""What a policy can see: the answers of the window before, the labels that matured since, and a quick fit."""

from dataclasses import dataclass

import pandas as pd

from bentos.runtime.monitoring import drift, signatures
from bentos.runtime.monitoring.signatures import Signature
from flows.steps.backtesting.past import naive
from flows.steps.backtesting.trained import Trained
from flows.steps.data import cohorts
from flows.steps.monitoring import estimates, kinds, windows
from flows.steps.monitoring.kinds import Level
from flows.steps.training import metrics
from flows.steps.training import prospect as prospects
from flows.steps.training.arrays import Table
from flows.steps.training.candidate import Rival
from flows.steps.training.prospect import Prospect
from flows.usecases.spec import UseCase

MIN_LABELS = 200  # of a window, as `feedback` asks of a month


@dataclass(frozen=True, kw_only=True)
class Sight:
    """A window of answers against its model's reference, before what earlier windows say is counted in."""

    verdict: drift.Verdict
    signs: tuple[Signature, ...]
    estimated: Level | None

    @property
    def moved(self) -> bool:
        """Whether any column drifted."""
        return any(column.drifted for column in self.verdict.columns)

    def judgement(self, earlier: list[bool], measured: Level | None) -> kinds.Judgement:
        """The kind of drift, once it has persisted; `earlier` says which of the windows before moved."""
        return kinds.judge(drift.persistent(self.verdict, earlier), self.signs, self.estimated, measured)


def look(case: UseCase, model: Trained, rows: Table) -> Sight:
    """Compare the model's answers to these rows with its reference, without labels, as `check_drift` does."""
    frame = rows.frame().assign(score=model.scorer.score(rows.x))
    identity = pd.DataFrame({"entity": rows.entities, "time": rows.times, **rows.others})
    now = windows.count(frame, model.reference, identity)
    estimated = None
    if model.quality is not None:
        found = estimates.estimate(model.quality, now.scores, repeats=now.repeats)
        estimated = kinds.level("estimated", found, model.promised)
    return Sight(
        verdict=drift.compare(model.reference, now.sketches, case.drift, model.known),
        signs=signatures.find(model.reference, now.sketches, now.copies, case.drift),
        estimated=estimated,
    )


def measured(case: UseCase, model: Trained, rows: Table) -> Level | None:
    """ROC AUC that labels measured of the model's own answers, as `feedback` does; None while there are too few."""
    own = rows.part(rows.times >= naive(model.moment))
    if len(own.y) < MIN_LABELS or own.y.min() == own.y.max():
        return None
    rules = case.gates
    found = metrics.bootstrap(
        own.y,
        model.scorer.score(own.x),
        0.5,
        metrics=(kinds.METRIC,),
        n=rules.bootstrap,
        confidence=rules.confidence,
        seed=case.seed,
        groups=own.entities,
    )
    level = {name: {"value": i.value, "low": i.low, "high": i.high} for name, i in found.items()}
    return kinds.level("measured", level, model.promised)


def quick_fit(case: UseCase, champion: Trained, tables: tuple[Table, Table]) -> Prospect:
    """Whether a training on these rows would help, as it is tried before a training that a measurement asks for."""
    rows, test = tables
    unseen = naive(cohorts.unseen_from(case, champion.moment))
    return prospects.measure(case, rows, test, Rival(champion.scorer, test.x), champion.recipe, unseen)
