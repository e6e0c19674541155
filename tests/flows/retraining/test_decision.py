"""An automatic training is weighed first, on a real Prefect server: conditions, a quick fit, policy, and a person.

Labels that matured after the champion's training are planted as answers of the `try_out` task where a test is about
what follows from them; `test_loop` and the first test here fit really.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort

from bentos.runtime import clock
from flows.retraining import approval, decision
from flows.settings import settings
from flows.status import status
from flows.steps.training.prospect import Prospect
from flows.stores import history, locks, registry
from flows.train import train
from flows.usecases.retraining import Retraining
from tests.flows.conftest import SMALL, use

LATER = datetime(1998, 5, 1, tzinfo=UTC)  # the cooldown of the first training is over
VAIN = Prospect(answer="does not help", why="a quick fit gains nothing")


def asked_for(home: Path, kind: str, severity: str, *, at: datetime = LATER, event: str = "e1") -> None:
    """The line of a drift check whose event asked for a training, and the clock at that time."""
    clock.write(home, "churn", at)
    facts = {"reason": f"Inputs moved and {kind}.", "event": event, "severity": severity}
    history.append(home, "churn", f"drift: {kind}", at=at, **facts)


def actions(home: Path) -> list[str]:
    """What the history says of trainings since the champion was promoted."""
    lines = [line["action"] for line in history.read(home, "churn")]
    return [a for a in lines[lines.index("promoted") :] if a.startswith("train")]


def newest_run() -> FlowRun:
    """The newest run of `train` on the server."""
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(limit=20, sort=FlowRunSort.START_TIME_DESC)  # else any twenty
    return max((r for r in runs if "use_case" in r.parameters), key=lambda r: r.created)


@pytest.fixture
def vain(monkeypatch: pytest.MonkeyPatch) -> None:
    """The quick fit says that a training does not help."""
    monkeypatch.setattr(decision, "try_out", lambda *args: VAIN)


@contextmanager
def answering(home: Path, **answer: Any) -> Iterator[list[dict[str, Any]]]:
    """In the background, wait for the question and resume its run with an answer, as a person does in Prefect's page.

    Gives a list that holds the question's line, what the page showed, and what `status` said meanwhile.
    """
    seen: list[dict[str, Any]] = []

    def person() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            asked = [line for line in history.read(home, "churn") if line["action"] == "training asked"]
            if asked and _resumed(asked[-1], seen, home, answer):
                return
            time.sleep(0.3)

    thread = threading.Thread(target=person)
    thread.start()
    try:
        yield seen
    finally:
        thread.join()


def _resumed(line: dict[str, Any], seen: list[dict[str, Any]], home: Path, answer: dict[str, Any]) -> bool:
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(line["run_id"])
        inputs = client.filter_flow_run_input(flow_run_id=run.id, key_prefix="paused-", limit=10, exclude_keys=set())
        shown = next((i.value for i in inputs if i.key.endswith("-description")), "")
        if run.state is None or not run.state.is_paused() or not shown:  # the form is saved after the pause
            return False
        with locks.held(home, "train-churn") as free:
            seen.append({**line, "shown": shown, "free": free, "status": status(settings(), "churn")})
        client.resume_flow_run(run.id, run_input=answer)
    return True


def test_harm_trains_after_a_quick_fit_and_the_reason_is_kept_everywhere(released: Path) -> None:
    """Without newer labels the quick fit cannot tell, harm trains, and run, version and history say why."""
    asked_for(released, "harmful", "high")
    found = train("churn", reason="drift")
    assert found["verdict"] == "HOLD"
    version = registry.get("churn", found["version"])
    told = {"trigger": "drift", "severity": "high", "drift_kind": "harmful", "event": "e1"}
    assert told.items() <= version.tags.items()
    assert version.tags["evidence"] == "Inputs moved and harmful."
    assert '"answer": "cannot tell"' in version.tags["prospect"]
    assert told.items() <= registry.client().get_run(version.run_id).data.tags.items()
    begun, judged = history.read(released, "churn")[-2:]
    assert (begun["action"], judged["action"]) == ("training started", "trained: HOLD")
    for line in (begun, judged):
        assert (line["cause"]["severity"], line["cause"]["event"]) == ("high", "e1")
        assert "newer than those the champion was judged on" in line["prospect"]["why"]
    assert {"trigger:drift", "severity:high", "drift_kind:harmful"} <= set(newest_run().tags)


def test_a_refresh_that_cannot_help_is_skipped_and_quiet(released: Path, vain: None) -> None:
    """Benign drift and a clear no of the quick fit: nothing is trained, that is kept, and the next day is quiet."""
    asked_for(released, "benign", "low")
    found = train("churn", reason="drift")
    assert "declined by probe: a benign drift, and training does not help" in found["skipped"]
    assert actions(released) == ["training declined"]
    assert history.read(released, "churn")[-1]["prospect"]["answer"] == "does not help"
    assert [v.number for v in registry.versions("churn")] == ["1"]
    asked_for(released, "benign", "low", at=LATER + timedelta(days=1), event="e2")
    assert "quiet until 1998-05-08" in train("churn", reason="drift")["skipped"]
    assert actions(released)[-1] == "training held"


def test_never_records_what_it_would_have_done_and_a_person_trains_all_the_same(
    released: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Policy never: harm and schedule train nothing, with a line each; a start by hand is not asked about."""
    use(monkeypatch, retraining=Retraining(policy="never"))
    asked_for(released, "harmful", "high")
    for reason in ("drift", "schedule"):
        assert "it would have trained" in train("churn", reason=reason)["skipped"]
    assert actions(released) == ["training declined", "training declined"]
    found = train("churn")
    assert found["verdict"] == "HOLD"
    assert registry.get("churn", found["version"]).tags["trigger"] == "person"


def test_a_yes_trains(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Policy ask: the run pauses with the evidence in its form, holds no lock meanwhile, and trains after a yes."""
    use(monkeypatch, retraining=Retraining(policy="ask", answer_hours=1))
    monkeypatch.setattr(approval, "POLL_S", 1)
    asked_for(released, "harmful", "medium")
    with answering(released, train=True, by="Ann") as seen:
        found = train("churn", reason="drift")
    (question,) = seen
    assert found["verdict"] == "HOLD"
    assert actions(released) == ["training asked", "training started", "trained: HOLD"]
    assert question["free"]
    for text in ("Inputs moved and harmful.", "severity medium", "Would it help?", "within 1 hours nothing is trained"):
        assert text in question["shown"]
    assert f"run '{question['run']}' asks whether to train" in question["status"]["question"]
    assert status(settings(), "churn")["question"] is None


def test_a_no_trains_nothing_and_names_who_said_it(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Policy ask: after a no the history has the name, and a run resumed without an answer trains nothing either."""
    use(monkeypatch, retraining=Retraining(policy="ask", answer_hours=1))
    monkeypatch.setattr(approval, "POLL_S", 1)
    asked_for(released, "harmful", "medium")
    with answering(released, train=False, by="Ann"):
        found = train("churn", reason="drift")
    assert found["skipped"] == "declined by Ann: the answer was no"
    assert actions(released) == ["training asked", "training declined"]
    asked_for(released, "harmful", "high", at=LATER + timedelta(days=1), event="e2")  # worse: asks again at once
    with answering(released):
        assert "declined by a person: the answer was no" in train("churn", reason="drift")["skipped"]
    assert [v.number for v in registry.versions("churn")] == ["1"]


def test_silence_is_a_no_and_the_run_completes(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Policy ask: nobody answers in time, so nothing is trained, the line says silence, and the run is no failure."""
    use(monkeypatch, retraining=Retraining(policy="ask", answer_hours=3 / 3_600))
    monkeypatch.setattr(approval, "POLL_S", 1)
    asked_for(released, "harmful", "high")
    found = train("churn", reason="drift")
    assert found["skipped"] == "declined by silence: nobody answered in time"
    assert actions(released) == ["training asked", "training declined"]
    assert history.read(released, "churn")[-1]["by"] == "silence"
    run = newest_run()
    assert run.state is not None
    assert run.state.is_completed(), run.state


def test_only_one_question_is_open_at_a_time(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a run waits for an answer a second one does not ask again, and says so."""
    use(monkeypatch, retraining=Retraining(policy="ask"))
    asked_for(released, "harmful", "high")
    with locks.held(released, "ask-churn") as alone:
        assert alone
        found = train("churn", reason="drift")
    assert found["skipped"] == "a question whether to train is open already"
    assert actions(released) == ["training held"]


def test_a_budget_that_is_used_up_holds_the_schedule_and_no_person(
    released: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one automatic training a week, a second one waits; a person's is not counted and not held up."""
    use(monkeypatch, retraining=Retraining(budget=1))
    clock.write(released, "churn", LATER)
    at = LATER - timedelta(days=6)
    history.append(released, "churn", "training started", at=at, reason="drift")
    assert "budget of 1 automatic trainings" in train("churn", reason="schedule")["skipped"]
    assert train("churn")["verdict"] == "HOLD"
    clock.write(released, "churn", LATER + timedelta(days=1))
    assert train("churn", reason="schedule")["verdict"] == "HOLD"


def test_a_quick_fit_that_fails_stops_nothing(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error on the way to the answer is told as `cannot tell`, and even a refresh trains."""

    def fail(*args: Any) -> Any:
        raise ValueError("no such file")

    monkeypatch.setattr(decision.prospects, "measure", fail)
    asked_for(released, "benign", "low")
    assert train("churn", reason="drift")["verdict"] == "HOLD"
    kept = history.read(released, "churn")[-1]["prospect"]
    assert kept["answer"] == "cannot tell"
    assert "ValueError: no such file" in kept["why"]


def test_status_tells_of_an_event_that_nothing_followed(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half an hour after the event `status` says that no run came; with a run that was only held up it does not."""
    use(monkeypatch, retraining=replace(SMALL.retraining, notice_minutes=0))
    assert status(settings(), "churn")["automation"] == "every event was followed by a run"
    asked_for(released, "harmful", "high", at=datetime(1998, 2, 1, tzinfo=UTC))
    assert "no run followed within 0 minutes" in status(settings(), "churn")["automation"]
    assert "in cooldown until 1998-04-01" in train("churn", reason="drift")["skipped"]
    found = status(settings(), "churn")
    assert found["automation"] == "every event was followed by a run"
    assert found["retraining"].startswith("auto; in cooldown until 1998-04-01")
