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
PREPARE = "prepare"  # lifts what its data show to be sound


@dataclass(frozen=True, kw_only=True)
class Period:
    """Half-open `[since, until)` of broken data; overlapping windows are one period under the first one's id.

    What was lifted stays lifted: of a later window that overlaps it only the rest is in quarantine.
    `onwards` says that the source itself is broken there, or that no prepare has looked yet: the features of every
    later row look back on it.
    """

    id: str
    since: datetime
    until: datetime
    release: str
    why: str
    report: str
    columns: tuple[str, ...]  # that showed the signs, "" for whole rows
    onwards: bool = True
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


def answered(history: Iterable[Mapping[str, Any]]) -> tuple[Period, ...]:
    """The periods whose answers were given on broken data: a prepare mends what is trained on, no answer."""
    return tuple(p for p in read(history) if not p.lifted or p.lifted.startswith(f"{PREPARE}: "))


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
    since, until = (datetime.fromisoformat(line[end]) for end in ("since", "until"))
    return Period(
        id=_id(since, until),
        since=since,
        until=until,
        release=str(line["release"]),
        why=str(line["reason"]),
        report=str(line.get("report", "")),
        columns=tuple(sorted(set(line.get("columns", ())))),
    )


def _id(since: datetime, until: datetime) -> str:
    return hashlib.sha256(json.dumps([since.isoformat(), until.isoformat()]).encode()).hexdigest()[:8]


def _joined(found: list[Period], new: Period) -> list[Period]:
    """With one more window: what of it was not lifted before, as one period with what that overlaps."""
    spans = [(new.since, new.until)]
    for old in (p for p in found if p.lifted):
        before = [(since, min(until, old.since)) for since, until in spans]
        after = [(max(since, old.until), until) for since, until in spans]
        spans = [(since, until) for since, until in (*before, *after) if since < until]
    for since, until in spans:
        found = _merged(found, replace(new, id=_id(since, until), since=since, until=until))
    return found


def _merged(found: list[Period], new: Period) -> list[Period]:
    touching = [p for p in found if not p.lifted and p.since <= new.until and new.since <= p.until]
    whole = replace(
        new,
        id=touching[0].id if touching else new.id,
        since=min(p.since for p in (*touching, new)),
        until=max(p.until for p in (*touching, new)),
        columns=tuple(sorted({c for p in (*touching, new) for c in p.columns})),
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
