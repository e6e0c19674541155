"""The demo of the use case by events, run once through its command, judged by what it stored."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from bentos.runtime import journal
from flows import processes
from flows.stores import answers, history
from tests import loop
from tests.browser import assert_page_ok

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    found = tmp_path_factory.mktemp("events") / "loop"
    try:
        loop.run(found, "bentoflow", "demo", "--use-case", "fraud", seconds=900)
        yield found
    finally:
        for name in processes.names(found):
            processes.stop(found, name)


def test_the_history_tells_the_loop(home: Path) -> None:
    """First release, calm days, a training that was asked for, an injected drift, a refused drill, labels."""
    actions = [line["action"] for line in history.read(home, "fraud")]
    calm = ["drift: none", "drift: none"]
    expected = ["trained: PROMOTE", "promoted", *calm, "drift: data_bug", "trained: REJECT", "feedback"]
    rest = iter(actions)
    assert all(step in rest for step in expected), actions


def test_the_request_started_one_training(home: Path) -> None:
    """Exactly one training has the request's reason, after the first one, and it was judged against the champion."""
    trained = [line for line in history.read(home, "fraud") if line["action"].startswith("trained")]
    (asked,) = [line for line in trained if line["reason"] == "demo"]
    assert asked["version"] == "2"
    assert any(reason.startswith("champion_gain") for reason in asked["reasons"]), asked


def test_answers_are_journalled_at_their_own_times(home: Path) -> None:
    """Every answer of the three days stands in the journal at its payment's time; golden rows are left out."""
    records = list(journal.scan(answers.folder(home, "fraud")))
    days = {record["time"][:10] for record in records}
    assert days == {"2024-03-01", "2024-03-08", "2024-03-09"}
    new = [record for record in records if record["state"] != "ok"]  # a card's first payment ever
    assert {record["state"] for record in new} <= {"missing"}
    assert len(new) < 0.01 * len(records)
    assert {record["decision"] for record in records} == {"LOW", "MEDIUM", "HIGH"}


def test_live_quality_keeps_what_the_gates_promised(home: Path) -> None:
    """The labels of a week later bear the held-out quality out."""
    (month,) = json.loads((home / "feedback" / "fraud.json").read_text())["months"]
    assert month["labels"] > 3_000
    assert month["roc_auc"]["low"] > 0.8


def test_the_page_is_sound_and_says_that_it_is_simulated(home: Path) -> None:
    """It shows in a browser, on a phone too, and nobody can take its payments for real ones."""
    page = home / "demo" / "index.html"
    assert "SIMULATED" in page.read_text()
    assert_page_ok(page)


def test_nothing_is_left_running(home: Path) -> None:
    """Everything that the demo started was stopped."""
    assert not [name for name in processes.names(home) if processes.running(home, name)]
