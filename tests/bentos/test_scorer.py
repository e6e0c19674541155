"""The scorer."""

import json
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bentos.runtime.scoring.manifest import MODEL, Feature, ManifestError
from bentos.runtime.scoring.model import Model, operators
from bentos.runtime.scoring.scorer import Preprocessor, Scorer, ScorerError, decide, grade

from .conftest import make_manifest, make_release, to_onnx

WIDTH = 11


def _models() -> list[object]:
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression

    return [
        LogisticRegression(),
        RandomForestClassifier(60, max_depth=7, random_state=0),
        HistGradientBoostingClassifier(max_iter=60, random_state=0),
    ]


@pytest.fixture(scope="module", params=range(3), ids=["logistic_regression", "random_forest", "hist_boosting"])
def wide(request):
    """A scorer of eleven features for each kind of model."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(600, WIDTH)).astype(np.float32)
    y = (x @ rng.normal(size=WIDTH) + rng.normal(size=600) > 0).astype(int)
    model = _models()[request.param].fit(x, y)
    features = tuple(Feature(name=f"f{i}", fill=0.1 * i, mean=0.3, scale=1.7, log=i % 3 == 0) for i in range(WIDTH))
    return Scorer(make_manifest(features=features), to_onnx(model, WIDTH)), model


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, 255, 10_000])
def test_a_row_scores_the_same_bits_in_every_batch_size_and_order(wide, size):
    """A row's score is bit-identical alone, in batches of any size and in any order."""
    scorer, _ = wide
    rng = np.random.default_rng(5)
    x = rng.normal(size=(10_000, WIDTH)) * 3
    x[rng.random(x.shape) < 0.1] = np.nan
    order = rng.permutation(len(x))
    alone = np.concatenate([scorer.score(x[i : i + 1]) for i in range(0, len(x), 10)])
    batched = np.empty(len(x))
    for start in range(0, len(x), size):
        batched[order[start : start + size]] = scorer.score(x[order[start : start + size]])
    assert (batched[::10].view(np.int64) == alone.view(np.int64)).all()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_rows_score_the_same_bits_in_any_company(wide, data):
    """Whatever the values (missing, zero, subnormal, huge), company and memory layout do not change a score."""
    scorer, _ = wide
    values = st.one_of(st.just(math.nan), st.floats(-1e30, 1e30), st.floats(-5, 5))
    x = data.draw(hnp.arrays(np.float64, st.tuples(st.integers(1, 40), st.just(WIDTH)), elements=values))
    alone = np.array([scorer.score(x[i : i + 1].copy())[0] for i in range(len(x))])
    for whole in (scorer.score(x), scorer.score(np.asfortranarray(x)), scorer.score(x[::-1])[::-1]):
        assert (whole.view(np.int64) == alone.view(np.int64)).all()


def test_scores_are_those_of_the_fitted_model(wide):
    """The exported model answers what the fitted one answers on the same inputs, as float64."""
    scorer, model = wide
    z = np.random.default_rng(0).normal(size=(500, WIDTH)).astype(np.float32)
    scores = scorer.score_inputs(z)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, model.predict_proba(z)[:, 1], atol=1e-5)


def test_the_way_of_batching_follows_from_the_models_operators(wide):
    """Trees run on whole batches, a linear model on blocks of one size, and nothing falls back to row by row."""
    scorer, model = wide
    linear = type(model).__name__ == "LogisticRegression"
    assert scorer.model.way == ("blocks" if linear else "whole")


def test_operators_are_those_that_the_onnx_package_finds(wide):
    """The small reader of ONNX files agrees with the real one."""
    import onnx

    _, model = wide
    content = to_onnx(model, WIDTH)
    assert operators(content) == {node.op_type for node in onnx.load_from_string(content).graph.node}


def test_many_rows_go_through_trees_in_the_order_of_the_input_that_matters_most():
    """Found by trying; each row keeps its place, which the tests of company and order show."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    rng = np.random.default_rng(3)
    x = rng.normal(size=(600, WIDTH)).astype(np.float32)
    y = (x[:, 3] + 0.3 * x[:, 7] > 0).astype(int)
    model = Model(to_onnx(HistGradientBoostingClassifier(max_iter=20, random_state=0).fit(x, y), WIDTH))
    assert model.leading == 3
    assert (model.scores(x) == np.concatenate([model.scores(x[i : i + 1]) for i in range(len(x))])).all()


def test_a_model_whose_scores_depend_on_company_runs_row_by_row(model, monkeypatch):
    """Whatever a kernel does with several rows, a model that fails the trial at load never batches."""
    real = Model._run
    monkeypatch.setattr(Model, "_run", lambda self, z: real(self, z) + (np.arange(len(z)) == 3) * 1e-16)
    assert Model(model).way == "alone"


def test_trees_whose_last_step_depends_on_company_run_in_blocks(monkeypatch):
    """A kernel that takes a batch's last rows another way, as a vector's rest, is the same in blocks of one size."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    x = np.random.default_rng(3).normal(size=(200, WIDTH)).astype(np.float32)
    content = to_onnx(HistGradientBoostingClassifier(max_iter=5, random_state=0).fit(x, x[:, 0] > 0), WIDTH)
    real = Model._run
    monkeypatch.setattr(Model, "_run", lambda self, z: real(self, z) + (np.arange(len(z)) >= len(z) // 8 * 8) * 1e-9)
    assert Model(content).way == "blocks"


def test_preprocessing_fills_logs_and_standardises_in_float64():
    """Missing becomes fill, negatives clip to 0 before log1p, then (value - mean) / scale, cast once at the end."""
    features = (
        Feature(name="a", fill=5.0, mean=1.0, scale=2.0),
        Feature(name="b", fill=7.0, mean=0.5, scale=0.1, log=True),
    )
    x = np.array([[math.nan, math.nan], [3.0, -4.0], [1e9 + 1.0, 12.0]])
    expected = [[2.0, (math.log1p(7) - 0.5) / 0.1], [1.0, -5.0], [1e9 / 2, (math.log1p(12) - 0.5) / 0.1]]
    z = Preprocessor(features)(x)
    assert z.dtype == np.float32
    np.testing.assert_array_equal(z, np.array(expected).astype(np.float32))


def test_the_wrong_number_of_columns_is_named():
    """A matrix of another width is refused with the names that were expected."""
    with pytest.raises(ScorerError, match=r"expected 3 columns \(recency, spend, visits\), got \(2, 2\)"):
        Preprocessor(make_manifest().features)(np.zeros((2, 2)))


def test_an_altered_model_is_refused(tmp_path):
    """One changed byte in model.onnx stops the release from loading."""
    folder = make_release(tmp_path / "r")
    content = bytearray((folder / MODEL).read_bytes())
    content[-1] ^= 1
    (folder / MODEL).write_bytes(content)
    with pytest.raises(ManifestError, match="altered"):
        Scorer.load(folder)


def test_a_model_without_a_hash_is_refused(tmp_path):
    """A manifest that does not list model.onnx cannot vouch for it."""
    folder = make_release(tmp_path / "r")
    raw = json.loads((folder / "manifest.json").read_text())
    del raw["files"][MODEL]
    (folder / "manifest.json").write_text(json.dumps(raw))
    with pytest.raises(ManifestError, match=r"no sha256 of model\.onnx"):
        Scorer.load(folder)


def test_a_model_that_takes_other_inputs_than_the_manifest_names_is_refused(model):
    """The model's width must be the number of features."""
    with pytest.raises(ScorerError, match="takes 3 inputs, its manifest names 2"):
        Scorer(make_manifest(features=make_manifest().features[:2]), model)


def test_sessions_run_on_one_thread(model):
    """ONNX Runtime gets one thread, so that sums are never split differently."""
    options = Model(model).session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)


@pytest.mark.parametrize(("score", "decision"), [(0.49, False), (0.5, True), (0.51, True), (math.nan, False)])
def test_the_threshold_itself_is_positive_and_nan_never_is(score, decision):
    """A score at the threshold is positive; NaN is not."""
    assert decide(score, 0.5) is decision
    assert grade(score, (0.5,)) == int(decision)
    assert grade(score, (0.2, 0.5, 1.0)) == sum(decide(score, t) for t in (0.2, 0.5, 1.0))
