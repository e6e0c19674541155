"""Rollouts of a real server under load: canary step, promotion and rollback lose nothing and linger nowhere."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from bentos.runtime import journal
from bentos.runtime.rollouts import rollout
from bentos.runtime.rollouts.rollout import Arm, Rollout

from .conftest import (
    GIVEN,
    MODEL,
    Clients,
    Server,
    fill_store,
    fit,
    make_release,
    save_release,
    serving,
    set_clock,
    wait_for,
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
PEOPLE = range(100)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A BentoML home with v1, v2 and one whose model was altered."""
    folder = tmp_path_factory.mktemp("models")
    home = folder / "bentoml"
    save_release(home, make_release(folder / "a", version="1"), "churn:v1")
    save_release(home, make_release(folder / "b", version="2", model=fit(seed=4)), "churn:v2")
    altered = make_release(folder / "d", version="4")
    (altered / MODEL).write_bytes((altered / MODEL).read_bytes()[:-1])
    save_release(home, altered, "churn:altered")
    return home


class Load(Clients):
    """Clients that post a hundred people again and again; every answer with the moment its request was sent."""

    def __init__(self, url: str, clients: int = 3) -> None:
        super().__init__(url, clients)
        self.answers = []

    def post(self, k: int) -> None:
        body = [{"user_id": i, "features": GIVEN} for i in PEOPLE]
        with httpx.Client(timeout=20) as client:
            while not self.over.is_set():
                sent = time.monotonic()
                try:
                    response = client.post(self.url + "/predict", json=body)
                except httpx.TransportError as error:
                    self.failures.append(repr(error))
                    return
                if response.status_code != 200:
                    self.failures.append(response.text)
                    continue
                self.answers += [(sent, a["arm"], a["model_version"], a["request_id"]) for a in response.json()]

    def since(self, moment: float, rows: int = 2_000) -> set[tuple[str, str]]:
        """Arms and versions of the answers to requests that were sent after a moment, once there are enough."""
        found: list[tuple[str, str]] = []

        def enough() -> bool:
            found[:] = [(arm, version) for sent, arm, version, _ in list(self.answers) if sent > moment]
            return len(found) >= rows

        wait_for(enough, what="answers")
        return set(found)


def share(home: Path, weight: float) -> None:
    """Give v2 a share of the entities."""
    arms = (Arm("champion", "churn:v1", 1.0 - weight), Arm("canary", "churn:v2", weight))
    rollout.write(rollout.rollout_path(home, "churn"), Rollout(arms, "s"))


def put(home: Path, tag: str) -> None:
    """Make a tag the champion of all."""
    rollout.write(rollout.rollout_path(home, "churn"), Rollout((Arm("champion", tag, 1.0),)))


def arms(server: Server) -> dict[str, tuple[str, float]]:
    """Version and share of each loaded arm, by /health."""
    found: dict[str, Any] = httpx.get(server.url + "/health", timeout=30).json()["arms"]
    return {name: (arm["version"], round(arm["weight"], 6)) for name, arm in found.items()}


def picked_up(server: Server, change: Callable[[], None], expected: dict[str, tuple[str, float]]) -> float:
    """Seconds from a change of the file until the server says that it follows."""
    change()
    return wait_for(lambda: arms(server) == expected, what=f"{expected}")


def test_canary_step_promotion_and_rollback_under_load(models, tmp_path):
    """No request fails, a removed arm answers nothing asked afterwards, and arms that are loaded swap in a second."""
    home = tmp_path / "home"
    fill_store(home)
    set_clock(home)
    put(home, "churn:v1")
    with serving(home, models, log=tmp_path / "log") as server, Load(server.url) as load:
        load.since(0.0, 500)
        picked_up(server, lambda: share(home, 0.1), {"champion": ("1", 0.9), "canary": ("2", 0.1)})
        assert load.since(time.monotonic()) == {("champion", "1"), ("canary", "2")}
        for change, expected in (
            (lambda: share(home, 0.5), {"champion": ("1", 0.5), "canary": ("2", 0.5)}),
            (lambda: share(home, 1.0), {"champion": ("1", 0.0), "canary": ("2", 1.0)}),
            (lambda: put(home, "churn:v2"), {"champion": ("2", 1.0)}),
        ):
            assert picked_up(server, change, expected) < 1.0
            found = load.since(time.monotonic())
            assert found == {(name, version) for name, (version, weight) in expected.items() if weight}
        picked_up(server, lambda: put(home, "churn:v1"), {"champion": ("1", 1.0)})
        assert load.since(time.monotonic()) == {("champion", "1")}
        picked_up(server, lambda: share(home, 0.5), {"champion": ("1", 0.5), "canary": ("2", 0.5)})
        assert picked_up(server, lambda: put(home, "churn:v1"), {"champion": ("1", 1.0)}) < 1.0, "the canary's rollback"
        assert load.since(time.monotonic()) == {("champion", "1")}
    assert load.failures == []
    written = {r["request_id"]: r["arm"] for r in journal.scan(home / "journal" / "churn")}
    assert all(written[name] == arm for _, arm, _, name in load.answers)


def test_a_broken_canary_leaves_the_old_rollout_serving_and_says_so(models, tmp_path):
    """Under load: no failed request, nobody is sent to it, and /readyz (200), /health and a metric name the problem."""
    home = tmp_path / "home"
    fill_store(home)
    set_clock(home)
    put(home, "churn:v1")
    broken = Rollout((Arm("champion", "churn:v1", 0.5), Arm("canary", "churn:altered", 0.5)), "s")
    with serving(home, models, log=tmp_path / "log") as server, Load(server.url) as load:
        ready = httpx.get(server.url + "/readyz", timeout=30)
        assert (ready.status_code, ready.json()["problem"]) == (200, None)
        rollout.write(rollout.rollout_path(home, "churn"), broken)
        wait_for(lambda: "altered" in httpx.get(server.url + "/readyz", timeout=30).text, what="the problem")
        ready = httpx.get(server.url + "/readyz", timeout=30)
        assert (ready.status_code, ready.json()["status"], set(ready.json()["arms"])) == (200, "ok", {"champion"})
        assert load.since(time.monotonic()) == {("champion", "1")}
        metrics = httpx.get(server.url + "/metrics", timeout=30).text
        assert 'bentoflow_rollout_problem{use_case="churn"} 1.0' in metrics
        picked_up(server, lambda: share(home, 0.5), {"champion": ("1", 0.5), "canary": ("2", 0.5)})
        assert httpx.get(server.url + "/readyz", timeout=30).json()["problem"] is None
        metrics = httpx.get(server.url + "/metrics", timeout=30).text
        assert 'bentoflow_rollout_problem{use_case="churn"} 0.0' in metrics
        assert 'bentoflow_release_info{arm="canary"' in metrics
    assert load.failures == []


def test_every_worker_follows_a_canary(models, tmp_path):
    """With two workers an entity has one arm, whichever answers; the arms' rows add up over both in /metrics."""
    home = tmp_path / "home"
    fill_store(home)
    set_clock(home)
    share(home, 0.5)
    with serving(home, models, log=tmp_path / "log", env={"BENTOFLOW_WORKERS": "2"}) as server:
        wait_for(lambda: server.log.read_text().count("Completed async startup hook") == 2, what="both workers")
        found: dict[int, set[str]] = {}
        for _ in range(20):  # a connection of its own each: either worker may accept it
            rows = [{"user_id": i, "features": GIVEN} for i in PEOPLE]
            for answer in httpx.post(server.url + "/predict", json=rows, timeout=30).json():
                found.setdefault(answer["user_id"], set()).add(answer["arm"])
        assert len(journal.segments(home / "journal" / "churn")) == 2, "both workers answered"
        assert {len(names) for names in found.values()} == {1}
        canary = sum(names == {"canary"} for names in found.values())

        def counted() -> float:
            lines = httpx.get(server.url + "/metrics", timeout=30).text.splitlines()
            start = 'bentoflow_arm_rows_total{arm="canary",outcome="answered"'
            return sum(float(line.split()[-1]) for line in lines if line.startswith(start))

        assert wait_for(lambda: counted() == 20 * canary, what="the sum of both") < 10
