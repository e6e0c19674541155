"""Inputs: from the rows of a batch to one matrix of values, each bad row set aside with its own error."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import numpy as np

from bentos.runtime.answers import RowError
from bentos.runtime.manifest import Manifest
from bentos.runtime.online import FeatureReader, FeatureRows
from bentos.runtime.scorer import Floats, preprocess

Key = int | str
MAX_KEY = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Input:
    """One row ready to score: raw values [k] (NaN where missing), their event time and how fresh they are."""

    key: Key
    values: Floats
    source: Literal["online", "request"]
    event_time: datetime | None = None
    state: Literal["ok", "expired", "missing"] = "ok"


def gather(
    rows: Sequence[Mapping[str, Any]], manifest: Manifest, reader: FeatureReader, now: datetime
) -> list[Input | RowError]:
    """Each row's input or error, in order, with one read for all rows that bring no features of their own."""
    checked = [check(row, manifest) for row in rows]
    asked = [i for i, row in enumerate(checked) if isinstance(row, Input) and row.source == "online"]
    if asked:
        for i, row in zip(asked, _read([rows[i][manifest.entity] for i in asked], manifest, reader, now), strict=True):
            checked[i] = row
    ready = [i for i, row in enumerate(checked) if isinstance(row, Input)]
    if ready:
        _refuse_unbounded(checked, ready, manifest)
    return checked


def check(row: Mapping[str, Any], manifest: Manifest) -> Input | RowError:
    """A row's key and, where it brings them, its features; an online row's values are still to be read."""
    key = row.get(manifest.entity)
    if isinstance(key, bool) or not isinstance(key, int | str) or (isinstance(key, int) and not 0 <= key <= MAX_KEY):
        return RowError(
            422, f"{manifest.entity} is {key!r}; give a whole number from 0 to {MAX_KEY}", {"field": manifest.entity}
        )
    given = row.get("features")
    if given is None:
        return Input(key, np.empty(0), "online")
    unknown = [name for name in given if name not in set(manifest.names)]
    lacking = [name for name in manifest.names if name not in given]
    if unknown or lacking:
        problem = f"unknown: {', '.join(unknown)}" if unknown else f"missing: {', '.join(lacking)}"
        return RowError(
            422,
            f"features must be exactly {', '.join(manifest.names)}; {problem}",
            {"field": f"features.{(unknown or lacking)[0]}"},
        )
    for name in manifest.names:
        if (reason := _not_a_number(given[name])) is not None:
            return RowError(
                422,
                f"feature {name} is {reason}; give a number, or null if it is missing",
                {"field": f"features.{name}"},
            )
    values = [math.nan if given[name] is None else float(given[name]) for name in manifest.names]
    return Input(key, np.array(values, dtype=np.float64), "request")


def _not_a_number(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"{value!r:.40}"
    try:
        return None if math.isfinite(value) else f"{value!r}"
    except OverflowError:
        return f"too large ({len(str(value))} digits)"


def _read(keys: list[Key], manifest: Manifest, reader: FeatureReader, now: datetime) -> list[Input | RowError]:
    try:
        rows = reader.read(keys, now)
    except Exception as error:  # whatever the store raises, rows that bring their features are still answered
        reason = f"the online store cannot be read: {type(error).__name__}"
        return [RowError(503, f"{reason}; retry later", {manifest.entity: key}) for key in keys]
    return [_from_online(key, i, rows, manifest, now) for i, key in enumerate(keys)]


def _from_online(key: Key, i: int, rows: FeatureRows, manifest: Manifest, now: datetime) -> Input | RowError:
    about: dict[str, Any] = {manifest.entity: key}
    if not rows.found[i]:
        return RowError(404, f"no {manifest.entity} {key} in the feature store", about)
    event_time, ttl = rows.event_times[i], rows.ttls[i]
    state: Literal["ok", "expired", "missing"] = (
        "expired" if rows.expired[i] else "missing" if rows.missing[i] else "ok"
    )
    if state != "ok" and manifest.stale == "reject":
        about["event_time"] = None if event_time is None else event_time.isoformat()
        if isinstance(ttl, timedelta):
            about["ttl_seconds"] = ttl.total_seconds()
            return RowError(
                409,
                f"the features of {manifest.entity} {key} are of {about['event_time']}, older at "
                f"{now.isoformat()} than their ttl of {ttl}; materialise newer ones",
                about,
            )
        return RowError(
            409,
            f"some features of {manifest.entity} {key} are missing (those there are of "
            f"{about['event_time']}); materialise every view of {manifest.feature_service}",
            about,
        )
    return Input(key, rows.values[i], "online", event_time, state)


def _refuse_unbounded(rows: list[Input | RowError], ready: list[int], manifest: Manifest) -> None:
    """Replace rows whose values do not fit the model's float32 inputs by an error that names the first such feature."""
    x = np.stack([row.values for i in ready if isinstance(row := rows[i], Input)])
    unbounded = ~np.isfinite(preprocess(x, manifest.features))
    for at in np.flatnonzero(unbounded.any(axis=1)):
        j = int(np.flatnonzero(unbounded[at])[0])
        rows[ready[at]] = RowError(
            422,
            f"feature {manifest.names[j]} is {x[at, j]:g}: too large for the model",
            {"field": f"features.{manifest.names[j]}"},
        )
