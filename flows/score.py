"""score: batch scoring of a table to parquet through the scorer that also serves, one output file per partition."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from prefect import flow, get_run_logger, task, unmapped
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from bentos.runtime.home import replace
from bentos.runtime.scorer import Scorer, decide
from flows import usecases
from flows.errors import ContractError, ReleaseError, StoreError
from flows.runner import task_runner
from flows.settings import settings
from flows.steps import cohorts, contract
from flows.stores import bentos, features, prepared, registry, tables
from flows.usecases.spec import Contract, PathSource, UseCase


def score_frame(scorer: Scorer, joined: pd.DataFrame, risks: tuple[str, str]) -> pd.DataFrame:
    """Score and decision per row of a frame that holds the manifest's features; NaN is filled as the service does."""
    x = joined[scorer.manifest.names].to_numpy(dtype=np.float64)
    scores = scorer.score(x)
    positive = [decide(float(s), scorer.manifest.threshold) for s in scores]
    return pd.DataFrame({"score": scores, "decision": [risks[int(p)] for p in positive]}, index=joined.index)


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
    rows = part[[case.entity]].assign(event_timestamp=as_of).astype({"event_timestamp": "datetime64[us, UTC]"})
    joined = features.point_in_time(features.open_store(home), rows, scorer.manifest.feature_service)
    scored = score_frame(scorer, joined, scorer.manifest.risks)
    known = joined[case.entity].isin(pd.read_parquet(newest_partition(home, name, as_of))[case.entity])
    expired = known & joined[scorer.manifest.names].isna().all(axis=1)
    state = np.where(~known, "unknown", np.where(expired, "expired", "ok"))
    refused = ~known | (expired & (scorer.manifest.stale == "reject"))  # as the service answers 404 and 409
    result = pd.concat([joined[[case.entity]], scored], axis=1).assign(features=state, release=release, as_of=as_of)
    result.loc[refused, "score"] = np.nan
    result.loc[refused, "decision"] = None
    tables.write_table(result, path)
    return path.name, True


def newest_partition(home: Path, use_case: str, as_of: pd.Timestamp) -> Path:
    """The newest feature partition up to a moment; StoreError if nothing was prepared until then."""
    found = [
        p
        for p in (home / "features" / use_case).glob("as_of=*.parquet")
        if cohorts.utc(p.stem.removeprefix("as_of=")) <= as_of
    ]
    if not found:
        raise StoreError(f"no features of {use_case} up to {as_of.date()}: run `bentoflow prepare`")
    return max(found)


def entities(table: str, case: UseCase) -> pd.DataFrame:
    """The entity column of a parquet or csv table; ContractError if it is not there or a value is no entity."""
    frame = tables.read(PathSource(url=table, format="csv" if ".csv" in Path(table).name else "parquet"))
    if case.entity not in frame:
        raise ContractError(f"{table} has no column {case.entity!r}, it has {', '.join(map(str, frame.columns))}")
    column = next(c for c in case.contract.columns if c.name == case.entity)
    checked = contract.check(frame[[case.entity]], Contract(columns=(column,), max_bad_share=0, max_duplicate_share=1))
    return checked.good


@flow(name="score", task_runner=task_runner())
def score(
    use_case: str = "churn",
    table: str | None = None,
    out: str | None = None,
    as_of: datetime | None = None,
    partition_rows: int = 50_000,
) -> dict[str, Any]:
    """Score the entities of a parquet or csv table (a path or fsspec URL) with the champion; parquet files in `out`.

    Without a table everybody known at the newest prepare is scored. The result lies in `out`, by default below
    `scores/` in the home, in one folder per moment, release and snapshot. Unknown entities get no score. A killed run
    goes on where it stopped; the same run again computes nothing. `_SUCCESS.json` lists the files and comes last.
    """
    case, home, log = usecases.load(use_case), settings().home, get_run_logger()
    champion = registry.by_alias(use_case, "champion")
    if champion is None or "release" not in champion.tags:
        raise ReleaseError(f"{use_case} has no released champion: run `bentoflow train` and `bentoflow release`")
    snapshot, newest = prepared.latest(home, use_case)
    moment = cohorts.utc(pd.Timestamp(as_of)) if as_of else newest
    frame = entities(table or str(newest_partition(home, use_case, moment)), case)
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
