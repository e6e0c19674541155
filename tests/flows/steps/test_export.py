"""Export: the ONNX model behind the runtime's preprocessing scores as the fitted pipeline does."""

import warnings
from dataclasses import replace
from functools import cache

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

from bentos.runtime.scoring.manifest import Manifest
from bentos.runtime.scoring.scorer import Scorer
from flows.steps.training import export, probes, search
from flows.usecases import churn

NAMES = ("buys", "amount", "age", "recency")
LOGGED = ("buys", "amount")
CASE = replace(churn.USE_CASE, log_features=LOGGED)
PARAMS = {
    "logistic_regression": {"C": 5.0},
    "random_forest": {"max_depth": 10, "min_samples_leaf": 20},
    "hist_gradient_boosting": {"learning_rate": 0.2, "max_leaf_nodes": 31},
}
every = pytest.mark.parametrize("name", PARAMS)


def rows(n: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    x = np.column_stack([rng.geometric(0.4, n), rng.lognormal(3, 1, n), rng.uniform(0, 12, n), rng.uniform(0, 400, n)])
    y = (rng.random(n) < 1 / (1 + np.exp(np.log(x[:, 0]) * 2 - x[:, 3] / 200))).astype(np.int64)
    x[rng.random(x.shape) < 0.05] = np.nan
    return x.astype(np.float64), y


@cache
def exported(name: str) -> tuple[Pipeline, Scorer]:
    """A fitted pipeline and what is served of it, made once per estimator."""
    x, y = rows(2_000)
    with threadpool_limits(1):
        fitted = search.pipeline(CASE, NAMES, name, PARAMS[name]).fit(x, y)
    manifest = Manifest(
        use_case="churn",
        entity="user_id",
        feature_service="churn_v1",
        features=export.preprocessing(fitted, NAMES, LOGGED),
        threshold=0.5,
        risks=("Low", "High"),
        stale="flag",
        engine="onnx",
        estimator=name,
        run_id="",
        as_of="",
        snapshot="",
        commit="",
        lock="",
        seed=1,
        verdict="",
    )
    return fitted, Scorer(manifest, export.to_onnx(fitted, NAMES))


@every
def test_the_exported_model_scores_as_the_fitted_one(name: str) -> None:
    """On new rows, rows with gaps, a row of nothing, and rows far outside: at most 1e-5 apart, for every estimator."""
    fitted, scorer = exported(name)
    probe = probes.with_gaps(rows(2_000, seed=9)[0], 3)
    scores = scorer.score(probe)
    assert export.parity(fitted, probe, scores) <= 1e-5
    assert ((scores >= 0) & (scores <= 1)).all()


@every
def test_the_export_keeps_the_order_of_its_inputs(name: str) -> None:
    """The artefact says in which order it wants its features, so that a gate can see a swap."""
    fitted, _ = exported(name)
    assert export.exported_names(export.to_onnx(fitted, NAMES)) == NAMES
    swapped = export.to_onnx(fitted, NAMES[::-1])
    assert export.exported_names(swapped) == NAMES[::-1]


@every
def test_the_export_is_repeatable(name: str) -> None:
    """The same fitted pipeline gives the same bytes."""
    fitted, _ = exported(name)
    assert export.to_onnx(fitted, NAMES) == export.to_onnx(fitted, NAMES)


SERVED = {
    "logistic_regression": None,
    "random_forest": ["TreeEnsembleRegressor"],
    "hist_gradient_boosting": ["TreeEnsembleRegressor", "Sigmoid"],
}


@every
def test_trees_are_exported_as_one_score(name: str) -> None:
    """A forest's sum is its probability, boosted trees' go through the logistic function; a linear model stays."""
    fitted, scorer = exported(name)
    graph = onnx.load_from_string(export.to_onnx(fitted, NAMES)).graph
    operators = [node.op_type for node in graph.node]
    if (served := SERVED[name]) is None:
        assert "LinearClassifier" in operators
        return
    assert operators == served
    assert [output.name for output in graph.output] == ["probabilities"]
    assert "nodes_missing_value_tracks_true" not in {attribute.name for attribute in graph.node[0].attribute}
    onnx.checker.check_model(export.to_onnx(fitted, NAMES))
    assert scorer.model.way == "whole"


@pytest.mark.parametrize("labels", [("Low", "High"), (0, 1, 2)], ids=["texts", "three classes"])
def test_trees_of_other_classes_stay_a_classifier(labels: tuple[object, ...]) -> None:
    """What is not 0 and 1 has no single score."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(200, 3)).astype(np.float32)
    y = np.array(labels)[rng.integers(0, len(labels), 200)]
    for model in (RandomForestClassifier(5, max_depth=3), HistGradientBoostingClassifier(max_iter=5)):
        graph = export.converted(model.fit(x, y), 3).graph
        assert "TreeEnsembleClassifier" in {node.op_type for node in graph.node}


def test_preprocessing_is_the_fitted_imputer_and_scaler() -> None:
    """Median, mean and scale are the pipeline's own numbers, and the log is where the use case says."""
    fitted, scorer = exported("logistic_regression")
    x, _ = rows(2_000)
    found = scorer.manifest.features
    assert [f.name for f in found] == list(NAMES)
    assert [f.log for f in found] == [True, True, False, False]
    np.testing.assert_allclose([f.fill for f in found], np.nanmedian(x, axis=0))
    np.testing.assert_allclose(scorer.preprocess(x), fitted[:-1].transform(x).astype(np.float32), rtol=1e-6, atol=1e-6)


def test_gaps_and_extremes_are_probed() -> None:
    """Beside the rows: the rows with gaps, a row of nothing, lowest, highest, far above and far below."""
    x, _ = rows(100, seed=4)
    probe = probes.with_gaps(x, 1, share=0.3)
    assert len(probe) == 2 * len(x) + 5
    np.testing.assert_array_equal(probe[:100], x)
    holes = np.isnan(probe[100:200]) & ~np.isnan(x)
    assert 0.2 < holes.mean() < 0.4
    assert np.isnan(probe[200]).all()
    np.testing.assert_array_equal(probe[203], probe[202] * 1_000)
    np.testing.assert_array_equal(probes.with_gaps(x, 1, share=0.3), probe)


def test_parity_sees_a_difference() -> None:
    """A score that is off by a hundredth in one row is the result."""
    fitted, scorer = exported("logistic_regression")
    x, _ = rows(50, seed=5)
    scores = scorer.score(x)
    scores[7] += 0.01
    assert export.parity(fitted, x, scores) == pytest.approx(0.01, abs=1e-5)


def test_a_column_that_is_always_missing_is_exported_and_probed() -> None:
    """A feature without a single value fits, exports and scores, without a warning."""
    x, y = rows(800)
    x[:, 2] = np.nan
    fitted = search.pipeline(CASE, NAMES, "logistic_regression", {"C": 1.0}).fit(x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probe = probes.with_gaps(x, 1)
    assert np.isfinite(fitted.predict_proba(probe)).all()
