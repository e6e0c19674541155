"""Columns on their way into a profile and out of it, whatever library keeps them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from numbers import Real

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api import types

from flows.steps.monitoring.quantiles import Kept

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Split:
    """A column's values by kind, the `missing` ones only counted; of these `nan` are no number rather than nothing.

    Floats and integers are None where the column has none.
    """

    rows: int
    missing: int
    nan: int = 0
    floats: Floats | None = None
    integers: NDArray[np.int64] | None = None
    flags: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    texts: pd.Series | None = None
    others: pd.Series | None = None

    @property
    def numbers(self) -> Floats:
        """All numbers, true being 1."""
        there = [part for part in (self.floats, self.integers) if part is not None]
        return np.concatenate([*there, self.flags]).astype(np.float64)

    @property
    def infinite(self) -> int:
        """How many of the floats are infinite."""
        return 0 if self.floats is None else int(np.isinf(self.floats).sum())


@dataclass(frozen=True, kw_only=True)
class Remembered:
    """What a profile remembers of a column: its rows, the missing ones, frequent values, quantiles, distinct values."""

    n: int
    missing: int
    frequent: dict[str, int]
    kept: Kept | None
    cardinality: float


@dataclass(frozen=True)
class Moments:
    """Number, mean and sum of squared deviations of finite numbers."""

    n: int
    mean: float
    m2: float


def moments(numbers: Floats) -> Moments:
    """The moments of the finite ones of numbers."""
    finite = numbers[np.isfinite(numbers)]
    if not finite.size:
        return Moments(0, 0.0, 0.0)
    return Moments(finite.size, float(finite.mean()), float(finite.var() * finite.size))


def pooled(parts: Sequence[Moments]) -> Moments:
    """The moments of all parts' numbers (Chan, Golub & LeVeque 1979)."""
    n, mean, m2 = (np.array([getattr(part, name) for part in parts], dtype=np.float64) for name in ("n", "mean", "m2"))
    whole = float((n * mean).sum() / n.sum()) if n.sum() else 0.0
    return Moments(int(n.sum()), whole, float(m2.sum() + (n * (mean - whole) ** 2).sum()))


def split(series: pd.Series) -> Split:
    """A column taken apart."""
    missing = series.isna().to_numpy()
    empty = Split(rows=len(series), missing=int(missing.sum()))
    present = series[~missing]
    if isinstance(series.dtype, pd.CategoricalDtype):
        present = present.astype(series.cat.categories.dtype)
    if types.is_object_dtype(present):
        return _of_objects(present, empty)
    if types.is_bool_dtype(present):
        return replace(empty, flags=present.to_numpy(dtype=np.bool_))
    if types.is_integer_dtype(present):
        return replace(empty, integers=present.to_numpy(dtype=np.int64))
    if types.is_float_dtype(present):
        return replace(empty, nan=empty.missing, floats=present.to_numpy(dtype=np.float64))
    if types.is_string_dtype(present):
        return replace(empty, texts=present.astype(object))
    return replace(empty, others=present)


def _of_objects(present: pd.Series, empty: Split) -> Split:
    if types.infer_dtype(present) == "string":
        return replace(empty, texts=present)
    flags, texts, numbers = (
        present.map(lambda value, kind=kind: isinstance(value, kind)).to_numpy(dtype=bool)
        for kind in ((bool, np.bool_), str, (Real, Decimal))
    )
    numbers &= ~flags
    return replace(
        empty,
        floats=present[numbers].to_numpy(dtype=np.float64) if numbers.any() else None,
        flags=present[flags].to_numpy(dtype=np.bool_),
        texts=present[texts],
        others=present[~flags & ~texts & ~numbers],
    )
