"""Decided rows: what a release made of the rows of a batch, by column; as answers and journal lines where asked."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import repeat
from typing import Any, NamedTuple, overload

import msgspec
import numpy as np

from bentos.runtime import blocks
from bentos.runtime.answers import Answer, Columnar, RowError
from bentos.runtime.scoring.gathered import Gathered
from bentos.runtime.scoring.release import Release
from bentos.runtime.scoring.wire import ENCODER, order, values_type

FEW = 64  # rows: an array costs more to serialise than a list of so many


class Columns(NamedTuple):
    """Of each answered row what its answer and its record say, beside features and what `Ready` has."""

    ids: Sequence[str]
    scores: Sequence[float]
    risks: Sequence[str]
    times: Sequence[str | None]  # of the values, as they are written
    stale: Sequence[bool]
    smoke: Sequence[bool]


class Script:
    """How the answers and records of one release on one arm are written: what is the same in all, the rest in order."""

    def __init__(self, arm: str, served: Release) -> None:
        manifest = served.manifest
        self.arm, self.served, self.order = arm, served, order(manifest)
        fixed = {"model_version": served.model_version, "release": served.release, "arm": arm}
        self.values = values_type(self.order)
        self.fixed = tuple(fixed.values())
        self.answer = _struct(
            ["request_id", *manifest.keys, "probability", "risk", "features", "event_time", "stale"], fixed
        )
        record = ["request_id", "entity", *(["others"] if manifest.others else [])]
        record += ["score", "decision", "features", "event_time", "source", "state", "smoke", "time", "wall"]
        self.same = {"threshold": manifest.threshold} | fixed
        self.record = _struct(record, self.same)
        self.texts = list(self.order.texts)


class Decided(Columnar):
    """The results of some rows: `errors` by place, and columns of those that have an answer."""

    __slots__ = ("columns", "gathered", "now", "script", "wall")

    def __init__(self, script: Script, gathered: Gathered, columns: Columns, now: datetime, wall: str) -> None:
        self.script, self.gathered, self.columns, self.now, self.wall = script, gathered, columns, now, wall

    @property
    def errors(self) -> dict[int, RowError]:
        """Why rows have no answer, by place."""
        return self.gathered.errors

    def __len__(self) -> int:
        return len(self.columns.ids) + len(self.errors)

    @overload
    def __getitem__(self, at: int) -> Answer | RowError: ...
    @overload
    def __getitem__(self, at: slice) -> "Decided": ...
    def __getitem__(self, at: int | slice) -> "Answer | RowError | Decided":
        """A row's result, or those of some rows side by side."""
        if isinstance(at, slice):
            chosen = range(len(self))[at]
            return self if len(chosen) == len(self) else self._part(chosen)
        place = range(len(self))[at]
        return next(iter(self._part(range(place, place + 1))))

    def __iter__(self) -> Iterator[Answer | RowError]:
        answers = iter(self.answers())
        if not self.errors:
            return answers
        return iter([self.errors.get(i) or next(answers) for i in range(len(self))])

    def _part(self, chosen: range) -> "Decided":
        before = sum(at < chosen.start for at in self.errors)
        inside = {at - chosen.start: error for at, error in self.errors.items() if at in chosen}
        start = chosen.start - before
        kept = slice(start, start + len(chosen) - len(inside))
        columns: Any = [column[kept] for column in self.columns]
        return Decided(self.script, self.gathered.part(kept, inside), Columns(*columns), self.now, self.wall)

    def answers(self) -> list[Answer]:
        """The answers of the rows that have one."""
        if not (n := len(self.columns.ids)):
            return []
        lines = self._written()
        encoded = ENCODER.encode_lines(lines).split(b"\n") if n > 1 else [ENCODER.encode(lines[0])]
        (ids, scores, risks, _, stale, _), ready, script = self.columns, self.gathered.ready, self.script
        entity, by = repeat(script.served.manifest.entity), map(repeat, script.fixed)
        return list(map(Answer, ids, entity, ready.keys, scores, risks, ready.event_times, stale, *by, encoded))

    def column(self, name: str) -> Sequence[Any]:
        """One field of all answers."""
        columns, ready, served = self.columns, self.gathered.ready, self.script.served
        n = len(columns.ids)
        match name:
            case "request_id":
                return columns.ids
            case "key":
                return ready.keys
            case "probability":
                return columns.scores
            case "risk":
                return columns.risks
            case "event_time":
                return ready.event_times
            case "stale":
                return columns.stale
            case "entity":
                return [served.manifest.entity] * n
            case "arm":
                return [self.script.arm] * n
            case "release":
                return [served.release] * n
        return [served.model_version] * n

    def encoded(self) -> bytes:
        """The JSON list of all answers."""
        return ENCODER.encode(self._written())

    def record(self) -> bytes:
        """The journal's line of the answers, its end included; nothing if there are none."""
        keys, sources, _, states, others, moments = self.gathered.ready
        ids, scores, risks, times, _, smoke = self.columns
        if not ids:
            return b""
        further, script = self.script.served.manifest.others, self.script
        now = self.now.isoformat()
        asked = written([moment or self.now for moment in moments]) if script.served.manifest.time else [now] * len(ids)
        if len(ids) == 1:
            beside = [dict(zip(further, others[0], strict=True))] if further else []
            about = (sources[0], states[0], smoke[0], asked[0], self.wall)
            line = script.record(ids[0], keys[0], *beside, scores[0], risks[0], self._features()[0], times[0], *about)
            return ENCODER.encode(line) + b"\n"
        columns = {"request_id": ids, "entity": keys, "score": scores, "decision": risks, "event_time": times}
        return blocks.compose(
            len(ids),
            columns | {"source": sources, "state": states, "smoke": smoke, "time": asked},
            names=script.order.names,
            values=self._values(),
            others=dict(zip(further, zip(*others, strict=True), strict=True)) if further else {},
            same={"wall": self.wall} | script.same,
        )

    def _written(self) -> list[Any]:
        """A struct per answer, as it is written."""
        keys, others = self.gathered.ready.keys, self.gathered.ready.others
        further = list(zip(*others, strict=True)) if self.script.served.manifest.others else []
        ids, scores, risks, times, stale, _ = self.columns
        return list(map(self.script.answer, ids, keys, *further, scores, risks, self._features(), times, stale))

    def _features(self) -> Sequence[Any]:
        """A struct per row with its features."""
        if self.gathered.brought is not None:
            return self.gathered.brought
        columns = [c.tolist() if isinstance(c, np.ndarray) else c for c in self._values()]
        return list(map(self.script.values, *columns))

    def _values(self) -> list[Any]:
        """A list or array per feature with its value in each row."""
        columns: list[Any] = list(np.ascontiguousarray(self.gathered.values.T))
        if len(self.columns.ids) < FEW:
            columns = [column.tolist() for column in columns]
        for c, name in enumerate(self.script.texts):
            columns[self.script.order.names.index(name)] = self.gathered.texts[:, c].tolist()
        return columns


def _struct(names: Sequence[str], fixed: Mapping[str, Any]) -> Any:
    """A struct with fields of these names, and behind them what is the same in all."""
    fields = [(f"v{i}", Any) for i in range(len(names))]
    constants = [(f"c{i}", Any, value) for i, value in enumerate(fixed.values())]
    renamed = {f"v{i}": name for i, name in enumerate(names)} | {f"c{i}": name for i, name in enumerate(fixed)}
    return msgspec.defstruct("Written", [*fields, *constants], rename=renamed, gc=False)


def written(moments: Sequence[datetime | None]) -> list[str | None]:
    """Moments as they stand in answers and records; few of them differ."""
    if blocks.alike(moments):
        return [None if moments[0] is None else moments[0].isoformat()] * len(moments)
    known = {moment: None if moment is None else moment.isoformat() for moment in set(moments)}
    return [known[moment] for moment in moments]
