"""Recalibration: the curve follows what scores mean, its error is honest, and it survives what scores can be."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from scipy.special import expit

from flows.steps.monitoring import recalibration


def bent(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and scores that are overconfident above one half only."""
    z = rng.normal(-0.5, 1.5, n)
    return (rng.random(n) < expit(z)).astype(int), expit(np.where(z > 0, 3 * z, z))


def test_the_curve_follows_one_sided_overconfidence() -> None:
    """The expected share is the true one on both sides, which a straight line cannot reach."""
    y, s = bent(np.random.default_rng(0), 40_000)
    curve = recalibration.fit(y, s)
    assert curve is not None
    z = np.array([-2.5, -1.0, 0.5, 1.0, 2.0])
    found = recalibration.shares(curve, np.where(z > 0, 3 * z, z))
    assert found == pytest.approx(expit(z), abs=0.03)


def test_the_curves_error_is_that_of_another_sample() -> None:
    """Over 60 samples the curve's stated deviation is the one between them."""
    at, stated, found = np.array([-2.0, 0.0, 3.0]), [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        curve = recalibration.fit(*bent(rng, 2_000))
        assert curve is not None
        found.append(recalibration.shares(curve, at))
        stated.append(recalibration.drawn(curve, at, 200, rng).std(axis=0))
    assert np.mean(stated, axis=0) == pytest.approx(np.std(found, axis=0), rel=0.3)


def test_rows_of_one_entity_are_one() -> None:
    """Every row five times, named as one entity, has the error of the rows once, and not of five times as many."""
    y, s = bent(np.random.default_rng(1), 20_000)
    once, known, taken = (
        recalibration.fit(y, s),
        recalibration.fit(np.tile(y, 5), np.tile(s, 5), np.tile(np.arange(20_000), 5)),
        recalibration.fit(np.tile(y, 5), np.tile(s, 5)),
    )
    assert once is not None
    assert known is not None
    assert taken is not None
    variances = [np.diag(np.array(curve.covariance))[1] for curve in (once, known, taken)]
    assert variances[1] == pytest.approx(variances[0], rel=0.2)
    assert variances[2] == pytest.approx(variances[0] / 5, rel=0.2)


def test_dependence_is_that_of_the_labels() -> None:
    """Equal labels of an entity correlate by 1, independent ones by 0; of single rows nothing is known."""
    rng = np.random.default_rng(2)
    y, s = bent(rng, 3_000)
    curve = recalibration.fit(y, s)
    assert curve is not None
    entities = np.arange(3_000)
    assert recalibration.dependence(curve, y, s, entities) is None
    assert recalibration.dependence(curve, y, s, entities // 3) == pytest.approx(0, abs=0.06)
    twice = (np.tile(y, 2), np.tile(s, 2), np.tile(entities, 2))
    assert recalibration.dependence(curve, *twice) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("y", "s"),
    [
        ([0, 1] * 50, [0.0, 1.0] * 50),
        ([0, 1] * 50, [0.3] * 100),
        ([0] * 99 + [1], np.linspace(0.001, 0.02, 100)),
        ([0, 1, 0, 1], [np.nan, 0.2, 0.3, 0.9]),
    ],
)
def test_odd_scores_leave_a_finite_curve(y: list[int], s: list[float]) -> None:
    """Perfect, constant, rare and missing scores: shares are within 0..1, and the error is finite."""
    curve = recalibration.fit(y, s)
    assert curve is not None
    p = recalibration.shares(curve, np.array([-12.0, -1.0, 0.0, 12.0]))
    assert ((p >= 0) & (p <= 1)).all()
    assert np.isfinite(curve.covariance).all()
    assert recalibration.of(json.loads(json.dumps(asdict(curve)))) == curve


def test_one_class_is_no_curve() -> None:
    """Without both classes nothing can be learned."""
    assert recalibration.fit([1, 1], [0.2, 0.8]) is None
    assert recalibration.fit([], []) is None
