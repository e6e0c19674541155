"""Estimated quality: the expected figures are those that labels give, and their interval holds them."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, brier_score_loss, roc_auc_score

from bentos.runtime.monitoring import grid
from flows.steps.monitoring import estimates

MEASURED = {"roc_auc": roc_auc_score, "brier": brier_score_loss}


def draw(rng: np.random.Generator, n: int, spread: float = 1.5, twist: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores of n rows; with `twist` the scores are over- or underconfident."""
    z = rng.normal(-1, spread, n)
    return (rng.random(n) < 1 / (1 + np.exp(-z))).astype(int), 1 / (1 + np.exp(-twist * z))


def measured(y: np.ndarray, s: np.ndarray) -> dict[str, float]:
    return {name: float(of(y, s)) for name, of in MEASURED.items()} | {"accuracy": float(accuracy_score(y, s >= 0.5))}


@pytest.mark.parametrize("twist", [1.0, 2.0])
def test_the_interval_holds_what_labels_measure(twist: float) -> None:
    """In at least 90 % of 60 windows with moved inputs and the same concept each figure is within its interval."""
    rng, inside = np.random.default_rng(0), []
    quality = estimates.recalibrate(*draw(rng, 4_000, twist=twist), 0.5)
    assert quality is not None
    for i in range(60):
        y, s = draw(rng, 1_500, spread=(0.8, 1.5, 2.5)[i % 3], twist=twist)
        found = estimates.estimate(quality, estimates.count(s), seed=i)
        inside.append([found[k]["low"] <= v <= found[k]["high"] for k, v in measured(y, s).items()])
    assert (np.mean(inside, axis=0) >= 0.9).all(), np.mean(inside, axis=0)


def test_scores_that_tell_less_apart_are_expected_to_rank_worse() -> None:
    """The estimate falls with the spread of the scores, as the measured figure does."""
    rng = np.random.default_rng(1)
    quality = estimates.recalibrate(*draw(rng, 5_000), 0.5)
    assert quality is not None
    y, s = draw(rng, 20_000, spread=0.4)
    found = estimates.estimate(quality, estimates.count(s))["roc_auc"]
    assert found["value"] == pytest.approx(roc_auc_score(y, s), abs=0.015)
    assert found["high"] < quality.promise["roc_auc"]["low"]


def test_a_changed_concept_is_not_seen() -> None:
    """With the same scores and labels by the coin the estimate stays: only labels show it."""
    rng = np.random.default_rng(2)
    quality = estimates.recalibrate(*draw(rng, 5_000), 0.5)
    assert quality is not None
    _, s = draw(rng, 5_000)
    assert roc_auc_score(rng.integers(0, 2, 5_000), s) < 0.55
    assert estimates.estimate(quality, estimates.count(s))["roc_auc"]["value"] > 0.75


def test_counts_of_parts_are_those_of_the_whole() -> None:
    """Scores are counted on a fixed grid, 0, 1 and gaps included, so that parts add up."""
    s = np.array([0.0, 1.0, np.nan, 0.2, 0.2, 0.93])
    assert grid.add(estimates.count(s[:3]), estimates.count(s[3:])) == estimates.count(s)
    assert sum(n for _, n in estimates.count(s)) == 5


def test_one_class_promises_nothing_and_no_row_is_no_estimate() -> None:
    """Where nothing can be known, nothing is made up."""
    assert estimates.recalibrate([1, 1], [0.2, 0.8], 0.5) is None
    assert estimates.recalibrate([], [], 0.5) is None
    quality = estimates.recalibrate(*draw(np.random.default_rng(3), 500), 0.5)
    assert quality is not None
    assert estimates.estimate(quality, ()) == {}


def test_a_quality_survives_json() -> None:
    """What is kept with a release is what was measured, and anything else is refused."""
    made = estimates.recalibrate(*draw(np.random.default_rng(4), 500), 0.4)
    assert made is not None
    assert estimates.from_json(estimates.to_json(made)) == made
    with pytest.raises(ValueError, match="not a release's quality"):
        estimates.from_json("{}")


def test_equal_scores_rank_nobody() -> None:
    """Rows of one score are ties: their expected ROC AUC is a half, whatever their probability."""
    quality = estimates.recalibrate(*draw(np.random.default_rng(5), 2_000), 0.5)
    assert quality is not None
    found = estimates.estimate(quality, estimates.count(np.full(800, 0.3)))["roc_auc"]
    assert (found["value"], found["low"], found["high"]) == (0.5, 0.5, 0.5)
