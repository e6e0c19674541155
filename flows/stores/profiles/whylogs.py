"""Profiles as whylogs' own DatasetProfileViews, serialised. The only module that knows whylogs.

The metrics are filled column by column instead of through whylogs' logger, whose type mapping needs numpy 1 and whose
float columns take 15 times as long.
"""

import io
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache, reduce
from typing import Any

import numpy as np
import pandas as pd

from flows.errors import StoreError
from flows.steps.monitoring import quantiles
from flows.stores.profiles import columns
from flows.stores.profiles.columns import Moments, Remembered, Split

os.environ.setdefault("WHYLOGS_NO_ANALYTICS", "1")  # read once, at import; its telemetry threads delay the exit

import whylogs_sketching  # type: ignore[import-not-found]
from whylogs.core.metrics import StandardMetric
from whylogs.core.metrics.metric_components import FractionalComponent, KllComponent, MetricComponent
from whylogs.core.metrics.metrics import DistributionMetric
from whylogs.core.preprocessing import PreprocessedColumn
from whylogs.core.proto import ChunkHeader, ChunkMessage, DatasetProfileHeader, DatasetSegmentHeader
from whylogs.core.utils import read_delimited_protobuf
from whylogs.core.view import WHYLOGS_MAGIC_HEADER, ColumnProfileView, DatasetProfileView

# The first call imports numpy's C API behind a lock of pybind11's own and lets go of the interpreter's meanwhile.
# Threads of a flow that make it at once wait for each other for ever, so it is made here.
whylogs_sketching.hll_sketch(12).update_np(np.zeros(1))

NAME = "whylogs"
DISTRIBUTION = "distribution"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)  # a profile belongs to its rows, not to the moment it was made


def profile(frame: pd.DataFrame) -> bytes:
    """As `profiles.profile`."""
    made = {str(name): _column(columns.split(frame.iloc[:, i])) for i, name in enumerate(frame.columns)}
    return _bytes(DatasetProfileView(columns=made, dataset_timestamp=EPOCH, creation_timestamp=EPOCH))


def merge(parts: Sequence[bytes]) -> bytes:
    """As `profiles.merge`."""
    found: dict[str, list[Any]] = {}
    for part in parts:
        for name, column in _read(part).items():
            found.setdefault(name, []).append(column)
    merged = {name: _merged(column) for name, column in found.items()}
    return _bytes(DatasetProfileView(columns=merged, dataset_timestamp=EPOCH, creation_timestamp=EPOCH))


def remembered(profile_bytes: bytes) -> dict[str, Remembered]:
    """What the profile remembers, by column."""
    return {name: _remembered(column) for name, column in _read(profile_bytes).items()}


def _remembered(view: Any) -> Remembered:
    counts, frequent = view.get_metric("counts"), view.get_metric("frequent_items")
    kll = view.get_metric(DISTRIBUTION).kll.value
    return Remembered(
        n=int(counts.n.value),
        missing=int(counts.null.value),
        frequent={item.value: int(item.est) for item in frequent.strings} if frequent else {},
        kept=None if kll.is_empty() else quantiles.decode(kll.serialize()),
        cardinality=float(view.get_metric("cardinality").hll.value.get_estimate()),
    )


def _read(profile_bytes: bytes) -> dict[str, Any]:
    try:
        return dict(DatasetProfileView.deserialize(profile_bytes).get_columns())
    except Exception as error:  # whatever its parser stumbles over
        raise StoreError(f"not a profile of {NAME}: {error}; it was made with another library, make it again") from None


@cache
def _component(field: str, type_id: int) -> Any:
    """The class of a value that was read: whylogs makes one for every value, nine tenths of what reading costs."""
    kinds = {"n": int, "d": float, "hll": whylogs_sketching.hll_sketch, "kll": whylogs_sketching.kll_doubles_sketch}
    kind = kinds.get(field, whylogs_sketching.frequent_strings_sketch)
    return type("Component", (MetricComponent,), {"mtype": kind, "type_id": type_id})


def _parsed(_: Any, msg: Any, registries: Any = None) -> Any:
    component = _component(msg.WhichOneof("value"), msg.type_id)(value=None)
    component.set(component._deserializer(msg=msg))
    return component


MetricComponent.from_protobuf = classmethod(_parsed)


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


def _column(split: Split) -> Any:
    given = _preprocessed(split)
    names = ["counts", "types", "cardinality"]
    names += [] if split.floats is not None else ["frequent_items"]  # of floats no value is frequent
    names += [] if split.integers is None else ["ints"]
    metrics = {name: StandardMetric[name].zero() for name in names}
    for metric in metrics.values():
        metric.columnar_update(given)
    spread = columns.moments(split.numbers)
    distribution = _distribution(quantiles.kept(split.numbers), spread)
    return ColumnProfileView(metrics={**metrics, DISTRIBUTION: distribution}, success_count=split.rows)


def _preprocessed(split: Split) -> Any:
    """The column as whylogs' metrics want it."""
    given = PreprocessedColumn()
    given.len, given.null_count, given.nan_count, given.inf_count = split.rows, split.missing, split.nan, split.infinite
    given.bool_count, given.bool_count_where_true = split.flags.size, int(split.flags.sum())
    given.numpy.floats, given.numpy.ints = split.floats, split.integers
    given.pandas.strings, given.pandas.objs = split.texts, split.others
    return given


def _merged(parts: list[Any]) -> Any:
    """One column of the rows of all; distributions apart, as whylogs' own merge of them draws random bits."""
    others = [
        ColumnProfileView(
            metrics={name: column.get_metric(name) for name in column.get_metric_names() if name != DISTRIBUTION},
            success_count=int(column.get_metric("counts").n.value),
        )
        for column in parts
    ]
    whole = reduce(lambda a, b: a.merge(b), others)
    metrics = {name: whole.get_metric(name) for name in sorted(whole.get_metric_names())}
    rows = int(whole.get_metric("counts").n.value)
    return ColumnProfileView(metrics={**metrics, DISTRIBUTION: _summed(parts)}, success_count=rows)


def _summed(parts: list[Any]) -> Any:
    """Distributions added up."""
    found = [part.get_metric(DISTRIBUTION) for part in parts]
    klls = [metric.kll.value for metric in found]
    finite = [kll.get_n() - part.get_metric("counts").inf.value for kll, part in zip(klls, parts, strict=True)]
    moments = [Moments(n, metric.mean.value, metric.m2.value) for n, metric in zip(finite, found, strict=True)]
    kept = [quantiles.decode(kll.serialize()) for kll in klls if not kll.is_empty()]
    return _distribution(quantiles.union(kept), columns.pooled(moments))


def _distribution(kept: quantiles.Kept | None, spread: Moments) -> Any:
    """Quantiles of all numbers and booleans; mean and variance of the finite ones."""
    return DistributionMetric(
        kll=KllComponent(_sketched(kept)), mean=FractionalComponent(spread.mean), m2=FractionalComponent(spread.m2)
    )


def _sketched(kept: quantiles.Kept | None) -> Any:
    """The library's sketch of what is kept."""
    if kept is not None and kept.weights.sum() > 1:
        return whylogs_sketching.kll_doubles_sketch.deserialize(quantiles.encode(kept))
    kll = whylogs_sketching.kll_doubles_sketch(k=quantiles.KLL_K)
    if kept is not None:
        kll.update(array=kept.values)
    return kll
