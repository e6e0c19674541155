"""The backtest of real purchases, on a real Prefect server: killed, interrupted, resumed, and nothing live touched."""

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.settings import PREFECT_API_URL

from bentos.runtime.scoring.manifest import sha256
from flows.backtest import assemble, backtest
from flows.errors import BentoflowError, ContractError, StoreError, WindowError
from flows.prepare import prepare
from flows.settings import settings
from flows.status import status
from flows.steps.backtesting import past as pasts
from flows.steps.pages import backtest as pages
from flows.steps.pages import page
from flows.steps.training import arrays
from flows.stores import backtests, features, locks, tables
from tests import browser
from tests.flows.conftest import SMALL, Bases, use

END = datetime(1998, 7, 1, tzinfo=UTC)
MINE = ("backtests/", "reports/churn/backtest-", "locks/")
ONLINE = "feast/online.db"
CHILD = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore Ctrl-C
from flows.usecases import churn
from tests.flows.conftest import SMALL
churn.USE_CASE = SMALL
from flows.backtest import backtest
backtest("churn")
"""


def files(home: Path) -> dict[str, str]:
    """Every file of the home that is not the backtest's own, by its content; of the online store its rows.

    SQLite moves them from the write-ahead log to the database whenever the last connection to it is collected.
    """
    found = {str(p.relative_to(home)): p for p in sorted(home.rglob("*")) if p.is_file()}
    rest = {name: p for name, p in found.items() if not name.startswith((*MINE, ONLINE))}
    with closing(sqlite3.connect(home / ONLINE)) as store:
        rows = hashlib.sha256("\n".join(store.iterdump()).encode()).hexdigest()
    return {name: sha256(p) for name, p in rest.items()} | {ONLINE: rows}


@contextmanager
def child(home: Path) -> Iterator[subprocess.Popen[str]]:
    """A backtest in a process of its own, on this session's Prefect server."""
    env = {**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value()), "PREFECT_LOGGING_LEVEL": "CRITICAL"}
    command = [sys.executable, "-c", CHILD]
    with subprocess.Popen(
        command, env=env, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def until_told(running: subprocess.Popen[str], text: str) -> list[str]:
    """The lines that it told, up to the first one with that text."""
    told = []
    assert running.stderr is not None
    for line in running.stderr:
        told.append(line)
        if text in line:
            return told
    raise AssertionError(f"it ended without {text!r}:\n{''.join(told)}")


def kept(home: Path) -> set[str]:
    """Names of the trainings that are kept."""
    return {p.name for p in (backtests.folder(home, "churn") / "trainings").glob("[!.]*")}


@pytest.mark.integration
@pytest.mark.timeout(900)
def test_a_killed_and_an_interrupted_backtest_go_on_and_change_nothing_live(
    released: Path, feed: dict[str, str]
) -> None:
    """After SIGKILL and Ctrl-C finished trainings are kept and used; the rest of the home stays byte for byte."""
    prepare("churn", END, feed)
    before = files(released)
    with child(released) as running:
        until_told(running, "trained as of")
        running.send_signal(signal.SIGKILL)
        running.wait(60)
    first = kept(released)
    assert len(first) >= 1
    with child(released) as running:
        told = until_told(running, "trained as of")
        assert running.stderr is not None
        running.send_signal(signal.SIGINT)
        told += running.stderr.readlines()
        assert running.wait(60) != 0
    assert any("stopped: what was trained is kept" in line for line in told), told
    second = kept(released)
    assert second > first
    result = backtest("churn")
    assert result["cost"]["kept"] >= len(second)
    assert kept(released) > second
    assert files(released) == before
    check_result(result, released)
    again = backtest("churn")
    assert again["cost"]["kept"] > result["cost"]["kept"]
    for one, other in zip(result["policies"], again["policies"], strict=True):
        assert one["training_s"] == other["training_s"]  # what a training cost when it was made
        assert [s["outcome"] for s in one["steps"]] == [s["outcome"] for s in other["steps"]]
    assert again["result"] == result["result"]


def check_result(result: dict[str, Any], home: Path) -> None:
    """Figures, page, artifact and status of a finished backtest agree."""
    names = [run["name"] for run in result["policies"]]
    assert names == ["never", "monthly", "quarterly", "drift", "performance", "drift and performance"]
    monthly = result["policies"][1]
    assert monthly["trainings"] == result["windows"] - 1
    assert monthly["training_s"] > 0
    assert result["policies"][0]["training_s"] + result["policies"][0]["watching_s"] == 0
    assert result["policies"][3]["watching_s"] > 0
    assert all(result["oracle"]["mean"]["brier_skill"] >= run["mean"]["brier_skill"] for run in result["policies"])
    assert result["recommendation"]["policy"] in names
    browser.assert_page_ok(Path(result["report"]))
    unsure = {**result["recommendation"], "policy": "", "best": "", "compared": []}
    assert "No recommendation" in page.render(pages.page("Churn", {**result, "recommendation": unsure}))
    stored = backtests.latest(home, "churn")
    assert stored["recommendation"]["policy"] == result["recommendation"]["policy"]
    said = status(settings(), "churn")["backtest"]
    assert said.startswith(f"{result['recommendation']['policy']} recommended as of 1998-07-01: ")
    with get_client(sync_client=True) as client:
        key = ArtifactFilter(key=ArtifactFilterKey(any_=["churn-backtest"]))
        artifacts = client.read_artifacts(artifact_filter=key)
    assert any("| monthly |" in str(artifact.data) for artifact in artifacts)


@pytest.mark.parametrize("day", ["1997-10-01", "1998-01-01"])
def test_a_training_of_the_replay_takes_the_rows_of_a_real_one(prepared: Path, bases: Bases, day: str) -> None:
    """As of any moment, entities, features, labels and split are those of the training frame of that moment."""
    events = tables.read_snapshot(prepared / "snapshots" / "churn", bases.prepare["snapshot"])
    moment, store = pd.Timestamp(day, tz="UTC"), features.open_store(prepared)
    whole = assemble.fn(SMALL, bases.prepare["snapshot"], pd.Timestamp("1998-01-01", tz="UTC"), "MS", prepared)
    train, test = pasts.examples(whole, moment)
    joined = features.training_frame(store, SMALL, events, moment)
    real = arrays.table(SMALL, joined, features.input_names(store, SMALL))
    held = real.times == test.times[0]
    for found, expected in ((train, real.part(~held)), (test, real.part(held))):
        pd.testing.assert_frame_equal(found.frame(), expected.frame())
        assert found.y.tolist() == expected.y.tolist()
        assert found.entities.tolist() == expected.entities.tolist()
        assert found.times.tolist() == expected.times.tolist()


def test_too_little_history_says_what_is_missing(prepared: Path) -> None:
    """Until January 1998 there is one moment with a model and labels of what came next: nothing to compare."""
    with pytest.raises(StoreError, match="1 moments of churn until 1998-01-01"):
        backtest("churn")
    with pytest.raises(ContractError, match="leave the days of a step out"):
        backtest("churn", step_days=7)
    with pytest.raises(StoreError, match="labels would look mature that are not"):
        backtest("churn", until=END)


@pytest.mark.parametrize("since", [datetime(1998, 1, 1, tzinfo=UTC), datetime(2999, 1, 1, tzinfo=UTC)])
def test_a_replay_that_begins_after_its_end_is_refused(prepared: Path, since: datetime) -> None:
    """Both moments are named, also a year that no timestamp reaches."""
    with pytest.raises(WindowError, match=f"nothing is known of churn from {since:%Y-%m-%d} to 1998-01-01"):
        backtest("churn", since=since)


def test_gates_that_nothing_passes_are_named(
    empty: Path, feed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any first model the backtest ends with the gate that refused the last one."""
    prepare("churn", END, feed)
    use(monkeypatch, gates=replace(SMALL.gates, min_roc_auc=0.97))
    with pytest.raises(BentoflowError, match=r"no first model of churn passed the gates at any of 1 .*floor_roc_auc"):
        backtest("churn", since=datetime(1998, 3, 1))


def test_two_at_once_are_refused(prepared: Path) -> None:
    """A second backtest of the same use case says that another one runs."""
    with (
        locks.held(prepared, "backtest-churn"),
        pytest.raises(StoreError, match="another backtest of churn is running"),
    ):
        backtest("churn")
