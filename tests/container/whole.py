"""The whole composed stack, made by init.py and run by podman-compose from stand-ins of the public images."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flows.settings import Settings
from flows.stores import composition
from flows.stores.composition import Stack
from flows.stores.containers import Container
from tests import loop
from tests.container import standins
from tests.container.machine import Machine
from tests.container.names import kept
from tests.infra.gateway import COMPOSE
from tests.servers import free_port

OWNER = 10001
HEALTHY_S = 300.0
LEFT_OUT = {"grafana", "service", "candidate"}  # no stand-in has the first; releases bring the others
NETWORKS = ("edge", "serving", "loop", "database", "watch")


@dataclass(frozen=True)
class Whole:
    """A stack whose files are copies, on loopback ports."""

    stack: Stack
    machine: Machine

    @property
    def home(self) -> Path:
        """The flows' home, which the containers and a worker on the host share."""
        return self.stack.data / "home"

    @property
    def env(self) -> dict[str, str]:
        """What infra/compose/README.md tells a person on the host to export."""
        values = self.stack.variables
        return {
            "BENTOFLOW_HOME": str(self.home),
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{values['MLFLOW_PORT']}",
            "PREFECT_API_URL": f"http://127.0.0.1:{values['PREFECT_PORT']}/api",
            "PREFECT_API_AUTH_STRING": f"bentoflow:{values['PREFECT_PASSWORD']}",
        }

    def container(self, name: str) -> Container:
        """The container of a service."""
        return Container(name=f"{self.stack.variables['COMPOSE_PROJECT_NAME']}_{name}_1", url="", ready_s=0.0)

    def inside(self, name: str, *command: str) -> str:
        """Standard output of a command in a service's container."""
        return self.machine.podman("exec", self.container(name).name, *command)

    def healthy(self, name: str) -> bool:
        """Whether the declared health check passes, run once by the engine: without systemd it runs none by itself."""
        command = ["podman", "healthcheck", "run", self.container(name).name]
        return subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL).returncode == 0

    def start(self, *names: str) -> None:
        """Start services and wait until each is healthy, as `depends_on` has Docker do."""
        for name in names:
            composition.run(self.stack, "up", "--detach", "--no-deps", name, what=f"starting {name}")
        for name in names:
            deadline = time.monotonic() + HEALTHY_S
            while not self.healthy(name):
                if time.monotonic() > deadline:
                    said = composition.run(self.stack, "logs", "--tail", "30", name, what=f"reading the log of {name}")
                    raise AssertionError(f"{name} is not healthy after {HEALTHY_S:.0f} s:\n{said}")
                time.sleep(1.0)  # a check costs a process in the container


def services() -> dict[str, Any]:
    """The services of compose.yaml."""
    found: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]
    return {name: service for name, service in found.items() if name not in LEFT_OUT}


def waves() -> Iterator[list[str]]:
    """Services in the order of `depends_on`: each wave needs those before it alone."""
    left = services()
    while left:
        wave = [name for name, service in left.items() if not left.keys() & service.get("depends_on", {}).keys()]
        assert wave, f"{sorted(left)} wait for each other"
        yield wave
        left = {name: service for name, service in left.items() if name not in wave}


def made(folder: Path, flows_image: str) -> Stack:
    """Copies of the stack's files and what init.py makes beside them: secrets, digests, folders, a certificate."""
    here, data = folder / "infra" / "compose", folder / "data"
    for source in (COMPOSE, COMPOSE.with_name("monitoring")):
        shutil.copytree(source, here.with_name(source.name), ignore=shutil.ignore_patterns(".env", "__pycache__"))
    command = [sys.executable, str(here / "init.py"), str(data), "--flows-image", flows_image]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("still to be written there, as repository@sha256:…: GRAFANA_IMAGE\n"), done.stdout
    https = free_port()
    ports = {name: str(free_port()) for name in ("OPERATIONS_PORT", "PREFECT_PORT", "MLFLOW_PORT", "GRAFANA_PORT")}
    return composition.put(
        composition.find(Settings(compose=here), "churn"),
        COMPOSE_PROJECT_NAME=f"bentoflow{https}",
        GRAFANA_IMAGE=composition.NOBODY,
        HTTPS_PORT=f"127.0.0.1:{https}",
        HTTP_PORT=f"127.0.0.1:{free_port()}",
        SERVING_NETWORK=f"10.231.{https % 256}",
        **ports,
    )


@contextmanager
def running(folder: Path, machine: Machine, flows_image: str) -> Iterator[Whole]:
    """All of it but Grafana and a release, healthy; taken down whole afterwards."""
    standins.put(machine)
    whole = Whole(made(folder, flows_image), machine)
    try:
        with kept():
            for wave in waves():
                whole.start(*wave)
            pause(whole, whole.env)
            yield whole
    finally:
        names = [f"{whole.stack.variables['COMPOSE_PROJECT_NAME']}_{name}" for name in NETWORKS]
        machine.podman("network", "rm", "--force", "--time", "1", *names, check=False)  # and what is in them


@contextmanager
def worker_on_host(whole: Whole, **more: str) -> Iterator[dict[str, str]]:
    """A worker of this machine instead of the stack's, as infra/compose/README.md says; the environment that it has."""
    composition.run(whole.stack, "down", "worker", what="stopping the worker")
    env = whole.env | more
    loop.run(whole.home, "prefect", "--no-prompt", "deploy", "--all", **env)
    pause(whole, env)
    command = [str(Path(sys.executable).with_name("prefect")), "worker", "start", "--pool", "bentoflow"]
    log = whole.home.parent / "worker.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=loop.ROOT, env=loop.env(whole.home, **env), stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        yield env
    except BaseException as error:
        error.add_note(log.read_text()[-5000:])
        raise
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=60)
        process.kill()
        process.wait()
        own(whole.home, *whole.home.rglob("*"))  # this process is root, where README.md has the user 10001


def own(*paths: Path) -> None:
    """Give files to whom the containers run as."""
    for path in paths:
        os.chown(path, OWNER, OWNER, follow_symlinks=False)


def pause(whole: Whole, env: dict[str, str]) -> None:
    """Let no schedule start a run: at five past the hour one would prepare the whole log."""
    loop.run(whole.home, "prefect", "--no-prompt", "deployment", "schedule", "pause", "--all", **env)


def give(whole: Whole, source: str) -> None:
    """Put a file of events where worker and host find it."""
    path = whole.home / "purchases.csv"
    shutil.copy(source, path)
    own(path)
