"""A check of drift that is killed anywhere and run again: same profiles, same verdict, one event and one line."""

import os
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL

from flows.check_drift import check_drift
from flows.steps.pages import plots
from flows.stores import history
from tests.flows.conftest import Bases, answers_of, champion, holdout, journalled
from tests.flows.test_check_drift import lines, worse

ROOT = Path(__file__).resolve().parents[2]
MOMENT = datetime(1998, 5, 1, tzinfo=UTC)
PLACES = (  # module, function, and at the end of which call the process is killed
    "flows.stores.parts:replace:2",  # a profile without its counts
    "flows.stores.parts:merged:1",  # every part, and a day
    "flows.retraining.alarms:emit_event:1",  # the event has left
    "flows.stores.history:append:1",  # the line is written
    "flows.retraining.alarms:replace:1",  # the verdict is kept
)
CODE = """
import os, signal, sys
from datetime import datetime
from importlib import import_module
from flows.check_drift import check_drift
from flows.steps.pages import plots

picture = open("picture.png", "rb").read()  # drawing takes most of the time
plots.compare_bins = plots.drift_bars = lambda *args: picture
place, since, until = sys.argv[1:]
module, name, times = place.split(":")
real, left = getattr(import_module(module), name), [int(times)]

def doomed(*args, **more):
    found = real(*args, **more)
    left[0] -= 1
    if not left[0]:
        if name == "emit_event":
            from prefect.events.worker import EventsWorker
            EventsWorker.instance().wait_until_empty()
        os.kill(os.getpid(), signal.SIGKILL)
    return found

setattr(import_module(module), name, doomed)
check_drift("churn", since=datetime.fromisoformat(since), until=datetime.fromisoformat(until))
"""

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def window(number: int) -> dict[str, datetime]:
    """Windows differ in their end, and so in their event, and hold the same answers."""
    return {"since": MOMENT - timedelta(days=1), "until": MOMENT + timedelta(days=3 + number)}


def check(number: int) -> dict[str, Any]:
    """A check that nobody kills, and whose event is on the server when it ends."""
    found = check_drift("churn", **window(number))
    EventsWorker.instance().wait_until_empty()
    return found


def killed(number: int, place: str, folder: Path) -> int:
    """How a check in a process of its own, in a folder with a picture, ended."""
    env = os.environ | {"PREFECT_API_URL": PREFECT_API_URL.value(), "PYTHONPATH": str(ROOT)}
    bounds = [moment.isoformat() for moment in window(number).values()]
    command = [sys.executable, "-W", "ignore", "-c", CODE, place, *bounds]
    return subprocess.run(command, env=env, cwd=folder, capture_output=True, timeout=120, check=False).returncode


def forget(home: Path) -> None:
    """As before the first check."""
    for name in ("profiles", "reports"):
        shutil.rmtree(home / name, ignore_errors=True)
    kept = [line for line in history.path(home, "churn").read_text().splitlines() if '"drift' not in line]
    history.path(home, "churn").write_text("".join(f"{line}\n" for line in kept))


def files(home: Path) -> dict[str, bytes]:
    """Every profile; what a killed process left half written has a dot before its name."""
    return {p.name: p.read_bytes() for p in (home / "profiles" / "churn").iterdir() if not p.name.startswith(".")}


def told(event: str) -> int:
    """How often the server has that event."""
    wanted = {"filter": {"id": {"id": [event]}, "occurred": {"since": "2020-01-01T00:00:00Z"}}, "limit": 50}
    response = httpx.post(f"{PREFECT_API_URL.value()}/events/filter", json=wanted, timeout=60)
    return len(response.raise_for_status().json()["events"])


def of_answers(result: dict[str, Any]) -> dict[str, Any]:
    """A result without what names its window."""
    return {key: value for key, value in result.items() if key not in ("since", "until", "report", "event")}


def test_a_check_killed_anywhere_is_completed_by_the_next(
    released: Path, bases: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After SIGKILL at each place the same files, bytes and verdict, one event on the server, one line of history."""
    picture = plots.drift_bars(["a"], [0.1], 0.2)
    (tmp_path / "picture.png").write_bytes(picture)
    for name in ("compare_bins", "drift_bars"):
        monkeypatch.setattr(plots, name, lambda *args: picture)
    served, rows = champion(released), holdout(bases).sample(700, random_state=3)
    journalled(released, answers_of(served, rows, MOMENT), segments=2)
    journalled(released, answers_of(served, rows, MOMENT + timedelta(days=1)))
    worse(released, bases.release["release"], 0.60)
    whole, wanted = check(0), files(released)
    assert (whole["kind"], len(whole["profiles"])) == ("harmful", 3)
    assert any(name.startswith("day-") for name in wanted)
    for number, place in enumerate(PLACES, 1):
        forget(released)
        assert killed(number, place, tmp_path) == -signal.SIGKILL, place
        again = check(number)
        assert of_answers(again) == of_answers(whole), place
        assert files(released) == wanted, place
        assert again["event"]
        assert check(number) == again, place
        assert told(again["event"]) == 1, place
        assert [line["event"] for line in lines(released)] == [again["event"]], place
