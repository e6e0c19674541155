"""Isolation: what holds broken data back from training, who lifted it, and what every prepare makes of it."""

from pathlib import Path
from typing import Any

import pandas as pd

from bentos.runtime import clock
from bentos.runtime.monitoring import sketches
from bentos.runtime.scoring import manifest
from flows.errors import StoreError
from flows.steps.data import cohorts, quarantine
from flows.steps.data.quarantine import Period
from flows.steps.monitoring import mending
from flows.stores import bentos, features, history, transaction
from flows.usecases.spec import UseCase


def listed(use_case: str, home: Path) -> list[str]:
    """Every period that was ever quarantined, a line each."""
    found = quarantine.read(history.read(home, use_case))
    return [f"{p}" + (f" LIFTED by {p.lifted}" if p.lifted else "") for p in found]


def lift(use_case: str, id: str, reason: str, home: Path) -> Period:
    """A person lifts a period, with a reason that is kept; StoreError for an id that holds nothing, or no reason."""
    holding = {p.id: p for p in quarantine.holding(history.read(home, use_case))}
    if id not in holding:
        known = ", ".join(holding) or "none"
        raise StoreError(f"no quarantine {id!r} holds in {use_case}; holding: {known}. See `bentoflow quarantine`")
    if not reason.strip():
        raise StoreError(f"lifting {id} lets its data into trainings again: say why with --reason")
    _append(use_case, quarantine.LIFTED, holding[id], home, by="a person", reason=reason.strip())
    return holding[id]


def review(case: UseCase, events: pd.DataFrame, as_of: pd.Timestamp, home: Path) -> list[str]:
    """After a prepare: lift what its data show to be mended, and keep how far the rest reaches; what is still held."""
    held = []
    for period in quarantine.holding(history.read(home, case.name)):
        found = _reviewed(case, period, events, as_of, home)
        if found.mended:
            _append(case.name, quarantine.LIFTED, period, home, by=quarantine.PREPARE, reason=found.why)
            continue
        held.append(str(period))
        if (found.onwards, found.why) != (period.onwards, period.note):
            _append(case.name, quarantine.KEPT, period, home, reason=found.why, onwards=found.onwards)
    return held


def _reviewed(case: UseCase, period: Period, events: pd.DataFrame, as_of: pd.Timestamp, home: Path) -> mending.Review:
    release = transaction.champion_release(home, case.name)
    if release is None or as_of < period.until:
        return mending.Review(mended=False, onwards=period.onwards, why="not prepared to its end yet")
    reference = sketches.from_json((bentos.model_folder(release) / manifest.REFERENCE).read_text())
    tables = _features(case, period, home)
    if case.by_event:
        at = events[case.time]
        tables.append(cohorts.event_rows(case, events[(at >= period.since) & (at < period.until)]))
    return mending.review(case, period, events, tables, reference)


def _features(case: UseCase, period: Period, home: Path) -> list[pd.DataFrame]:
    """The prepared feature tables of the period's moments, every entity's."""
    start, end = pd.Timestamp(period.since), pd.Timestamp(period.until)
    moments = [moment for moment in cohorts.grid(case, start, end) if start <= moment < end]
    paths = [features.partition(home, case, key, moment) for moment in moments for key in case.keys]
    return [pd.read_parquet(path) for path in paths if path.exists()]


def _append(use_case: str, action: str, period: Period, home: Path, **facts: Any) -> None:
    ends = {"since": period.since.isoformat(), "until": period.until.isoformat()}
    history.append(home, use_case, action, at=clock.now(home, use_case), id=period.id, **ends, **facts)
