"""Feature rows: values as they are known at a time, with what is too old marked as missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class FeatureRows:
    """Values [n, k] in the asked order, NaN where missing or expired, and per row where they come from.

    `event_times` are those of each row's oldest view, None if no view knows the entity. `expired`: a view's values
    were older than its ttl; `missing`: a view has nothing on an entity that another one knows; `ttls`: the ttl that
    expired first, for messages. `texts` has the features that are texts, str or None [n] by name; their values are 0.
    """

    values: npt.NDArray[np.float64]
    event_times: list[datetime | None]
    found: npt.NDArray[np.bool_]
    expired: npt.NDArray[np.bool_]
    missing: npt.NDArray[np.bool_]
    ttls: list[timedelta | None]
    texts: Mapping[str, npt.NDArray[np.object_]] = field(default_factory=dict)


@dataclass(frozen=True)
class View:
    """One view's share of a feature service."""

    name: str
    ttl: timedelta | None
    columns: tuple[int, ...]  # positions in the values


def dated(
    values: npt.NDArray[np.float64],
    times: npt.NDArray[np.int64],
    views: Sequence[View],
    now: datetime | npt.NDArray[np.float64],
) -> FeatureRows:
    """Values with expired ones removed; `times` [views, n] are event times in epoch seconds, 0 where nothing is known.

    Feast's online store hands out values of any age; its offline join keeps those of age <= ttl, and so do we. Rows
    with a time of their own, `now` in epoch seconds [n], get no values that are younger than they are either.
    """
    n, moment = len(values), now.timestamp() if isinstance(now, datetime) else now
    later = None if isinstance(now, datetime) else times > moment
    if later is not None:
        for view, rows in zip(views, later, strict=True):
            values[np.ix_(rows, view.columns)] = np.nan
        times = np.where(later, 0, times)
    expired = np.zeros(n, dtype=bool)
    ttls: list[timedelta | None] = [None] * n
    for view, seconds in zip(views, times, strict=True):
        if view.ttl is None:
            continue
        too_old = (seconds > 0) & (moment - seconds > view.ttl.total_seconds())
        if not too_old.any():
            continue
        values[np.ix_(too_old, view.columns)] = np.nan
        expired |= too_old
        for i in np.flatnonzero(too_old):
            ttls[i] = view.ttl if ttls[i] is None else min(view.ttl, ttls[i] or view.ttl)
    known = times > 0
    if known.all() and len(views):
        oldest = times.min(axis=0).tolist()
        found, missing = np.ones(n, dtype=bool), np.zeros(n, dtype=bool)
    else:
        count = known.sum(axis=0)
        found = np.asarray(count > 0, dtype=bool)
        missing = found & (count < len(views))
        never = np.iinfo(np.int64).max
        oldest = np.where(found, np.where(known, times, never).min(axis=0, initial=never), 0).tolist()
    if later is not None:
        found, missing = found | later.any(axis=0), missing | later.any(axis=0)
    moments = {t: datetime.fromtimestamp(t, UTC) if t else None for t in set(oldest)}
    return FeatureRows(values, [moments[t] for t in oldest], found, expired, missing, ttls)
