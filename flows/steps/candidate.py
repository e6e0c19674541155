"""A candidate: fitted, exported, scored on the held-out cut-off, with the evidence that the gates ask for."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline

from bentos.runtime.scoring.manifest import Manifest
from bentos.runtime.scoring.scorer import Scorer
from flows.steps import export, gates, metrics, thresholds
from flows.steps.search import Trial, pipeline
from flows.usecases.spec import UseCase

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A joined frame as arrays: `x` float64[n, k] in the order of `names`, `y` int64[n], entity and time per row.

    `others` has the keys of further entities; `grouped` says that entities occur in several rows of a test.
    """

    names: tuple[str, ...]
    x: Floats
    y: NDArray[np.int64]
    entities: NDArray[Any]
    times: NDArray[np.datetime64]
    others: dict[str, NDArray[Any]] = field(default_factory=dict)
    grouped: bool = False

    def part(self, mask: NDArray[np.bool_]) -> "Table":
        """The rows where the mask holds."""
        return replace(
            self,
            x=self.x[mask],
            y=self.y[mask],
            entities=self.entities[mask],
            times=self.times[mask],
            others={name: column[mask] for name, column in self.others.items()},
        )

    def frame(self) -> pd.DataFrame:
        """The features as a frame."""
        return pd.DataFrame(self.x, columns=list(self.names))


def table(use_case: UseCase, joined: pd.DataFrame, names: Sequence[str]) -> Table:
    """Arrays from a point-in-time joined frame."""
    return Table(
        names=tuple(names),
        x=joined[list(names)].to_numpy(dtype=np.float64),
        y=joined[use_case.label].to_numpy(dtype=np.int64),
        entities=joined[use_case.entity].to_numpy(),
        times=joined["event_timestamp"].dt.tz_localize(None).to_numpy(),
        others={key: joined[key].to_numpy() for key in use_case.keys[1:]},
        grouped=use_case.by_event,
    )


@dataclass(frozen=True)
class Rival:
    """The champion on the candidate's test rows: its scorer and its own features of them, float64[n, k]."""

    scorer: Scorer
    x: Floats


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


def mislabelled(data: Table, seed: int) -> Table:
    """The table with its labels in random order: what a broken label join looks like."""
    return replace(data, y=np.random.default_rng(seed).permutation(data.y))


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


def fit(use_case: UseCase, train: Table, trial: Trial, draft: Manifest) -> tuple[Pipeline, bytes, Scorer]:
    """Fit on every training row, choose the thresholds out of fold, export; `draft` gets features and thresholds."""
    model = pipeline(use_case, train.names, trial.estimator, trial.params)
    y, scores = out_of_fold(model, train, use_case.max_search_rows, use_case.seed)
    seen = train.x[drawn(train, use_case.max_search_rows, use_case.seed)]
    cuts = thresholds.chosen(use_case, train.names, seen, y, scores)
    fitted = model.fit(train.x, train.y)
    data = export.to_onnx(fitted, train.names)
    manifest = replace(
        draft,
        features=export.preprocessing(fitted, train.names, use_case.log_features),
        threshold=cuts[-1],
        thresholds=cuts if len(cuts) > 1 else (),
        estimator=trial.estimator,
    )
    return fitted, data, Scorer(manifest, data)


def latency_us(scorer: Scorer, x: Floats, calls: int = 200) -> float:
    """Median time of a single-row call, microseconds."""
    row = np.ascontiguousarray(x[:1])
    spent = []
    for _ in range(calls):
        start = time.perf_counter_ns()
        scorer.score(row)
        spent.append(time.perf_counter_ns() - start)
    return float(np.median(spent)) / 1_000


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
) -> Candidate:
    """Score the test rows with candidate, champion and dummy, and collect what the gates need."""
    scores = scorer.score(test.x)
    dummy_scores = np.full(len(test.y), float(np.mean(train.y)))
    rules, threshold = use_case.gates, scorer.manifest.threshold
    probe = export.with_gaps(test.x[:5_000], use_case.seed)
    evidence = gates.Evidence(
        y=test.y,
        scores=scores,
        dummy_scores=dummy_scores,
        threshold=threshold,
        x=test.x,
        names=test.names,
        exported_names=export.exported_names(model),
        parity=export.parity(fitted, probe, scorer.score(probe)),
        latency_us=latency_us(scorer, test.x),
        test_age_days=int((as_of.tz_localize(None) - pd.Timestamp(test.times.max())).days),
        champion_scores=None if rival is None else rival.scorer.score(rival.x),
        champion_threshold=None if rival is None else rival.scorer.manifest.threshold,
        slices=metrics.slice_masks(test.x, test.names, use_case.slices),
        group=None if use_case.sensitive is None else test.x[:, test.names.index(use_case.sensitive)].astype(str),
        seed=use_case.seed,
        entities=test.entities if test.grouped else None,
    )
    # without sound scores and both classes there is nothing to measure, and the gates say so
    sound = bool(((scores >= 0) & (scores <= 1)).all()) and 0 < test.y.mean() < 1
    return Candidate(
        fitted=fitted,
        model=model,
        scorer=scorer,
        test_scores=scores,
        dummy_scores=dummy_scores,
        evidence=evidence,
        intervals=metrics.bootstrap(
            test.y,
            scores,
            threshold,
            n=rules.bootstrap,
            confidence=rules.confidence,
            seed=use_case.seed,
            groups=evidence.entities,
        )
        if sound
        else {},
        dummy=metrics.classification(test.y, dummy_scores, 0.5) if sound else {},
        slices=metrics.slice_table(
            test.y,
            scores,
            threshold,
            evidence.slices,
            champion_scores=evidence.champion_scores,
            min_rows=rules.min_slice_rows,
            groups=evidence.entities,
        )
        if sound
        else [],
        importance=metrics.permutation_importance(
            scorer.score, test.x, test.y, test.names, repeats=3, seed=use_case.seed, max_rows=5_000
        )
        if sound
        else [],
    )
