"""Labelled examples: what is known at a moment, joined with the features of its own time, and split by time."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from prefect import task
from prefect.cache_policies import NO_CACHE

from flows import usecases
from flows.errors import StoreError
from flows.steps.data import cohorts, quarantine
from flows.steps.data.quarantine import Period
from flows.steps.training import arrays
from flows.steps.training.arrays import Table
from flows.stores import features, history, locks, prepared, snapshots
from flows.usecases.spec import UseCase


@dataclass(frozen=True, kw_only=True)
class Examples:
    """The joined frame of a snapshot as of a moment; rows from `cutoff` on are held out, the horizon lies between."""

    snapshot: str
    moment: pd.Timestamp
    joined: pd.DataFrame
    cutoff: pd.Timestamp
    train: Table
    test: Table
    without: tuple[Period, ...] = ()  # the quarantined periods that rows were left out of
    left_out: int = 0

    def quarantined(self) -> dict[str, Any] | None:
        """What was left out and why, as it is kept with a version; None if nothing is in quarantine."""
        if not self.without:
            return None
        return {"rows_left_out": self.left_out, "periods": [period.facts() for period in self.without]}


@task(cache_policy=NO_CACHE)
def assemble(
    name: str, snapshot: str, as_of: pd.Timestamp, home: Path, without: tuple[Period, ...] = ()
) -> tuple[pd.DataFrame, int]:
    """Labelled rows, each joined with the features of its own time, and how many a quarantine left out."""
    case, events = usecases.load(name), snapshots.read(home, name, snapshot)
    left_out = 0
    if without:
        times = cohorts.rows(case, events, as_of)["event_timestamp"]
        left_out = int(quarantine.touched(times, case.horizon_days, without).sum())
    return features.training_frame(features.open_store(home), case, events, as_of, without), left_out


def examples(case: UseCase, as_of: datetime | None, home: Path) -> Examples:
    """The examples as of a moment (default: the newest prepare), while no prepare rewrites the features.

    Rows whose features or labels fall in a quarantined period are none of them, however the training was started.
    """
    snapshot, moment = known(case, as_of, home)
    with locks.held(home, f"data-{case.name}", wait=True):
        without = quarantine.holding(history.read(home, case.name))
        joined, left_out = assemble(case.name, snapshot, moment, home, without)
    cutoff = cohorts.test_start(case, moment, without)
    store = features.open_store(home)
    categorical = features.categorical_names(store, case)
    everything = arrays.table(case, joined, features.input_names(store, case), categorical)
    held_out = everything.times >= np.datetime64(cutoff.tz_localize(None))
    return Examples(
        snapshot=snapshot,
        moment=moment,
        joined=joined,
        cutoff=cutoff,
        train=everything.part(~held_out),
        test=everything.part(held_out),
        without=without,
        left_out=left_out,
    )


def known(case: UseCase, as_of: datetime | None, home: Path) -> tuple[str, pd.Timestamp]:
    """The newest snapshot and the moment to train at, which it must reach."""
    snapshot, newest = prepared.latest(home, case.name)
    moment = cohorts.utc(pd.Timestamp(as_of)) if as_of else newest
    if moment > newest:
        raise StoreError(
            f"{case.name} is prepared until {newest.date()}, asked was {moment.date()}: labels would look mature "
            f"that are not. Run `bentoflow prepare --use-case {case.name} --as-of {moment.date()}`"
        )
    return snapshot, moment
