"""The composed stack's gateway, run for real by nginx in front of two small releases, on free ports."""

import importlib.util
import json
import os
import shutil
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import httpx

from flows.stores.composition import Stack
from tests import servers
from tests.infra.tools import ROOT, missing

COMPOSE = ROOT / "infra" / "compose"
KEYS = [f"{number:064x}" for number in range(60)]


@dataclass(frozen=True)
class Gateway:
    """Addresses of the three listeners, the stack that leads requests, nginx's log, and whose certificate it has."""

    https: str
    http: str
    operations: str
    stack: Stack
    log: Path
    trust: ssl.SSLContext

    def client(self, key: str | None = KEYS[0], **headers: str) -> httpx.Client:
        """A client that trusts the gateway's certificate, with a key unless it is None."""
        given = {**headers, **({"authorization": f"Bearer {key}"} if key else {})}
        return httpx.Client(base_url=self.https, verify=self.trust, headers=given, timeout=20)


def init() -> ModuleType:
    """The module of `infra/compose/init.py`, which is a script and no package's."""
    spec = importlib.util.spec_from_file_location("init", COMPOSE / "init.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def releases() -> Iterator[dict[str, str]]:
    """Two releases that answer any GET with their name, the path, and the headers that they got; their host:port."""

    def of(name: str) -> Callable[[str, dict[str, str]], servers.Answer]:
        return lambda path, headers: (200, json.dumps({"arm": name, "path": path, "headers": headers}))

    with servers.http(of("service")) as one, servers.http(of("candidate")) as other:
        yield {"service": one.removeprefix("http://"), "candidate": other.removeprefix("http://")}


@contextmanager
def running(folder: Path, behind: dict[str, str]) -> Iterator[Gateway]:
    """The shipped configuration on other ports, in front of these addresses; ended by its process."""
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if nginx is None:
        missing("nginx", "it is not installed (Debian: apt-get install nginx)")
    ports = {name: servers.free_port() for name in ("8443", "8080", "8081")}
    data, file = folder / "data", folder / "gateway" / "nginx.conf"
    for path in ("data/gateway/tls", "data/gateway/share", "data/targets", "gateway"):
        (folder / path).mkdir(parents=True)
    changes = {"/tmp/": f"{folder}/", "/etc/bentoflow/state/": f"{data}/gateway/"}
    changes |= {f"../state/{name}": f"{data}/gateway/{name}" for name in ("keys.conf", "tls")}
    changes |= {f"{name}:3000": address for name, address in behind.items()}
    changes |= {f"listen {name}": f"listen 127.0.0.1:{port}" for name, port in ports.items()}
    text = (COMPOSE / "gateway" / "nginx.conf").read_text()
    for before, after in changes.items():
        assert before in text, before
        text = text.replace(before, after)
    if os.geteuid() == 0:  # else it would serve as a user who may not look into the tests' folder
        text = f"user root;\n{text}"
    file.write_text(text)
    (data / "gateway" / "keys.conf").write_text("".join(f'"Bearer {key}" c{i};\n' for i, key in enumerate(KEYS)))
    init().certificate(data / "gateway" / "tls")
    variables = {"BENTOFLOW_DATA": str(data), "OPERATIONS_PORT": str(ports["8081"])}
    log = folder / "log"
    with log.open("wb") as out:
        command = [nginx, "-p", str(folder), "-c", str(file), "-g", "daemon off;"]
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        servers.awaited(f"http://127.0.0.1:{ports['8081']}/healthz", process)
        yield Gateway(
            https=f"https://127.0.0.1:{ports['8443']}",
            http=f"http://127.0.0.1:{ports['8080']}",
            operations=f"http://127.0.0.1:{ports['8081']}",
            stack=Stack(folder, (), variables),
            log=log,
            trust=ssl.create_default_context(cafile=str(data / "gateway" / "tls" / "tls.crt")),
        )
    finally:
        process.terminate()
        process.wait(timeout=20)
