"""A training whose process is killed blocks nobody, and rejected candidates open the breaker: with real trainings."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL

from bentos.runtime import clock
from flows.stores import locks
from flows.train import train
from tests.flows.conftest import SMALL, use
from tests.flows.retraining.test_decision import LATER, actions, asked_for

ROOT = Path(__file__).resolve().parents[3]
CODE = """
from flows import train
found = train.candidates.fit
def fit(*args, **more):
    print("fitting", flush=True)
    return found(*args, **more)
train.candidates.fit = fit
train.train("churn", reason="drift")
"""

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def test_a_training_that_is_killed_leaves_no_lock_behind(released: Path) -> None:
    """SIGKILL while it fits: its lock was held and is free at once, and the next day's event trains."""
    asked_for(released, "harmful", "high")
    env = os.environ | {"PREFECT_API_URL": PREFECT_API_URL.value(), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", CODE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env) as run:
        assert run.stdout is not None
        assert any("fitting" in line for line in run.stdout)
        with locks.held(released, "train-churn") as free:
            assert not free
        run.send_signal(signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL
    with locks.held(released, "train-churn") as free:
        assert free
    assert actions(released) == ["training started"]
    asked_for(released, "harmful", "high", event="e2")
    assert "in cooldown until 1998-05-02" in train("churn", reason="drift")["skipped"]
    asked_for(released, "harmful", "high", at=LATER + timedelta(days=1), event="e3")
    assert train("churn", reason="drift")["verdict"] == "HOLD"


def test_three_rejected_candidates_open_the_breaker(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After three candidates that the gates refuse an event trains nothing, and the history says why."""
    clock.write(released, "churn", LATER)
    use(monkeypatch, gates=replace(SMALL.gates, min_roc_auc=0.97))
    assert [train("churn")["verdict"] for _ in range(3)] == ["REJECT"] * 3
    moment = LATER + timedelta(days=SMALL.drift.cooldown_days + 1)
    asked_for(released, "harmful", "high", at=moment)
    assert "the last 3 candidates (versions 2, 3, 4) were rejected" in train("churn", reason="drift")["skipped"]
    assert actions(released)[-1] == "training held"
