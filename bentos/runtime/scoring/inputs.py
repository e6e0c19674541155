"""Inputs: from the rows of a batch to one matrix of values, each bad row set aside with its own error."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from operator import attrgetter
from types import NoneType
from typing import Any, Literal, NamedTuple

import numpy as np

from bentos.runtime.answers import RowError
from bentos.runtime.features.cache import EntityReader
from bentos.runtime.features.rows import FeatureRows
from bentos.runtime.scoring.categories import Texts
from bentos.runtime.scoring.gathered import NOBODY, Gathered, Key, Ready, places, requested
from bentos.runtime.scoring.given import Given
from bentos.runtime.scoring.manifest import Manifest
from bentos.runtime.scoring.scorer import Floats, Preprocessor
from bentos.runtime.scoring.table import Table
from bentos.runtime.scoring.wire import FEATURES, Row, Values, order

Fields = Mapping[str, Any] | Row
MAX_KEY = 2**63 - 1
MAX_ROWS = 10_000  # of one call
FEATURES_OF = attrgetter(FEATURES)


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


class Gatherer:
    """Turns rows into inputs for one release."""

    def __init__(self, manifest: Manifest, reader: EntityReader, preprocess: Preprocessor) -> None:
        self.manifest, self.reader, self.preprocess = manifest, reader, preprocess
        self.names, self.categories = manifest.names, preprocess.categories
        self._given, self._order = Given(self.names, self.categories), order(manifest)
        self._key = attrgetter(manifest.entity)

    def gather(self, rows: Sequence[Fields], now: datetime) -> Gathered:
        """Inputs and errors, with one read for all rows that bring no features of their own."""
        if (plain := self._plain(rows, now)) is not None:
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
            elif isinstance(picked := self._given.picked(features), RowError):
                found.append(picked)
            else:
                given.append(picked)
                given_at.append(i)
                found.append(Input(key, "request", None, "ok"))
        values, texts = self._blank(len(rows))
        if given:
            self._given.put(found, values, texts, given, given_at)
        if asked:
            self._read(found, values, texts, asked, now)
        return self._gathered(found, values, texts)

    def _blank(self, n: int) -> tuple[Floats, Texts]:
        """Room for the values and texts of n rows."""
        return np.empty((n, len(self.names))), np.empty((n, len(self.categories.columns)), dtype=object)

    def _plain(self, rows: Sequence[Fields], now: datetime) -> Gathered | None:
        """The inputs of rows off the wire if all bring just the features asked for, or all bring none; else None."""
        if isinstance(rows, Table):
            return self._table(rows)
        if not all(issubclass(kind, Row) for kind in set(map(type, rows))):
            return None
        features = list(map(FEATURES_OF, rows))
        [kind, *others] = set(map(type, features))
        if others or not (kind is NoneType or (issubclass(kind, Values) and kind.order == self._order)):
            return None
        keys, n = list(map(self._key, rows)), len(rows)
        if kind is not NoneType:
            brought = self._given.matrices(features)
            return None if brought is None else self._bounded({}, requested(keys), *brought, features)
        found: list[Input | RowError] = [Input(key, "online", None, "ok") for key in keys]
        values, texts = self._blank(n)
        self._read(found, values, texts, range(n), now)
        return self._gathered(found, values, texts)

    def _table(self, rows: Table) -> Gathered | None:
        """The inputs of rows that bring their features as columns; None if these are not as they are asked for."""
        if rows.order != self._order or (brought := self._given.arrays(rows.columns)) is None:
            return None
        return self._bounded({}, requested(rows.keys), *brought)

    def _read(
        self, found: list[Input | RowError], values: Floats, texts: Texts, asked: Sequence[int], now: datetime
    ) -> None:
        keys = [row.key for i in asked if isinstance(row := found[i], Input)]
        try:
            rows = self.reader.read(keys, now)
        except Exception as error:  # whatever the store raises, rows that bring their features are still answered
            reason = f"the online store cannot be read: {type(error).__name__}"
            for i, key in zip(asked, keys, strict=True):
                found[i] = RowError(503, f"{reason}; retry later", {self.manifest.entity: key})
            return
        values[asked] = rows.values
        self._stored(rows, values, texts, asked)
        plain = bool(rows.found.all()) and not rows.expired.any() and not rows.missing.any()
        for at, (i, key) in enumerate(zip(asked, keys, strict=True)):
            found[i] = (
                Input(key, "online", rows.event_times[at], "ok")
                if plain
                else _from_online(key, at, rows, self.manifest, now)
            )

    def _stored(self, rows: FeatureRows, values: Floats, texts: Texts, asked: Sequence[int]) -> None:
        """Put stored texts and their codes into the matrices."""
        for c, (j, name) in enumerate(zip(self.categories.columns, self.categories.names, strict=True)):
            if name in rows.texts:
                texts[asked, c] = rows.texts[name]
                values[asked, j] = self.categories.codes(c, rows.texts[name])

    def _gathered(self, found: list[Input | RowError], values: Floats, texts: Texts) -> Gathered:
        """The rows' inputs and errors; values and texts are of all of them."""
        errors = {i: row for i, row in enumerate(found) if isinstance(row, RowError)}
        inputs = [row for row in found if isinstance(row, Input)]
        if errors:
            fine = [i for i in range(len(found)) if i not in errors]
            values, texts = values[fine], texts[fine]
        return self._bounded(errors, Ready(*zip(*inputs, strict=True)) if inputs else NOBODY, values, texts)

    def _bounded(
        self,
        errors: dict[int, RowError],
        ready: Ready,
        values: Floats,
        texts: Texts,
        brought: Sequence[Values] | None = None,
    ) -> Gathered:
        """Refuse rows whose values do not fit the model's float32 inputs, naming the first such feature."""
        z = self.preprocess(values)
        gathered = Gathered(errors, ready, values, texts, z, brought)
        bounded = np.isfinite(z)
        if bounded.all():
            return gathered
        whole, place = np.asarray(bounded.all(axis=1)), places(errors, len(values))
        beyond = {}
        for at in np.flatnonzero(~whole):
            name = self._given.numbers[int(np.flatnonzero(~bounded[at])[0])]
            value = values[at, self.names.index(name)]
            beyond[place[at]] = RowError(
                422, f"feature {name} is {value:g}: too large for the model", {"field": f"features.{name}"}
            )
        return gathered.only(whole, beyond)


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
