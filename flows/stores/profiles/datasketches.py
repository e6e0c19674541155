"""Profiles on Apache DataSketches, for machines that whylogs has no wheel for. The only module that imports it.

A profile is a map of columns in MessagePack; its sketches are in the library's own binary formats.
"""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import datasketches  # type: ignore[import-untyped]
import msgspec
import numpy as np
import pandas as pd

from flows.errors import StoreError
from flows.steps.monitoring import quantiles
from flows.stores.profiles import columns
from flows.stores.profiles.columns import Moments, Remembered, Split

NAME = "datasketches"
HLL_LG_K, FREQUENT_LG_K = 12, 10  # sizes as whylogs has them
EXACT = ("rows", "missing", "nan", "infinite", "true", "integral", "fractional", "boolean", "text", "other")


class Column(msgspec.Struct, frozen=True):
    """What is kept of one column: exact counts, the range of integers, moments, and sketches as bytes."""

    rows: int
    missing: int
    nan: int
    infinite: int
    true: int
    integral: int
    fractional: int
    boolean: int
    text: int
    other: int
    low: int | None
    high: int | None
    moments: tuple[int, float, float]
    values: bytes | None  # a KLL sketch of doubles, None without a number
    distinct: bytes  # HyperLogLog
    frequent: bytes


Profile = msgspec.msgpack.Decoder(dict[str, Column])


def profile(frame: pd.DataFrame) -> bytes:
    """As `profiles.profile`."""
    return _bytes({str(name): _column(columns.split(frame.iloc[:, i])) for i, name in enumerate(frame.columns)})


def merge(parts: Sequence[bytes]) -> bytes:
    """As `profiles.merge`."""
    found: dict[str, list[Column]] = {}
    for part in parts:
        for name, column in _read(part).items():
            found.setdefault(name, []).append(column)
    return _bytes({name: _merged(column) for name, column in found.items()})


def remembered(profile_bytes: bytes) -> dict[str, Remembered]:
    """What the profile remembers, by column."""
    return {
        name: Remembered(
            n=column.rows,
            missing=column.missing,
            frequent=_tally(column.frequent),
            kept=quantiles.decode(column.values) if column.values else None,
            cardinality=float(datasketches.hll_sketch.deserialize(column.distinct).get_estimate()),
        )
        for name, column in _read(profile_bytes).items()
    }


def _bytes(found: dict[str, Column]) -> bytes:
    return msgspec.msgpack.encode(dict(sorted(found.items())))


def _read(profile_bytes: bytes) -> dict[str, Column]:
    try:
        return Profile.decode(profile_bytes)
    except msgspec.MsgspecError as error:
        raise StoreError(f"not a profile of {NAME}: {error}; it was made with another library, make it again") from None


def _column(split: Split) -> Column:
    whole, texts = split.integers, split.texts
    values, true = split.numbers, int(split.flags.sum())
    tally: dict[str, int] = {}
    for part in (whole, texts, split.flags):
        if part is not None and len(part):
            counted = pd.Series(part).value_counts()
            tally |= {str(value): tally.get(str(value), 0) + int(rows) for value, rows in counted.items()}
    spread = columns.moments(values)
    return Column(
        rows=split.rows,
        missing=split.missing,
        nan=split.nan,
        infinite=split.infinite,
        true=true,
        integral=0 if whole is None else whole.size,
        fractional=0 if split.floats is None else split.floats.size,
        boolean=split.flags.size,
        text=0 if texts is None else len(texts),
        other=0 if split.others is None else len(split.others),
        low=int(whole.min()) if whole is not None and whole.size else None,
        high=int(whole.max()) if whole is not None and whole.size else None,
        moments=(spread.n, spread.mean, spread.m2),
        values=_values(quantiles.kept(values)),
        distinct=_distinct(values, texts),
        frequent=_frequent(tally),
    )


def _merged(parts: list[Column]) -> Column:
    lows, highs = ([x for part in parts if (x := getattr(part, name)) is not None] for name in ("low", "high"))
    spread = columns.pooled([Moments(*part.moments) for part in parts])
    union = datasketches.hll_union(HLL_LG_K)
    for part in parts:
        union.update(datasketches.hll_sketch.deserialize(part.distinct))
    return Column(
        **{name: sum(getattr(part, name) for part in parts) for name in EXACT},
        low=min(lows, default=None),
        high=max(highs, default=None),
        moments=(spread.n, spread.mean, spread.m2),
        values=_values(quantiles.union([quantiles.decode(part.values) for part in parts if part.values])),
        distinct=union.get_result(datasketches.HLL_8).serialize_compact(),
        frequent=reduce(_add, [part.frequent for part in parts]),
    )


def _values(kept: quantiles.Kept | None) -> bytes | None:
    if kept is None:
        return None
    if kept.weights.sum() > 1:
        return quantiles.encode(kept, preamble=quantiles.DATASKETCHES)
    sketch = datasketches.kll_doubles_sketch(quantiles.KLL_K)
    sketch.update(kept.values)
    return bytes(sketch.serialize())


def _distinct(values: columns.Floats, texts: pd.Series | None) -> bytes:
    sketch = datasketches.hll_sketch(HLL_LG_K, datasketches.HLL_8)
    for value in [*np.unique(values).tolist(), *sorted(set(() if texts is None else texts))]:
        sketch.update(value)
    return bytes(sketch.serialize_compact())


def _frequent(tally: dict[str, int]) -> bytes:
    sketch = datasketches.frequent_strings_sketch(FREQUENT_LG_K)
    for value, rows in sorted(tally.items()):
        sketch.update(value, rows)
    return bytes(sketch.serialize())


def _add(one: bytes, other: bytes) -> bytes:
    sketch: Any = datasketches.frequent_strings_sketch.deserialize(one)
    sketch.merge(datasketches.frequent_strings_sketch.deserialize(other))
    return bytes(sketch.serialize())


def _tally(frequent: bytes) -> dict[str, int]:
    sketch: Any = datasketches.frequent_strings_sketch.deserialize(frequent)
    found = sketch.get_frequent_items(datasketches.frequent_items_error_type.NO_FALSE_NEGATIVES, 0)
    return {item[0]: int(item[1]) for item in found}
