"""The drift measures against scipy, their contract, the verdict, and its false alarms and detections."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.spatial import distance

from bentos.runtime.monitoring import calibration, drift, measures, sketches
from bentos.runtime.monitoring.measures import Sketch
from flows.usecases.spec import DriftRules

Measure = Callable[[Sketch, Sketch], float]
MEASURES: dict[str, Measure] = {
    "psi": measures.psi,
    "ks": measures.ks,
    "chi_square": lambda a, b: measures.chi_square(a, b)[0],
    "missing_change": measures.missing_change,
    "unseen_share": measures.unseen_share,
    "jensen_shannon": measures.jensen_shannon,
    "hellinger": measures.hellinger,
    "wasserstein": measures.wasserstein,
    "range_violations": measures.range_violations,
    "type_change": measures.type_change,
    "cardinality_change": lambda a, b: measures.cardinality_change(a, b) - 1,
}
SYMMETRIC = ("psi", "ks", "chi_square", "jensen_shannon", "hellinger")
RULES = DriftRules()


def numbers(*counts: int, missing: int = 0) -> Sketch:
    """A numeric sketch with edges 0, 1, 2, …"""
    return Sketch(
        name="x",
        kind="numeric",
        n=sum(counts) + missing,
        missing=missing,
        counts=counts,
        edges=tuple(map(float, range(len(counts) - 1))),
    )


def words(*counts: int, missing: int = 0) -> Sketch:
    """A categorical sketch with categories k0, k1, … and other."""
    names = tuple(f"k{i}" for i in range(len(counts) - 1))
    return Sketch(
        name="c",
        kind="categorical",
        n=sum(counts) + missing,
        missing=missing,
        counts=counts,
        categories=(*names, sketches.OTHER),
    )


def pair(reference: Any, current: Any, bins: int = 10) -> tuple[Sketch, Sketch]:
    """Both sides of one column, binned by the reference."""
    then = sketches.reference(pd.DataFrame({"x": reference}), bins=bins)
    return then[0], sketches.bin_counts(pd.DataFrame({"x": current}), then)[0]


EDGE_CASES = {
    "empty bins": (numbers(10, 0, 5), numbers(0, 7, 0)),
    "tiny": (numbers(1, 0), numbers(0, 1)),
    "all missing now": (numbers(5, 5), numbers(0, 0, missing=9)),
    "all missing before": (numbers(0, 0, missing=9), numbers(5, 5)),
    "no row": (numbers(5, 5), numbers(0, 0)),
    "nothing at all": (numbers(0), numbers(0)),
    "one bin": (numbers(5), numbers(9)),
    "unseen category": (words(5, 5, 0), words(3, 3, 4)),
    "only unseen": (words(5, 0), words(0, 4)),
}


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("case", EDGE_CASES)
def test_every_measure_is_finite(name: str, case: str) -> None:
    """No bin, however empty, and no side, however small, makes a measure infinite or not a number."""
    assert np.isfinite(MEASURES[name](*EDGE_CASES[case]))


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("sketch", [numbers(3, 0, 4, missing=2), words(5, 1, 0), numbers(0, missing=3)])
def test_every_measure_is_zero_for_identical_sketches(name: str, sketch: Sketch) -> None:
    """What has not changed has no drift."""
    assert MEASURES[name](sketch, sketch) == 0


@pytest.mark.parametrize("name", SYMMETRIC)
def test_distances_are_symmetric(name: str) -> None:
    """Swapping reference and window gives the same distance."""
    a, b = numbers(30, 50, 20), numbers(10, 45, 70)
    assert MEASURES[name](a, b) == pytest.approx(MEASURES[name](b, a))


@pytest.mark.parametrize("name", SYMMETRIC)
def test_distances_grow_with_the_shift(name: str) -> None:
    """A larger shift of the mean is a larger distance."""
    base = np.random.default_rng(0).normal(size=4000)
    values = [MEASURES[name](*pair(base, base + shift)) for shift in (0, 0.2, 0.5, 1.0, 2.0)]
    assert values == sorted(values)
    assert len(set(values)) == len(values)


def test_psi_follows_the_formula() -> None:
    """PSI of smoothed shares, computed by hand for two bins."""
    p, q = np.array([10.5, 30.5]) / 41, np.array([30.5, 10.5]) / 41
    assert measures.psi(numbers(10, 30), numbers(30, 10)) == pytest.approx(((q - p) * np.log(q / p)).sum())


def test_psi_of_shifted_normals_is_near_its_limit() -> None:
    """Fine bins approach the symmetrised Kullback-Leibler divergence, which is the squared shift in sigmas."""
    rng = np.random.default_rng(0)
    then, now = pair(rng.normal(size=200_000), rng.normal(0.5, size=200_000), bins=50)
    assert measures.psi(then, now) == pytest.approx(0.25, abs=0.012)


@pytest.mark.parametrize("shift", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("bins", [10, 50])
def test_ks_is_scipys_within_a_bin(shift: float, bins: int) -> None:
    """The binned distance is below the raw one by no more than a bin's mass."""
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=3000), rng.normal(shift, size=2000)
    then, now = pair(a, b, bins)
    raw, mass = stats.ks_2samp(a, b).statistic, max(then.counts) / then.n
    assert raw - mass <= measures.ks(then, now) <= raw + 1e-12


def test_ks_of_discrete_values_is_scipys() -> None:
    """With a bin per value there is no bin error at all."""
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 6, 900), rng.integers(1, 7, 700)
    assert measures.ks(*pair(a, b)) == pytest.approx(stats.ks_2samp(a, b).statistic)


def test_chi_square_is_scipys() -> None:
    """Statistic and p are those of scipy's contingency table, without bins that both lack."""
    a, b = words(40, 30, 0, 0), words(20, 45, 0, 9)
    expected = stats.chi2_contingency([[40, 30, 0], [20, 45, 9]], correction=False)
    assert measures.chi_square(a, b) == pytest.approx((expected.statistic, expected.pvalue))


def test_missing_change_and_unseen_share_are_shares() -> None:
    """Both are plain shares of the window, the change signed."""
    assert measures.missing_change(numbers(9, missing=1), numbers(6, missing=4)) == pytest.approx(0.3)
    assert measures.missing_change(numbers(6, missing=4), numbers(9, missing=1)) == pytest.approx(-0.3)
    assert measures.unseen_share(words(5, 5, 0), words(2, 2, 4, missing=9)) == 0.5


def test_psi_of_undrifted_samples_is_what_the_noise_says() -> None:
    """Over many samples of one distribution the mean PSI is (k - 1)(1/n + 1/m), hardly any above its quantile."""
    rng = np.random.default_rng(3)
    found = []
    for _ in range(2000):
        a, b = rng.multinomial(2000, [0.1] * 10), rng.multinomial(500, [0.1] * 10)
        found.append(measures.psi(numbers(*a.tolist()), numbers(*b.tolist())))
    then = numbers(*[200] * 10)
    noise = calibration.calibrate((then,), RULES, sizes=(500,)).of("psi", then, numbers(*[50] * 10))
    assert noise.mean == pytest.approx(9 * (1 / 2000 + 1 / 500), rel=0.1)
    assert np.mean(found) == pytest.approx(noise.mean, rel=0.1)
    assert np.mean([noise.chance(value) < 0.01 for value in found]) == pytest.approx(0.01, abs=0.007)


@pytest.mark.parametrize("shape", ["normal", "lognormal", "offset", "counts", "flag"])
@pytest.mark.parametrize("bins", [10, 50])
def test_wasserstein_is_scipys_in_units_of_the_deviation(shape: str, bins: int) -> None:
    """Bins and cells keep the raw distance within 2 %, or 15 % far off zero, where a cell is wide."""
    rng = np.random.default_rng(4)
    a, b = {
        "normal": (rng.normal(size=6000), rng.normal(0.5, 1.2, 4000)),
        "lognormal": (rng.lognormal(3, 1, 6000), rng.lognormal(3.3, 1, 4000)),
        "offset": (rng.normal(1_000, 5, 6000), rng.normal(1_003, 5, 4000)),
        "counts": (rng.poisson(2, 6000).astype(float), rng.poisson(3, 4000).astype(float)),
        "flag": ((rng.random(6000) < 0.02).astype(float), (rng.random(4000) < 0.09).astype(float)),
    }[shape]
    raw = stats.wasserstein_distance(a, b) / a.std()
    assert measures.wasserstein(*pair(a, b, bins)) == pytest.approx(raw, rel=0.15 if shape == "offset" else 0.02)


def test_wasserstein_of_values_in_cents_is_what_it_is() -> None:
    """Far outside of the reference's bins the shared grid still says how far."""
    rng = np.random.default_rng(5)
    a = rng.gamma(2, 10, 4000)
    then, now = pair(a, 100 * rng.gamma(2, 10, 4000))
    raw = stats.wasserstein_distance(a, 100 * rng.gamma(2, 10, 40_000)) / a.std()
    assert measures.wasserstein(then, now) == pytest.approx(raw, rel=0.05)
    assert measures.quantile(now, 0.5) / measures.quantile(then, 0.5) == pytest.approx(100, rel=0.06)


@pytest.mark.parametrize(("a", "b"), [((40, 30, 0, 0), (20, 45, 0, 9)), ((5, 5), (500, 5))])
def test_jensen_shannon_and_hellinger_are_scipys(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    """Both distances of shares are those of scipy and of the formula; on counts nothing is lost."""
    p, q = np.array(a) / sum(a), np.array(b) / sum(b)
    then, now = words(*a), words(*b)
    assert measures.jensen_shannon(then, now) == pytest.approx(distance.jensenshannon(p, q, base=2))
    assert measures.hellinger(then, now) == pytest.approx(np.linalg.norm(np.sqrt(p) - np.sqrt(q)) / np.sqrt(2))


def test_range_violations_are_the_values_outside() -> None:
    """The share of numbers beyond the reference's range is counted to within a cell of the grid."""
    rng = np.random.default_rng(6)
    a, b = rng.uniform(10, 20, 5000), rng.uniform(5, 25, 5000)
    assert measures.range_violations(*pair(a, b)) == pytest.approx(np.mean((b < a.min()) | (b > a.max())), abs=0.03)
    assert measures.range_violations(*pair(a, a[:500])) == 0


def test_text_among_numbers_is_a_change_of_type() -> None:
    """Rows whose value is there and is no number are told apart from missing ones."""
    then, now = pair([1.0, 2.0, 3.0, None], ["1", "two", "three", None])
    assert measures.type_change(then, now) == 0.5
    assert measures.missing_change(then, now) == 0.5


def test_cardinality_does_not_grow_with_rows_and_falls_to_one_value() -> None:
    """The effective number of values is that of the distribution, not of the sample; a constant has one."""
    rng = np.random.default_rng(7)
    a = rng.lognormal(size=3000)
    assert measures.cardinality_change(*pair(a, rng.lognormal(size=60_000))) == pytest.approx(1, abs=0.05)
    then, now = pair(a, np.full(500, a[0]))
    assert measures.cardinality_change(then, now) < 0.05
    assert (now.low, now.high) == (a[0], a[0])


def test_other_bins_are_refused() -> None:
    """Sketches that were not counted into the same bins cannot be compared."""
    with pytest.raises(ValueError, match="different bins; count the window with bin_counts"):
        measures.psi(numbers(1, 2), numbers(1, 2, 3))


def table(rng: np.random.Generator, n: int, shift: float = 0.0) -> pd.DataFrame:
    """Eight columns of the usual shapes; `shift` moves the first by that many sigmas."""
    return pd.DataFrame(
        {
            "normal": rng.normal(shift, 1, n),
            "skewed": rng.lognormal(3, 1, n),
            "count": rng.poisson(2, n),
            "mostly_zero": np.where(rng.random(n) < 0.9, 0, rng.exponential(10, n)),
            "flag": rng.integers(0, 2, n),
            "holes": np.where(rng.random(n) < 0.3, np.nan, rng.normal(size=n)),
            "country": rng.choice(["GB", "FR", "DE", "IS"], n, p=[0.7, 0.2, 0.095, 0.005]),
            "score": rng.beta(2, 5, n),
        }
    )


def verdict(n: int, shift: float, seed: int, holdout: int = 2000) -> drift.Verdict:
    """The verdict on a window of n rows against a holdout, at default rules."""
    rng = np.random.default_rng(seed)
    then = sketches.reference(table(rng, holdout), bins=RULES.bins)
    return drift.compare(then, sketches.bin_counts(table(rng, n, shift), then), RULES, calibrated(n, holdout))


@cache
def calibrated(n: int, holdout: int) -> calibration.Calibration:
    """The calibration of another holdout of the same table, so that hundreds of verdicts need only one."""
    then = sketches.reference(table(np.random.default_rng(99), holdout), bins=RULES.bins)
    return calibration.calibrate(then, RULES, sizes=(n,), check=False)


def test_windows_without_drift_raise_no_alarm() -> None:
    """At default rules fewer than 5 % of windows of 500 undrifted rows over 8 columns alarm."""
    alarms = sum(verdict(500, 0.0, seed).state == "drift" for seed in range(200))
    assert alarms < 0.05 * 200


def test_sparse_columns_raise_no_alarm() -> None:
    """A column with a value in 1 row of 20 is judged on its few values, whose noise is above the limits."""
    alarms, known = 0, None
    for seed in range(200):
        rng = np.random.default_rng(seed)
        then = sketches.reference(pd.DataFrame({"x": np.where(rng.random(2000) < 0.95, np.nan, rng.normal(size=2000))}))
        known = known or calibration.calibrate(then, RULES, sizes=(600,), check=False)
        window = pd.DataFrame({"x": np.where(rng.random(600) < 0.95, np.nan, rng.normal(size=600))})
        alarms += drift.compare(then, sketches.bin_counts(window, then), RULES, known).state == "drift"
    assert alarms < 0.05 * 200


def test_half_a_sigma_is_caught() -> None:
    """A shift of half a standard deviation in one of 8 columns is caught in at least 95 % of windows of 2,000 rows."""
    found = [verdict(2000, 0.5, seed) for seed in range(100)]
    assert sum(v.state == "drift" and v.reasons[0].startswith("normal: ") for v in found) >= 95


def test_a_small_window_is_not_judged() -> None:
    """Below the least number of rows the state says so, however large the shift."""
    small = verdict(RULES.min_rows - 1, 5.0, 0)
    assert small.state == "not_enough_data"
    assert small.reasons == ("the window has 499 rows, 500 are needed",)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.drop(columns="skewed"), "skewed: the window has no value at all"),
        (lambda t: t.assign(skewed=np.nan), "skewed: the window has no value at all"),
        (
            lambda t: t.assign(skewed=t["skewed"].where(t.index % 5 > 0)),
            "skewed: missing values changed by +20.0 points",
        ),
        (lambda t: t.assign(country=t["country"].replace("FR", "UK")), "country: "),
        (lambda t: t.assign(flag=7), "flag: 100.0% of values are unseen"),
        (lambda t: t.assign(count=-1), "count: 100.0% of values are unseen"),
    ],
)
def test_each_kind_of_change_is_named(change: Callable[[pd.DataFrame], pd.DataFrame], reason: str) -> None:
    """The one reason names the column that was changed, and how."""
    rng = np.random.default_rng(5)
    then = sketches.reference(table(rng, 3000))
    found = drift.compare(then, sketches.bin_counts(change(table(rng, 1000)), then), RULES)
    assert found.state == "drift"
    assert len(found.reasons) == 1
    assert found.reasons[0].startswith(reason)


def test_a_column_without_sketch_has_drifted() -> None:
    """A window that was never counted for a column is a reason, not a gap."""
    found = drift.compare((numbers(500, 500), words(900, 100)), (numbers(500, 500),), RULES)
    assert found.state == "drift"
    assert found.reasons == ("c: the column is absent from the window",)


def test_one_column_may_be_too_few() -> None:
    """With two columns needed, one drifted column is reported and does not make a drift."""
    then, now = (numbers(900, 100), words(500, 500)), (numbers(100, 900), words(500, 500))
    found = drift.compare(then, now, replace(RULES, min_drifted_columns=2))
    assert found.state == "none"
    assert found.reasons[0] == "1 of 2 columns drifted, 2 are needed"
    assert drift.compare(then, now, RULES).state == "drift"


def test_the_verdict_survives_json() -> None:
    """What is stored is what was judged, with its rules."""
    made = verdict(1000, 0.5, 1)
    assert drift.from_json(drift.to_json(made)) == made
    with pytest.raises(ValueError, match="not a drift verdict"):
        drift.from_json("[]")


def test_markdown_lists_every_column() -> None:
    """The artifact has a row per column, the drifted ones first."""
    text = drift.as_markdown(verdict(2000, 1.0, 1))
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert text.startswith("## Drift\n")
    assert len(rows) == 8
    assert rows[0].startswith("| normal |")
    assert rows[0].endswith("| **drifted** |")
