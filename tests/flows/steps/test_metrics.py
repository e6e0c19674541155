from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from flows.steps.training import metrics
from flows.steps.training.resampling import MEASURES, brier_skill, calibration_error, tally
from flows.usecases.spec import Slice


def problem(seed: int, n: int, digits: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated scores with ties and labels drawn from them, both classes present."""
    rng = np.random.default_rng(seed)
    p = np.round(1 / (1 + np.exp(-rng.normal(1, 1.3, n))), digits)
    y = (rng.random(n) < p).astype(np.int64)
    y[:2] = 0, 1
    return y, p


@pytest.mark.parametrize("digits", [1, 2, 15])
@pytest.mark.parametrize("seed", range(5))
def test_every_metric_is_scikit_learns(seed: int, digits: int) -> None:
    """With many, some and no ties each metric equals scikit-learn's."""
    y, p = problem(seed, 300, digits)
    got = metrics.classification(y, p, 0.6)
    answered = p >= 0.6
    base = y.mean()
    assert got["roc_auc"] == pytest.approx(sk.roc_auc_score(y, p), abs=1e-12)
    assert got["average_precision"] == pytest.approx(sk.average_precision_score(y, p), abs=1e-12)
    assert got["accuracy"] == pytest.approx(sk.accuracy_score(y, answered), abs=1e-12)
    assert got["precision"] == pytest.approx(sk.precision_score(y, answered, zero_division=0), abs=1e-12)
    assert got["recall"] == pytest.approx(sk.recall_score(y, answered), abs=1e-12)
    assert got["f1"] == pytest.approx(sk.f1_score(y, answered), abs=1e-12)
    assert got["brier"] == pytest.approx(sk.brier_score_loss(y, p), abs=1e-12)
    assert got["log_loss"] == pytest.approx(sk.log_loss(y, p), abs=1e-9)
    assert got["brier_skill"] == pytest.approx(1 - sk.brier_score_loss(y, p) / (base * (1 - base)), abs=1e-12)
    assert got["trivial_accuracy"] == max(base, 1 - base)
    assert got["positive_rate"] == answered.mean()
    assert (got["base_rate"], got["rows"]) == (base, 300)


def test_hand_computed_frame() -> None:
    """Four rows, worked out on paper."""
    got = metrics.classification([0, 0, 1, 1], [0.1, 0.6, 0.6, 0.9], 0.5)
    assert got["roc_auc"] == pytest.approx(3.5 / 4)
    assert got["precision"] == pytest.approx(2 / 3)
    assert got["brier"] == pytest.approx((0.01 + 0.36 + 0.16 + 0.01) / 4)
    assert got["brier_skill"] == pytest.approx(1 - 0.135 / 0.25)


def test_calibration_error_by_hand() -> None:
    """Twenty distinct scores fall into ten bins of two, and the gaps of the bins are averaged."""
    p = np.arange(1, 21) / 21
    y = np.tile([0, 1], 10)
    expected = np.mean([abs(p[2 * i : 2 * i + 2].mean() - 0.5) for i in range(10)])
    assert calibration_error(tally(y, p)) == pytest.approx(expected)


def test_base_rate_answer_has_no_skill_and_no_calibration_error() -> None:
    """Answering the base rate to everybody is calibrated and has a Brier skill of 0."""
    y = np.array([0, 1, 1, 1])
    t = tally(y, np.full(4, 0.75))
    assert brier_skill(t) == pytest.approx(0)
    assert calibration_error(t) == pytest.approx(0)


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_row_order_does_not_matter(seed: int) -> None:
    """Shuffling the rows changes no metric, ties included."""
    y, p = problem(seed, 80, 1)
    order = np.random.default_rng(seed).permutation(80)
    assert metrics.classification(y, p, 0.5) == pytest.approx(metrics.classification(y[order], p[order], 0.5))


@pytest.mark.parametrize(
    ("y", "p", "said"),
    [
        ([], [], "no rows"),
        ([1, 1], [0.1, 0.2], "all 2 labels are 1"),
        ([0, 1], [0.1, float("nan")], "score nan in row 1"),
        ([0, 1], [0.1, 1.5], "score 1.5 in row 1"),
        ([0, 2], [0.1, 0.2], "label 2.0 in row 1"),
        ([0, float("nan")], [0.1, 0.2], "label nan in row 1"),
        ([0, 1], [0.1], "shape"),
    ],
)
def test_bad_input_is_named(y: list[float], p: list[float], said: str) -> None:
    """Empty, one-class, NaN and out-of-range inputs raise with the value that is wrong."""
    for call in (metrics.classification, metrics.best_threshold, metrics.bootstrap):
        with pytest.raises(ValueError, match=said):
            call(y, p, *(() if call is metrics.best_threshold else (0.5,)))
    with pytest.raises(ValueError, match=said):
        metrics.paired_gain(y, p, p)


def test_unknown_names_are_listed() -> None:
    """Metrics, goals, slices and confidences that do not exist are refused by name."""
    y, p = problem(0, 50)
    with pytest.raises(ValueError, match="no metric 'gini'; known: roc_auc"):
        metrics.bootstrap(y, p, 0.5, metrics=("gini",))
    with pytest.raises(ValueError, match="no paired metric 'f1'"):
        metrics.paired_gain(y, p, p, metric="f1")
    with pytest.raises(ValueError, match="unknown feature 'age'; known: a"):
        metrics.slice_masks(np.zeros((2, 1)), ("a",), (Slice(feature="age", edges=(1,)),))
    with pytest.raises(ValueError, match="confidence 95"):
        metrics.bootstrap(y, p, 0.5, confidence=95)
    with pytest.raises(ValueError, match="threshold nan"):
        metrics.classification(y, p, float("nan"))


@pytest.mark.parametrize("name", list(MEASURES))
def test_a_bootstrap_draw_is_the_metric_of_the_drawn_rows(name: str) -> None:
    """Counting drawn rows on the once-sorted scores gives what the metric gives on the drawn rows themselves."""
    y, p = problem(3, 120, 1)
    got = metrics.bootstrap(y, p, 0.6, metrics=(name,), n=40, confidence=0.5, seed=5)[name]
    rng = np.random.default_rng(5)
    drawn = [metrics.classification(y[i], p[i], 0.6)[name] for i in (rng.integers(120, size=120) for _ in range(40))]
    assert (got.low, got.high) == pytest.approx(tuple(np.quantile(drawn, [0.25, 0.75])), abs=1e-12)
    assert got.value == pytest.approx(metrics.classification(y, p, 0.6)[name])


def test_bootstrap_is_deterministic() -> None:
    """The same seed gives the same interval, another seed another."""
    y, p = problem(1, 200)
    assert metrics.bootstrap(y, p, 0.5, n=50, seed=1) == metrics.bootstrap(y, p, 0.5, n=50, seed=1)
    assert metrics.bootstrap(y, p, 0.5, n=50, seed=1) != metrics.bootstrap(y, p, 0.5, n=50, seed=2)


def test_bootstrap_covers() -> None:
    """A 90 % interval of ROC AUC holds the true value in roughly 90 % of 200 samples."""
    true = NormalDist().cdf(1 / np.sqrt(2))  # two normals one standard deviation apart
    hits = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        y = (rng.random(400) < 0.5).astype(int)
        p = 1 / (1 + np.exp(-(y + rng.normal(size=400))))
        i = metrics.bootstrap(y, p, 0.5, metrics=("roc_auc",), n=200, confidence=0.9, seed=seed)["roc_auc"]
        hits += i.low <= true <= i.high
    assert 0.84 <= hits / 200 <= 0.96


def test_paired_interval_covers_and_is_narrower() -> None:
    """The paired interval holds a true gain of 0 about as often as it says, and is narrower than unpaired ones."""
    hits, paired_width, single_width = 0, 0.0, 0.0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        z = rng.normal(1, 1.2, 500)
        y = (rng.random(500) < 1 / (1 + np.exp(-z))).astype(int)
        a, b = (1 / (1 + np.exp(-(z + rng.normal(0, 0.4, 500)))) for _ in range(2))
        gain = metrics.paired_gain(y, a, b, n=150, confidence=0.9, seed=seed)
        single = metrics.bootstrap(y, a, 0.5, metrics=("brier_skill",), n=20, seed=seed)["brier_skill"]
        hits += gain.low <= 0 <= gain.high
        paired_width, single_width = paired_width + gain.high - gain.low, single_width + single.high - single.low
    assert 0.84 <= hits / 200 <= 0.96
    assert paired_width < single_width


@pytest.mark.parametrize("metric", ["brier_skill", "roc_auc"])
def test_paired_gain_of_a_model_over_itself_is_zero(metric: str) -> None:
    """The same rows are drawn for both, so a model gains exactly nothing over itself."""
    y, p = problem(2, 200)
    assert metrics.paired_gain(y, p, p, metric=metric, n=30) == metrics.Interval(0, 0, 0)


def test_entities_are_drawn_whole() -> None:
    """Copying every row four times narrows the interval, unless the copies are drawn as one entity."""
    y, p = problem(4, 200)
    copies, entity = np.repeat(np.arange(200), 4), np.repeat(np.arange(200), 4)
    alone, copied, grouped = (
        metrics.bootstrap(*args, metrics=("roc_auc",), n=300, groups=groups)["roc_auc"]
        for args, groups in (
            ((y, p, 0.5), None),
            ((y[copies], p[copies], 0.5), None),
            ((y[copies], p[copies], 0.5), entity),
        )
    )
    assert copied.high - copied.low < 0.65 * (alone.high - alone.low)
    assert grouped.high - grouped.low == pytest.approx(alone.high - alone.low, rel=0.2)
    with pytest.raises(ValueError, match="3 groups for 200 rows"):
        metrics.bootstrap(y, p, 0.5, n=5, groups=["a", "b", "c"])


def test_bootstrap_with_hardly_any_rows_of_a_class_is_refused() -> None:
    """When most draws miss a class there is no interval, and the message says so."""
    missing = next(s for s in range(20) if len(set(np.random.default_rng(s).integers(2, size=2))) == 1)
    with pytest.raises(ValueError, match="0 of 1 resamples hold both classes"):
        metrics.bootstrap([0, 1], [0.2, 0.7], 0.5, n=1, seed=missing)


@pytest.mark.parametrize("goal", ["accuracy", "f1"])
@pytest.mark.parametrize("seed", range(8))
def test_best_threshold_is_best(seed: int, goal: str) -> None:
    """No threshold of a fine grid beats it, and it is no score itself."""
    y, p = problem(seed, 60)
    best = metrics.best_threshold(y, p, goal)
    values = [metrics.classification(y, p, t)[goal] for t in np.linspace(0.0005, 0.9995, 1000)]
    assert metrics.classification(y, p, best)[goal] == pytest.approx(max(values))
    assert 0 < best < 1
    assert best not in p


@pytest.mark.parametrize(
    ("y", "p", "expected"),
    [
        ([0, 1], [0.3, 0.3], 0.5),
        ([0, 1], [0.0, 0.0], 0.5),
        ([0, 1], [0.2, 0.8], 0.5),
        ([0, 0, 1], [0.0, 1.0, 1.0], 0.5),
        ([0, 1, 1, 1], [0.9, 0.5, 0.7, 0.8], 0.25),  # all 1 is best: half-way to 0
        ([1, 0, 0, 0], [0.2, 0.5, 0.3, 0.4], 0.75),  # all 0 is best: half-way to 1
    ],
)
def test_best_threshold_at_the_edges(y: list[int], p: list[float], expected: float) -> None:
    """Constant scores give 0.5; answering everybody alike stays strictly within 0..1."""
    assert metrics.best_threshold(y, p) == pytest.approx(expected)


def test_column_auc_sees_both_directions_and_missingness() -> None:
    """A column that falls with the label, or is missing exactly where the label is 1, tells it."""
    y = np.array([0, 0, 1, 1])
    assert metrics.column_auc(y, [4.0, 3.0, 2.0, 1.0]) == 1
    assert metrics.column_auc(y, [5.0, 5.0, np.nan, np.nan]) == 1
    assert metrics.column_auc(y, [7.0, 7.0, 7.0, 7.0]) == 0.5


def test_slice_masks_cover_half_open_bins_and_missing_values() -> None:
    """Edges belong to the upper bin, the last bin is open, missing values are a slice of their own."""
    x = np.array([[0.0], [1.0], [2.0], [9.0], [np.nan]])
    masks = metrics.slice_masks(x, ("buys",), (Slice(feature="buys", edges=(0, 1, 2)),))
    assert {name: list(np.flatnonzero(mask)) for name, mask in masks.items()} == {
        "buys [0, 1)": [0],
        "buys [1, 2)": [1],
        "buys [2, inf)": [2, 3],
        "buys missing": [4],
    }


def test_slice_table_measures_each_slice() -> None:
    """A slice's figures are those of its rows; one with a single class has no ROC AUC; small ones are not judged."""
    y, p = problem(5, 600)
    q = np.clip(p + np.random.default_rng(0).normal(0, 0.1, 600), 0, 1)
    first = np.arange(600) < 300
    few = np.zeros(600, dtype=bool)
    few[:5] = True
    table = metrics.slice_table(y, p, 0.6, {"first": first, "ones": y == 1, "few": few}, q, min_rows=100, n=50)
    whole = metrics.classification(y[first], p[first], 0.6)
    assert table[0]["roc_auc"] == pytest.approx(whole["roc_auc"])
    assert table[0]["roc_auc_low"] < table[0]["roc_auc"] < table[0]["roc_auc_high"]
    assert table[0]["precision"] == pytest.approx(whole["precision"])
    assert table[0]["recall"] == pytest.approx(whole["recall"])
    loss = sk.roc_auc_score(y[first], q[first]) - sk.roc_auc_score(y[first], p[first])
    assert table[0]["loss"] == pytest.approx(loss)
    assert table[1]["roc_auc"] is None
    assert [row["judged"] for row in table] == [True, True, False]
    assert metrics.slice_table(y, p, 0.5, {"none": np.zeros(600, dtype=bool)})[0]["rows"] == 0
    with pytest.raises(ValueError, match="slice 'short' has shape"):
        metrics.slice_table(y, p, 0.5, {"short": first[:10]})


def test_permutation_importance_finds_what_matters() -> None:
    """The column behind the label comes first, a column the model ignores has none."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(800, 3))
    y = (rng.random(800) < 1 / (1 + np.exp(-2 * x[:, 1] - 0.5 * x[:, 0]))).astype(np.int64)

    def score(rows: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-2 * rows[:, 1] - 0.5 * rows[:, 0]))

    found = metrics.permutation_importance(score, x, y, ("some", "most", "none"), repeats=3, max_rows=500)
    assert [item.name for item in found] == ["most", "some", "none"]
    assert found[0].drop > 0.2
    assert (found[2].drop, found[2].sd) == (0, 0)
    assert found == metrics.permutation_importance(score, x, y, ("some", "most", "none"), repeats=3, max_rows=500)
    with pytest.raises(ValueError, match="2 names"):
        metrics.permutation_importance(score, x, y, ("some", "most"))
