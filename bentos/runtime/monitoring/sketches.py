"""Sketches of a table's columns: exact counts in bins that the reference fixes; any window is a sum of its parts."""

import json
import math
from collections.abc import Hashable, Sequence
from dataclasses import asdict, replace
from functools import reduce

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api import types

from bentos.runtime.monitoring import grid
from bentos.runtime.monitoring.measures import Sketch

OTHER = "(other)"  # last category of every categorical sketch: whatever the reference does not name
MAX_CATEGORIES = 50  # most frequent ones that get a count of their own


def reference(frame: pd.DataFrame, *, bins: int = 10) -> tuple[Sketch, ...]:
    """One sketch per column of the reference rows (the holdout), which fixes the bins of every later window.

    Numbers get quantile bins, a value that fills several of them its own; a column of at most `bins` distinct numbers
    gets one bin per value and two for what lies outside. Text, booleans and mixtures get their most frequent
    categories.
    """
    empty = [
        _numeric(name, column, bins) if _is_numeric(column) else _categorical(name, column)
        for name, column in ((str(name), frame.iloc[:, i]) for i, name in enumerate(frame.columns))
    ]
    return bin_counts(frame, tuple(empty))


def bin_counts(frame: pd.DataFrame, reference: tuple[Sketch, ...]) -> tuple[Sketch, ...]:
    """The frame's rows counted into the reference's bins, one sketch per reference column and in its order.

    A column that the frame lacks counts as missing in every row, and so does text where a number was expected.
    """
    positions = {str(name): i for i, name in enumerate(frame.columns)}
    return tuple(
        _count(sketch, frame.iloc[:, positions[sketch.name]])
        if sketch.name in positions
        else replace(sketch, n=len(frame), missing=len(frame), counts=(0,) * len(sketch.counts))
        for sketch in reference
    )


def add(a: Sketch, b: Sketch) -> Sketch:
    """One sketch of the rows of both; ValueError unless they have the same name and bins."""
    if (a.name, a.kind, a.edges, a.categories) != (b.name, b.kind, b.edges, b.categories):
        raise ValueError(
            f"cannot add sketches of {a.name!r} and {b.name!r}: their bins differ; "
            "count both with bin_counts and the same reference"
        )
    counts = tuple(x + y for x, y in zip(a.counts, b.counts, strict=True))
    return replace(
        a,
        n=a.n + b.n,
        missing=a.missing + b.missing,
        counts=counts,
        low=min((x for x in (a.low, b.low) if x is not None), default=None),
        high=max((x for x in (a.high, b.high) if x is not None), default=None),
        cells=grid.add(a.cells, b.cells),
        odd=a.odd + b.odd,
    )


def merge(parts: Sequence[tuple[Sketch, ...]]) -> tuple[Sketch, ...]:
    """One tuple of sketches of the rows of all parts, each counted with the same reference; () for no part."""
    if len({tuple(sketch.name for sketch in part) for part in parts}) > 1:
        raise ValueError("cannot merge parts with different columns; count all of them with the same reference")
    return reduce(lambda a, b: tuple(map(add, a, b)), parts) if parts else ()


def to_json(sketches: tuple[Sketch, ...]) -> str:
    """Canonical JSON: a list of sketches, sorted keys, no NaN."""
    return json.dumps([asdict(sketch) for sketch in sketches], sort_keys=True, allow_nan=False)


def from_json(text: str) -> tuple[Sketch, ...]:
    """The sketches that `to_json` wrote; ValueError if they are none."""
    try:
        return tuple(
            Sketch(
                **{**raw, **{key: tuple(raw[key]) for key in ("counts", "edges", "categories")}}
                | {"cells": tuple((int(index), int(n)) for index, n in raw.get("cells", ()))}
            )
            for raw in json.loads(text)
        )
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"not a list of sketches: {error!r}") from error


def quantile_edges(values: NDArray[np.float64], bins: int) -> tuple[float, ...]:
    """Inner borders of the bins of finite values [n]: strictly increasing, () for no value.

    A value that several quantiles fall on gets a bin of its own: it would otherwise blur into its neighbours, or leave
    a column that is mostly zero with a single bin.
    """
    distinct = np.unique(values)
    if distinct.size == 0:
        return ()
    if distinct.size <= bins:
        last, whole = float(distinct[-1]), bool(np.all(distinct == np.floor(distinct)))
        above = max(last + whole, math.nextafter(last, math.inf))
        return (*distinct.tolist(), *([above] if math.isfinite(above) else []))
    at = np.linspace(0, 1, bins + 1)[1:-1]
    edges, times = np.unique(np.quantile(values, at, method="inverted_cdf"), return_counts=True)
    after = np.searchsorted(distinct, edges[times > 1], side="right")
    edges = np.union1d(edges, distinct[after[after < distinct.size]])
    return tuple(edges[edges > distinct[0]].tolist())


def label(value: Hashable) -> str:
    """A category's name; whole floats read as integers, because a missing value turns integers into floats."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _is_numeric(column: pd.Series) -> bool:
    """Whether the column holds numbers or times, or nothing; an object column is judged by its values."""
    if types.is_bool_dtype(column) or isinstance(column.dtype, pd.CategoricalDtype):
        return False
    if types.is_object_dtype(column):
        kinds = ("integer", "floating", "mixed-integer-float", "decimal", "empty")
        return types.infer_dtype(column, skipna=True) in kinds
    return bool(
        types.is_numeric_dtype(column) or types.is_datetime64_any_dtype(column) or types.is_timedelta64_dtype(column)
    )


def _numbers(column: pd.Series) -> NDArray[np.float64]:
    """The column as float64 [n], NaN where missing or not a number; times in seconds."""
    values: NDArray[np.float64]
    if types.is_datetime64_any_dtype(column) or types.is_timedelta64_dtype(column):
        ticks = column.to_numpy(dtype="M8[ns]" if types.is_datetime64_any_dtype(column) else "m8[ns]")
        values = np.where(np.isnat(ticks), np.nan, ticks.astype(np.int64) / 1e9)
    else:
        column = column.astype(object) if isinstance(column.dtype, pd.CategoricalDtype) else column
        values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    return values


def _tally(column: pd.Series) -> dict[str, int]:
    """Rows per category, missing ones left out; unhashable values are counted by their text."""
    try:
        codes, values = pd.factorize(column)
    except TypeError:
        codes, values = pd.factorize(column.map(str, na_action="ignore"))
    tally: dict[str, int] = {}
    for value, rows in zip(values, np.bincount(codes[codes >= 0], minlength=len(values)), strict=True):
        tally[label(value)] = tally.get(label(value), 0) + int(rows)
    return tally


def _numeric(name: str, column: pd.Series, bins: int) -> Sketch:
    values = _numbers(column)
    edges = quantile_edges(values[np.isfinite(values)], bins)
    return Sketch(name=name, kind="numeric", n=0, missing=0, counts=(0,) * (len(edges) + 1), edges=edges)


def _categorical(name: str, column: pd.Series) -> Sketch:
    tally = _tally(column)
    tally.pop(OTHER, None)
    names = sorted(tally, key=lambda category: (-tally[category], category))[:MAX_CATEGORIES]
    return Sketch(
        name=name, kind="categorical", n=0, missing=0, counts=(0,) * (len(names) + 1), categories=(*names, OTHER)
    )


def _count(sketch: Sketch, column: pd.Series) -> Sketch:
    if sketch.kind == "numeric":
        return _count_numbers(sketch, column)
    tally = _tally(column)
    known = [tally.get(category, 0) for category in sketch.categories[:-1]]
    present = sum(tally.values())
    return replace(sketch, n=len(column), missing=len(column) - present, counts=(*known, present - sum(known)))


def _count_numbers(sketch: Sketch, column: pd.Series) -> Sketch:
    values = _numbers(column)
    values = values[~np.isnan(values)]
    finite = values[np.isfinite(values)]
    counts = np.bincount(np.searchsorted(sketch.edges, values, side="right"), minlength=len(sketch.edges) + 1)
    missing = len(column) - values.size
    return replace(
        sketch,
        n=len(column),
        missing=missing,
        counts=tuple(counts.tolist()),
        low=float(finite.min()) if finite.size else None,
        high=float(finite.max()) if finite.size else None,
        cells=grid.count(finite),
        odd=missing - int(column.isna().sum()) if missing else 0,
    )
