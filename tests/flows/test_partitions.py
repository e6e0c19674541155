"""Partitions: threads here and Dask's processes give the same files and the same results."""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.task_runners import ThreadPoolTaskRunner

from flows.check_drift import check_drift
from flows.prepare import prepare
from flows.score import score
from tests.flows.conftest import AS_OF, Bases, answers_of, at_home, champion, copied, holdout, journalled

MOMENT = datetime(1998, 5, 1, tzinfo=UTC)

pytestmark = [pytest.mark.integration]


@pytest.fixture(scope="module")
def homes(bases: Bases, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two equal homes with a champion and a journal of three days in four segments each, and nothing prepared."""
    import shutil

    from flows.stores import features

    folder = tmp_path_factory.mktemp("partitions")
    first = copied(bases.released, folder / "threads", bases.origin)
    with at_home(first):
        features.apply(features.open_store(first))
        served, rows = champion(first), holdout(bases)
        for day in range(3):  # 4,000 answers: beyond what a quantile sketch keeps without choosing
            journalled(first, answers_of(served, rows, MOMENT + timedelta(days=day)), segments=4)
    shutil.rmtree(first / "features")
    shutil.rmtree(first / "snapshots")
    return {"threads": first, "dask": copied(first, folder / "dask", first)}


@pytest.fixture(scope="module")
def outcomes(homes: dict[str, Path], feed: dict[str, str]) -> dict[str, dict[str, Any]]:
    """What the three flows answered in each home, under its own task runner."""
    done = {}
    for name, home in homes.items():
        with at_home(home):
            done[name] = dict(run(name, feed))
    return done


def run(name: str, feed: dict[str, str]) -> Iterator[tuple[str, Any]]:
    """The flows that map over partitions, one after the other, on threads or on two processes."""
    from prefect_dask import DaskTaskRunner

    def runner() -> Any:
        if name == "threads":
            return ThreadPoolTaskRunner(max_workers=2)
        return DaskTaskRunner(address=address)

    def flows() -> Iterator[tuple[str, Any]]:
        yield "prepare", prepare.with_options(task_runner=runner())("churn", AS_OF, feed)
        yield "score", score.with_options(task_runner=runner())("churn", partition_rows=400)
        window = {"since": MOMENT - timedelta(days=1), "until": MOMENT + timedelta(days=3)}
        yield "check_drift", check_drift.with_options(task_runner=runner())("churn", emit=False, **window)

    if name == "threads":
        yield from flows()
        return
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    ) as cluster:
        address = cluster.scheduler_address
        yield from flows()


def hashes(folder: Path, *patterns: str) -> dict[str, str]:
    found = [p for pattern in patterns for p in sorted(folder.glob(pattern))]
    assert found, folder
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


@pytest.mark.timeout(300)
def test_prepare_writes_the_same_files(homes: dict[str, Path], outcomes: dict[str, Any]) -> None:
    """Snapshot and feature partitions are the same bytes, and so is what the flow reports."""
    assert outcomes["threads"]["prepare"] == outcomes["dask"]["prepare"]
    assert outcomes["dask"]["prepare"]["partitions_changed"] == 11
    patterns = ("snapshots/churn/*", "features/churn/*.parquet")
    assert hashes(homes["threads"], *patterns) == hashes(homes["dask"], *patterns)


def test_score_writes_the_same_files(homes: dict[str, Path], outcomes: dict[str, Any]) -> None:
    """Five partitions of scores are the same bytes."""
    threads, dask = ({**outcomes[n]["score"], "out": ""} for n in ("threads", "dask"))
    assert threads == dask
    assert dask["computed"] == 5
    assert hashes(homes["threads"], "scores/churn/*/*.parquet") == hashes(homes["dask"], "scores/churn/*/*.parquet")


def test_check_drift_comes_to_the_same_verdict(homes: dict[str, Path], outcomes: dict[str, Any]) -> None:
    """The profiles of segments, days and window are the same bytes, and the verdict over them is the same."""
    threads, dask = ({**outcomes[n]["check_drift"], "report": ""} for n in ("threads", "dask"))
    assert threads == dask
    assert (dask["state"], len(dask["profiles"])) == ("none", 12)
    left, right = (hashes(homes[n], "profiles/churn/*") for n in ("threads", "dask"))
    assert len([name for name in left if "/day-" in name]) == 4  # counts and profile of two days; the last is not over
    assert "profiles/churn/window.bin" in left
    assert left == right
