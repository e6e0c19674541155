"""Quarantine: stretches of time whose data were judged broken, and which rows of a training they touch.

The line of history that says `drift: data_bug` is the quarantine itself, so that no kill comes between the verdict and
it; later lines lift it or say how far it reaches. Checks of drift lift nothing: answers stay as they were given.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flows.steps.monitoring.policy import BROKEN

LIFTED, KEPT = "quarantine lifted", "quarantine kept"
SETTLED = 0.5  # share of a window, lifted before, from which it is the old incident: medians and most signs turn there


@dataclass(frozen=True, kw_only=True)
class Period:
    """Half-open `[since, until)` of broken data; overlapping windows are one period under the first one's id.

    `onwards` says that the source itself is broken there, so that the features of every later row look back on it.
    """

    id: str
    since: datetime
    until: datetime
    release: str
    why: str
    report: str
    columns: tuple[str, ...]  # that showed the signs, "" for whole rows
    onwards: bool = False
    note: str = ""  # what the newest prepare made of it
    lifted: str = ""  # by whom and why, "" while it holds

    def facts(self) -> dict[str, Any]:
        """It as it is kept with a version."""
        ends = {"since": self.since.isoformat(), "until": self.until.isoformat()}
        return {"id": self.id, **ends, "onwards": self.onwards, "why": self.why, "release": self.release}

    def __str__(self) -> str:
        span = f"{self.since:%Y-%m-%d %H:%M} to {self.until:%Y-%m-%d %H:%M}"
        reach = " and all that looks back on it" if self.onwards else ""
        return f"{self.id} {span}{reach}: {self.why}" + (f" ({self.note})" if self.note else "")


def read(history: Iterable[Mapping[str, Any]]) -> tuple[Period, ...]:
    """Every period that was ever quarantined, lifted ones too, by its start."""
    found: list[Period] = []
    for line in history:
        if line["action"] == BROKEN and line.get("since"):
            found = _joined(found, _period(line))
        elif line["action"] == LIFTED:
            by = f"{line['by']}: {line['reason']}"
            found = [replace(p, lifted=by) if p.id == line["id"] else p for p in found]
        elif line["action"] == KEPT:
            reach, note = bool(line["onwards"]), str(line["reason"])
            found = [replace(p, onwards=reach, note=note) if p.id == line["id"] else p for p in found]
    return tuple(sorted(found, key=lambda p: (p.since, p.id)))


def holding(history: Iterable[Mapping[str, Any]]) -> tuple[Period, ...]:
    """The periods that nobody has lifted."""
    return tuple(p for p in read(history) if not p.lifted)


def restored(facts: Mapping[str, Any] | None) -> tuple[Period, ...]:
    """The periods that a version was trained without, from what was kept with it."""
    return tuple(
        Period(
            **{k: p[k] for k in ("id", "onwards", "why", "release")},
            since=datetime.fromisoformat(p["since"]),
            until=datetime.fromisoformat(p["until"]),
            report="",
            columns=(),
        )
        for p in (facts or {}).get("periods", ())
    )


def _period(line: Mapping[str, Any]) -> Period:
    marks = [line["release"], line["since"], line["until"]]
    return Period(
        id=hashlib.sha256(json.dumps(marks).encode()).hexdigest()[:8],
        since=datetime.fromisoformat(line["since"]),
        until=datetime.fromisoformat(line["until"]),
        release=str(line["release"]),
        why=str(line["reason"]),
        report=str(line.get("report", "")),
        columns=tuple(sorted(set(line.get("columns", ())))),
    )


def _joined(found: list[Period], new: Period) -> list[Period]:
    """With one more window: the same incident as a lifted one if most of it is, else one with what it overlaps."""
    length = (new.until - new.since).total_seconds()
    for old in (p for p in found if p.lifted):
        shared = (min(old.until, new.until) - max(old.since, new.since)).total_seconds()
        if shared > SETTLED * length or old.id == new.id:
            return found
    touching = [p for p in found if not p.lifted and p.since <= new.until and new.since <= p.until]
    whole = replace(
        new,
        id=touching[0].id if touching else new.id,
        since=min(p.since for p in (*touching, new)),
        until=max(p.until for p in (*touching, new)),
        columns=tuple(sorted({c for p in (*touching, new) for c in p.columns})),
        onwards=any(p.onwards for p in touching),
        note=touching[0].note if touching else "",
    )
    return [*(p for p in found if p not in touching), whole]


def touched(times: Iterable[pd.Timestamp], days: int, periods: Sequence[Period]) -> NDArray[np.bool_]:
    """Which rows' features, of the time `times` [n, UTC], or labels, known `days` later, fall in a period."""
    at = pd.to_datetime(pd.Series(times), utc=True)
    found = np.zeros(len(at), dtype=bool)
    for period in periods:
        since, until = pd.Timestamp(period.since), pd.Timestamp(period.until)
        late = (at >= since) | (at + pd.Timedelta(days=days) > since)
        found |= (late & ((at < until) | period.onwards)).to_numpy(dtype=bool)
    return found


def inside(times: Iterable[pd.Timestamp], periods: Sequence[Period]) -> NDArray[np.bool_]:
    """Which answers, by their time [n, UTC], were given in a period; how far its source is broken does not matter."""
    return touched(times, 0, [replace(period, onwards=False) for period in periods])
