"""score: batch scoring of a table to parquet through the scorer that also serves, one output file per partition."""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from prefect import flow, get_run_logger, task, unmapped
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from bentos.runtime.features.services import owners
from bentos.runtime.home import replace
from bentos.runtime.scoring import request
from bentos.runtime.scoring.categories import raw_values
from bentos.runtime.scoring.scorer import Scorer, grade
from flows import servers, usecases
from flows.errors import ContractError, ReleaseError, StoreError
from flows.runner import task_runner
from flows.settings import settings
from flows.steps.data import cohorts, contract
from flows.stores import bentos, features, prepared, registry, snapshots, tables
from flows.usecases.spec import Contract, PathSource, UseCase


def score_frame(scorer: Scorer, joined: pd.DataFrame) -> pd.DataFrame:
    """Score and decision per row of a frame that holds the manifest's features; NaN is filled as the service does."""
    found = scorer.manifest
    scores = scorer.score(raw_values(joined, found.names, found.categorical))
    decided = [found.risks[grade(float(s), found.cuts)] for s in scores]
    return pd.DataFrame({"score": scores, "decision": decided}, index=joined.index)


def partitions(frame: pd.DataFrame, rows: int) -> list[pd.DataFrame]:
    """Chunks of at most `rows` rows in the table's order."""
    return [frame.iloc[i : i + rows].reset_index(drop=True) for i in range(0, len(frame), rows)]


@task(cache_policy=NO_CACHE)
def score_partition(
    part: pd.DataFrame, name: str, release: str, as_of: pd.Timestamp, out: Path, home: Path
) -> tuple[str, bool]:
    """Score one chunk; gives its file and whether it was computed now, since a finished chunk is never done again."""
    case = usecases.load(name)
    path = out / f"part-{tables.content_hash(part)[:24]}.parquet"
    if path.exists():
        return path.name, False
    scorer = Scorer.load(bentos.model_folder(release))
    store, service = features.open_store(home), scorer.manifest.feature_service
    joined = features.point_in_time(store, cohorts.asked(case, part, as_of), service)
    scored = score_frame(scorer, joined)
    state = states(case, joined, owners(store, store.get_feature_service(service)), home)
    refused = (state == "unknown") | ((state != "ok") & (scorer.manifest.stale == "reject"))  # as a 404 and a 409
    shown = [*case.keys, *(["event_timestamp"] if case.by_event else [])]
    result = pd.concat([joined[shown], scored], axis=1).assign(features=state, release=release, as_of=as_of)
    result.loc[refused, "score"] = np.nan
    result.loc[refused, "decision"] = None
    tables.write_table(result, path)
    return path.name, True


def states(case: UseCase, joined: pd.DataFrame, names: Mapping[str | None, list[str]], home: Path) -> "pd.Series[str]":
    """Of each row `ok`, or as the service says: `unknown` entities, one of several `missing`, `expired` features."""
    nobody = pd.Series(False, index=joined.index)
    somebody, lacking, expired = nobody, nobody, nobody
    for key in case.keys:
        known = is_known(case, joined, key, home)
        somebody, lacking = somebody | known, lacking | ~known
        expired = expired | (known & joined[names[key]].isna().all(axis=1))
    state = np.select([~somebody, expired, lacking], ["unknown", "expired", "missing"], "ok")
    return pd.Series(state, index=joined.index)


def is_known(case: UseCase, joined: pd.DataFrame, key: str, home: Path) -> "pd.Series[bool]":
    """Whether the newest feature partition up to each row's time has the row's entity."""
    known = pd.Series(False, index=joined.index)
    for day, rows in joined.groupby(joined["event_timestamp"].dt.floor("D")):
        path = features.partition(home, case, key, newest_moment(home, case.name, cohorts.utc(str(day))))
        known[rows.index] = rows[key].isin(pd.read_parquet(path, columns=[key])[key])
    return known


def newest_moment(home: Path, use_case: str, as_of: pd.Timestamp) -> pd.Timestamp:
    """The moment of the newest feature partition up to another; StoreError if nothing was prepared until then."""
    found = [
        moment
        for p in (home / "features" / use_case).glob("as_of=*.parquet")
        if (moment := cohorts.utc(p.stem.removeprefix("as_of="))) <= as_of
    ]
    if not found:
        raise StoreError(f"no features of {use_case} up to {as_of.date()}: run `bentoflow prepare`")
    return max(found)


def rows_of(table: str, case: UseCase) -> pd.DataFrame:
    """What identifies a row, from a parquet or csv table: entities, and of events their time and what requests bring.

    ContractError if a column is not there or a value breaks the contract.
    """
    frame = tables.read(PathSource(url=table, format="csv" if ".csv" in Path(table).name else "parquet"))
    needed = (*case.keys, *((case.time, *request.numbers(case.request)) if case.by_event else ()))
    if missing := [name for name in needed if name not in frame]:
        raise ContractError(f"{table} has no column {missing[0]!r}, it has {', '.join(map(str, frame.columns))}")
    columns = tuple(c for c in case.contract.columns if c.name in needed)
    wanted = Contract(columns=columns, max_bad_share=0, max_duplicate_share=1)
    return contract.check(frame[list(needed)], wanted).good


def everybody(case: UseCase, snapshot: str, moment: pd.Timestamp, home: Path) -> pd.DataFrame:
    """Every entity known at a moment; of events those of the day before it."""
    if not case.by_event:
        known = features.partition(home, case, case.entity, newest_moment(home, case.name, moment))
        return rows_of(str(known), case)
    events = snapshots.read(home, case.name, snapshot)
    day = (events[case.time] >= moment - pd.Timedelta(days=1)) & (events[case.time] < moment)
    return events.loc[day, [*case.keys, case.time, *request.numbers(case.request)]].reset_index(drop=True)


@flow(name="score", task_runner=task_runner())
@servers.named
def score(
    use_case: str = "churn",
    table: str | None = None,
    out: str | None = None,
    as_of: datetime | None = None,
    partition_rows: int = 50_000,
) -> dict[str, Any]:
    """Score the rows of a parquet or csv table (a path or fsspec URL) with the champion; parquet files in `out`.

    Without a table everybody known at the newest prepare is scored, or the events of the day before it. The result
    lies in `out`, by default below `scores/` in the home, in one folder per moment, release and snapshot. Unknown
    entities get no score. A killed run goes on where it stopped; the same run again computes nothing. `_SUCCESS.json`
    lists the files and comes last.
    """
    case, home, log = usecases.load(use_case), settings().home, get_run_logger()
    champion = registry.by_alias(use_case, "champion")
    if champion is None or "release" not in champion.tags:
        raise ReleaseError(f"{use_case} has no released champion: run `bentoflow train` and `bentoflow release`")
    snapshot, newest = prepared.latest(home, use_case)
    moment = cohorts.utc(pd.Timestamp(as_of)) if as_of else newest
    frame = rows_of(table, case) if table else everybody(case, snapshot, moment, home)
    release = champion.tags["release"]
    label = f"{moment:%Y-%m-%dT%H%M}_{release.split(':')[-1]}_{snapshot[:8]}"
    folder = (Path(out) if out else home / "scores" / use_case) / label
    folder.mkdir(parents=True, exist_ok=True)
    parts = partitions(frame, partition_rows)
    constant = [unmapped(x) for x in (use_case, release, moment, folder, home)]
    done = score_partition.map(parts, *constant).result()
    files, computed = [name for name, _ in done], sum(new for _, new in done)
    log.info("%d rows in %d partitions, %d of them computed now", len(frame), len(parts), computed)
    replace(folder / "_SUCCESS.json", json.dumps({"rows": len(frame), "files": files}).encode())
    create_markdown_artifact(
        key=f"{use_case}-score",
        markdown=f"# {case.title}: {len(frame)} rows scored\n\n"
        f"Release `{release}` as of {moment.date()}, {len(files)} files in `{folder}`.",
    )
    return {"use_case": use_case, "rows": len(frame), "files": files, "computed": computed, "out": str(folder)}
