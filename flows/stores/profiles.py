"""Profiles: whylogs summaries of any table, mergeable, as bytes. The only module that knows whylogs.

The metrics are filled column by column instead of through whylogs' logger, whose type mapping needs numpy 1 and whose
float columns take 15 times as long. Drift is judged on exact counts (bentos/runtime/monitoring/sketches.py): a profile
answers the questions that nobody thought of when the bins were fixed.
"""

import io
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache, reduce
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api import types

from bentos.runtime.monitoring.measures import Sketch
from bentos.runtime.monitoring.sketches import OTHER
from flows.errors import StoreError
from flows.steps.monitoring import quantiles

os.environ.setdefault("WHYLOGS_NO_ANALYTICS", "1")  # read once, at import; its telemetry threads delay the exit

import whylogs_sketching  # type: ignore[import-not-found]
from whylogs.core.metrics import StandardMetric
from whylogs.core.metrics.metric_components import FractionalComponent, KllComponent, MetricComponent
from whylogs.core.metrics.metrics import DistributionMetric
from whylogs.core.preprocessing import PreprocessedColumn
from whylogs.core.proto import ChunkHeader, ChunkMessage, DatasetProfileHeader, DatasetSegmentHeader
from whylogs.core.utils import read_delimited_protobuf
from whylogs.core.view import WHYLOGS_MAGIC_HEADER, ColumnProfileView, DatasetProfileView

DISTRIBUTION = "distribution"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)  # a profile belongs to its rows, not to the moment it was made


def profile(frame: pd.DataFrame) -> bytes:
    """A serialised DatasetProfileView of the frame: the same bytes for the same rows in the same order.

    Per column: counts (rows, null, nan, inf, true), types, cardinality, distribution, integer range, frequent items.
    Missing values are null; text, None, times, lists and mixtures are accepted.
    """
    columns = {str(name): _column(frame.iloc[:, i]) for i, name in enumerate(frame.columns)}
    return _bytes(DatasetProfileView(columns=columns, dataset_timestamp=EPOCH, creation_timestamp=EPOCH))


def merge(parts: Sequence[bytes]) -> bytes:
    """One profile of the rows of all parts: the same bytes for the same parts in the same order.

    Counts and types are exact, distributions within 0.1 % of rank for the parts and 0.1 % for each merge.
    """
    if not parts:
        raise StoreError("no profile to merge: the window has no part; profile an empty frame instead")
    columns: dict[str, list[Any]] = {}
    for part in parts:
        for name, column in DatasetProfileView.deserialize(part).get_columns().items():
            columns.setdefault(name, []).append(column)
    merged = {name: _merged(found) for name, found in columns.items()}
    return _bytes(DatasetProfileView(columns=merged, dataset_timestamp=EPOCH, creation_timestamp=EPOCH))


def reference_edges(profile_bytes: bytes, column: str, bins: int) -> tuple[float, ...]:
    """Inner quantile edges of a numeric column, strictly increasing; () if it has no number."""
    kll = _kll(_view(profile_bytes, column))
    if kll is None:
        return ()
    edges = np.unique(kll.get_quantiles(np.linspace(0, 1, bins + 1)[1:-1].tolist()))
    return tuple(edges[np.isfinite(edges) & (edges > kll.get_min_value())].tolist())


def sketch(profile_bytes: bytes, column: str, *, edges: Sequence[float] = (), categories: Sequence[str] = ()) -> Sketch:
    """A column's counts as the profile remembers them: numbers in bins between `edges`, or `categories` and the rest.

    Numeric counts are within 0.35 % of the rows; of categories whylogs keeps the most frequent, and only of integers,
    text and booleans. What is not a number counts as missing from a numeric sketch. StoreError for an unknown column.
    """
    view = _view(profile_bytes, column)
    counts = view.get_metric("counts")
    n, missing = int(counts.n.value), int(counts.null.value)
    if categories:
        names = tuple(name for name in categories if name != OTHER)
        frequent = view.get_metric("frequent_items")
        seen = {item.value: int(item.est) for item in frequent.strings} if frequent else {}
        known = [seen.get(name, 0) for name in names]
        return Sketch(
            name=column,
            kind="categorical",
            n=n,
            missing=missing,
            categories=(*names, OTHER),
            counts=(*known, max(0, n - missing - sum(known))),
        )
    kll = _kll(view)
    shares = [0.0] * (len(edges) + 1) if kll is None else kll.get_pmf(list(edges)) if edges else [1.0]
    numbers = 0 if kll is None else kll.get_n()
    borders = np.rint(np.cumsum(shares) * numbers).astype(int)  # rounding the cdf keeps the total
    return Sketch(
        name=column,
        kind="numeric",
        n=n,
        missing=n - numbers,
        edges=tuple(map(float, edges)),
        counts=tuple(np.diff(borders, prepend=0).tolist()),
    )


@cache
def _component(field: str, type_id: int) -> Any:
    """The class of a value that was read: whylogs makes one for every value, nine tenths of what reading costs."""
    kinds = {"n": int, "d": float, "hll": whylogs_sketching.hll_sketch, "kll": whylogs_sketching.kll_doubles_sketch}
    kind = kinds.get(field, whylogs_sketching.frequent_strings_sketch)
    return type("Component", (MetricComponent,), {"mtype": kind, "type_id": type_id})


def _read(_: Any, msg: Any, registries: Any = None) -> Any:
    component = _component(msg.WhichOneof("value"), msg.type_id)(value=None)
    component.set(component._deserializer(msg=msg))
    return component


MetricComponent.from_protobuf = classmethod(_read)


def _bytes(view: Any) -> bytes:
    """The view serialised with every map in the order of its keys: protobuf's own order differs between processes."""
    data = bytearray(view.serialize())
    stream = io.BytesIO(data)
    stream.seek(len(WHYLOGS_MAGIC_HEADER))

    def sort(message: Any) -> Any:
        end, encoded = stream.tell(), message.SerializeToString(deterministic=True)
        data[end - len(encoded) : end] = encoded
        return message

    sort(read_delimited_protobuf(stream, DatasetSegmentHeader))
    columns = sort(read_delimited_protobuf(stream, DatasetProfileHeader)).column_offsets
    for _ in columns:
        length = sort(read_delimited_protobuf(stream, ChunkHeader)).length
        sort(ChunkMessage.FromString(stream.read(length)))
    return bytes(data)


def _view(profile_bytes: bytes, column: str) -> Any:
    view = DatasetProfileView.deserialize(profile_bytes)
    found = view.get_column(column)
    if found is None:
        raise StoreError(f"the profile has no column {column!r}; it has {', '.join(sorted(view.get_columns()))}")
    return found


def _kll(view: Any) -> Any | None:
    """The column's quantile sketch, None if it is empty: asking an empty one for quantiles kills the process."""
    kll = view.get_metric(DISTRIBUTION).kll.value
    return None if kll.is_empty() else kll


def _column(series: pd.Series) -> Any:
    split = _split(series)
    names = ["counts", "types", "cardinality"]
    names += [] if split.numpy.floats is not None else ["frequent_items"]  # of floats no value is frequent
    names += [] if split.numpy.ints is None else ["ints"]
    metrics = {name: StandardMetric[name].zero() for name in names}
    for metric in metrics.values():
        metric.columnar_update(split)
    return ColumnProfileView(metrics={**metrics, DISTRIBUTION: _distribution(split)}, success_count=len(series))


def _split(series: pd.Series) -> Any:
    """whylogs' view of a column: numbers, texts and other objects apart, missing values only counted."""
    split = PreprocessedColumn()
    split.len = len(series)
    missing = series.isna().to_numpy()
    split.null_count = int(missing.sum())
    present = series[~missing]
    if isinstance(series.dtype, pd.CategoricalDtype):
        present = present.astype(series.cat.categories.dtype)
    if types.is_object_dtype(present):
        _split_objects(split, present)
    elif types.is_bool_dtype(present):
        split.bool_count, split.bool_count_where_true = len(present), int(present.sum())
    elif types.is_integer_dtype(present):
        split.numpy.ints = present.to_numpy(dtype=np.int64)
    elif types.is_float_dtype(present):
        _floats(split, present.to_numpy(dtype=np.float64))
        split.nan_count = split.null_count
    elif types.is_string_dtype(present):
        split.pandas.strings = present.astype(object)
    else:
        split.pandas.objs = present
    return split


def _split_objects(split: Any, present: pd.Series) -> None:
    if types.infer_dtype(present) == "string":
        split.pandas.strings = present
        return
    flags, texts, numbers = (
        present.map(lambda value, kind=kind: isinstance(value, kind)).to_numpy(dtype=bool)
        for kind in ((bool, np.bool_), str, (Real, Decimal))
    )
    numbers &= ~flags
    split.bool_count, split.bool_count_where_true = int(flags.sum()), int(present[flags].astype(bool).sum())
    split.pandas.strings, split.pandas.objs = present[texts], present[~flags & ~texts & ~numbers]
    if numbers.any():
        _floats(split, present[numbers].to_numpy(dtype=np.float64))


def _floats(split: Any, values: NDArray[np.float64]) -> None:
    split.numpy.floats, split.inf_count = values, int(np.isinf(values).sum())


def _distribution(split: Any) -> Any:
    """Quantiles of all numbers and booleans; mean and variance of the finite ones."""
    no, yes = split.bool_count - split.bool_count_where_true, split.bool_count_where_true
    parts = [p for p in (split.numpy.floats, split.numpy.ints) if p is not None]
    values = np.concatenate([*parts, np.zeros(no), np.ones(yes)]).astype(np.float64)
    finite = values[np.isfinite(values)]
    return DistributionMetric(
        kll=KllComponent(_sketched(quantiles.kept(values))),
        mean=FractionalComponent(float(finite.mean()) if finite.size else 0.0),
        m2=FractionalComponent(float(finite.var() * finite.size) if finite.size else 0.0),
    )


def _merged(columns: list[Any]) -> Any:
    """One column of the rows of all; distributions apart, as whylogs' own merge of them draws random bits."""
    others = [
        ColumnProfileView(
            metrics={name: column.get_metric(name) for name in column.get_metric_names() if name != DISTRIBUTION},
            success_count=int(column.get_metric("counts").n.value),
        )
        for column in columns
    ]
    whole = reduce(lambda a, b: a.merge(b), others)
    metrics = {name: whole.get_metric(name) for name in sorted(whole.get_metric_names())}
    rows = int(whole.get_metric("counts").n.value)
    return ColumnProfileView(metrics={**metrics, DISTRIBUTION: _summed(columns)}, success_count=rows)


def _summed(columns: list[Any]) -> Any:
    """Distributions added up; mean and variance, of the finite numbers, by Chan, Golub & LeVeque (1979)."""
    found = [column.get_metric(DISTRIBUTION) for column in columns]
    klls = [metric.kll.value for metric in found]
    infinite = [column.get_metric("counts").inf.value for column in columns]
    n = np.array([kll.get_n() for kll in klls], dtype=np.float64) - infinite
    mean, m2 = (np.array([getattr(metric, name).value for metric in found]) for name in ("mean", "m2"))
    whole = float((n * mean).sum() / n.sum()) if n.sum() else 0.0
    kept = [quantiles.decode(kll.serialize()) for kll in klls if not kll.is_empty()]
    return DistributionMetric(
        kll=KllComponent(_sketched(quantiles.union(kept))),
        mean=FractionalComponent(whole),
        m2=FractionalComponent(float(m2.sum() + (n * (mean - whole) ** 2).sum())),
    )


def _sketched(kept: quantiles.Kept | None) -> Any:
    """The library's sketch of what is kept."""
    if kept is not None and kept.weights.sum() > 1:
        return whylogs_sketching.kll_doubles_sketch.deserialize(quantiles.encode(kept))
    kll = whylogs_sketching.kll_doubles_sketch(k=quantiles.KLL_K)
    if kept is not None:
        kll.update(array=kept.values)
    return kll
