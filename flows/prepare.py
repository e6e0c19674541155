"""prepare: source, contract, quarantine, snapshot, feature tables, Feast."""

import dataclasses
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
from prefect import flow, get_run_logger, task, unmapped
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from bentos.runtime import clock
from bentos.runtime.features import online
from flows import servers, usecases
from flows.errors import ContractError, SourceError, WindowError
from flows.retraining import isolation
from flows.runner import task_runner
from flows.settings import settings
from flows.steps.data import cohorts, contract, privacy, quality
from flows.stores import features, locks, prepared, snapshots, tables
from flows.usecases.spec import PathSource, SimulatedSource, Source, UseCase


@task(retries=2, retry_delay_seconds=5, cache_policy=NO_CACHE)
def ingest(source: Source, time: str) -> pd.DataFrame:
    """Read the source; retried because it may be on a network."""
    return tables.read(source, time_columns=(time,))


@task(cache_policy=NO_CACHE)
def check(raw: pd.DataFrame, name: str, time_format: str | None) -> contract.Checked:
    """Enforce the contract; bad rows go to quarantine with their reason, also when they stop the run."""
    case, home = usecases.load(name), settings().home
    try:
        checked = contract.check(raw, case.contract, time_format=time_format)
    except ContractError as error:
        _quarantine(error.bad, name)
        raise
    _quarantine(checked.bad, name)
    before = prepared.source_rows(home, name)
    if len(checked.good) < (1 - case.contract.max_shrink) * before:
        raise ContractError(
            f"{len(checked.good)} good rows of {name}, the last prepare had {before}: a delivery that shrinks by more "
            f"than {case.contract.max_shrink:.0%} is taken for cut off. Correct the source, or max_shrink"
        )
    return checked


def _quarantine(bad: pd.DataFrame | None, name: str) -> Path | None:
    if bad is None or bad.empty:
        return None
    masked = privacy.apply(bad, usecases.load(name).contract, key=settings().key())
    path = settings().home / "quarantine" / name / f"{tables.content_hash(masked)[:16]}.parquet"
    tables.write_table(masked, path)
    get_run_logger().warning("%d rows quarantined in %s", len(bad), path)
    return path


@task(cache_policy=NO_CACHE)
def snapshot(good: pd.DataFrame, name: str, as_of: pd.Timestamp | None) -> tables.Snapshot:
    """Mask, cut at `as_of` and keep as an immutable snapshot; the same rows give the same snapshot."""
    use_case = usecases.load(name)
    known = good if as_of is None else cohorts.known(use_case, good, as_of)
    if len(known) < use_case.contract.min_rows:
        raise ContractError(
            f"{len(known)} rows of {name} before {as_of}, the contract asks for {use_case.contract.min_rows}"
        )
    masked = privacy.apply(known.reset_index(drop=True), use_case.contract, key=settings().key())
    meta = {"use_case": name, "rows": len(masked), "until": known[use_case.time].max().isoformat()}
    return snapshots.write(settings().home, name, masked, meta=meta)


@task(cache_policy=NO_CACHE)
def feature_partition(snapshot_id: str, name: str, moments: list[pd.Timestamp], home: Path) -> list[pd.Timestamp]:
    """Features of everybody known at a month's moments of the grid; the moments whose partition changed."""
    events, case = snapshots.read(home, name, snapshot_id), usecases.load(name)
    return [moment for moment in moments if features.write_partition(case, events, moment, home)]


@task(cache_policy=NO_CACHE)
def materialise(name: str, end: pd.Timestamp, home: Path) -> str:
    """`feast apply`, then bring the online store to the newest partition up to `end`; a no-op where it holds that."""
    use_case = usecases.load(name)
    store = features.open_store(home)
    features.apply(store)
    newest = max(cohorts.grid(use_case, _first(use_case), end))
    since, views = newest - pd.Timedelta(seconds=1), features.service_views(store, use_case.feature_service)
    changed = False
    for key in use_case.keys:
        path = features.partition(home, use_case, key, newest)
        label = name if key == use_case.entity else f"{name}-{key}"
        if features.holds(store, home, label, path):
            continue
        mine = [v.name for v in views if list(v.join_keys) == [key]]
        features.materialise(store, mine, start=since.to_pydatetime(), end=end.to_pydatetime())
        known = pd.read_parquet(path, columns=[key])[key].tolist()
        online.pack(home, entity=key, feature_service=use_case.feature_service, ids=known)
        features.remember_online(store, home, label, path)
        changed = True
    return f"online store holds the features of {newest.date()}" if changed else "online store unchanged"


def _first(use_case: UseCase) -> pd.Timestamp:
    return cohorts.utc(use_case.first_cutoff) - pd.tseries.frequencies.to_offset(use_case.grid)


def build_feature_tables(
    use_case_name: str, snap: tables.Snapshot, end: pd.Timestamp, home: Path
) -> list[pd.Timestamp]:
    """Map `feature_partition` over the grid up to `end`; the moments whose partition changed."""
    use_case = usecases.load(use_case_name)
    months: dict[str, list[pd.Timestamp]] = {}
    for moment in cohorts.grid(use_case, _first(use_case), end):
        months.setdefault(f"{moment:%Y-%m}", []).append(moment)
    constant = [unmapped(x) for x in (snap.id, use_case_name)]
    done = feature_partition.map(*constant, list(months.values()), unmapped(home)).result()
    return [moment for month in done for moment in month]


@flow(name="prepare", task_runner=task_runner())
@servers.named
def prepare(
    use_case: str = "churn", as_of: datetime | None = None, source: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Prepare a use case's data as it was known at `as_of` (default: now; for a finished log, the day after its end).

    `source` replaces fields of the declared source for one run, for example `{"url": "s3://…", "format": "parquet"}`.
    """
    case, home, log = usecases.load(use_case), settings().home, get_run_logger()
    if as_of and cohorts.utc(pd.Timestamp(as_of)) > pd.Timestamp.now("UTC") + pd.Timedelta(days=1):
        raise WindowError(f"nothing is known yet as of {as_of:%Y-%m-%d}: give a moment that has come")
    chosen = _override(case.source, source)
    checked = check(ingest(chosen, case.time), use_case, getattr(chosen, "time_format", None))
    last = checked.good[case.time].max()
    moment = (
        cohorts.utc(pd.Timestamp(as_of))
        if as_of
        else ((last + pd.Timedelta(days=1)).floor("D") if case.clock == "data" else pd.Timestamp.now("UTC"))
    )
    with locks.held(home, f"data-{use_case}", wait=True):
        snap = snapshot(checked.good, use_case, moment)
        log.info("snapshot %s: %d rows before %s", snap.id, snap.rows, moment.date())
        prepared.forget(home, use_case)  # until features and snapshot agree again, nothing can be trained on them
        changed = build_feature_tables(use_case, snap, moment, home)
        if case.clock == "data":
            clock.write(home, use_case, moment.to_pydatetime())
        log.info(materialise(use_case, moment, home))
        events = snapshots.read(home, use_case, snap.id)
        isolated = isolation.review(case, events, moment, home)  # before anything can be trained on the snapshot
        prepared.remember(home, use_case, snap.id, moment, source_rows=len(checked.good))
    kept = [c.name for c in case.contract.columns if c.pii != "drop"]
    report = quality.quality(events, kept)
    create_markdown_artifact(
        key=f"{use_case}-prepare",
        markdown=f"# {case.title}: snapshot {snap.id}\n\n{snap.rows} rows before {moment.date()}, "
        f"{len(checked.bad)} rows quarantined.\n\n{quality.as_markdown(report)}"
        + "".join(f"\n- Left out of trainings: {period}" for period in isolated),
    )
    return {
        "use_case": use_case,
        "snapshot": snap.id,
        "rows": snap.rows,
        "created": snap.created,
        "as_of": moment.isoformat(),
        "quarantined": len(checked.bad),
        "partitions_changed": len(changed),
        "isolated": isolated,
    }


def _override(source: Source, changes: dict[str, Any] | None) -> Source:
    """The declared source with some of its fields replaced for one run; a simulation also gives way to a file."""
    if not changes:
        return source
    if isinstance(source, SimulatedSource) and "settings" in changes:
        changes = {**changes, "settings": tuple({**dict(source.settings), **dict(changes["settings"])}.items())}
    elif isinstance(source, SimulatedSource):
        source = PathSource(url="", format="parquet")
    if isinstance(source, PathSource) and changes.get("format", source.format) != source.format:
        changes = {"names": (), "skip_rows": 0, **changes}
    try:
        return dataclasses.replace(source, **changes)
    except TypeError as error:
        known = ", ".join(f.name for f in dataclasses.fields(source))
        raise SourceError(f"cannot override the source: {error}. A {type(source).__name__} has {known}") from error


if __name__ == "__main__":
    print(prepare())
