"""Event rows: rows with a time of their own, keys of several entities and inputs that only the request knows."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import numpy as np

from bentos.runtime.answers import RowError
from bentos.runtime.features.joined import JoinedReader, Reader
from bentos.runtime.features.rows import FeatureRows
from bentos.runtime.scoring import request
from bentos.runtime.scoring.categories import Texts
from bentos.runtime.scoring.gathered import Gathered, Key
from bentos.runtime.scoring.given import not_a_number
from bentos.runtime.scoring.inputs import MAX_KEY, Fields, Gatherer, Input, _from_online
from bentos.runtime.scoring.manifest import Manifest
from bentos.runtime.scoring.scorer import Floats, Preprocessor

EPOCH, MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
NEAR = timedelta(days=1)  # how far a row's time may be from the use case's clock, which may stand at midnight


def gatherer(manifest: Manifest, reader: Reader, preprocess: Preprocessor) -> Gatherer:
    """What turns rows into inputs for a release: of entities, or of events with a time of their own."""
    if isinstance(reader, JoinedReader):
        return EventGatherer(manifest, reader, preprocess)
    return Gatherer(manifest, reader, preprocess)


class EventGatherer(Gatherer):
    """Turns event rows into inputs for one release."""

    def __init__(self, manifest: Manifest, reader: JoinedReader, preprocess: Preprocessor) -> None:
        super().__init__(manifest, reader, preprocess)  # type: ignore[arg-type]  # read in `_look_up` alone
        self._joined = reader
        self._numbers = request.numbers(manifest.request)

    def gather(self, rows: Sequence[Fields], now: datetime) -> Gathered:
        """Inputs and errors, with one read per entity for all rows that bring no features of their own."""
        found: list[Input | RowError] = [self._row(row, now) for row in rows]
        values, texts = self._blank(len(rows))
        values.fill(np.nan)
        given: list[tuple[Any, ...]] = []
        given_at: list[int] = []
        asked: list[int] = []
        for i, row in enumerate(found):
            if not isinstance(row, Input):
                continue
            if row.source == "online":
                asked.append(i)
            elif isinstance(picked := self._given.picked(rows[i]["features"]), RowError):
                found[i] = picked
            else:
                given.append(picked)
                given_at.append(i)
        if given:
            self._given.put(found, values, texts, given, given_at)
        if asked:
            self._brought(values, [rows[i] for i in asked], asked)
            self._look_up(found, values, texts, asked, now)
        self._within(found, values)
        return self._gathered(found, values, texts)

    def _row(self, row: Fields, now: datetime) -> Input | RowError:
        """A row's keys, time and where its features come from, or what is wrong with the first of what it brings."""
        keys: list[Key] = []
        for name in self.manifest.keys:
            key = row.get(name)
            if isinstance(key, bool) or not isinstance(key, int) or not 0 <= key <= MAX_KEY:
                return _refused(name, f"{name} is {key!r}; give a whole number from 0 to {MAX_KEY}")
            keys.append(key)
        moment, complete = row.get(self.manifest.time), row.get("features") is not None
        for name in () if complete else self._numbers:
            value = row.get(name)
            if (reason := "missing" if value is None else not_a_number(value)) is not None:
                return _refused(name, f"{name} is {reason}; give a number")
        if complete and moment is None:
            return Input(keys[0], "request", None, "ok", tuple(keys[1:]))
        if not isinstance(moment, datetime) or moment.tzinfo is None:
            return _refused(self.manifest.time, f"{self.manifest.time} is {moment!r}; give a time with its zone")
        if abs(moment - now) > NEAR:
            return _refused(
                self.manifest.time,
                f"{self.manifest.time} is {moment.isoformat()}, more than {NEAR.days} day from {now.isoformat()}; "
                "score what is older, or not yet, in a batch",
            )
        source: Literal["online", "request"] = "request" if complete else "online"
        return Input(keys[0], source, None, "ok", tuple(keys[1:]), moment.astimezone(UTC))

    def _brought(self, values: Floats, rows: Sequence[Fields], asked: Sequence[int]) -> None:
        """Put what the rows bring into the last columns."""
        moments = np.array([(row[self.manifest.time] - EPOCH) // MICROSECOND for row in rows], dtype=np.int64)
        given = {name: np.array([row[name] for row in rows], dtype=np.float64) for name in self._numbers}
        brought = request.matrix(self.manifest.request, given, moments)
        values[np.ix_(asked, range(len(self.manifest.stored), len(self.names)))] = brought

    def _look_up(
        self, found: list[Input | RowError], values: Floats, texts: Texts, asked: Sequence[int], now: datetime
    ) -> None:
        waiting = [row for i in asked if isinstance(row := found[i], Input)]
        keys = [(row.key, *row.others) for row in waiting]
        moments = [row.moment or now for row in waiting]
        try:
            rows: FeatureRows = self._joined.read(keys, np.array([m.timestamp() for m in moments]))
        except Exception as error:  # whatever the store raises, rows that bring their features are still answered
            reason = f"the online store cannot be read: {type(error).__name__}"
            for i, row in zip(asked, waiting, strict=True):
                found[i] = RowError(503, f"{reason}; retry later", {self.manifest.entity: row.key})
            return
        values[np.ix_(asked, range(len(self.manifest.stored)))] = rows.values
        self._stored(rows, values, texts, asked)
        for at, (i, row) in enumerate(zip(asked, waiting, strict=True)):
            read = _from_online(row.key, at, rows, self.manifest, moments[at])
            found[i] = read if isinstance(read, RowError) else read._replace(others=row.others, moment=row.moment)

    def _within(self, found: list[Input | RowError], values: Floats) -> None:
        """Refuse rows with an input of the request's beyond its bounds."""
        first = len(self.manifest.stored)
        beyond = request.outside(self.manifest.request, values[:, first:])
        for i in np.flatnonzero(beyond.any(axis=1)):
            row = found[i]
            if isinstance(row, Input):
                feature = self.manifest.request[int(np.flatnonzero(beyond[i])[0])]
                value = values[i, self.names.index(feature.name)]
                found[i] = _refused(
                    feature.name if row.source == "online" else f"features.{feature.name}",
                    f"{feature.name} is {value:g}; give {feature.minimum:g} to {feature.maximum:g}",
                )


def _refused(name: str, reason: str) -> RowError:
    return RowError(422, reason, {"field": name})
