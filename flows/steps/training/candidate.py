"""A candidate: fitted, exported, scored on the held-out cut-off, with the evidence that the gates ask for."""

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline

from bentos.runtime.scoring.categories import Raw
from bentos.runtime.scoring.manifest import Manifest
from bentos.runtime.scoring.scorer import Scorer
from flows.steps.gating import gates
from flows.steps.training import export, metrics, probes, thresholds
from flows.steps.training.arrays import Table
from flows.steps.training.search import Trial, pipeline
from flows.usecases.spec import UseCase

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rival:
    """The champion on the candidate's test rows: its scorer and its own features of them, raw values [n, k]."""

    scorer: Scorer
    x: Raw


@dataclass(frozen=True, kw_only=True)
class Unseen:
    """Training rows with scores of models that had not seen them: `rows` int64[n] are their positions in the table."""

    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    scores: Floats


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A fitted pipeline, its exported scorer and what the gates and the model card say about it."""

    fitted: Pipeline
    model: bytes
    scorer: Scorer
    test_scores: Floats
    dummy_scores: Floats
    evidence: gates.Evidence
    intervals: dict[str, metrics.Interval]
    dummy: dict[str, float]
    slices: list[dict[str, Any]]
    importance: list[Any]
    unseen: Unseen | None = None


def drawn(data: Table, max_rows: int, seed: int) -> NDArray[np.int64]:
    """Positions of at most so many rows, in random order."""
    return np.random.default_rng(seed).permutation(len(data.y))[:max_rows]


def out_of_fold(
    model: Pipeline, data: Table, max_rows: int, seed: int, folds: int = 4
) -> tuple[NDArray[np.int64], Floats]:
    """Labels and scores of `drawn` rows that their model has not seen; an entity stays in one fold."""
    rows = drawn(data, max_rows, seed)
    x, y, groups = data.x[rows], data.y[rows], data.entities[rows]
    scores = np.empty(len(rows))
    for train, test in GroupKFold(n_splits=folds).split(x, y, groups):
        scores[test] = clone(model).fit(x[train], y[train]).predict_proba(x[test])[:, 1]
    return y, scores


def unseen(model: Pipeline, data: Table, max_rows: int, seed: int) -> Unseen | None:
    """Scores of rows of one half of the entities by a model of at most so many rows of the other; None of one class.

    Ten times as many rows are scored as fitted, at most: scoring is cheap, and what is told from it needs many.
    """
    entities = np.random.default_rng(seed).permutation(np.unique(data.entities))
    order = drawn(data, len(data.y), seed)
    mine = np.isin(data.entities[order], entities[: len(entities) // 2])
    learned, rest = order[mine][:max_rows], order[~mine][: 10 * max_rows]
    if len(np.unique(data.y[learned])) < 2:
        return None
    fitted = clone(model).fit(data.x[learned], data.y[learned])
    return Unseen(rows=rest, labels=data.y[rest], scores=fitted.predict_proba(data.x[rest])[:, 1])


def fit(use_case: UseCase, train: Table, trial: Trial, draft: Manifest) -> tuple[Pipeline, bytes, Scorer]:
    """Fit on every training row, choose the thresholds out of fold, export; `draft` gets features and thresholds."""
    model = pipeline(use_case, train.names, trial.estimator, trial.params, train.categorical)
    y, scores = out_of_fold(model, train, use_case.max_search_rows, use_case.seed)
    seen = train.x[drawn(train, use_case.max_search_rows, use_case.seed)]
    cuts = thresholds.chosen(use_case, train.names, seen, y, scores)
    fitted = model.fit(train.x, train.y)
    features = export.preprocessing(fitted, train.names, use_case.log_features)
    data = export.to_onnx(fitted, train.names, sum(f.width for f in features))
    manifest = replace(
        draft,
        features=features,
        threshold=cuts[-1],
        thresholds=cuts if len(cuts) > 1 else (),
        estimator=trial.estimator,
    )
    return fitted, data, Scorer(manifest, data)


def parity(fitted: Pipeline, scorer: Scorer, x: Raw, seed: int) -> float:
    """Largest difference of fitted and exported scores on rows `x` [n, k] and what they may turn into.

    Rows with a value too large for the model are left out: the service refuses them.
    """
    rows = probes.probe(fitted, scorer.manifest.features, x, seed)
    rows = rows[np.isfinite(scorer.inputs(rows)).all(axis=1)]
    return export.parity(fitted, rows, scorer.score(rows))


def latency_us(scorer: Scorer, x: Raw, calls: int = 200) -> float:
    """Median time of a single-row call, microseconds."""
    row = np.ascontiguousarray(x[:1])
    spent = []
    for _ in range(calls):
        start = time.perf_counter_ns()
        scorer.score(row)
        spent.append(time.perf_counter_ns() - start)
    return float(np.median(spent)) / 1_000


def evidence(
    use_case: UseCase,
    scorer: Scorer,
    model: bytes,
    *,
    train: Table,
    test: Table,
    as_of: pd.Timestamp,
    parity: float,
    latency_us: float,
    rival: Rival | None,
    left_out: int = 0,
) -> gates.Evidence:
    """What the gates look at: the test rows scored with candidate, champion and dummy."""
    return gates.Evidence(
        y=test.y,
        scores=scorer.score(test.x),
        dummy_scores=np.full(len(test.y), float(np.mean(train.y))),
        threshold=scorer.manifest.threshold,
        x=test.x,
        names=test.names,
        exported_names=export.exported_names(model),
        parity=parity,
        latency_us=latency_us,
        test_age_days=int((as_of.tz_localize(None) - pd.Timestamp(test.times.max())).days),
        champion_scores=None if rival is None else rival.scorer.score(rival.x),
        champion_threshold=None if rival is None else rival.scorer.manifest.threshold,
        slices=metrics.slice_masks(test.x, test.names, use_case.slices),
        group=None if use_case.sensitive is None else test.x[:, test.names.index(use_case.sensitive)].astype(str),
        seed=use_case.seed,
        entities=test.entities if test.grouped else None,
        left_out=left_out,
    )


def evaluate(
    use_case: UseCase,
    fitted: Pipeline,
    model: bytes,
    scorer: Scorer,
    *,
    train: Table,
    test: Table,
    as_of: pd.Timestamp,
    rival: Rival | None,
    left_out: int = 0,
) -> Candidate:
    """Score the test rows with candidate, champion and dummy, and collect what the gates need."""
    found = evidence(
        use_case,
        scorer,
        model,
        train=train,
        test=test,
        as_of=as_of,
        parity=parity(fitted, scorer, test.x[:5_000], use_case.seed),
        latency_us=latency_us(scorer, test.x),
        rival=rival,
        left_out=left_out,
    )
    scores, rules, threshold = found.scores, use_case.gates, found.threshold
    # without sound scores and both classes there is nothing to measure, and the gates say so
    sound = bool(((scores >= 0) & (scores <= 1)).all()) and 0 < test.y.mean() < 1
    return Candidate(
        fitted=fitted,
        model=model,
        scorer=scorer,
        test_scores=scores,
        dummy_scores=found.dummy_scores,
        evidence=found,
        intervals=metrics.bootstrap(
            test.y,
            scores,
            threshold,
            n=rules.bootstrap,
            confidence=rules.confidence,
            seed=use_case.seed,
            groups=found.entities,
        )
        if sound
        else {},
        dummy=metrics.classification(test.y, found.dummy_scores, 0.5) if sound else {},
        slices=metrics.slice_table(
            test.y,
            scores,
            threshold,
            found.slices,
            champion_scores=found.champion_scores,
            min_rows=rules.min_slice_rows,
            groups=found.entities,
        )
        if sound
        else [],
        importance=metrics.permutation_importance(
            scorer.score, test.x, test.y, test.names, repeats=3, seed=use_case.seed, max_rows=5_000
        )
        if sound
        else [],
    )
