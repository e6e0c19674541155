"""Simulated tables with known drift, and the verdicts on windows of them: what a verdict's rates are measured on."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bentos.runtime.monitoring import drift, sketches
from bentos.runtime.monitoring.calibration import Calibration, calibrate
from bentos.runtime.monitoring.measures import Sketch
from flows.usecases.spec import DriftRules

RULES = DriftRules()
SIZES = (500, 5_000, 50_000)
REFERENCE_ROWS = 10_000
SEEDS = 200
HALF = 0.5  # standard deviations
COUNTRIES = ("GB", "FR", "DE", "IS")
SHOPS = tuple(f"shop-{i:02d}" for i in range(30))


def table(rng: np.random.Generator, n: int) -> pd.DataFrame:
    """Twenty independent columns of the usual shapes, n rows."""
    zipf = 1 / np.arange(1, len(SHOPS) + 1)
    return pd.DataFrame(
        {
            "normal": rng.normal(size=n),
            "offset": rng.normal(1_000, 5, n),
            "wide": rng.normal(50, 40, n),
            "uniform": rng.uniform(size=n),
            "t3": rng.standard_t(3, n),
            "two_humps": np.where(rng.random(n) < 0.4, rng.normal(-3, 1, n), rng.normal(2, 1, n)),
            "lognormal": rng.lognormal(3, 1, n),
            "exponential": rng.exponential(30, n),
            "pareto": rng.pareto(3, n) + 1,
            "gamma": rng.gamma(2, 10, n),
            "score": rng.beta(2, 5, n),
            "holes": np.where(rng.random(n) < 0.3, np.nan, rng.normal(size=n)),
            "mostly_missing": np.where(rng.random(n) < 0.9, np.nan, rng.lognormal(0, 1, n)),
            "mostly_zero": np.where(rng.random(n) < 0.9, 0.0, rng.exponential(10, n)),
            "count": rng.poisson(2, n).astype(float),
            "many": rng.poisson(40, n).astype(float),
            "flag": (rng.random(n) < 0.3).astype(float),
            "rare": (rng.random(n) < 0.02).astype(float),
            "country": rng.choice(COUNTRIES, n, p=(0.7, 0.2, 0.095, 0.005)),
            "shop": rng.choice(SHOPS, n, p=zipf / zipf.sum()),
        }
    )


@dataclass(frozen=True)
class Shift:
    """One drift of `table`: a column, and how its window changes."""

    column: str
    change: Callable[[np.random.Generator, pd.Series, pd.Series], object]


def moved(rng: np.random.Generator, values: pd.Series, reference: pd.Series) -> pd.Series:
    """Values moved by half of the reference's standard deviation."""
    return values + HALF * float(reference.std())


def more_often(rng: np.random.Generator, values: pd.Series, reference: pd.Series) -> pd.Series:
    """A 0/1 column whose share of ones, and so its mean, is half a standard deviation higher."""
    share = min(1.0, float(reference.mean()) + HALF * float(reference.std()))
    return pd.Series((rng.random(len(values)) < share).astype(float))


def counted(rng: np.random.Generator, values: pd.Series, reference: pd.Series) -> pd.Series:
    """Counts whose mean is half a standard deviation higher."""
    return pd.Series(rng.poisson(float(reference.mean()) + HALF * float(reference.std()), len(values)).astype(float))


def mixed(rng: np.random.Generator, values: pd.Series, reference: pd.Series) -> pd.Series:
    """Categories with a PSI of at least 0.2: some rows are given to the second most frequent one."""
    names = reference.value_counts(normalize=True)
    for share in np.linspace(0.05, 0.95, 91):
        then, now = names, names * (1 - share)
        now = now.add(pd.Series({names.index[1]: share}), fill_value=0.0)
        if float(((now - then) * np.log(now / then)).sum()) >= 0.2:
            break
    return values.where(rng.random(len(values)) >= share, names.index[1])


CONTINUOUS = ("normal", "offset", "wide", "uniform", "t3", "two_humps", "lognormal", "exponential", "pareto", "gamma")
SHIFTS = (
    *(Shift(name, moved) for name in (*CONTINUOUS, "score", "holes", "mostly_missing", "mostly_zero")),
    *(Shift(name, counted) for name in ("count", "many")),
    *(Shift(name, more_often) for name in ("flag", "rare")),
    *(Shift(name, mixed) for name in ("country", "shop")),
)


def shifted(rng: np.random.Generator, window: pd.DataFrame, reference: pd.DataFrame, shift: Shift) -> pd.DataFrame:
    """The window with its one column drifted."""
    return window.assign(**{shift.column: shift.change(rng, window[shift.column], reference[shift.column])})


def pairs(seeds: Iterable[int], rows: int) -> Iterator[tuple[np.random.Generator, pd.DataFrame, pd.DataFrame]]:
    """Generator, reference and undrifted window of each seed."""
    for seed in seeds:
        rng = np.random.default_rng([seed, rows])
        yield rng, table(rng, REFERENCE_ROWS), table(rng, rows)


def reference(frame: pd.DataFrame) -> tuple[Sketch, ...]:
    """The frame's sketches, with its own rows counted."""
    return sketches.reference(frame, bins=RULES.bins)


def verdict(then: tuple[Sketch, ...], window: pd.DataFrame, known: Calibration) -> drift.Verdict:
    """The verdict at default rules."""
    return drift.compare(then, sketches.bin_counts(window, then), RULES, known)


def alarms(seeds: Iterable[int], rows: int) -> list[bool]:
    """Whether the undrifted window of each seed triggers."""
    found = []
    for _, frame, window in pairs(seeds, rows):
        then = reference(frame)
        found.append(verdict(then, window, calibrate(then, RULES, sizes=(rows,), check=False)).state == "drift")
    return found


def detections(seeds: Iterable[int], rows: int = 5_000, windows: int = 2) -> list[tuple[str, bool]]:
    """The drifted column of each seed, and whether one of its windows names it."""
    found = []
    for seed in seeds:
        rng, shift = np.random.default_rng([seed, rows, windows]), SHIFTS[seed % len(SHIFTS)]
        frame = table(rng, REFERENCE_ROWS)
        then = reference(frame)
        known = calibrate(then, RULES, sizes=(rows,), check=False)
        later = (shifted(rng, table(rng, rows), frame, shift) for _ in range(windows))
        judged = [verdict(then, window, known) for window in later]
        found.append((shift.column, any(c.drifted for v in judged for c in v.columns if c.name == shift.column)))
    return found
