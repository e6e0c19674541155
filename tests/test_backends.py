"""The loop on PostgreSQL, Valkey and S3: settings alone lead there, each is killed mid-flow, and nothing is lost."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import orjson
import pandas as pd
import psutil
import pytest
from feast.protos.feast.core.Registry_pb2 import Registry

from bentos.runtime import blocks
from flows import processes, stack
from flows.settings import Settings
from flows.stores import tables
from flows.targets import local
from flows.usecases import churn
from tests import backends, loop
from tests.backends import SECRET, Backends, Server

pytestmark = [pytest.mark.integration, pytest.mark.timeout(420)]

CUSTOMERS = 2_000
FIRST, LATER = "1998-01-01", "1998-05-01"  # by the later day the first one's labels are known


@dataclass
class Killed:
    """What a flow said whose server was killed under it."""

    code: int
    said: str


@dataclass
class Ran:
    """A home whose state is on the servers, and what was seen there."""

    home: Path
    servers: Backends
    feed: Path
    asked: list[int] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)

    def flow(self, *words: str, seconds: float = 200) -> dict[str, str]:
        """A command to its end; the lines that it printed, by name."""
        done = loop.run(self.home, "bentoflow", *words, seconds=seconds, **self.settings())
        return dict(re.findall(r"^(\S[^\n]*?)  +([^\n]*)$", done.stdout, flags=re.M))

    def killed(self, server: Server, sign: Callable[[], bool], *words: str, away: float = 90) -> Killed:
        """A command under which a server is killed at a sign that it is under way.

        The server is back when the command has ended, or after `away` seconds.
        """
        said = self.home / "said.txt"
        with said.open("w+") as out:
            flow = subprocess.Popen(
                [Path(sys.executable).parent / "bentoflow", *words],
                cwd=loop.ROOT,
                env=loop.env(self.home, **self.settings()),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
            try:
                awaited(lambda: sign() or flow.poll() is not None, 120)
                flow.send_signal(signal.SIGSTOP)  # so that it meets the dead server however slow this machine is
                server.kill()
                flow.send_signal(signal.SIGCONT)
                with suppress(subprocess.TimeoutExpired):
                    flow.wait(away)
                server.start()
                flow.wait(90)
            finally:
                flow.kill()
        return Killed(flow.returncode, said.read_text())

    def settings(self) -> dict[str, str]:
        """The whole configuration."""
        more = {name: os.environ[name] for name in ("PREFECT_API_URL", "BENTOFLOW_JOURNAL_AGE_S")}
        return {**self.servers.env, **more}

    def prepare(self, until: str) -> tuple[str, ...]:
        return ("prepare", "--as-of", until, "--source", str(self.feed))


def awaited(condition: Callable[[], bool], seconds: float) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so after {seconds:.0f} s"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    """Three servers, a Prefect server on one of them, and the purchases of 2,000 customers."""
    folder = tmp_path_factory.mktemp("backends")
    raw = tables.read(churn.USE_CASE.source)
    chosen = raw["user_id"].drop_duplicates().sort_values().sample(CUSTOMERS, random_state=7)
    raw[raw["user_id"].isin(chosen)].to_csv(folder / "purchases.csv", index=False)
    home = folder / "home"
    with backends.running() as servers, loop.inside(home) as settings:
        os.environ.update(servers.env | {"BENTOFLOW_JOURNAL_AGE_S": "1"})
        try:
            stack.start_server(settings)
            os.environ["PREFECT_API_URL"] = stack.wait_server(settings)
            yield Ran(home, servers, folder / "purchases.csv", asked=sorted(map(int, chosen)))
        finally:
            for name in processes.names(home):
                processes.stop(home, name)


@pytest.fixture(scope="module")
def without_s3(ran: Ran) -> Killed:
    """A prepare whose S3 server is killed before its snapshot is written."""
    lock = ran.home / "locks" / "data-churn.lock"
    return ran.killed(ran.servers.s3, lock.exists, *ran.prepare(FIRST))


@pytest.fixture(scope="module")
def prepared(ran: Ran, without_s3: Killed) -> dict[str, str]:
    """The same again, with the server back."""
    return ran.flow(*ran.prepare(FIRST))


@pytest.fixture(scope="module")
def without_postgres(ran: Ran, prepared: dict[str, str]) -> Killed:
    """A training whose PostgreSQL is killed while its MLflow run is under way."""

    def under_way() -> bool:
        return bool(ran.servers.rows("mlflow", "SELECT 1 FROM pg_tables WHERE tablename = 'runs'")) and bool(
            ran.servers.rows("mlflow", "SELECT 1 FROM runs WHERE status = 'RUNNING'")
        )

    # Prefect's client tries for a minute to tell a server without a database how the run ended
    return ran.killed(ran.servers.postgres, under_way, "train", "--reason", "first", away=8)


@pytest.fixture(scope="module")
def trained(ran: Ran, without_postgres: Killed) -> dict[str, str]:
    """The same again."""
    return ran.flow("train", "--reason", "first")


@pytest.fixture(scope="module")
def released(ran: Ran, trained: dict[str, str]) -> dict[str, str]:
    """The version answers."""
    return ran.flow("release", "--reason", "first")


@pytest.fixture(scope="module")
def served(ran: Ran, released: dict[str, str]) -> Ran:
    """300 answers with S3, 200 without it, and some more until the service is killed, which then starts again."""
    settings = Settings()
    url = local.address(settings, "churn")
    for start in range(0, 300, 50):
        ask(ran, url, start, 50)
    ran.servers.s3.kill()
    for start in range(300, 500, 50):
        ask(ran, url, start, 50)
    ran.servers.s3.start()
    for start in range(500, 520):
        ask(ran, url, start, 1)
    service = processes.running(ran.home, local.process_name("churn"))
    assert service is not None
    family = [psutil.Process(service.pid), *psutil.Process(service.pid).children(recursive=True)]
    for process in family:
        process.kill()
    psutil.wait_procs(family, timeout=10)
    local.ensure(settings, "churn", released["bento"])
    return ran


@pytest.fixture(scope="module")
def without_valkey(ran: Ran, served: Ran) -> Killed:
    """A later prepare whose Valkey is killed before the features are materialised."""
    partitions = ran.home / "features" / "churn"
    before = set(partitions.iterdir())
    return ran.killed(ran.servers.valkey, lambda: set(partitions.glob("as_of*")) > before, *ran.prepare(LATER))


@pytest.fixture(scope="module")
def later(ran: Ran, without_valkey: Killed) -> dict[str, str]:
    """The same again."""
    return ran.flow(*ran.prepare(LATER))


def ask(ran: Ran, url: str, start: int, rows: int) -> None:
    """Ask for so many customers; every one has to be answered."""
    body = [{"user_id": user} for user in ran.asked[start : start + rows]]
    reply = httpx.post(f"{url}/predict", json=body, timeout=30)
    assert reply.status_code == 200, reply.text[:300]
    ran.answered += [row["request_id"] for row in reply.json()]


def shipped(ran: Ran) -> list[str]:
    """Request ids of what the bucket holds of the journal, golden rows left out."""
    lines = [line for data in ran.servers.objects("loop/journal/churn/").values() for line in data.splitlines()]
    records = [record for line in lines for record in blocks.expand(orjson.loads(line))]
    return [record["request_id"] for record in records if not record["smoke"]]


def assert_clear(killed: Killed, *expected: str) -> None:
    """The last line is an error of ours that names server, setting and what to do, and shows no password."""
    assert killed.code == 1, killed.said[-2_000:]
    last = killed.said.strip().splitlines()[-1]
    assert last.startswith("ServerError: "), killed.said[-2_000:]
    for text in (*expected, "again"):
        assert text in last
    assert SECRET not in killed.said


def test_a_prepare_without_s3_says_so_and_goes_on_when_it_is_back(
    ran: Ran, without_s3: Killed, prepared: dict[str, str]
) -> None:
    """The snapshot was in the home already: the second prepare makes no other one, and the bucket has its bytes."""
    assert_clear(without_s3, "the bucket s3://bentoflow/loop", ran.servers.env["AWS_ENDPOINT_URL"], "BENTOFLOW_BUCKET")
    assert prepared["created"] == "False"
    name = f"{prepared['snapshot']}.parquet"
    kept = ran.servers.objects("loop/snapshots/churn/")
    assert kept[f"loop/snapshots/churn/{name}"] == (ran.home / "snapshots" / "churn" / name).read_bytes()


def test_a_training_without_postgres_says_so_and_trains_when_it_is_back(
    ran: Ran, without_postgres: Killed, trained: dict[str, str]
) -> None:
    """Nothing of the killed training counts as a version; the next one is the first, with its files in S3."""
    assert_clear(without_postgres, "PostgreSQL failed", "MLFLOW_TRACKING_URI: 127.0.0.1:")
    assert (trained["version"], trained["verdict"]) == ("1", "PROMOTE")
    assert ran.servers.rows("mlflow", "SELECT version FROM model_versions") == [(1,)]
    assert any(name.endswith("release/model.onnx") for name in ran.servers.objects("mlflow/churn/"))


def test_prefect_knows_why_the_training_failed(ran: Ran, trained: dict[str, str]) -> None:
    """The run's state, which its own database was away to take, is told once that is back."""
    states = ran.servers.rows("prefect", "SELECT state_type, state_name FROM flow_run WHERE name IS NOT NULL")
    assert ("FAILED", "Failed") in states
    (message,) = ran.servers.rows(
        "prefect",
        "SELECT s.message FROM flow_run r JOIN flow f ON f.id = r.flow_id JOIN flow_run_state s ON s.id = r.state_id "
        "WHERE f.name = 'train' AND r.state_type = 'FAILED'",
    )
    assert "PostgreSQL failed" in message[0]


def test_every_tool_is_where_the_settings_say(ran: Ran, released: dict[str, str]) -> None:
    """Features are registered in PostgreSQL, and for images in a file of the release; no database lies in the home."""
    assert ("churn_v1",) in ran.servers.rows("feast", "SELECT feature_service_name FROM feature_services")
    carried = next((ran.home / "bentoml" / "models").rglob("feature_registry.db")).read_bytes()
    assert "churn_v1" in [service.spec.name for service in Registry.FromString(carried).feature_services]
    databases = [p.name for p in ran.home.rglob("*.db") if p.read_bytes()[:13] == b"SQLite format"]
    assert databases == []


def test_every_answer_is_shipped_also_of_a_killed_service(served: Ran) -> None:
    """Answers given while S3 was away, and those of the killed service, are in the bucket once, and no others."""
    awaited(lambda: len(shipped(served)) >= len(served.answered), 60)
    assert sorted(shipped(served)) == sorted(served.answered)
    assert len(served.answered) == 520


def test_a_prepare_without_valkey_says_so_and_goes_on_when_it_is_back(
    ran: Ran, without_valkey: Killed, later: dict[str, str]
) -> None:
    """The second one finds snapshot and feature partitions, and only writes online."""
    assert_clear(without_valkey, "the online store failed", "BENTOFLOW_ONLINE_STORE: 127.0.0.1:")
    assert (later["created"], later["partitions_changed"]) == ("False", "0")


def test_drift_and_feedback_read_the_journal_from_the_bucket(ran: Ran, later: dict[str, str]) -> None:
    """On a machine that has no answer of its own, both see every one; so does a snapshot's reader."""
    processes.stop(ran.home, local.process_name("churn"))
    for folder in ("journal", "snapshots/churn"):
        for path in sorted((ran.home / folder).rglob("*"), reverse=True):
            if path.is_file() and path.name != "latest.json":
                path.unlink()
    drift = ran.flow("check-drift", "--since", FIRST, "--until", "1998-01-02")
    measured = ran.flow("feedback")
    assert int(drift["rows"]) == len(ran.answered)
    assert int(measured["answers"]) == len(ran.answered)
    assert int(measured["labels"]) == len(ran.answered)


def test_a_snapshot_keeps_its_content(ran: Ran, prepared: dict[str, str], later: dict[str, str]) -> None:
    """What the bucket holds is the snapshot that its name says."""
    for id in (prepared["snapshot"], later["snapshot"]):
        path = ran.home / f"{id}.parquet"
        path.write_bytes(
            ran.servers.objects(f"loop/snapshots/churn/{id}.parquet")[f"loop/snapshots/churn/{id}.parquet"]
        )
        assert tables.content_hash(pd.read_parquet(path)).startswith(id)
