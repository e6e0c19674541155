"""Labelled examples: what is known at a moment, joined with the features of its own time, and split by time."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
from prefect import task
from prefect.cache_policies import NO_CACHE

from flows import usecases
from flows.errors import StoreError
from flows.steps.data import cohorts
from flows.steps.training import candidate as candidates
from flows.steps.training.candidate import Table
from flows.stores import features, locks, prepared, tables
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


@task(cache_policy=NO_CACHE)
def assemble(name: str, snapshot: str, as_of: pd.Timestamp, home: Path) -> pd.DataFrame:
    """Labelled rows, each joined with the features of its own time."""
    events = tables.read_snapshot(home / "snapshots" / name, snapshot)
    return features.training_frame(features.open_store(home), usecases.load(name), events, as_of)


def examples(case: UseCase, as_of: datetime | None, home: Path) -> Examples:
    """The examples as of a moment (default: the newest prepare), while no prepare rewrites the features."""
    snapshot, moment = known(case, as_of, home)
    with locks.held(home, f"data-{case.name}", wait=True):
        joined = assemble(case.name, snapshot, moment, home)
    cutoff = cohorts.test_start(case, moment)
    store = features.open_store(home)
    categorical = features.categorical_names(store, case)
    everything = candidates.table(case, joined, features.input_names(store, case), categorical)
    held_out = everything.times >= np.datetime64(cutoff.tz_localize(None))
    return Examples(
        snapshot=snapshot,
        moment=moment,
        joined=joined,
        cutoff=cutoff,
        train=everything.part(~held_out),
        test=everything.part(held_out),
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
