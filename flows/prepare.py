"""prepare: source, contract, quarantine, snapshot, feature tables, Feast."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
from prefect import flow, get_run_logger, task, unmapped
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from bentos.runtime import clock
from flows import usecases
from flows.errors import ContractError
from flows.runner import task_runner
from flows.settings import settings
from flows.steps import cohorts, contract, privacy, quality
from flows.stores import features, prepared, tables
from flows.usecases.spec import PathSource, Source


@task(retries=2, retry_delay_seconds=5, cache_policy=NO_CACHE)
def ingest(source: Source, time: str) -> pd.DataFrame:
    """Read the source; retried because it may be on a network."""
    return tables.read(source, time_columns=(time,))


@task(cache_policy=NO_CACHE)
def check(raw: pd.DataFrame, name: str) -> contract.Checked:
    """Enforce the contract; bad rows go to quarantine with their reason, also when they stop the run."""
    use_case = usecases.load(name)
    time_format = getattr(use_case.source, "time_format", None)
    try:
        checked = contract.check(raw, use_case.contract, time_format=time_format)
    except ContractError as error:
        _quarantine(error.bad, name)
        raise
    _quarantine(checked.bad, name)
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
    known = good if as_of is None else good[good[use_case.time] < as_of]
    if len(known) < use_case.contract.min_rows:
        raise ContractError(
            f"{len(known)} rows of {name} before {as_of}, the contract asks for {use_case.contract.min_rows}"
        )
    masked = privacy.apply(known.reset_index(drop=True), use_case.contract, key=settings().key())
    meta = {"use_case": name, "rows": len(masked), "until": known[use_case.time].max().isoformat()}
    return tables.write_snapshot(masked, settings().home / "snapshots" / name, meta=meta)


@task(cache_policy=NO_CACHE)
def feature_partition(
    folder: Path, snapshot_id: str, name: str, as_of: pd.Timestamp, home: Path
) -> pd.Timestamp | None:
    """Features of everybody known at one moment of the grid; gives the moment if the partition changed."""
    use_case = usecases.load(name)
    frame = use_case.build_features(tables.read_snapshot(folder, snapshot_id), as_of)
    frame["event_timestamp"] = pd.Series(as_of, index=frame.index).astype("datetime64[us, UTC]")
    changed = tables.write_table(frame, home / "features" / name / f"as_of={as_of:%Y-%m-%d}.parquet")
    return as_of if changed else None


@task(cache_policy=NO_CACHE)
def materialise(name: str, end: pd.Timestamp, changed: list[pd.Timestamp], home: Path) -> str:
    """`feast apply`, then bring the online store up to `end`."""
    use_case = usecases.load(name)
    store = features.open_store(home)
    features.apply(store)
    views = [v.name for v in features.service_views(store, use_case.feature_service)]
    if not changed:
        return "online store unchanged"
    since = max(changed) - pd.Timedelta(seconds=1)
    features.materialise(store, views, end=end.to_pydatetime(), changed_since=since.to_pydatetime())
    return f"online store holds the features of {max(changed).date()}"


def build_feature_tables(
    use_case_name: str, snap: tables.Snapshot, end: pd.Timestamp, home: Path
) -> list[pd.Timestamp]:
    """Map `feature_partition` over the grid up to `end`; the moments whose partition changed."""
    use_case = usecases.load(use_case_name)
    moments = cohorts.grid(use_case, cohorts.utc(use_case.first_cutoff) - pd.DateOffset(months=1), end)
    done = feature_partition.map(
        unmapped(snap.path.parent), unmapped(snap.id), unmapped(use_case_name), moments, unmapped(home)
    ).result()
    return [moment for moment in done if moment is not None]


@flow(name="prepare", task_runner=task_runner())
def prepare(
    use_case: str = "churn", as_of: datetime | None = None, source: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Prepare a use case's data as it was known at `as_of` (default: now; for a finished log, the day after its end).

    `source` overrides the location of a file source for one run, for example `{"url": "s3://…", "format": "parquet"}`.
    """
    case, home, log = usecases.load(use_case), settings().home, get_run_logger()
    checked = check(ingest(PathSource(**source) if source else case.source, case.time), use_case)
    last = checked.good[case.time].max()
    moment = (
        cohorts.utc(pd.Timestamp(as_of))
        if as_of
        else ((last + pd.Timedelta(days=1)).floor("D") if case.clock == "data" else pd.Timestamp.now("UTC"))
    )
    snap = snapshot(checked.good, use_case, moment)
    log.info(
        "snapshot %s: %d rows before %s%s", snap.id, snap.rows, moment.date(), "" if snap.created else " (unchanged)"
    )
    changed = build_feature_tables(use_case, snap, moment, home)
    log.info(materialise(use_case, moment, changed, home))
    if case.clock == "data":
        clock.write(home, use_case, moment.to_pydatetime())
    prepared.remember(home, use_case, snap.id, moment)
    report = quality.quality(tables.read_snapshot(snap.path.parent, snap.id), case.contract)
    create_markdown_artifact(
        key=f"{use_case}-prepare",
        markdown=f"# {case.title}: snapshot {snap.id}\n\n{snap.rows} rows before {moment.date()}, "
        f"{len(checked.bad)} quarantined.\n\n{quality.as_markdown(report)}",
    )
    return {
        "use_case": use_case,
        "snapshot": snap.id,
        "rows": snap.rows,
        "created": snap.created,
        "as_of": moment.isoformat(),
        "quarantined": len(checked.bad),
        "partitions_changed": len(changed),
    }


if __name__ == "__main__":
    print(prepare())
