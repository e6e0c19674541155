"""Calibration: what chance alone does to each measure of each column, found by replaying windows without drift.

A replay draws a reference and a window from the reference's own counts, so that the error of both is in it. It is done
once per release, at training, and kept with its reference.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincc

from bentos.runtime.monitoring import distances
from bentos.runtime.monitoring.measures import Sketch, deviation, distribution
from bentos.runtime.monitoring.rules import DriftRules

FILE = "calibration.json"  # beside the reference in a release's folder
SIZES = (500, 2_000, 10_000, 50_000)  # rows of the replayed windows
REPLAYS = 200  # windows of each size, per column; as many again measure the achieved rate
MIN_VALUES = 200  # below it one far value makes a distance in deviations, whose tail no replay of a few values knows
NORMAL = 30.0  # expected rows from which on a cell's count is drawn from the normal distribution
MEASURES = ("psi", "ks", "shift")  # those whose noise has no simple law on a column with gaps, ties and heavy tails
TESTS = len(MEASURES) + 2  # with missing and unseen values: what a column's p is corrected for

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Noise:
    """Mean and standard deviation of a measure without drift."""

    mean: float
    sd: float

    def chance(self, value: float | Floats) -> Floats:
        """Probability of at least that value (or of each of [n]), by the gamma distribution with these moments.

        Without drift PSI is a multiple of chi-square (Yurdakul 2018), which is one; of KS and Wasserstein the tail is
        lighter, so that theirs is an upper bound.
        """
        if self.sd <= 0 or self.mean <= 0 or math.isinf(self.mean):
            return np.where(np.asarray(value) <= self.mean, 1.0, 0.0)
        found: Floats = gammaincc((self.mean / self.sd) ** 2, np.maximum(0.0, value) * self.mean / self.sd**2)
        return found


NONE = Noise(math.inf, 1.0)  # of a measure that says nothing: no value of it is unlikely


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Noise by column and measure, and the share of undrifted windows that alarm, for each of the `sizes`.

    Noise is kept in units of `1/n + 1/m` values for PSI and of its root for the distances, which hardly depend on size.
    """

    sizes: tuple[int, ...]
    noise: dict[str, dict[str, tuple[tuple[float, float], ...]]]
    achieved: tuple[float, ...]
    replays: int

    def of(self, measure: str, reference: Sketch, current: Sketch) -> Noise:
        """A measure's noise for a window of that many values; `NONE` where a side has none, or too few."""
        n, m = sum(reference.counts), sum(current.counts)
        if not n or not m or (measure == "shift" and min(n, m) < MIN_VALUES):
            return NONE
        unit = _unit(measure, n, m)
        known = np.array(self.noise[reference.name][measure])
        mean, sd = (float(np.interp(np.log(current.n), np.log(self.sizes), known[:, i])) for i in (0, 1))
        return Noise(mean * unit, sd * unit)


def _unit(measure: str, n: float, m: float) -> float:
    return float(1 / n + 1 / m) if measure == "psi" else float(np.sqrt(1 / n + 1 / m))


def calibrate(
    reference: Sequence[Sketch], rules: DriftRules, *, sizes: tuple[int, ...] = SIZES, seed: int = 7, check: bool = True
) -> Calibration:
    """Replay `REPLAYS` windows of each size for the noise, and to `check` as many fresh ones for the rate achieved.

    The replayed columns are independent, which is the worst case for a verdict over all of them.
    """
    rng = np.random.default_rng(seed)
    noise: dict[str, dict[str, list[tuple[float, float]]]] = {s.name: {m: [] for m in MEASURES} for s in reference}
    achieved = []
    for size in sizes:
        p, large = np.ones((len(reference), REPLAYS)), np.zeros((len(reference), REPLAYS), dtype=bool)
        for row, sketch in enumerate(reference):
            first, values = _replayed(sketch, size, rng), sum(sketch.counts)
            found = {m: _fit(first[m]) for m in MEASURES}
            if check:
                few = size * values < MIN_VALUES * sketch.n or values < MIN_VALUES
                judged = found | ({"shift": NONE} if few else {})
                p[row], large[row] = _judged(judged, _replayed(sketch, size, rng), rules)
            for m in MEASURES:
                unit = _unit(m, values, size * values / sketch.n) if values else 1.0
                noise[sketch.name][m].append((found[m].mean / unit, found[m].sd / unit))
        drifted = large & (p <= cutoff(p, rules.false_alarms))
        achieved += [float(np.mean(drifted.sum(axis=0) >= max(1, rules.min_drifted_columns)))] * check
    kept = {name: {m: tuple(values) for m, values in by.items()} for name, by in noise.items()}
    return Calibration(sizes=sizes, noise=kept, achieved=tuple(achieved), replays=REPLAYS)


def cutoff(p: Floats, level: float) -> Floats:
    """The largest p [columns, ...] that is significant at a false-discovery rate of `level`; one per window [...].

    Source: Benjamini & Hochberg (1995). Without any drift this is the chance of a false alarm of the window.
    """
    columns = max(1, p.shape[0])
    steps = (level * np.arange(1, columns + 1) / columns).reshape(-1, *(1,) * (p.ndim - 1))
    good = np.sort(p, axis=0) <= steps
    last = np.maximum((good * np.arange(1, len(p) + 1).reshape(steps.shape)).max(axis=0, initial=1), 1)
    return np.asarray(level * last / columns, dtype=np.float64)


def _fit(values: Floats) -> Noise:
    return Noise(float(values.mean()), float(values.std(ddof=1)))


def _judged(noise: dict[str, Noise], found: dict[str, Floats], rules: DriftRules) -> tuple[Floats, NDArray[np.bool_]]:
    """A column's p [replays], corrected for the number of tests, and whether one of its effects is above its limit."""
    limits = {"psi": rules.max_psi + noise["psi"].mean, "ks": rules.max_ks, "shift": rules.max_shift}
    p = np.stack([noise[m].chance(found[m]) for m in MEASURES]).min(axis=0)
    large = np.stack([(found[m] > limits[m]) & np.isfinite(noise[m].mean) for m in MEASURES])
    return np.minimum(1.0, TESTS * p), np.asarray(large.any(axis=0), dtype=np.bool_)


def _replayed(sketch: Sketch, size: int, rng: np.random.Generator) -> dict[str, Floats]:
    """Every measure of `REPLAYS` pairs of a reference and a window of that many rows drawn from one distribution."""
    values = sum(sketch.counts)
    if not values:
        return {m: np.zeros(REPLAYS) for m in MEASURES}
    x, below = distribution(sketch)
    scale = deviation(sketch)
    if x.size and scale:
        mass, bins = np.diff(below), np.searchsorted(sketch.edges, x[:-1], side="right")
    else:
        mass, bins = np.asarray(sketch.counts, dtype=float), np.arange(len(sketch.counts))
        mass[-1] = max(mass[-1], 0.5)  # an unseen category may always come
    kept = mass > 0
    rate = mass[kept] / mass.sum()
    a, b = (_drawn(n * rate, rng) for n in (values, size * values / sketch.n))
    onto = (bins[kept][:, None] == np.arange(len(sketch.counts))).astype(float)
    ours, theirs = a @ onto, b @ onto
    numeric = sketch.kind == "numeric"
    return {
        "psi": distances.psi(ours, theirs),
        "ks": distances.ks(ours, theirs) if numeric else np.zeros(REPLAYS),
        "shift": _shift(a, b, x, kept) / scale if numeric and x.size and scale else np.zeros(REPLAYS),
    }


def _drawn(rate: Floats, rng: np.random.Generator) -> Floats:
    """Poisson counts [replays, k] of cells with expected rows `rate` [k]."""
    found = rate + np.sqrt(rate) * rng.standard_normal((REPLAYS, rate.size))
    small = rate < NORMAL
    found[:, small] = rng.poisson(rate[small], (REPLAYS, int(small.sum())))
    return np.maximum(found, 0.0)


def _shift(a: Floats, b: Floats, x: Floats, kept: NDArray[np.bool_]) -> Floats:
    """Wasserstein distance [replays] of counts [replays, k] in the kept ones of the cells between the knots."""
    f, g = (np.zeros((len(a), x.size)), np.zeros((len(a), x.size)))
    for counts, below in ((a, f), (b, g)):
        below[:, 1:][:, kept] = distances.shares(counts)
        np.cumsum(below, axis=1, out=below)
    return distances.wasserstein(f, g, x)


def to_json(calibration: Calibration) -> str:
    """Canonical JSON: sorted keys, no NaN."""
    return json.dumps(asdict(calibration), sort_keys=True, allow_nan=False)


def from_json(text: str) -> Calibration:
    """The calibration that `to_json` wrote; ValueError if it is none."""
    try:
        made = Calibration(**json.loads(text))
        noise = {
            name: {m: tuple((float(mean), float(sd)) for mean, sd in values) for m, values in by.items()}
            for name, by in made.noise.items()
        }
        return replace(made, sizes=tuple(made.sizes), noise=noise, achieved=tuple(made.achieved))
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"not a calibration: {error!r}") from error
