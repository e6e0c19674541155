"""Categorical features: learnt from the training rows, exported in order, scored as the fitted pipeline does."""

import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

from bentos.runtime.scoring.categories import raw_values
from bentos.runtime.scoring.manifest import ManifestError, parse
from bentos.runtime.scoring.scorer import Scorer, ScorerError
from flows.steps.gating import checks
from flows.steps.training import candidate, export, metrics, probes, search
from flows.usecases import churn
from flows.usecases.spec import Slice
from tests.bentos.conftest import make_manifest

from .test_export import PARAMS, every

NUMBERS = tuple(f"number_{i}" for i in range(8))
TEXTS = ("country", "device", "plan")
NAMES = (*NUMBERS[:3], "country", *NUMBERS[3:6], "device", "plan", *NUMBERS[6:])  # mixed, so that places matter
COUNTRIES, DEVICES = ("AT", "CH", "DE", "FR", "IT"), tuple(f"device {i}" for i in range(20))
CASE = replace(churn.USE_CASE, log_features=("number_1", "number_7"), max_categories=12)


def rows(n: int, seed: int = 0) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Raw rows: five countries, twenty devices of which most are rare, plans with gaps; numbers with gaps."""
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(n, 8)) * np.geomspace(0.1, 1e4, 8)
    numbers[:, [1, 7]] = np.exp(numbers[:, [1, 7]] / [1, 1e4])
    country = rng.integers(0, 5, n)
    device = np.minimum(rng.geometric(0.15, n) - 1, 19)
    plan = np.array(["basic", 'pro, "x"', "%s", None], dtype=object)[rng.choice(4, n, p=[0.5, 0.3, 0.1, 0.1])]
    logit = numbers[:, 0] * 10 + np.array([-2.0, 1.0, 0.0, 2.0, -1.0])[country] + 0.2 * device + (plan == "basic")
    y = (rng.random(n) < 1 / (1 + np.exp(1 - logit))).astype(np.int64)
    numbers[rng.random(numbers.shape) < 0.05] = np.nan
    frame = pd.DataFrame(numbers, columns=list(NUMBERS)).assign(
        country=np.array(COUNTRIES, dtype=object)[country], device=np.array(DEVICES, dtype=object)[device], plan=plan
    )
    return raw_values(frame, NAMES, TEXTS), y


@cache
def exported(name: str) -> tuple[Pipeline, Scorer, bytes]:
    """A fitted pipeline and what is served of it, made once per estimator."""
    x, y = rows(2_500)
    with threadpool_limits(1):
        fitted = search.pipeline(CASE, NAMES, name, PARAMS[name], TEXTS).fit(x, y)
    features = export.preprocessing(fitted, NAMES, CASE.log_features)
    model = export.to_onnx(fitted, NAMES, sum(f.width for f in features))
    return fitted, Scorer(make_manifest(features=features, estimator=name), model), model


@every
def test_categories_are_those_of_the_training_rows(name: str) -> None:
    """In order, null where rows had gaps; the rarest beyond the cap share one input, and so do never seen ones."""
    _, scorer, _ = exported(name)
    country, device, plan = (f for f in scorer.manifest.features if f.categories)
    assert (country.categories, country.rest) == (COUNTRIES, False)
    assert set(plan.categories) == {"basic", 'pro, "x"', "%s", None}
    assert not plan.rest
    counted = pd.Series(rows(2_500)[0][:, NAMES.index("device")]).value_counts()
    assert device.rest
    assert len(device.categories) == 11
    assert counted[list(device.categories)].min() >= counted.drop(list(device.categories)).max()
    assert scorer.preprocess.width == 8 + 5 + 12 + 4 == scorer.model.width


@every
def test_the_exported_model_scores_as_the_fitted_one_on_every_probe(name: str) -> None:
    """Gaps, categories never seen, extremes and values at and beside the split points: at most 1e-5 apart."""
    fitted, scorer, _ = exported(name)
    x = rows(1_000, seed=9)[0]
    probe = probes.probe(fitted, scorer.manifest.features, x, 1)
    assert len(probe) > 2_000 + (3_000 if name != "logistic_regression" else 100)
    assert np.isfinite(scorer.inputs(probe)).all(axis=1).mean() > 0.99  # the rest is refused by the service
    assert candidate.parity(fitted, scorer, x, 1) <= 1e-5


@every
def test_the_preprocessing_is_the_fitted_one(name: str) -> None:
    """Numbers first, then each category's inputs: what the fitted columns give, to the last bit of float32."""
    fitted, scorer, _ = exported(name)
    x = rows(500, seed=3)[0]
    x[:9, NAMES.index("country")] = [*probes.NEVER_SEEN, None]
    np.testing.assert_array_equal(scorer.inputs(x), fitted[:-1].transform(x).astype(np.float32))


VALUES = st.one_of(
    st.just(math.nan), st.floats(-1e12, 1e12), st.floats(-5, 5), st.sampled_from([5e-324, -5e-324, 0.0, -0.0, 1e30])
)
WORDS = st.one_of(st.none(), st.sampled_from([*COUNTRIES, *DEVICES, "basic", "%s"]), st.text(max_size=20))
ROWS = st.lists(st.tuples(*[WORDS if name in TEXTS else VALUES for name in NAMES]), min_size=1, max_size=20)


@every
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(drawn=ROWS)
def test_any_rows_score_as_the_fitted_pipeline(name: str, drawn: list[tuple[Any, ...]]) -> None:
    """Whatever texts and numbers come: the fitted pipeline's score, and to the same bits alone as together."""
    fitted, scorer, _ = exported(name)
    x = np.empty((len(drawn), len(NAMES)), dtype=object)
    x[:] = drawn
    scores = scorer.score(x)
    assert export.parity(fitted, x, scores) <= 1e-5
    alone = np.array([scorer.score(x[i : i + 1])[0] for i in range(len(x))])
    assert (alone.view(np.int64) == scores.view(np.int64)).all()


@every
def test_categories_in_the_wrong_order_are_refused_by_the_parity_gate(name: str) -> None:
    """A release whose manifest has two countries swapped scores other rows than it was fitted on: parity rejects it."""
    fitted, scorer, model = exported(name)
    swapped = tuple(
        replace(f, categories=(f.categories[1], f.categories[0], *f.categories[2:])) if f.name == "country" else f
        for f in scorer.manifest.features
    )
    bad = Scorer(replace(scorer.manifest, features=swapped), model)
    x = rows(1_000, seed=9)[0]
    differences = {which: candidate.parity(fitted, one, x, 1) for which, one in (("good", scorer), ("bad", bad))}
    assert differences["bad"] > 0.01 > differences["good"]
    rules = CASE.gates
    evidence = {which: _Measured(parity=difference) for which, difference in differences.items()}
    assert checks.parity(evidence["good"], rules).passed  # type: ignore[arg-type]
    refused = checks.parity(evidence["bad"], rules)  # type: ignore[arg-type]
    assert (refused.name, refused.passed, refused.on_fail) == ("parity", False, "REJECT")


class _Measured:
    def __init__(self, *, parity: float) -> None:
        self.parity = parity


def test_numbers_alone_keep_parity_at_split_points() -> None:
    """Without any text too: a value at a split point is on the same side for both."""
    for name in PARAMS:
        with threadpool_limits(1):
            x, y = rows(2_000)
            x = x[:, [NAMES.index(n) for n in NUMBERS]].astype(np.float64)
            fitted = search.pipeline(CASE, NUMBERS, name, PARAMS[name]).fit(x, y)
        features = export.preprocessing(fitted, NUMBERS, CASE.log_features)
        scorer = Scorer(make_manifest(features=features), export.to_onnx(fitted, NUMBERS))
        assert candidate.parity(fitted, scorer, x, 1) <= 1e-5


def test_a_manifest_keeps_its_categories_and_numbers_stay_as_they_were() -> None:
    """What was dumped is parsed again, null included; a number's entry has no word of categories."""
    found = exported("logistic_regression")[1].manifest
    assert parse(found.dump()) == found
    assert '"rest"' not in make_manifest().dump()
    with pytest.raises(ManifestError, match="categories of country are not texts, each one once"):
        parse(found.dump().replace('"CH"', '"AT"'))


def test_a_value_of_the_wrong_kind_is_named() -> None:
    """A number for a category, a text for a number."""
    columns: dict[str, Any] = {name: ["x"] if name in TEXTS else [1.0] for name in NAMES}
    raw_values(columns, NAMES, TEXTS)
    with pytest.raises(ScorerError, match="feature plan is 3; it takes texts"):
        raw_values(columns | {"plan": [3]}, NAMES, TEXTS)
    with pytest.raises(ScorerError, match="feature number_2 is '7'; it takes numbers"):
        raw_values(columns | {"number_2": ["7"]}, NAMES, TEXTS)


def test_a_category_that_tells_the_label_is_a_leak_and_a_unique_one_is_not() -> None:
    """Shares come from the other half of the rows: a name of one row says nothing, a group of sure labels all."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 2_000)
    unique = np.array([f"row {i}" for i in range(len(y))], dtype=object)
    telling = np.where(y == 1, rng.choice(["a", "b", None], len(y)), rng.choice(["c", "d"], len(y))).astype(object)
    assert metrics.column_auc(y, unique) < 0.55
    assert metrics.column_auc(y, telling) > 0.99
    assert metrics.column_auc(y, rng.choice(["a", "b"], len(y)).astype(object)) < 0.55


def test_slices_by_value() -> None:
    """One mask per declared value and one for the missing; edges of a text are refused."""
    x, _ = rows(300)
    masks = metrics.slice_masks(x, NAMES, (Slice(feature="plan", values=("basic", "%s")),))
    column = x[:, NAMES.index("plan")]
    assert list(masks) == ["plan basic", "plan %s", "plan missing"]
    assert masks["plan basic"].sum() == (column == "basic").sum() > 0
    assert masks["plan missing"].sum() == sum(value is None for value in column) > 0
    with pytest.raises(ValueError, match="categorical feature 'plan'; give values"):
        metrics.slice_masks(x, NAMES, (Slice(feature="plan", edges=(1, 2)),))
