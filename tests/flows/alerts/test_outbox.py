"""After a flow its channels are told, on a real Prefect server and to real receivers, whatever is killed or down."""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock

from flows import usecases
from flows.alerts import outbox
from flows.check_drift import check_drift
from flows.errors import GateError, ReleaseError
from flows.release import release
from flows.retraining import approval
from flows.steps.pages import plots
from flows.stores import bentos, history
from flows.targets import local
from flows.train import train
from flows.usecases.retraining import Retraining
from tests.flows.alerts.receivers import Web, web
from tests.flows.conftest import Bases, answers_of, champion, holdout, journalled, use
from tests.flows.retraining.test_decision import answering, asked_for
from tests.flows.test_release import another

WEEK = timedelta(days=7)
BROKEN = datetime(1998, 5, 1, tzinfo=UTC)


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A webhook that is the one channel, as an Apprise URL."""
    with web() as found:
        monkeypatch.setenv("BENTOFLOW_ALERTS", found.url.replace("http://", "json://"))
        picture = plots.drift_bars(["a"], [0.1], 0.2)
        monkeypatch.setattr(plots, "compare_bins", lambda *args: picture)
        yield found


def titles(hook: Web) -> list[str]:
    return [body["title"] for body in hook.bodies]


def answered(home: Path, bases: Bases, moment: datetime, factor: float) -> None:
    rows = holdout(bases).sample(1_000, random_state=3)
    money = ["avg_purchase_amount", "spend_90d"]
    journalled(home, answers_of(champion(home), rows.assign(**(rows[money] * factor)), moment))


def checked(moment: datetime = BROKEN) -> dict[str, Any]:
    return check_drift("churn", since=moment - timedelta(days=1), until=moment + timedelta(days=1))


def broke(home: Path) -> None:
    """The line of a release that was reverted."""
    history.append(home, "churn", "reverted", at=BROKEN, transaction="t", version="2", release="r", reason="slow")


def tell(home: Path) -> None:
    outbox.tell(usecases.load("churn"), home, logging.getLogger("outbox"))


def kept(home: Path, channel: str = "json") -> list[str]:
    lines = history.read(outbox.folder(home), "churn")
    return [line["action"] for line in lines if line["channel"].startswith(channel)]


def test_broken_data_are_told_once_and_resolved(
    released: Path, bases: Bases, hook: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cents for dollars send one message to each channel, checked again none; a sound window resolves it."""
    block = CustomWebhookNotificationBlock(name="ops", url=f"{hook.url}/block", json_data={"title": "{{subject}}"})
    block.save("both", overwrite=True)
    monkeypatch.setenv("BENTOFLOW_ALERTS", f"{os.environ['BENTOFLOW_ALERTS']}, custom-webhook/both")
    answered(released, bases, BROKEN, 100.0)
    found = checked()
    assert found["kind"] == "data_bug"
    assert hook.got[1] == ("/block", {"title": "Customer churn: broken data"})
    body = hook.bodies[0]
    assert body["title"] == "Customer churn: broken data"
    for text in ("values are 100 times", "data_bug in 1000 answers", found["report"], "bentoflow quarantine"):
        assert text in body["message"]
    assert body["type"] == "failure"
    checked()
    assert len(hook.got) == 2
    answered(released, bases, BROKEN + WEEK, 1.0)
    assert checked(BROKEN + WEEK)["kind"] == "none"
    assert titles(hook)[2:] == ["Resolved: Customer churn: broken data"] * 2
    for channel in ("json", "log", "custom-webhook/both"):
        assert kept(released, channel) == ["opened", "resolved"]


def test_a_channel_that_is_down_is_told_by_the_next_run(
    released: Path, bases: Bases, hook: Web, caplog: pytest.LogCaptureFixture
) -> None:
    """A webhook that answers 500 fails no flow: the error is logged and kept, and the next check sends the message."""
    answered(released, bases, BROKEN, 100.0)
    hook.status = 500
    assert checked()["kind"] == "data_bug"
    assert "an alert was not sent, the next flow tries again: json:" in caplog.text
    assert kept(released) == ["failed"]
    hook.status = 200
    checked()
    assert titles(hook) == ["Customer churn: broken data"]
    assert kept(released) == ["failed", "opened"]
    assert kept(released, "log") == ["opened"]


def test_without_channels_history_and_log_have_it(
    released: Path, bases: Bases, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing configured, and then only nonsense: the alert is in the log and the history, the nonsense is an error."""
    broke(released)
    tell(released)
    assert kept(released, "log") == ["opened"]
    assert "Customer churn: a release failed" in caplog.text
    monkeypatch.setenv("BENTOFLOW_ALERTS", "nonsense")
    tell(released)
    assert "entry 1 of BENTOFLOW_ALERTS is neither" in caplog.text
    assert kept(released, "entry") == ["failed"]


def test_a_kill_between_sending_and_keeping_tells_twice_and_never_not(released: Path, hook: Web) -> None:
    """SIGKILL right after the webhook took the message: the next run sends it again, the one after does not."""
    broke(released)
    code = (
        "import logging, os, signal\n"
        "from flows import usecases\n"
        "from flows.alerts import channels, outbox\n"
        "from flows.settings import settings\n"
        "send = channels.send\n"
        "channels.send = lambda *a: (send(*a), os.kill(os.getpid(), signal.SIGKILL))\n"
        "outbox.tell(usecases.load('churn'), settings().home, logging.getLogger('x'))\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], env=dict(os.environ), timeout=120, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert (len(hook.got), kept(released)) == (1, [])
    for _ in range(2):
        tell(released)
    assert (len(hook.got), kept(released)) == (2, ["opened"])


def test_a_question_is_told_while_it_is_open(released: Path, hook: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """Policy ask: the message is out before the person answers, with the evidence; the answer resolves it."""
    use(monkeypatch, retraining=Retraining(policy="ask", answer_hours=1))
    monkeypatch.setattr(approval, "POLL_S", 1)
    asked_for(released, "harmful", "medium")
    with answering(released, train=False, by="Ann"):
        train("churn", reason="drift")
    told = [body for body in hook.bodies if "An answer is needed" in body["title"]]
    assert "Inputs moved and harmful." in told[0]["message"]
    assert "Silence is a no" in told[0]["message"]
    assert [title.startswith("Resolved: ") for title in titles(hook) if "An answer" in title] == [False, True]


def test_a_release_that_fails_is_told_and_a_refusal_is_not(
    released: Path, hook: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed smoke test reverts, a full disk changes nothing, both are told; a refusal by gates is the caller's."""
    with pytest.raises(GateError):
        release("churn", another(verdict="REJECT").number)
    assert hook.got == []
    good = another().number
    with monkeypatch.context() as patch:
        patch.setattr(local, "smoke", raising(ReleaseError("golden rows: no answer")))
        with pytest.raises(ReleaseError):
            release("churn", good)
    assert titles(hook) == ["Customer churn: a release failed"]
    assert "golden rows: no answer" in hook.bodies[0]["message"]
    assert "the champion of before answers all" in hook.bodies[0]["message"]
    with monkeypatch.context() as patch:
        patch.setattr(bentos, "keep_model", raising(OSError("no space left on device")))
        with pytest.raises(OSError, match="no space"):
            release("churn", good)
    assert "OSError: no space left on device" in hook.bodies[1]["message"]
    assert "nothing was changed" in hook.bodies[1]["message"]
    release("churn", good)
    assert len(hook.got) == 2


def test_the_command_lists_and_tries(released: Path, hook: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """`bentoflow alerts` lists what was told; --test tries every channel, says what came back, and fails with one."""

    def run(*more: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "flows.cli", "alerts", *more]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    broke(released)
    tell(released)
    listed = run().stdout.splitlines()
    assert [line.split()[2] for line in listed] == ["log:", f"{listed[1].split()[2]}"]
    assert all("opened" in line and "Customer churn: a release failed" in line for line in listed)
    monkeypatch.setenv("BENTOFLOW_ALERTS", f"nonsense {hook.url.replace('http://', 'json://')}/token")
    tried = run("--test")
    assert tried.returncode == 1
    assert "NOT SENT: entry 1 of BENTOFLOW_ALERTS is neither" in tried.stdout
    assert "sent" in tried.stdout.splitlines()[1]
    assert "token" not in tried.stdout + tried.stderr
    assert titles(hook)[-1] == "Bentoflow: a test"


def raising(error: Exception) -> Callable[..., Any]:
    """A function that fails with the error."""

    def fail(*args: Any, **more: Any) -> Any:
        raise error

    return fail
