"""Real `bentoml serve` processes on a real feature store: readiness, swaps under load, SIGKILL."""

import subprocess
import sys
import threading
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
    FRESH,
    GOLDEN,
    MODEL,
    OLD,
    ROOT,
    UNKNOWN,
    Clients,
    Server,
    fill_store,
    fit,
    make_release,
    save_release,
    server_env,
    serving,
    set_clock,
    wait_for,
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def put(home: Path, tag: str) -> None:
    """Make a tag the champion."""
    rollout.write(rollout.rollout_path(home, "churn"), Rollout((Arm("champion", tag, 1.0),)))


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A BentoML home with releases v1, v2, one that was refused and one whose model was altered."""
    folder = tmp_path_factory.mktemp("models")
    home = folder / "bentoml"
    save_release(home, make_release(folder / "a", version="1"), "churn:v1")
    save_release(home, make_release(folder / "b", version="2", model=fit(seed=4)), "churn:v2")
    save_release(home, make_release(folder / "c", version="3", verdict="REJECT", reasons=("min_roc_auc",)), "churn:bad")
    altered = make_release(folder / "d", version="4")
    (altered / MODEL).write_bytes((altered / MODEL).read_bytes()[:-1])
    save_release(home, altered, "churn:altered")
    return home


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    """A home with a materialised feature store and a clock."""
    home = tmp_path_factory.mktemp("stored")
    fill_store(home)
    set_clock(home)
    return home


@pytest.fixture
def home(stored) -> Path:
    """The home without journal and rollout of an earlier test."""
    import shutil

    for name in ("journal", "rollout"):
        shutil.rmtree(stored / name, ignore_errors=True)
    return stored


class Load(Clients):
    """Clients that post without pause and keep every complete answer and everything else that happened."""

    def __init__(
        self, url: str, clients: int = 4, on_answer: Callable[[], None] = lambda: None, *, reconnect: bool = False
    ) -> None:
        self.on_answer = on_answer
        self.headers = {"connection": "close"} if reconnect else {}
        super().__init__(url, clients)
        self.ids, self.versions = [], []

    def post(self, k: int) -> None:
        body = {"user_id": FRESH} if k % 2 else [{"user_id": FRESH}, {"user_id": OLD}, {"user_id": UNKNOWN}]
        with httpx.Client(timeout=20) as client:
            while not self.over.is_set():
                try:
                    response = client.post(self.url + "/predict", json=body, headers=self.headers)
                except httpx.TransportError as error:
                    self.failures.append(repr(error))
                    return
                if response.status_code not in (200, 207):
                    self.failures.append(response.text)
                    continue
                rows = response.json() if isinstance(body, list) else [response.json()]
                answered = [row for row in rows if "request_id" in row]
                self.ids += [row["request_id"] for row in answered]
                self.versions += [row["model_version"] for row in answered]
                self.on_answer()


def test_sigkill_under_load_loses_no_answer(home, models, tmp_path):
    """Every answer that any client received before the server was killed is in the journal."""
    put(home, "churn:v1")
    with serving(home, models, log=tmp_path / "log") as server:
        ids = killed_under_load(server)
    lost = set(ids) - {r["request_id"] for r in journal.scan(home / "journal" / "churn")}
    assert not lost, f"{len(lost)} of {len(ids)} answers are not in the journal"


def killed_under_load(server: Server, **how: Any) -> list[str]:
    """Kill a server with its workers at the moment that a client has an answer; the ids of all answers received."""
    family, killed = server.family(), threading.Event()

    def kill_at_300() -> None:  # in the client's thread
        if len(load.ids) > 300 and not killed.is_set():
            killed.set()
            server.kill(family)

    with Load(server.url, clients=8, on_answer=kill_at_300, **how) as load:
        assert killed.wait(60)
        wait_for(lambda: len(load.failures) == 8, what="end of every client")
    return load.ids


def counted(url: str) -> float:
    """All predictions that the server's metrics have counted."""
    lines = httpx.get(url + "/metrics", timeout=30).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("bentoflow_predictions_total{"))


def test_two_workers_count_and_journal_every_answer(home, models, tmp_path):
    """Whichever worker is scraped counts both's answers; each has its segment; SIGKILL of both loses nothing."""
    put(home, "churn:v1")
    folder = home / "journal" / "churn"
    with serving(home, models, log=tmp_path / "log", env={"BENTOFLOW_WORKERS": "2"}) as server:
        wait_for(lambda: server.log.read_text().count("Completed async startup hook") == 2, what="both workers")
        with Load(server.url, clients=8, reconnect=True) as load:
            wait_for(lambda: len(load.ids) > 300 and len(journal.segments(folder)) == 2, what="answers of both")
        wait_for(lambda: {counted(server.url) for _ in range(10)} == {len(load.ids)}, what="the sum")
        ids = load.ids + killed_under_load(server, reconnect=True)
    lost = set(ids) - {r["request_id"] for r in journal.scan(folder)}
    assert not lost, f"{len(lost)} of {len(ids)} answers are not in the journal"


def test_a_server_without_a_release_is_not_ready_until_the_rollout_file_appears(home, models, tmp_path):
    """/readyz is 503 with the reason, then 200 without a restart; a rejected release changes nothing."""
    with serving(home, models, log=tmp_path / "log") as server:
        ready = httpx.get(server.url + "/readyz", timeout=30)
        assert (ready.status_code, ready.headers["retry-after"]) == (503, "1")
        assert "no release of churn is in charge" in ready.json()["error"]
        assert httpx.post(server.url + "/predict", json={"user_id": FRESH}, timeout=30).status_code == 503
        assert httpx.get(server.url + "/livez", timeout=30).status_code == 200
        put(home, "churn:bad")
        wait_for(lambda: "REJECT" in httpx.get(server.url + "/readyz", timeout=30).text, what="refusal")
        assert httpx.post(server.url + "/predict", json={"user_id": FRESH}, timeout=30).status_code == 503
        put(home, "churn:v1")
        wait_for(lambda: httpx.get(server.url + "/readyz", timeout=30).status_code == 200, what="readiness")
        sample = httpx.get(server.url + "/docs.json", timeout=30).json()["paths"]["/predict"]["post"]["requestBody"][
            "content"
        ]["application/json"]["schema"]["example"]
        answer = httpx.post(server.url + "/predict", json=sample, timeout=30)
        assert answer.status_code == 200
        assert answer.json()["user_id"] == 17
        assert 'bentoflow_predictions_total{model_version="1"' in httpx.get(server.url + "/metrics", timeout=30).text


def test_a_rollout_under_load_fails_no_request_and_a_broken_release_changes_nothing(home, models, tmp_path):
    """While clients post, v1 becomes v2 without one failed request; an altered artefact leaves v2 in charge."""
    put(home, "churn:v1")
    with serving(home, models, log=tmp_path / "log") as server:
        with Load(server.url) as load:
            wait_for(lambda: len(load.versions) > 50, what="answers by v1")
            put(home, "churn:v2")
            wait_for(lambda: load.versions[-1] == "2", what="answers by v2")
            put(home, "churn:altered")
            wait_for(
                lambda: "altered" in str(httpx.get(server.url + "/health", timeout=30).json()["problem"]),
                what="the problem in /health",
            )
            before = len(load.versions)
            wait_for(lambda: len(load.versions) > before + 50, what="answers after the broken release")
        assert load.failures == []
        assert sorted(load.versions) == sorted(["1"] * load.versions.count("1") + ["2"] * load.versions.count("2"))
        assert set(load.versions[before:]) == {"2"}
        assert httpx.get(server.url + "/readyz", timeout=30).status_code == 200
        metrics = httpx.get(server.url + "/metrics", timeout=30).text
        assert 'bentoflow_rollout_problem{use_case="churn"} 1.0' in metrics
    segments = journal.segments(home / "journal" / "churn")
    assert [s.suffix for s in segments] == [".jsonl"], "a clean shutdown finishes the segment"
    assert {r["request_id"] for r in journal.scan(home / "journal" / "churn")} >= set(load.ids)


def test_a_containers_own_release_answers_without_a_rollout_file(home, models, tmp_path):
    """BENTOFLOW_RELEASE is the champion where there is no rollout file."""
    with serving(home, models, log=tmp_path / "log", env={"BENTOFLOW_RELEASE": "churn:v2"}) as server:
        assert httpx.get(server.url + "/readyz", timeout=30).status_code == 200
        answer = httpx.post(server.url + "/predict", json={"user_id": FRESH}, timeout=30).json()
        assert answer["model_version"] == "2"


def test_the_bento_builds_with_bentomls_own_command(tmp_path):
    """`bentoml build` in the project's root packs the service and nothing of the training side."""
    start = time.monotonic()
    subprocess.run(
        [str(Path(sys.executable).with_name("bentoml")), "build", "--version", "t1"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        env=server_env(tmp_path, tmp_path / "bentoml"),
    )
    assert time.monotonic() - start < 120
    source = tmp_path / "bentoml/bentos/churn/t1/src"
    packed = {str(p.relative_to(source)) for p in source.rglob("*") if p.is_file()}
    assert "bentos/service.py" in packed
    assert "feature_repo/feature_store.yaml" in packed
    assert not [p for p in packed if p.startswith(("flows", "tests", ".bentoflow")) or p.endswith((".pyc", GOLDEN))]
    assert "feature_repo/churn.py" not in packed
