"""Rows and the split by time: who is asked about when, and which labels are already mature."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bentos.runtime.scoring import request
from flows.errors import ContractError
from flows.steps.data import quarantine
from flows.steps.data.quarantine import Period
from flows.usecases.spec import UseCase


@dataclass(frozen=True, kw_only=True)
class Split:
    """Training cut-offs, and the newest mature one, held out; every training label matured before it."""

    train: tuple[pd.Timestamp, ...]
    test: pd.Timestamp


def utc(moment: str | pd.Timestamp) -> pd.Timestamp:
    """The moment in UTC; a naive one is taken as UTC."""
    stamp = pd.Timestamp(moment)
    return stamp.tz_localize("UTC") if stamp.tzinfo is None else stamp.tz_convert("UTC")


def grid(use_case: UseCase, start: pd.Timestamp, end: pd.Timestamp) -> list[pd.Timestamp]:
    """The moments of the use case's grid in `[start, end]`, midnight UTC."""
    return list(pd.date_range(start.ceil("D"), end, freq=use_case.grid))


def split(use_case: UseCase, as_of: pd.Timestamp, without: Sequence[Period] = ()) -> Split:
    """Cut-offs known as of `as_of`, with the label's horizon as the gap between training and test.

    Those whose features or labels fall in a quarantined period of `without` are left out. Raises ContractError if there
    is no test cut-off with a mature label or no training cut-off before its gap.
    """
    horizon = pd.Timedelta(days=use_case.horizon_days)
    mature = [c for c in grid(use_case, utc(use_case.first_cutoff), as_of) if c + horizon <= as_of]
    mature = sound(use_case, mature, without)
    train = tuple(c for c in mature if c + horizon <= mature[-1])
    if not train:
        raise ContractError(
            f"as of {as_of.date()} {use_case.name} has {len(mature)} mature cut-offs from {use_case.first_cutoff} on, "
            f"but needs a test cut-off at least {use_case.horizon_days} days after a training one: "
            f"train later than {(utc(use_case.first_cutoff) + 2 * horizon).date()}{_left_out(without)}"
        )
    return Split(train=train, test=mature[-1])


def sound(use_case: UseCase, moments: Sequence[pd.Timestamp], without: Sequence[Period]) -> list[pd.Timestamp]:
    """The moments of rows whose features and labels fall in no quarantined period."""
    bad = quarantine.touched(moments, use_case.horizon_days, without)
    return [moment for moment, broken in zip(moments, bad, strict=True) if not broken]


def _left_out(without: Sequence[Period]) -> str:
    names = ", ".join(period.id for period in without)
    return f". Left out is what is quarantined ({names}): see `bentoflow quarantine`" if names else ""


def known(use_case: UseCase, events: pd.DataFrame, as_of: pd.Timestamp) -> pd.DataFrame:
    """What was known at a moment: earlier events, values of delayed columns missing while they were not known."""
    past = events[events[use_case.time] < as_of]
    for column in use_case.contract.columns:
        if column.delay_days:
            open_still = past[use_case.time] > as_of - pd.Timedelta(days=column.delay_days)
            past = past.assign(**{column.name: past[column.name].mask(open_still)})
    return past


def test_start(  # no test, though its name begins like one
    use_case: UseCase,
    as_of: pd.Timestamp,
    without: Sequence[Period] = (),  # noqa: PT028
) -> pd.Timestamp:
    """The time from which on rows are held out: of the newest mature cut-off, or of the newest mature events."""
    if use_case.by_event:
        return event_windows(use_case, as_of, without).test
    return split(use_case, as_of, without).test


def unseen_from(use_case: UseCase, as_of: pd.Timestamp) -> pd.Timestamp:
    """The first moment whose rows a training as of `as_of` neither fitted nor was judged on."""
    if use_case.by_event:
        return event_windows(use_case, as_of).end
    return split(use_case, as_of).test + pd.Timedelta(microseconds=1)


def rows(use_case: UseCase, events: pd.DataFrame, as_of: pd.Timestamp, without: Sequence[Period] = ()) -> pd.DataFrame:
    """Every labelled row as of a moment, training and held out: keys, `event_timestamp`, request features, label.

    A row whose features or label fall in a quarantined period of `without` is none of them.
    """
    if use_case.by_event:
        windows = event_windows(use_case, as_of, without)
        at = events[use_case.time]
        stretches = (windows.train, (windows.test, windows.end))
        parts = [event_rows(use_case, events[(at >= start) & (at < end)]) for start, end in stretches]
        known_labels = pd.concat(parts, ignore_index=True).dropna(subset=[use_case.label])
        bad = quarantine.touched(known_labels["event_timestamp"], use_case.horizon_days, without)
        known_labels = known_labels[~bad]
        return known_labels.astype({use_case.label: "int64"}).reset_index(drop=True)
    past, parts_by_time = events[events[use_case.time] < as_of], split(use_case, as_of, without)
    cutoffs = (*parts_by_time.train, parts_by_time.test)
    return pd.concat([cohort(use_case, past, c) for c in cutoffs], ignore_index=True)


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Half-open stretches of time of event rows: training `[start, stop)`, held out `[test, end)`."""

    train: tuple[pd.Timestamp, pd.Timestamp]
    test: pd.Timestamp
    end: pd.Timestamp


def event_windows(use_case: UseCase, as_of: pd.Timestamp, without: Sequence[Period] = ()) -> Windows:
    """The newest `test_days` of mature rows, and `train_days` of rows whose labels all matured before these.

    The days to test on are moved back to before a quarantined period of `without` that they would touch. Raises
    ContractError if no training day is left after `first_cutoff`.
    """
    horizon, first = pd.Timedelta(days=use_case.horizon_days), utc(use_case.first_cutoff)
    end = as_of.floor("D") - horizon
    for period in sorted(without, key=lambda p: p.since, reverse=True):
        start = end - pd.Timedelta(days=use_case.test_days)
        if end + horizon > period.since and (period.onwards or start < period.until):
            end = utc(pd.Timestamp(period.since)).floor("D") - horizon
    test = end - pd.Timedelta(days=use_case.test_days)
    stop = test - horizon
    if stop <= first:
        earliest = first + 2 * horizon + pd.Timedelta(days=use_case.test_days + 1)
        raise ContractError(
            f"as of {as_of.date()} {use_case.name} has no training day between {use_case.first_cutoff} and the "
            f"{use_case.test_days} days to test on with {use_case.horizon_days} days before and after them for labels "
            f"to mature: train on {earliest.date()} or later{_left_out(without)}"
        )
    return Windows(train=(max(first, stop - pd.Timedelta(days=use_case.train_days)), stop), test=test, end=end)


def event_rows(use_case: UseCase, events: pd.DataFrame) -> pd.DataFrame:
    """Events as rows: keys, `event_timestamp`, request features and, where the events have it, the label."""
    chosen = events.reset_index(drop=True)
    moments = chosen[use_case.time].astype("datetime64[us, UTC]")
    frame = chosen[list(use_case.keys)].assign(event_timestamp=moments)
    given = {name: chosen[name].to_numpy(dtype=np.float64) for name in request.numbers(use_case.request)}
    stamps = np.asarray(moments.astype("int64"), dtype=np.int64)
    inputs = request.matrix(use_case.request, given, stamps)
    frame[[f.name for f in use_case.request]] = inputs
    if use_case.label in chosen:
        frame[use_case.label] = chosen[use_case.label]
    return frame


def asked(use_case: UseCase, table: pd.DataFrame, as_of: pd.Timestamp) -> pd.DataFrame:
    """Rows to score: a table's events at their own times, or its entities at a moment; order and number are kept."""
    if use_case.by_event:
        return event_rows(use_case, table)
    rows = table[[use_case.entity]].assign(event_timestamp=as_of)
    return rows.astype({"event_timestamp": "datetime64[us, UTC]"})


def cohort(use_case: UseCase, events: pd.DataFrame, cutoff: pd.Timestamp) -> pd.DataFrame:
    """Everybody known before the cut-off: columns entity, `event_timestamp` and the label (int64 0/1)."""
    known = events.loc[events[use_case.time] < cutoff, use_case.entity]
    entities = pd.Series(known.drop_duplicates().sort_values().to_numpy(), name=use_case.entity)
    frame = entities.to_frame()
    frame["event_timestamp"] = pd.Series(cutoff, index=frame.index).astype("datetime64[us, UTC]")
    if use_case.build_labels is not None:
        frame[use_case.label] = use_case.build_labels(events, entities, cutoff).astype("int64")
    return frame
