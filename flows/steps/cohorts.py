"""Cut-offs, cohorts and the split by time: who is asked about when, and which labels are already mature."""

from dataclasses import dataclass

import pandas as pd

from flows.errors import ContractError
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


def split(use_case: UseCase, as_of: pd.Timestamp) -> Split:
    """Cut-offs known as of `as_of`, with the label's horizon as the gap between training and test.

    Raises ContractError if there is no test cut-off with a mature label or no training cut-off before its gap.
    """
    horizon = pd.Timedelta(days=use_case.horizon_days)
    mature = [c for c in grid(use_case, utc(use_case.first_cutoff), as_of) if c + horizon <= as_of]
    train = tuple(c for c in mature if c + horizon <= mature[-1])
    if not train:
        raise ContractError(
            f"as of {as_of.date()} {use_case.name} has {len(mature)} mature cut-offs from {use_case.first_cutoff} on, "
            f"but needs a test cut-off at least {use_case.horizon_days} days after a training one: "
            f"train later than {(utc(use_case.first_cutoff) + 2 * horizon).date()}"
        )
    return Split(train=train, test=mature[-1])


def cohort(use_case: UseCase, events: pd.DataFrame, cutoff: pd.Timestamp) -> pd.DataFrame:
    """Everybody known before the cut-off: columns entity, `event_timestamp` and the label (int64 0/1)."""
    known = events.loc[events[use_case.time] < cutoff, use_case.entity]
    entities = pd.Series(known.drop_duplicates().sort_values().to_numpy(), name=use_case.entity)
    frame = entities.to_frame()
    frame["event_timestamp"] = pd.Series(cutoff, index=frame.index).astype("datetime64[us, UTC]")
    frame[use_case.label] = use_case.build_labels(events, entities, cutoff).astype("int64")
    return frame
