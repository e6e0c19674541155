"""The past that is replayed: labelled rows with the features of their own time, and the moments to decide at."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flows.errors import ContractError
from flows.steps.data import cohorts
from flows.steps.training.arrays import Table
from flows.usecases.spec import UseCase

ENOUGH = 4  # windows below which one odd one decides


@dataclass(frozen=True, kw_only=True)
class Past:
    """Every row whose label was known at `until`, in the order of time; a decision is taken every `step`.

    What was known at a moment is cut out of `rows` by the same functions that a training cuts by, so that labels are
    used only once they were mature.
    """

    case: UseCase
    rows: Table
    until: pd.Timestamp
    step: str

    @property
    def horizon(self) -> pd.Timedelta:
        """How long after its row's time a label is known."""
        return pd.Timedelta(days=self.case.horizon_days)


def step_of(case: UseCase, days: int | None) -> str:
    """How often is decided, a pandas frequency: the grid of cut-offs; for events every `days`, or `test_days`.

    ContractError if days are given where rows come by cut-off, or fewer than one.
    """
    if not case.by_event and days is not None:
        raise ContractError(
            f"{case.name} has rows at the cut-offs of its grid ({case.grid}) only: leave the days of a step out"
        )
    if days is not None and days < 1:
        raise ContractError(f"a step of {days} days; give at least 1")
    return f"{days or case.test_days}D" if case.by_event else case.grid


def labelled(case: UseCase, events: pd.DataFrame, until: pd.Timestamp) -> pd.DataFrame:
    """Keys, `event_timestamp`, request features and label of every row whose label is known at `until`, by time."""
    first, past = cohorts.utc(case.first_cutoff), cohorts.known(case, events, until)
    horizon = pd.Timedelta(days=case.horizon_days)
    if case.by_event:
        chosen = past[(past[case.time] >= first) & (past[case.time] <= until - horizon)]
        frame = cohorts.event_rows(case, chosen).dropna(subset=[case.label])
        return frame.astype({case.label: "int64"}).sort_values("event_timestamp", kind="stable", ignore_index=True)
    cutoffs = [c for c in cohorts.grid(case, first, until) if c + horizon <= until]
    if not cutoffs:
        raise ContractError(f"until {until.date()} no label of {case.name} is mature: nothing can be replayed")
    return pd.concat([cohorts.cohort(case, past, c) for c in cutoffs], ignore_index=True)


def moments(past: Past, since: pd.Timestamp | None = None) -> list[pd.Timestamp]:
    """Every moment at which a model can be trained and the rows that follow it have known labels.

    Unless a start is given, the first one of events is that with whole `train_days`, if enough moments are left: a
    model of a day's rows is a poor one to compare policies by.
    """
    case, offset = past.case, pd.tseries.frequencies.to_offset(past.step)
    first = max(cohorts.utc(case.first_cutoff), since or cohorts.utc(case.first_cutoff)).ceil("D")
    while first < past.until and not _trainable(case, first):
        first += pd.Timedelta(days=1)
    found = []
    for moment in pd.date_range(first, past.until, freq=offset):
        newest = moment + offset if case.by_event else moment
        if newest + past.horizon <= past.until and _trainable(case, moment):
            found.append(moment)
    whole = [m for m in found if _whole(case, m)] if case.by_event and since is None else found
    return whole if len(whole) >= ENOUGH else found


def _whole(case: UseCase, moment: pd.Timestamp) -> bool:
    start, stop = cohorts.event_windows(case, moment).train
    return stop - start >= pd.Timedelta(days=case.train_days)


def _trainable(case: UseCase, moment: pd.Timestamp) -> bool:
    try:
        cohorts.test_start(case, moment)
    except (ContractError, IndexError):  # too few cut-offs, or none yet
        return False
    return True


def examples(past: Past, moment: pd.Timestamp) -> tuple[Table, Table]:
    """Training and held-out rows as of a moment: those that a training at that moment takes."""
    case, times = past.case, past.rows.times
    if case.by_event:
        cut = cohorts.event_windows(case, moment)
        train, held = between(past.rows, *cut.train), between(past.rows, cut.test, cut.end)
    else:
        split = cohorts.split(case, moment)
        train = past.rows.part(np.isin(times, [naive(c) for c in split.train]))
        held = past.rows.part(times == naive(split.test))
    return train, held


def answered(past: Past, moment: pd.Timestamp) -> Table:
    """The rows that came next: from a moment until the next one is decided at."""
    return between(past.rows, moment, moment + pd.tseries.frequencies.to_offset(past.step))


def between(rows: Table, start: pd.Timestamp, end: pd.Timestamp) -> Table:
    """The rows in `[start, end)`."""
    return rows.part((rows.times >= naive(start)) & (rows.times < naive(end)))


def mature(past: Past, rows: Table, moment: pd.Timestamp) -> NDArray[np.bool_]:
    """Which rows [n] had a known label at a moment."""
    found: NDArray[np.bool_] = rows.times <= naive(moment - past.horizon)
    return found


def naive(moment: pd.Timestamp) -> np.datetime64:
    """The moment as tables keep times, UTC without a zone."""
    return np.datetime64(moment.tz_convert("UTC").tz_localize(None))
