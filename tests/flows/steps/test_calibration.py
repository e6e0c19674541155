"""Calibration: noise as replayed, false-discovery control, and the rates of false alarms and of detection."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bentos.runtime.monitoring import calibration, measures, sketches
from tests.flows.steps import simulation


def test_windows_of_twenty_columns_without_drift_raise_no_alarm() -> None:
    """None of 24 undrifted windows of 500 and 5,000 rows triggers; the benchmark has 200 seeds of three sizes."""
    assert not any(simulation.alarms(range(12), 500) + simulation.alarms(range(12), 5_000))


def test_half_a_deviation_or_a_moved_mix_is_caught_in_every_column() -> None:
    """Each of 20 columns, moved by half its deviation or to a PSI of 0.2, is named within two windows of 5,000 rows."""
    found = simulation.detections(range(len(simulation.SHIFTS)))
    assert [column for column, caught in found if not caught] == []


def test_noise_is_that_of_samples_of_one_distribution() -> None:
    """Mean and spread of each measure agree with real samples that were binned afresh, on a column with ties."""
    rng = np.random.default_rng(0)
    then = sketches.reference(pd.DataFrame({"x": np.round(rng.lognormal(2, 1, 4_000))}))
    known = calibration.calibrate(then, simulation.RULES, sizes=(1_000,), check=False)
    windows = [pd.DataFrame({"x": np.round(rng.lognormal(2, 1, 1_000))}) for _ in range(120)]
    fresh = [sketches.reference(pd.DataFrame({"x": np.round(rng.lognormal(2, 1, 4_000))})) for _ in windows]
    pairs = [(a, sketches.bin_counts(w, a)) for a, w in zip(fresh, windows, strict=True)]
    for measure, of in (("psi", measures.psi), ("ks", measures.ks), ("shift", measures.wasserstein)):
        found = [of(a[0], b[0]) for a, b in pairs]
        noise = known.of(measure, *[side[0] for side in pairs[0]])
        assert noise.mean == pytest.approx(np.mean(found), rel=0.2), measure
        assert noise.sd == pytest.approx(np.std(found), rel=0.35), measure
        assert np.mean([noise.chance(value) < 0.05 for value in found]) < 0.12, measure


def test_the_cut_off_is_benjamini_and_hochbergs() -> None:
    """What is below the cut-off is what scipy's adjusted p-values call significant, window by window."""
    p = np.random.default_rng(1).beta(0.3, 3, size=(20, 50))
    adjusted = stats.false_discovery_control(p, axis=0)
    assert ((p <= calibration.cutoff(p, 0.05)) == (adjusted <= 0.05)).all()
    assert calibration.cutoff(np.ones(8), 0.05) == pytest.approx(0.05 / 8)


def test_the_achieved_rate_is_measured_on_fresh_windows() -> None:
    """The kept rate is near nothing at the default rules, and high where any effect is large."""
    then = simulation.reference(simulation.table(np.random.default_rng(2), 2_000))
    kept = calibration.calibrate(then, simulation.RULES, sizes=(500,))
    assert kept.achieved[0] <= 0.01
    strict = replace(simulation.RULES, max_psi=0, max_ks=0, max_shift=0, false_alarms=0.9)
    assert calibration.calibrate(then, strict, sizes=(500,)).achieved[0] > 0.3


def test_a_calibration_survives_json_and_says_what_is_none() -> None:
    """What is kept with a release is what was measured; the same seed measures the same."""
    then = simulation.reference(simulation.table(np.random.default_rng(3), 800))
    made = calibration.calibrate(then, simulation.RULES, sizes=(500, 900))
    assert calibration.from_json(calibration.to_json(made)) == made
    assert calibration.calibrate(then, simulation.RULES, sizes=(500, 900)) == made
    with pytest.raises(ValueError, match="not a calibration"):
        calibration.from_json("[]")


def test_noise_of_a_size_between_those_replayed_is_interpolated() -> None:
    """A window of 5,000 rows has the noise that replaying its own size finds, from sizes ten times away."""
    rng = np.random.default_rng(4)
    then = sketches.reference(pd.DataFrame({"x": rng.lognormal(2, 1, 4_000)}))
    now = sketches.bin_counts(pd.DataFrame({"x": rng.lognormal(2, 1, 5_000)}), then)
    wide, own = (calibration.calibrate(then, simulation.RULES, sizes=s, check=False) for s in ((500, 50_000), (5_000,)))
    for measure in calibration.MEASURES:
        found, expected = wide.of(measure, then[0], now[0]), own.of(measure, then[0], now[0])
        assert found.mean == pytest.approx(expected.mean, rel=0.15), measure
        assert found.sd == pytest.approx(expected.sd, rel=0.3), measure
