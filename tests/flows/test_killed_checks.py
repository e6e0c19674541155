"""A check of drift that is killed anywhere and run again: same profiles, same verdict, one event and one line."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect import flow
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.check_drift import check_drift
from flows.retraining import alarms, events
from flows.steps.pages import plots
from flows.stores import history
from tests.flows.conftest import Bases, answers_of, champion, holdout, journalled
from tests.flows.test_check_drift import lines, worse
from tests.servers import free_port

ROOT = Path(__file__).resolve().parents[2]
MOMENT = datetime(1998, 5, 1, tzinfo=UTC)
TOLD = "flows.retraining.events:tell:after:1"
PLACES = (  # module, function, and before or after which of its calls the process is killed
    "os:replace:before:2",  # a part's profile is half written
    "flows.stores.parts:merged:after:1",  # every part is there, and the profile of a day
    "flows.stores.history:append:after:1",  # the line is there
    "flows.retraining.events:get_events_client:before:1",  # the server was asked, and not told
    TOLD,  # the server was told, and nobody knows
    "flows.retraining.alarms:replace:after:1",  # the verdict is kept
)
CODE = """
import os, signal, sys
from datetime import datetime
from importlib import import_module
from flows.check_drift import check_drift
from flows.steps.pages import plots

picture = open("picture.png", "rb").read()  # drawing takes most of the time
plots.compare_bins = plots.drift_bars = plots.quality_over_time = lambda *args, **more: picture

def doomed(place):
    module, name, when, times = place.split(":")
    real, left = getattr(import_module(module), name), [int(times)]
    def call(*args, **more):
        left[0] -= 1
        if when == "before" and not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        found = real(*args, **more)
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return found
    setattr(import_module(module), name, call)

print("ready", flush=True)
for line in sys.stdin:
    place, since, until = line.split()
    if not (child := os.fork()):
        doomed(place)
        check_drift("churn", since=datetime.fromisoformat(since), until=datetime.fromisoformat(until))
        os._exit(0)
    print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def window(number: int) -> dict[str, datetime]:
    """Windows differ in their end, and so in their event, and hold the same answers."""
    return {"since": MOMENT - timedelta(days=1), "until": MOMENT + timedelta(days=3 + number)}


@contextmanager
def doomed(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that has imported everything, and forks one of its kind for every check that is to be killed."""
    env = os.environ | {"PREFECT_API_URL": PREFECT_API_URL.value(), "PYTHONPATH": str(ROOT)}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    command = [sys.executable, "-W", "ignore", "-c", CODE]
    with subprocess.Popen(command, env=env, cwd=folder, text=True, start_new_session=True, **pipes) as process:
        try:
            assert said(process) == "ready"
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # and the check that it may be waiting for


def said(process: "subprocess.Popen[str]") -> str:
    """The next line that the process says of itself; a flow may print too."""
    assert process.stdout is not None
    return next(line.strip() for line in process.stdout if line.startswith(("ready", "ended")))


def killed(process: "subprocess.Popen[str]", number: int, place: str) -> int:
    """How a check of that window that is killed there ended."""
    assert process.stdin is not None
    print(place, *[moment.isoformat() for moment in window(number).values()], file=process.stdin, flush=True)
    return int(said(process).split()[1])


def forget(home: Path) -> None:
    """As before the first check."""
    for name in ("profiles", "reports"):
        shutil.rmtree(home / name, ignore_errors=True)
    kept = [line for line in history.path(home, "churn").read_text().splitlines() if '"drift' not in line]
    history.path(home, "churn").write_text("".join(f"{line}\n" for line in kept))


def files(home: Path) -> dict[str, bytes]:
    """Every profile; what a killed process left half written has a dot before its name."""
    return {p.name: p.read_bytes() for p in (home / "profiles" / "churn").iterdir() if not p.name.startswith(".")}


def verdict(result: dict[str, Any]) -> dict[str, Any]:
    """A result without what names its window."""
    return {key: value for key, value in result.items() if key not in ("since", "until", "report", "event")}


class Server:
    """The test's Prefect server, with an automation that sees every event that asks for a training."""

    def __init__(self, api: httpx.Client) -> None:
        self.api = api
        trigger = {"type": "event", "expect": [alarms.EVENT], "match": {"prefect.resource.id": "bentoflow.churn"}}
        made = {
            "name": "counts",
            "trigger": {**trigger, "posture": "Reactive", "threshold": 1, "within": 0},
            "actions": [{"type": "do-nothing"}],
        }
        self.automation = self._post("/automations/", made)["id"]

    def _post(self, path: str, body: Any) -> Any:
        response = self.api.post(path, json=body).raise_for_status()
        return response.json() if response.content else None

    def events(self, **wanted: Any) -> list[dict[str, Any]]:
        return list(self._post("/events/filter", {"filter": wanted, "limit": 50})["events"])

    def send(self, event: str, *ids: str) -> None:
        """Events of that name and those ids."""
        about = {"event": event, "resource": {"prefect.resource.id": "bentoflow.churn"}, "payload": {}}
        now = datetime.now(UTC).isoformat()
        self._post("/events", [{"id": id, "occurred": now, **about} for id in ids])

    def forget_ids(self) -> None:
        """What half an hour does, or another start of the server: it remembers the 10,000 newest ids of events."""
        self.send("bentoflow.test", *[str(uuid4()) for _ in range(10_001)])

    def starts(self, event: str) -> int:
        """How often the automation acted on an event."""
        about = {"id": [f"prefect.event.{event}"]}
        return len(self.events(event={"name": ["prefect.automation.action.executed"]}, related=about))

    def settle(self) -> None:
        """Wait until everything that was sent is kept and acted on: a last event is."""
        last = str(uuid4())
        self.send(alarms.EVENT, last)
        deadline = time.monotonic() + 60
        while not self.starts(last):
            assert time.monotonic() < deadline, "the automation never acted"
            time.sleep(0.2)


def test_a_server_that_cannot_be_reached_is_said_and_not_waited_for(
    prefect_api: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is raised: the check goes on, and its caller knows that the event was not told."""
    monkeypatch.setattr(events, "WAIT_S", 2.0)

    @flow
    def telling() -> bool:
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api"}):
            return events.tell(alarms.EVENT, id=str(uuid4()), use_case="churn", payload={})

    began = time.monotonic()
    assert telling() is False
    assert time.monotonic() - began < 30
    assert f"the server did not get {alarms.EVENT}, the next check tells it" in caplog.text


@pytest.fixture
def server(prefect_api: None) -> Iterator[Server]:
    with httpx.Client(base_url=PREFECT_API_URL.value(), timeout=60) as api:
        made = Server(api)
        try:
            yield made
        finally:
            api.delete(f"/automations/{made.automation}").raise_for_status()


def test_a_check_killed_anywhere_is_completed_by_the_next(
    released: Path, bases: Bases, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After SIGKILL at each place the same files, bytes and verdict; one event, one start by it, one line of history.

    Between being told and told again the server has forgotten the event's id, as it does within half an hour.
    """
    picture = plots.drift_bars(["a"], [0.1], 0.2)
    (tmp_path / "picture.png").write_bytes(picture)
    for name in ("compare_bins", "drift_bars", "quality_over_time"):
        monkeypatch.setattr(plots, name, lambda *args, **more: picture)
    served, rows = champion(released), holdout(bases).sample(700, random_state=3)
    journalled(released, answers_of(served, rows, MOMENT), segments=2)
    journalled(released, answers_of(served, rows, MOMENT + timedelta(days=1)))
    worse(released, bases.release["release"], 0.60)
    whole = check_drift("churn", **window(0))
    wanted, told = files(released), []
    assert (whole["kind"], len(whole["profiles"])) == ("harmful", 3)
    assert any(name.startswith("day-") for name in wanted)
    with doomed(tmp_path) as process:
        for number, place in enumerate(PLACES, 1):
            forget(released)
            assert killed(process, number, place) == -signal.SIGKILL, place
            if place == TOLD:
                server.forget_ids()
            again = check_drift("churn", **window(number))
            assert verdict(again) == verdict(whole), place
            assert files(released) == wanted, place
            assert [line["event"] for line in lines(released)] == [again["event"]], place
            told.append(again["event"])
    assert check_drift("churn", **window(len(PLACES))) == again
    server.settle()
    assert len(set(told)) == len(PLACES)
    assert {event: (len(server.events(id={"id": [event]})), server.starts(event)) for event in told} == dict.fromkeys(
        told, (1, 1)
    )
    (event,) = server.events(id={"id": [told[-1]]})
    assert (event["event"], event["resource"]["prefect.resource.id"]) == (alarms.EVENT, "bentoflow.churn")
    assert event["payload"]["kind"] == "harmful"
    assert "prefect.flow-run." in str(event["related"])
