"""Estimated quality: the expected figures are those that labels give, and their interval holds them."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, brier_score_loss, roc_auc_score

from bentos.runtime.monitoring import grid
from flows.steps.monitoring import estimates
from tests.flows.steps import quality_windows


def draw(rng: np.random.Generator, n: int, spread: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Labels and calibrated scores of n rows."""
    s = 1 / (1 + np.exp(-rng.normal(-1, spread, n)))
    return (rng.random(n) < s).astype(int), s


def test_the_interval_holds_what_labels_measure() -> None:
    """Moved inputs, the same concept: at least 90 % of windows of every size are inside, and intervals are no barns.

    In no kind of world it is under 75 % of the few windows here. The width is that of an interval that knows how far
    the errors spread, and half as much again at most: the rest is what it cannot know.
    """
    worlds = quality_windows.coverage(range(12))
    by_size = worlds.groupby("rows")[["inside", "excess"]].mean()
    assert (by_size["inside"] >= 0.9).all(), worlds
    assert (worlds.groupby("world")["inside"].mean() >= 0.85).all(), worlds
    assert (by_size["excess"] <= 1.5).all(), worlds
    assert worlds["windows"].sum() / 3 >= 280


def test_figures_are_those_of_the_metrics() -> None:
    """What an estimate is held to are the figures that scikit-learn gives."""
    y, s = draw(np.random.default_rng(8), 700)
    found = estimates.measured(y, s, 0.3)
    expected = {
        "roc_auc": roc_auc_score(y, s),
        "accuracy": accuracy_score(y, s >= 0.3),
        "brier": brier_score_loss(y, s),
    }
    assert found == pytest.approx(expected)


def test_a_threshold_within_a_cell_divides_it() -> None:
    """Scores are counted in cells; where the threshold cuts one, the estimated accuracy is still that of the rows."""
    rng = np.random.default_rng(9)
    s = 1 / (1 + np.exp(-rng.normal(np.log(0.1 / 0.9), 0.3, 60_000)))
    y = (rng.random(s.size) < s).astype(int)
    for threshold in (0.098, 0.1, 0.103):
        quality = estimates.recalibrate(y, s, threshold)
        assert quality is not None
        found = estimates.estimate(quality, estimates.count(s))["accuracy"]["value"]
        assert found == pytest.approx(accuracy_score(y, s >= threshold), abs=0.006)


def test_rows_of_one_entity_and_error_between_cohorts_widen() -> None:
    """Five rows of equal labels are one row's worth; what estimates were off before is added."""
    quality = estimates.recalibrate(*draw(np.random.default_rng(6), 40_000), 0.5)
    assert quality is not None
    scores = estimates.count(draw(np.random.default_rng(7), 4_000)[1])

    def width(made: estimates.Quality, **more: float) -> float:
        found = estimates.estimate(made, scores, **more)["roc_auc"]
        return found["high"] - found["low"]

    assert quality.dependence == 1
    assert width(quality, repeats=5) == pytest.approx(5**0.5 * width(quality), rel=0.25)
    assert width(replace(quality, dependence=0), repeats=5) == pytest.approx(width(quality), rel=0.01)
    assert width(replace(quality, between={"roc_auc": 0.05})) == pytest.approx(2 * 1.96 * 0.05, rel=0.15)


def test_scores_that_tell_less_apart_are_expected_to_rank_worse() -> None:
    """The estimate falls with the spread of the scores, as the measured figure does."""
    rng = np.random.default_rng(1)
    quality = estimates.recalibrate(*draw(rng, 5_000), 0.5)
    assert quality is not None
    y, s = draw(rng, 20_000, spread=0.4)
    found = estimates.estimate(quality, estimates.count(s))["roc_auc"]
    assert found["value"] == pytest.approx(roc_auc_score(y, s), abs=0.015)
    own = estimates.estimate(quality, estimates.count(draw(rng, 5_000)[1]))["roc_auc"]
    assert found["high"] < own["low"]


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
