"""Segments: scores apart by declared slice, and how far each has moved."""

import numpy as np
import pandas as pd
import pytest

from flows.steps.monitoring import quantiles, segments
from flows.usecases.spec import Slice

SLICES = (
    Slice(feature="age", edges=(0, 30)),
    Slice(feature="country", values=("AT",)),
    Slice(feature="gone", edges=(0,)),
)


def frame(young: float, seed: int) -> pd.DataFrame:
    """4,000 scored rows, the young ones scored around `young`, the others around 0.7."""
    rng = np.random.default_rng(seed)
    age = rng.uniform(10, 50, 4_000)
    score = np.clip(np.where(age < 30, young, 0.7) + rng.normal(0, 0.05, age.size), 0, 1)
    country = np.array(["AT", None], dtype=object)[rng.integers(0, 2, age.size)]
    return pd.DataFrame({"age": age, "country": country, "score": score})


def kept(made: pd.DataFrame) -> dict[str, quantiles.Kept | None]:
    numbers = made.drop(columns="country")
    return {name: quantiles.kept(numbers[name].dropna().to_numpy()) for name in numbers}


def test_scores_stand_apart_by_slice() -> None:
    """One column per bin, value and gap; each row's score in those of its slices and in no other."""
    made = segments.apart(frame(0.3, 1), SLICES)
    names = ["age [0, 30)", "age [30, inf)", "country AT", "country missing"]
    assert list(made)[3:] == [f"score in {name}" for name in names]
    young, old, at, missing = (made[f"score in {name}"] for name in names)
    assert (young.notna() == (made["age"] < 30)).all()
    assert (young.notna() ^ old.notna()).all()
    assert (at.notna() ^ missing.notna()).all()
    assert young.dropna().equals(made.loc[made["age"] < 30, "score"])


def test_the_segment_that_moved_is_seen() -> None:
    """The young are scored higher, the others as ever: shares stay, medians and PSI tell which it is."""
    then, now = (kept(segments.apart(frame(young, seed), SLICES)) for young, seed in ((0.3, 1), (0.4, 2)))
    young, old, at, _ = segments.compare(then, now)
    assert (young.name, old.name, at.name) == ("age [0, 30)", "age [30, inf)", "country AT")
    assert young.rows == pytest.approx(2_000, rel=0.1)
    assert young.share == pytest.approx((0.5, 0.5), abs=0.03)
    assert young.median == pytest.approx((0.3, 0.4), abs=0.01)
    assert old.median == pytest.approx((0.7, 0.7), abs=0.01)
    assert young.psi > 1 > 0.05 > old.psi


def test_a_segment_without_rows_is_left_out() -> None:
    """Nobody young in the window, or no score at all: nothing is compared with nothing."""
    then, now = (kept(segments.apart(made, SLICES)) for made in (frame(0.3, 1), frame(0.3, 2).query("age >= 30")))
    assert [s.name for s in segments.compare(then, now)] == ["age [30, inf)", "country AT", "country missing"]
    assert segments.compare(then, {"score": None}) == ()
