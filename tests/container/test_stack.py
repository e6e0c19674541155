"""The composed stack, run by podman-compose: releases change places behind its gateway, and no request is lost.

Gateway, online store and releases run as infra/compose declares them. Without systemd podman runs no health checks, so
they are not waited for; the images of nginx and Valkey are this machine's own binaries on the tests' base image. The
tests run in order and share one stack.
"""

import json
import os
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from bentos.runtime import journal
from flows.errors import ReleaseError
from flows.release import release
from flows.rollback import rollback
from flows.settings import Settings
from flows.stores import bentos, composition, containers, registry, transaction
from flows.stores.composition import Stack
from flows.stores.containers import Container
from flows.targets import counters
from tests.bentos.conftest import wait_for
from tests.container import standins
from tests.container.conftest import ENGINE, Shipped
from tests.container.machine import Machine, require
from tests.infra import composing
from tests.infra.gateway import COMPOSE, init
from tests.servers import free_port

pytestmark = [pytest.mark.container, pytest.mark.integration, pytest.mark.timeout(600)]

OWNER = 10001
PYTHON = "/app/.venv/bin/python"
FILL = """
import json, os, sys, redis
store = redis.Redis.from_url(os.environ["BENTOFLOW_ONLINE_STORE"])
for key, value in json.load(sys.stdin).items():
    store.restore(bytes.fromhex(key), 0, bytes.fromhex(value), replace=True)
print(store.dbsize())
"""


@dataclass(frozen=True)
class Running:
    """A stack that runs, the gateway's address, and how a client speaks to it."""

    stack: Stack
    url: str
    trust: ssl.SSLContext
    key: str

    def client(self) -> httpx.Client:
        """A client with a key."""
        headers = {"authorization": f"Bearer {self.key}"}
        return httpx.Client(base_url=self.url, verify=self.trust, headers=headers, timeout=30)

    def container(self, name: str) -> Container:
        """The container at a place."""
        return Container(name=f"{self.stack.variables['COMPOSE_PROJECT_NAME']}_{name}_1", url="", ready_s=0.0)


def binaries(machine: Machine) -> str:
    """An image with this machine's nginx and Valkey, by digest."""
    name = f"{machine.host}/binaries"
    digest = standins.build(machine, name, {"nginx": "nginx", "valkey-server": "valkey-server"}, [])
    machine.podman("pull", "--tls-verify=false", f"{name}@{digest}")
    return f"{name}@{digest}"


@contextmanager
def composed(folder: Path, machine: Machine) -> Iterator[Running]:
    """Gateway and online store of a stack whose files are copies, on loopback ports; taken down whole afterwards."""
    here, data = folder / "infra" / "compose", folder / "data"
    shutil.copytree(COMPOSE, here, ignore=shutil.ignore_patterns(".env", "__pycache__"))
    made = init()
    for name in made.FOLDERS:
        (data / name).mkdir(parents=True)
    for name, text in made.FILES.items():
        (data / name).write_text(text)
    made.certificate(data / "gateway" / "tls")
    key = "5ec2e7" * 10
    (data / "gateway" / "keys.conf").write_text(f'"Bearer {key}" tests;\n')
    for path in (data, *data.rglob("*")):
        os.chown(path, OWNER, OWNER)
    https = free_port()
    image = binaries(machine)
    variables = composing.made(folder) | {
        "COMPOSE_PROJECT_NAME": f"bentoflow{https}",
        "COMPOSE_PROFILES": "",
        "SERVICE_IMAGE": composition.NOBODY,
        "CANDIDATE_IMAGE": composition.NOBODY,
        "NGINX_IMAGE": image,
        "VALKEY_IMAGE": image,
        "HTTPS_PORT": f"127.0.0.1:{https}",
        "HTTP_PORT": f"127.0.0.1:{free_port()}",
        "OPERATIONS_PORT": str(free_port()),
        "SERVING_NETWORK": f"10.231.{https % 256}",
    }
    (here / ".env").write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    stack = composition.find(Settings(compose=here), "churn")
    trust = ssl.create_default_context(cafile=str(data / "gateway" / "tls" / "tls.crt"))
    try:
        composition.run(stack, "up", "--detach", "gateway", "valkey", what="starting the stack")
        wait_for(lambda: healthy(stack), what="the gateway")
        yield Running(stack, f"https://127.0.0.1:{https}", trust, key)
    finally:
        networks = [f"{variables['COMPOSE_PROJECT_NAME']}_{name}" for name in ("edge", "serving")]
        machine.podman("network", "rm", "--force", "--time", "1", *networks, check=False)  # and what is in them


def healthy(stack: Stack) -> bool:
    """Whether the gateway answers its operators."""
    try:
        return httpx.get(stack.url("healthz"), timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def running(shipped: Shipped, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A stack, and version 1 as the champion of the home that releases to it; it runs nowhere yet."""
    require("podman-compose")
    with composed(tmp_path_factory.mktemp("stack"), shipped.machine) as found, pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOFLOW_COMPOSE", str(found.stack.folder))
        if registry.aliases("churn")["champion"] == "2":  # alone, without the tests before this one
            rollback("churn")
        yield found


class Load:
    """Clients that ask the gateway for golden rows until told to end; what they were answered, and what failed."""

    def __init__(self, running: Running, rows: list[dict[str, Any]], clients: int = 3) -> None:
        self.answers: list[tuple[str, str]] = []
        self.failures: list[str] = []
        self.over = threading.Event()
        self.running, self.rows = running, rows
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def _ask(self) -> None:
        with self.running.client() as client:
            while not self.over.wait(0.05):  # below the limit of the key
                try:
                    answer = client.post("/predict", json=self.rows)
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                    continue
                if answer.status_code != 200:
                    self.failures.append(f"{answer.status_code} {answer.text[:200]}")
                    continue
                self.answers += [(row["release"], row["request_id"]) for row in answer.json()]

    def seen(self, more: int = 100) -> set[str]:
        """Releases of the next answers."""
        begun = len(self.answers)
        wait_for(lambda: len(self.answers) >= begun + more or bool(self.failures), what="answers")
        assert self.failures == []
        return {name for name, _ in self.answers[begun:]}

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self._threads:
            thread.join(timeout=60)


def rows(shipped: Shipped) -> list[dict[str, Any]]:
    """Some golden rows with their features."""
    golden = json.loads((bentos.model_folder(shipped.first["release"]) / "golden.json").read_text())
    return [{"user_id": e, "features": f} for e, f in zip(golden["entities"], golden["rows"], strict=True)][:4]


def in_charge(running: Running) -> dict[str, str]:
    """What the variables say now: the image of each place, and which are taken."""
    found = composition.read(running.stack.folder / ".env")
    return {name: found[name] for name in ("SERVICE_IMAGE", "CANDIDATE_IMAGE", "COMPOSE_PROFILES")}


def alone(image: str) -> dict[str, str]:
    """The same where one release answers and none is on trial."""
    return {"SERVICE_IMAGE": image, "CANDIDATE_IMAGE": composition.NOBODY, "COMPOSE_PROFILES": "service"}


def test_a_champion_is_brought_into_the_stack(shipped: Shipped, running: Running) -> None:
    """Nobody answers before; then its image does, hardened, and once more nothing is done."""
    with running.client() as client:
        assert client.post("/predict", json=rows(shipped)).status_code == 503
        assert release("churn", "1", target="compose")["action"] == "imaged"
        assert in_charge(running) == alone(shipped.first["image"])
        answer = client.post("/predict", json=rows(shipped))
        assert {row["release"] for row in answer.json()} == {shipped.first["release"]}
    containers.check_hardened(ENGINE, running.container("service"))
    assert release("churn", "1", target="compose")["action"] == "unchanged"


def test_features_come_from_the_stacks_own_store(shipped: Shipped, running: Running) -> None:
    """The service reads Valkey with its password over a network that reaches no other host."""
    source = redis.Redis.from_url(shipped.redis)
    held = {key.hex(): source.dump(key).hex() for key in source.scan_iter()}
    name = running.container("service").name
    command = ["podman", "exec", "--interactive", name, PYTHON, "-c", FILL]
    filled = subprocess.run(command, input=json.dumps(held), capture_output=True, text=True, timeout=60)
    assert filled.stdout.strip() == str(len(held)), filled.stderr
    with running.client() as client:
        known = client.post("/predict", json={"user_id": shipped.somebody()})
    assert known.status_code == 200, known.text
    assert known.json()["event_time"] is not None
    reach = "import socket; socket.create_connection(('1.1.1.1', 443), timeout=3)"
    assert containers.execute(ENGINE, running.container("service"), PYTHON, "-c", reach) is None


def test_a_canary_that_is_not_passed_leaves_no_trace(shipped: Shipped, running: Running) -> None:
    """Without answers there is no judgement: the candidate goes, the champion answers all."""
    with pytest.raises(ReleaseError, match="stopped at 10 %: answers: 0 rows"):
        release("churn", "2", target="compose", steps=(10,), step_minutes=0.01)
    assert in_charge(running) == alone(shipped.first["image"])
    assert transaction.read(shipped.home, "churn") is None
    assert registry.aliases("churn")["champion"] == "1"
    assert not list((running.stack.data / "gateway" / "share").iterdir())


def test_releases_change_places_and_no_request_is_lost(shipped: Shipped, running: Running) -> None:
    """Under load a canary, its promotion and a rollback: every request is answered, and is in the journal."""
    first, second = shipped.first, shipped.second
    with Load(running, rows(shipped)) as load:
        assert load.seen() == {first["release"]}
        done = release("churn", "2", target="compose", steps=(30,), min_answers=60, reason="better")
        assert (done["action"], done["image"]) == ("promoted", second["image"])
        assert {name for name, _ in load.answers} == {first["release"], second["release"]}
        assert load.seen() == {second["release"]}
        assert in_charge(running) == alone(second["image"])
        back = rollback("churn", reason="drill")
        assert (back["action"], back["image"]) == ("rolled back", first["image"])
        assert load.seen() == {first["release"]}
        assert in_charge(running) == alone(first["image"])
    assert load.failures == []
    kept = {r["request_id"] for r in journal.scan(running.stack.data / "home" / "journal" / "churn")}
    assert {name for _, name in load.answers} <= kept
    counted = counters.of_release(running.stack.url("service"))
    assert 0 < counted.answered <= len(load.answers)
    assert counted.failed == 0
    assert counted.parts == counted.within[-1][1]
