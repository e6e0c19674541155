"""Broken data never reach a training: cents for dollars in a shop's answers, and in its source.

One home for all tests; each starts with the history of the release and an empty journal, and the last mends its source.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from prefect import flow

from bentos.runtime.features.joined import open_reader
from bentos.runtime.journal import Journal
from bentos.runtime.rollouts import rollout
from bentos.runtime.scoring.release import Release, load_release
from flows import usecases
from flows.check_drift import check_drift
from flows.errors import StoreError
from flows.examples import Examples, examples
from flows.explain import reproduce
from flows.feedback import feedback
from flows.prepare import prepare
from flows.release import release
from flows.retraining import isolation
from flows.steps.data import quarantine
from flows.stores import bentos, history, registry
from flows.train import train
from tests.flows import shop
from tests.flows.conftest import at_home, decided
from tests.flows.test_categorical_use_case import declared

SINCE, ANSWERED, UNTIL = (pd.Timestamp(day, tz="UTC") for day in ("2024-05-20", "2024-06-01", "2024-06-10"))
CUTOFFS = [pd.Timestamp(f"2024-0{month}-01", tz="UTC") for month in range(3, 8)]  # mature at the end of the log
TOUCHED = CUTOFFS[2:4]  # of May, whose labels fall in the period, and of June, whose features do


@pytest.fixture(scope="module")
def site(prefect_api: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Release]]:
    """The shop with a champion, and the champion as the service loads it."""
    with at_home(tmp_path_factory.mktemp("isolated") / "home") as home, pytest.MonkeyPatch.context() as patch:
        declared(patch, estimators=("logistic_regression",), trials=1)
        prepare("shop")
        assert train("shop", reason="first version")["verdict"] == "PROMOTE"
        release("shop", reason="first version")
        found = rollout.read(rollout.rollout_path(home, "shop"))
        assert found is not None
        folder = bentos.model_folder(found.arms[0].release)
        yield home, load_release(folder, "shop", lambda manifest: open_reader(home, manifest))


@pytest.fixture
def home(site: tuple[Path, Release]) -> Iterator[Path]:
    """The home as it was after the release."""
    lines, journal = history.path(site[0], "shop"), site[0] / "journal" / "shop"
    before = lines.read_bytes()
    yield site[0]
    lines.write_bytes(before)
    shutil.rmtree(journal, ignore_errors=True)


@pytest.fixture
def broken(site: tuple[Path, Release], home: Path) -> str:
    """Answers in cents for dollars, checked: the id of the quarantine."""
    answer(site, 100.0)
    found = check_drift("shop", since=SINCE.to_pydatetime(), until=UNTIL.to_pydatetime())
    assert found["kind"] == "data_bug", found["why"]
    (period,) = quarantine.holding(history.read(home, "shop"))
    return period.id


def answer(site: tuple[Path, Release], factor: float, at: pd.Timestamp = ANSWERED) -> None:
    """Journal the answers of everybody known then, the mean amount multiplied."""
    rows = pd.read_parquet(site[0] / "features" / "shop" / f"as_of={at:%Y-%m-%d}.parquet")
    rows["mean_amount"] *= factor
    given = rows.drop(columns=["user_id", "event_timestamp"]).astype(object)
    given = given.where(given.notna(), None)
    asked = [
        {"user_id": int(user), "features": values}
        for user, values in zip(rows["user_id"], given.to_dict("records"), strict=True)
    ]
    log = Journal(site[0] / "journal" / "shop")
    log.append(decided(site[1], asked, at.to_pydatetime()))
    log.close()


@flow(name="rows_of")
def rows_of(home: Path) -> Examples:
    """The examples that a training would have."""
    return examples(usecases.load("shop"), None, home)


def cutoffs(found: Examples) -> list[pd.Timestamp]:
    return sorted(found.joined["event_timestamp"].unique())


def test_no_row_of_a_broken_window_is_trained_on_until_a_person_lifts_it(home: Path, broken: str) -> None:
    """Rows whose features or labels fall in the window are no examples, and are all back once it is lifted.

    Until a prepare has looked at the source neither are later rows, whose features look back on the window.
    """
    assert cutoffs(rows_of(home)) == CUTOFFS[:2]
    at = ANSWERED.to_pydatetime()
    history.append(home, "shop", quarantine.KEPT, at=at, id=broken, onwards=False, reason="the source is sound")
    found = rows_of(home)
    times = found.joined["event_timestamp"]
    assert not ((times < UNTIL) & (times + pd.Timedelta(days=shop.HORIZON) > SINCE)).any()
    assert cutoffs(found) == [c for c in CUTOFFS if c not in TOUCHED]
    assert found.cutoff == CUTOFFS[-1]
    for bad in ("0000", ""):
        with pytest.raises(StoreError, match=f"no quarantine '{bad}' holds in shop; holding: {broken}"):
            isolation.lift("shop", bad, "mistaken", home)
    with pytest.raises(StoreError, match="say why with --reason"):
        isolation.lift("shop", broken, " ", home)
    isolation.lift("shop", broken, "the feed was replayed", home)
    again = rows_of(home)
    assert cutoffs(again) == CUTOFFS
    assert len(again.joined) == len(found.joined) + found.left_out
    assert again.quarantined() is None
    assert "LIFTED by a person: the feed was replayed" in isolation.listed("shop", home)[0]


def test_a_lifted_window_stays_lifted_when_it_is_checked_again(home: Path, broken: str) -> None:
    """The same window quarantines nothing again; of one that is a day later that day alone."""
    isolation.lift("shop", broken, "known", home)
    for later, left_out in ((pd.Timedelta(0), []), (pd.Timedelta(days=1), CUTOFFS[3:])):
        again = check_drift("shop", since=(SINCE + later).to_pydatetime(), until=(UNTIL + later).to_pydatetime())
        assert again["kind"] == "data_bug"
        assert cutoffs(rows_of(home)) == [c for c in CUTOFFS if c not in left_out]


def test_what_is_left_out_is_told_wherever_the_training_is(home: Path, broken: str) -> None:
    """A person's own training leaves the rows out too: result, gate, facts, history say so; it can be reproduced."""
    found = train("shop", reason="by hand")
    count = rows_of(home).left_out
    assert count > 1_000
    assert found["quarantine"][0] == f"{count} rows left out"
    assert found["quarantine"][1].startswith(f"{broken} 2024-05-20")
    version = registry.get("shop", found["version"])
    fresh = next(g for g in registry.gates(version) if g["name"] == "freshness")
    assert f"{count} rows of quarantined periods are left out" in fresh["reason"]
    kept = next(line for line in reversed(history.read(home, "shop")) if line["action"].startswith("trained"))
    assert kept["quarantine"]["rows_left_out"] == count
    assert [p["id"] for p in kept["quarantine"]["periods"]] == [broken]
    isolation.lift("shop", broken, "later", home)
    assert reproduce("shop", found["version"])["equal"]


def test_answers_on_broken_data_are_no_live_quality(site: tuple[Path, Release], home: Path, broken: str) -> None:
    """Their labels are counted and named on the page, and measured as no month, beside those of sound answers."""
    answer(site, 1.0, CUTOFFS[-1])
    found = feedback("shop", min_labels=100)
    assert [m["month"] for m in found["months"]] == ["2024-07"]
    assert found["quarantined"]["labels"] == found["labels"] - found["months"][0]["labels"] > 500
    page = next((home / "reports" / "shop").glob("feedback-*.html")).read_text()
    assert "were given on broken data and are not measured" in page
    assert broken in page
    isolation.lift("shop", broken, "known", home)
    assert [m["month"] for m in feedback("shop", min_labels=100)["months"]] == ["2024-06", "2024-07"]


def test_the_command_lists_and_lifts(home: Path, broken: str) -> None:
    """`bentoflow quarantine` names the period and the sign; --lift without a reason is an error, with one it lifts."""

    def run(*more: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "flows.cli", "quarantine", "--use-case", "shop", *more]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    listed = run().stdout
    assert f"{broken} 2024-05-20 00:00 to 2024-06-10 00:00 and all that looks back on it: " in listed
    assert "Column mean_amount: values are 100 times" in listed
    refused = run("--lift", broken)
    assert refused.returncode == 1
    assert "say why with --reason" in refused.stderr
    assert run("--lift", broken, "--reason", "seen").returncode == 0
    assert quarantine.holding(history.read(home, "shop")) == ()


def test_a_prepare_that_shows_sound_data_lifts(home: Path, broken: str) -> None:
    """The bug was in the online store alone: rows and features of the period, prepared again, show no sign of it."""
    found = prepare("shop")
    assert found["isolated"] == []
    assert "LIFTED by prepare: no sign of it in the prepared rows" in isolation.listed("shop", home)[0]
    assert cutoffs(rows_of(home)) == CUTOFFS
    assert feedback("shop", min_labels=100)["quarantined"]["labels"] > 500  # these answers were broken all the same


def test_a_broken_source_holds_back_all_that_looks_back_on_it_until_it_is_mended(
    home: Path, broken: str, tmp_path: Path
) -> None:
    """With cents in the source itself later features hold them too; the mended source brings every row back."""
    feed = shop.simulated()
    inside = feed["ordered_at"].between(SINCE, UNTIL, inclusive="left")
    feed["amount"] = feed["amount"].where(~inside, feed["amount"] * 100)
    feed.to_parquet(tmp_path / "cents.parquet", coerce_timestamps="us")
    source: dict[str, Any] = {"url": str(tmp_path / "cents.parquet"), "format": "parquet"}
    for _ in range(2):
        assert len(prepare("shop", source=source)["isolated"]) == 1
    kept = [line for line in history.read(home, "shop") if line["action"] == quarantine.KEPT]
    assert [line["onwards"] for line in kept] == [True]
    assert "column amount: values are 100 times" in kept[0]["reason"]
    assert cutoffs(rows_of(home)) == CUTOFFS[:2]
    assert json.dumps(rows_of(home).quarantined())
    assert prepare("shop")["isolated"] == []
    assert cutoffs(rows_of(home)) == CUTOFFS
