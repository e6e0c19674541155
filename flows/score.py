"""score: batch scoring of a table to parquet through the scorer that also serves, one output file per partition."""

import hashlib
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from prefect import flow, get_run_logger, task, unmapped
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from bentos.runtime import clock
from bentos.runtime.scorer import Scorer, decide
from flows import usecases
from flows.errors import ContractError, ReleaseError
from flows.runner import task_runner
from flows.settings import settings
from flows.steps import cohorts
from flows.stores import bentos, features, registry, tables
from flows.usecases.spec import PathSource


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
    key = hashlib.sha256(f"{release}|{as_of.isoformat()}|{tables.content_hash(part)}".encode()).hexdigest()[:24]
    path = out / f"part-{key}.parquet"
    if path.exists():
        return path.name, False
    scorer = Scorer.load(bentos.model_folder(release))
    rows = part[[case.entity]].assign(event_timestamp=as_of).astype({"event_timestamp": "datetime64[us, UTC]"})
    joined = features.point_in_time(features.open_store(home), rows, scorer.manifest.feature_service)
    scored = score_frame(scorer, joined, scorer.manifest.risks)
    unknown = joined[scorer.manifest.names].isna().all(axis=1)
    result = pd.concat([joined[[case.entity]], scored], axis=1).assign(
        features=np.where(unknown, "missing", "ok"), release=release, as_of=as_of
    )
    result.loc[unknown, "score"] = np.nan
    result.loc[unknown, "decision"] = None
    tables.write_table(result, path)
    return path.name, True


@flow(name="score", task_runner=task_runner())
def score(
    use_case: str = "churn",
    table: str | None = None,
    out: str | None = None,
    as_of: datetime | None = None,
    partition_rows: int = 50_000,
) -> dict[str, Any]:
    """Score the entities of a parquet or csv table (a path or fsspec URL) with the champion; parquet files in `out`.

    Without a table everybody known at the newest prepare is scored, without `out` to `scores/` in the home. Unknown
    entities get no score. A killed run goes on where it stopped; the same run again computes nothing.
    """
    case, home, log = usecases.load(use_case), settings().home, get_run_logger()
    champion = registry.by_alias(use_case, "champion")
    if champion is None or "release" not in champion.tags:
        raise ReleaseError(f"{use_case} has no released champion: run `bentoflow train` and `bentoflow release`")
    moment = cohorts.utc(pd.Timestamp(as_of or clock.now(home, use_case)))
    table = table or str(max((home / "features" / use_case).glob("as_of=*.parquet"), default="nothing is prepared"))
    frame = tables.read(PathSource(url=table, format="csv" if table.endswith(".csv") else "parquet"))
    if case.entity not in frame:
        raise ContractError(f"{table} has no column {case.entity!r}, it has {', '.join(map(str, frame.columns))}")
    if not pd.api.types.is_integer_dtype(frame[case.entity]):
        raise ContractError(
            f"column {case.entity!r} of {table} is {frame[case.entity].dtype}, it must hold whole numbers"
        )
    folder = Path(out) if out else home / "scores" / use_case / f"{moment:%Y-%m-%d}"
    folder.mkdir(parents=True, exist_ok=True)
    parts = partitions(frame[[case.entity]], partition_rows)
    done = score_partition.map(
        parts,
        unmapped(use_case),
        unmapped(champion.tags["release"]),
        unmapped(moment),
        unmapped(folder),
        unmapped(home),
    ).result()
    files = [name for name, _ in done]
    computed = sum(new for _, new in done)
    log.info("%d rows in %d partitions, %d of them computed now", len(frame), len(parts), computed)
    create_markdown_artifact(
        key=f"{use_case}-score",
        markdown=f"# {case.title}: {len(frame)} rows scored\n\n"
        f"Release `{champion.tags['release']}` as of {moment.date()}, {len(files)} files in `{folder}`.",
    )
    return {"use_case": use_case, "rows": len(frame), "files": files, "computed": computed, "out": str(folder)}
