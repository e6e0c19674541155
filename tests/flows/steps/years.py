"""Simulated years whose truth is known: rows by event, one feature that matters, one that does not."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bentos.runtime.scoring.manifest import Manifest
from flows.steps.backtesting import past as pasts
from flows.steps.backtesting import policies, recommendation, replay, trained
from flows.steps.backtesting.past import Past
from flows.steps.backtesting.recommendation import Recommendation
from flows.steps.backtesting.replay import Run
from flows.steps.backtesting.trained import Costed, Trained
from flows.steps.backtesting.work import Work
from flows.steps.gating import gates
from flows.steps.training.arrays import Table
from flows.steps.training.search import Trial
from flows.usecases.spec import Column, Contract, DriftRules, GateRules, Retraining, SimulatedSource, UseCase

START, DAYS, A_DAY, CHANGE = pd.Timestamp("2023-01-01", tz="UTC"), 365, 60, 190
NAMES = ("signal", "nuisance")
RECIPE = Trial(estimator="logistic_regression", params={"C": 1.0}, folds=(0.0,))
KINDS = ("concept", "covariate", "none")

CASE = UseCase(
    name="year",
    title="A simulated year",
    source=SimulatedSource(simulate=pd.DataFrame),
    contract=Contract(columns=(Column(name="entity", kind="int"),)),
    entity="entity",
    time="time",
    clock="data",
    feature_service="year_v1",
    build_features=lambda events, as_of: events,
    label="label",
    horizon_days=3,
    first_cutoff="2023-01-01",
    grid="D",
    train_days=28,
    test_days=14,
    estimators=("logistic_regression",),
    gates=GateRules(
        min_roc_auc=0.6,
        min_average_precision=0.2,
        min_precision=0.3,
        min_recall=0.2,
        max_calibration_error=0.15,
        min_gain=0.01,
        bootstrap=100,
    ),
    drift=DriftRules(cooldown_days=3, refresh_windows=2),
    retraining=Retraining(breaker=4),
)


@dataclass(frozen=True)
class Year:
    """Rows in the order of time, and the true probability [n] of each one's label."""

    rows: Table
    truth: NDArray[np.float64]


def year(kind: str, seed: int = 0) -> Year:
    """A year whose relation of signal and label turns around, or whose nuisance moves, on day `CHANGE`; or neither."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    n = DAYS * A_DAY
    days = np.sort(rng.uniform(0, DAYS, n))
    later = days >= CHANGE
    x = rng.normal(size=(n, 2))
    x[:, 1] += 3.0 * (later & (kind == "covariate"))
    slope = np.where(later & (kind == "concept"), -2.0, 2.0)
    truth = 1 / (1 + np.exp(-(slope * x[:, 0] - 0.5)))
    times = START.tz_localize(None).to_datetime64() + (days * 86_400e6).astype("timedelta64[us]")
    rows = Table(
        names=NAMES,
        x=x,
        y=(rng.random(n) < truth).astype(np.int64),
        entities=rng.integers(0, 4_000, n),
        times=times.astype("datetime64[us]"),
        grouped=True,
    )
    return Year(rows, truth)


def past(rows: Table) -> Past:
    """All of it, decided every fortnight."""
    return Past(case=CASE, rows=rows, until=START + pd.Timedelta(days=DAYS), step="14D")


def work(whole: Past) -> Work:
    """Real trainings and real gates, nothing kept."""
    made: dict[pd.Timestamp, Costed[Trained]] = {}

    def train(moment: pd.Timestamp) -> Costed[Trained]:
        if moment not in made:
            tables = pasts.examples(whole, moment)
            made[moment] = trained.costed(lambda: trained.train(CASE, moment, tables, draft(moment), RECIPE))
        return made[moment]

    def judge(one: Trained, champion: Trained | None) -> Costed[gates.Verdict]:
        tables = pasts.examples(whole, one.moment)
        return trained.costed(lambda: trained.judge(CASE, one, champion, tables))

    return Work(whole, train, judge)


def draft(moment: pd.Timestamp) -> Manifest:
    """A manifest before fitting."""
    named = dict.fromkeys(("run_id", "snapshot", "commit", "lock", "verdict", "estimator"), "")
    return Manifest(
        use_case=CASE.name,
        entity=CASE.entity,
        feature_service=CASE.feature_service,
        features=(),
        threshold=0.5,
        risks=CASE.risks,
        stale="flag",
        engine="onnx",
        as_of=moment.isoformat(),
        seed=CASE.seed,
        **named,
    )


def backtest(whole: Past, moments: list[pd.Timestamp]) -> tuple[Work, list[Run], Recommendation]:
    """Every policy over these moments, and what is recommended."""
    done = work(whole)
    first = done.trained(moments[0]).value
    runs = [replay.replay(p, done, moments, first) for p in policies.choices(moments, 14)]
    return done, runs, recommendation.recommend(done, runs, moments)


def true_skill(made: Year, done: Work, run: Run, moments: list[pd.Timestamp]) -> float:
    """Mean Brier skill over the windows that the models of a run truly have, whatever labels were drawn."""
    skills = []
    for step, moment in zip(run.steps, moments, strict=True):
        end = moment + pd.Timedelta(days=14)
        inside = (made.rows.times >= pasts.naive(moment)) & (made.rows.times < pasts.naive(end))
        p, scores = made.truth[inside], done.scores(step.model, moment)
        skills.append(1 - np.mean((scores - p) ** 2 + p * (1 - p)) / (p.mean() * (1 - p.mean())))
    return float(np.mean(skills))


def changed(rows: Table, mask: NDArray[np.bool_], *, x: bool, seed: int = 1) -> Table:
    """The rows with the other label, and with `x` other values too, where the mask holds: another world from there."""
    rng = np.random.default_rng(seed)
    y, values = rows.y.copy(), rows.x.copy()
    y[mask] = 1 - y[mask]
    if x:
        values[mask] = rng.normal(5, 3, (int(mask.sum()), values.shape[1]))
    return replace(rows, y=y, x=values)
