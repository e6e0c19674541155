"""Candidate: fitted, exported and measured on the held-out rows, beside champion and dummy."""

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest

from bentos.runtime.scoring.manifest import Manifest
from flows.steps.gating import gates
from flows.steps.training import arrays, candidate
from flows.steps.training.arrays import Table
from flows.steps.training.candidate import Candidate, Rival
from flows.steps.training.search import Trial
from flows.usecases import churn
from flows.usecases.spec import Slice

NAMES = ("buys", "amount", "age")
CASE = replace(
    churn.USE_CASE,
    log_features=("buys", "amount"),
    slices=(Slice(feature="buys", edges=(1, 2, 4)),),
    gates=replace(churn.USE_CASE.gates, bootstrap=60, min_slice_rows=50),
    max_search_rows=900,
)
DRAFT = Manifest(
    use_case="churn",
    entity="user_id",
    feature_service="churn_v1",
    features=(),
    threshold=0.5,
    risks=("Low", "High"),
    stale="flag",
    engine="onnx",
    estimator="",
    run_id="",
    as_of="1998-01-01",
    snapshot="",
    commit="",
    lock="",
    seed=7,
    verdict="",
)
LOGISTIC = Trial(estimator="logistic_regression", params={"C": 1.0}, folds=(0.1, 0.2))
AS_OF = pd.Timestamp("1998-01-01", tz="UTC")


def table(n: int, day: str, seed: int) -> Table:
    rng = np.random.default_rng(seed)
    x = np.column_stack([rng.geometric(0.4, n), rng.lognormal(3, 1, n), rng.uniform(0, 12, n)]).astype(np.float64)
    y = (rng.random(n) < 1 / (1 + np.exp(np.log(x[:, 0]) * 2 - 1))).astype(np.int64)
    times = np.full(n, np.datetime64(day, "us"))
    return Table(names=NAMES, x=x, y=y, entities=np.arange(n), times=times)


TRAIN, TEST = table(1_500, "1997-06-01", 1), table(1_000, "1997-10-01", 2)


@cache
def built(rival: bool = False) -> Candidate:
    fitted, model, scorer = candidate.fit(CASE, TRAIN, LOGISTIC, DRAFT)
    against = Rival(scorer, TEST.x) if rival else None
    return candidate.evaluate(CASE, fitted, model, scorer, train=TRAIN, test=TEST, as_of=AS_OF, rival=against)


def test_a_joined_frame_becomes_arrays_in_the_asked_order() -> None:
    """Features in the order of the service, labels, entities and naive UTC times, row by row."""
    joined = pd.DataFrame(
        {
            "user_id": [3, 5],
            "event_timestamp": pd.to_datetime(["1997-06-01", "1997-07-01"], utc=True).as_unit("us"),
            "churned": [1, 0],
            "age": [1.0, 2.0],
            "buys": [3.0, np.nan],
        }
    )
    found = arrays.table(CASE, joined, ["buys", "age"])
    np.testing.assert_array_equal(found.x, [[3.0, 1.0], [np.nan, 2.0]])
    assert (found.y.tolist(), found.entities.tolist()) == ([1, 0], [3, 5])
    assert found.times[1] == np.datetime64("1997-07-01")
    later = found.part(found.times > np.datetime64("1997-06-15"))
    assert (later.entities.tolist(), later.names, len(later.frame())) == ([5], ("buys", "age"), 1)


def test_shuffled_labels_keep_the_base_rate_only() -> None:
    """The planted fault moves labels to other rows, the same way for the same seed, and leaves the original alone."""
    before = TRAIN.y.copy()
    wrong = arrays.mislabelled(TRAIN, 7)
    assert wrong.y.sum() == TRAIN.y.sum()
    assert (wrong.y != TRAIN.y).mean() > 0.2
    np.testing.assert_array_equal(wrong.y, arrays.mislabelled(TRAIN, 7).y)
    np.testing.assert_array_equal(TRAIN.y, before)


def test_the_threshold_is_chosen_on_rows_that_the_model_has_not_seen() -> None:
    """Out-of-fold scores are those of models that knew neither the row nor its entity."""
    twice = Table(
        names=NAMES,
        x=np.vstack([TRAIN.x[:300]] * 2),
        y=np.concatenate([TRAIN.y[:300]] * 2),
        entities=np.concatenate([TRAIN.entities[:300]] * 2),
        times=np.concatenate([TRAIN.times[:300]] * 2),
    )
    from flows.steps.training.search import pipeline

    chance = np.random.default_rng(3).integers(0, 2, 300)
    learns_by_heart = pipeline(CASE, NAMES, "random_forest", {"max_depth": None, "min_samples_leaf": 1})
    y, scores = candidate.out_of_fold(learns_by_heart, replace(twice, y=np.tile(chance, 2)), 600, 7)
    assert len(y) == len(scores) == 600
    assert abs(np.corrcoef(y, scores)[0, 1]) < 0.25
    whole = replace(twice, y=np.tile(chance, 2))
    found = candidate.unseen(learns_by_heart, whole, 200, 7)
    assert found is not None
    assert np.array_equal(found.labels, whole.y[found.rows])
    assert (len(found.rows), len(np.unique(whole.entities[found.rows]))) == (300, 150)
    assert abs(np.corrcoef(found.labels, found.scores)[0, 1]) < 0.25
    assert candidate.unseen(learns_by_heart, replace(whole, y=np.zeros_like(whole.y)), 200, 7) is None


def test_fit_fills_the_manifest() -> None:
    """Features with their numbers, estimator and threshold are in; the origin stays as drafted."""
    found = built().scorer.manifest
    assert found.names == list(NAMES)
    assert [f.log for f in found.features] == [True, True, False]
    assert found.estimator == "logistic_regression"
    assert 0 < found.threshold < 1
    assert replace(found, features=(), threshold=0.5, estimator="") == DRAFT


def test_the_evidence_is_of_the_test_rows() -> None:
    """Scores are the exported model's, the dummy answers the training base rate, the age is to the day of training."""
    evidence = built().evidence
    np.testing.assert_array_equal(evidence.scores, built().scorer.score(TEST.x))
    np.testing.assert_array_equal(evidence.y, TEST.y)
    assert set(evidence.dummy_scores) == {TRAIN.y.mean()}
    assert evidence.test_age_days == 92
    assert evidence.exported_names == evidence.names == NAMES
    assert 0 <= evidence.parity <= 1e-5
    assert evidence.latency_us > 0
    assert sum(mask.sum() for mask in evidence.slices.values()) == len(TEST.y)


def test_a_first_version_has_no_champion_and_a_second_has_one_on_the_same_rows() -> None:
    """The rival's scores and threshold are the champion's own, row by row beside the candidate's."""
    assert built().evidence.champion_scores is None
    against = built(rival=True).evidence
    np.testing.assert_array_equal(against.champion_scores, against.scores)
    assert against.champion_threshold == built().scorer.manifest.threshold


def test_what_was_measured_is_told_with_intervals() -> None:
    """Every figure lies in its interval, slices are compared, and the feature that decides matters most."""
    found = built(rival=True)
    assert all(i.low <= i.value <= i.high for i in found.intervals.values())
    assert found.intervals["roc_auc"].value > 0.7
    assert found.dummy["roc_auc"] == 0.5
    assert found.importance[0].name == "buys"
    assert len(found.slices) == 3


@pytest.mark.parametrize("fault", ["nan", "one class"])
def test_what_cannot_be_measured_is_rejected_and_not_raised(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores that are no numbers, or a test of one class, give no figures, and the gates say REJECT."""
    good = built()
    test = TEST
    if fault == "nan":
        monkeypatch.setattr(type(good.scorer), "score", lambda self, x: np.full(len(x), np.nan))
    else:
        test = replace(TEST, y=np.ones_like(TEST.y))
    found = candidate.evaluate(
        CASE, good.fitted, good.model, good.scorer, train=TRAIN, test=test, as_of=AS_OF, rival=None
    )
    assert (found.intervals, found.dummy, found.slices, found.importance) == ({}, {}, [], [])
    verdict = gates.judge(found.evidence, CASE.gates)
    assert verdict.verdict == "REJECT"
    failed = {r.name for r in verdict.results if not r.passed}
    assert {"nan": "score_sanity", "one class": "rows_scored"}[fault] in failed
