"""Inputs: from the rows of a batch to one matrix of values, each bad row set aside with its own error."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any, Literal, NamedTuple

import numpy as np

from bentos.runtime.answers import RowError
from bentos.runtime.features.cache import EntityReader
from bentos.runtime.features.rows import FeatureRows
from bentos.runtime.scoring.manifest import Manifest
from bentos.runtime.scoring.model import Inputs
from bentos.runtime.scoring.scorer import Floats, Preprocessor

Key = int | str
MAX_KEY = 2**63 - 1
MAX_ROWS = 10_000  # of one call
NUMBERS = frozenset({float, int, type(None)})


class Input(NamedTuple):
    """A row ready to score: where its values come from, their event time and how fresh they are.

    A row that brings its features may name no entity (key None); the row must say so, a key left out is refused.
    `others` are the keys of its further entities, `moment` its own time, where it brings one.
    """

    key: Key | None
    source: Literal["online", "request"]
    event_time: datetime | None
    state: Literal["ok", "expired", "missing"]
    others: tuple[Key, ...] = ()
    moment: datetime | None = None


@dataclass(frozen=True)
class Gathered:
    """Each row's input or error, in order; raw values [m, k] and model inputs [m, k] of the m rows without error."""

    rows: list[Input | RowError]
    values: Floats
    z: Inputs


class Gatherer:
    """Turns rows into inputs for one release."""

    def __init__(self, manifest: Manifest, reader: EntityReader, preprocess: Preprocessor) -> None:
        self.manifest, self.reader, self.preprocess = manifest, reader, preprocess
        self.names = manifest.names
        pick = itemgetter(*self.names)
        self._pick: Callable[[Mapping[str, Any]], tuple[Any, ...]] = (
            pick if len(self.names) > 1 else lambda given: (pick(given),)
        )

    def gather(self, rows: Sequence[Mapping[str, Any]], now: datetime, *, checked: bool = False) -> Gathered:
        """Inputs and errors, with one read for all rows that bring no features of their own.

        `checked` says that keys and the types of given features are right; the common cases then need no loop here.
        """
        if checked and (plain := self._plain(rows, now)) is not None:
            return plain
        found: list[Input | RowError] = []
        given: list[tuple[Any, ...]] = []
        given_at: list[int] = []
        asked: list[int] = []
        entity = self.manifest.entity
        for i, row in enumerate(rows):
            key, features = row.get(entity), row.get("features")
            nameless = key is None and features is not None and entity in row
            if not nameless and (
                isinstance(key, bool)
                or not isinstance(key, int | str)
                or (type(key) is int and not 0 <= key <= MAX_KEY)
            ):
                reason = f"{entity} is {key!r}; give a whole number from 0 to {MAX_KEY}"
                found.append(RowError(422, reason, {"field": entity}))
            elif features is None:
                asked.append(i)
                found.append(Input(key, "online", None, "ok"))
            elif isinstance(picked := self._picked(features), RowError):
                found.append(picked)
            else:
                given.append(picked)
                given_at.append(i)
                found.append(Input(key, "request", None, "ok"))
        values = np.empty((len(rows), len(self.names)))
        if given:
            self._given(found, values, given, given_at)
        if asked:
            self._read(found, values, asked, now)
        return self._bounded(found, values)

    def _plain(self, rows: Sequence[Mapping[str, Any]], now: datetime) -> Gathered | None:
        """The inputs of checked rows if all bring exactly the features asked for, or all bring none; else None."""
        keys = [row[self.manifest.entity] for row in rows]
        features = [row.get("features") for row in rows]
        if not any(features) and all(f is None for f in features):
            source: Literal["online", "request"] = "online"
        elif {len(self.names)} == {len(f) if f is not None else 0 for f in features}:
            source = "request"
        else:
            return None
        found: list[Input | RowError] = [Input(key, source, None, "ok") for key in keys]
        values = np.empty((len(rows), len(self.names)))
        at = range(len(rows))
        if source == "online":
            self._read(found, values, at, now)
            return self._bounded(found, values)
        try:
            given = [self._pick(f) for f in features if f is not None]
        except KeyError:
            return None
        self._given(found, values, given, at)
        return self._bounded(found, values)

    def _picked(self, features: Mapping[str, Any]) -> RowError | tuple[Any, ...]:
        """The values that a row brings, in order, or what is wrong with their names and types."""
        try:
            values = self._pick(features)
        except KeyError:
            return self._named(features)
        if len(features) != len(values):
            return self._named(features)
        return values if NUMBERS.issuperset(map(type, values)) else self._not_numbers(values) or values

    def _named(self, given: Mapping[str, Any]) -> RowError:
        names = self.names
        unknown = [name for name in given if name not in set(names)]
        lacking = [name for name in names if name not in given]
        problem = f"unknown: {', '.join(unknown)}" if unknown else f"missing: {', '.join(lacking)}"
        return RowError(
            422,
            f"features must be exactly {', '.join(names)}; {problem}",
            {"field": f"features.{(unknown or lacking)[0]}"},
        )

    def _not_numbers(self, values: Sequence[Any]) -> RowError | None:
        for name, value in zip(self.names, values, strict=True):
            if (reason := _not_a_number(value)) is not None:
                return RowError(
                    422,
                    f"feature {name} is {reason}; give a number, or null if it is missing",
                    {"field": f"features.{name}"},
                )
        return None

    def _given(
        self, found: list[Input | RowError], values: Floats, given: list[tuple[Any, ...]], given_at: Sequence[int]
    ) -> None:
        """Put given values into the matrix, null as NaN; refuse what was given as NaN, infinite or beyond float64."""
        odd: Sequence[int] = range(len(given))
        try:
            x = np.array(given, dtype=np.float64)
            values[given_at] = x
            lacking = (~np.isfinite(x)).sum(axis=1).tolist()
            odd = [i for i, n in enumerate(lacking) if n and given[i].count(None) != n]
        except OverflowError:  # an integer too large for a float
            for at, row in zip(given_at, given, strict=True):
                values[at] = [math.nan if _not_a_number(v) else v for v in row]
        for at in odd:
            found[given_at[at]] = self._not_numbers(given[at]) or found[given_at[at]]

    def _read(self, found: list[Input | RowError], values: Floats, asked: Sequence[int], now: datetime) -> None:
        keys = [row.key for i in asked if isinstance(row := found[i], Input)]
        try:
            rows = self.reader.read(keys, now)
        except Exception as error:  # whatever the store raises, rows that bring their features are still answered
            reason = f"the online store cannot be read: {type(error).__name__}"
            for i, key in zip(asked, keys, strict=True):
                found[i] = RowError(503, f"{reason}; retry later", {self.manifest.entity: key})
            return
        values[asked] = rows.values
        plain = bool(rows.found.all()) and not rows.expired.any() and not rows.missing.any()
        for at, (i, key) in enumerate(zip(asked, keys, strict=True)):
            found[i] = (
                Input(key, "online", rows.event_times[at], "ok")
                if plain
                else _from_online(key, at, rows, self.manifest, now)
            )

    def _bounded(self, found: list[Input | RowError], values: Floats) -> Gathered:
        """Refuse rows whose values do not fit the model's float32 inputs, naming the first such feature."""
        ready = [i for i, row in enumerate(found) if isinstance(row, Input)]
        if len(ready) < len(found):
            values = values[ready]
        z = self.preprocess(values)
        bounded = np.isfinite(z)
        if bounded.all():
            return Gathered(found, values, z)
        whole = bounded.all(axis=1)
        for at in np.flatnonzero(~whole):
            j = int(np.flatnonzero(~bounded[at])[0])
            name = self.names[j]
            found[ready[at]] = RowError(
                422, f"feature {name} is {values[at, j]:g}: too large for the model", {"field": f"features.{name}"}
            )
        return Gathered(found, values[whole], z[whole])


def _not_a_number(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"{value!r:.40}"
    try:
        return None if math.isfinite(value) else f"{value!r}"
    except OverflowError:
        return f"too large ({len(str(value))} digits)"


def _from_online(key: Key | None, i: int, rows: FeatureRows, manifest: Manifest, now: datetime) -> Input | RowError:
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
    return Input(key, "online", event_time, state)
