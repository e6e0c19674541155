"""Containers: one image run as a cluster would run it, with nothing that it could do without, and what is inside."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256

import httpx

from flows.errors import ImageError
from flows.stores.engines import Engine, Say, ask, call
from flows.stores.images import UID

PORT = 3000  # BentoML's
READY_S = 120.0
HARDENED = (
    "--read-only",
    "--tmpfs=/tmp:rw,noexec,nosuid,nodev,size=64m",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    f"--user={UID}:{UID}",
    "--memory=1g",
    "--pids-limit=256",
)
ENVIRONMENT = {"BENTOML_HOME": "/tmp/bentoml"}  # BentoML writes there, and the root is read-only
LIST = """
import json
from importlib.metadata import distributions
found = {d.metadata["Name"]: d.version for d in distributions()}
print(json.dumps([{"name": name, "version": version} for name, version in sorted(found.items())]))
"""


@dataclass(frozen=True, kw_only=True)
class Container:
    """A container that answers: its name, its address on the loopback interface, seconds from start to ready."""

    name: str
    url: str
    ready_s: float


@contextmanager
def running(engine: Engine, image: str, *, say: Say, env: Mapping[str, str] | None = None) -> Iterator[Container]:
    """Run a local image hardened, wait until it is ready, remove it afterwards; ImageError with its last lines."""
    name = f"bentoflow-{sha256(image.encode()).hexdigest()[:12]}"
    given = {**ENVIRONMENT, **(env or {})}
    only_tmp = ["--read-only-tmpfs=false"] if engine.runner == "podman" else []
    started = time.monotonic()
    command = [engine.runner, "run", "--detach", "--name", name, *HARDENED, *only_tmp]
    command += ["--network=bridge", f"--publish=127.0.0.1::{PORT}"]
    command += [f"--env={key}={value}" for key, value in given.items()]
    ask([engine.runner, "rm", "--force", "--volumes", name])  # what a killed test of this image left running
    try:
        call([*command, image], what=f"starting {image}")
        url = f"http://{_address(engine, name)}"
        await_ready(engine, name, url)
        ready_s = time.monotonic() - started
        say(f"{image} was ready after {ready_s:.1f} s")
        yield Container(name=name, url=url, ready_s=ready_s)
    finally:
        ask([engine.runner, "rm", "--force", "--volumes", name])


def _address(engine: Engine, name: str) -> str:
    found = ask([engine.runner, "port", name, str(PORT)])
    if not found:
        raise ImageError(f"the container ended at once; its last lines:\n{tail(engine, name)}")
    return found.split()[0]


def await_ready(engine: Engine, name: str, url: str) -> None:
    """Wait until the service of a container is ready; ImageError as soon as the container has ended."""
    deadline, last = time.monotonic() + READY_S, "no answer"
    while time.monotonic() < deadline:
        try:
            response = httpx.get(f"{url}/readyz", timeout=2.0)
            if response.status_code == 200:
                return
            last = f"{response.status_code} {response.text[:300]}"
        except httpx.HTTPError as error:
            last = repr(error)
        state = ask([engine.runner, "inspect", "--format", "{{.State.Running}}", name]) or ""
        if state.strip() != "true":
            raise ImageError(f"the container ended before it was ready; its last lines:\n{tail(engine, name)}")
        time.sleep(0.2)
    raise ImageError(f"not ready after {READY_S:.0f} s ({last}); its last lines:\n{tail(engine, name)}")


def tail(engine: Engine, name: str, lines: int = 12) -> str:
    """The last lines that a container wrote."""
    try:
        return "\n".join(call([engine.runner, "logs", name]).splitlines()[-lines:])
    except ImageError as error:
        return str(error)


def execute(engine: Engine, container: Container, *command: str) -> str | None:
    """Standard output of a command inside, None if it fails."""
    return ask([engine.runner, "exec", container.name, *command])


def check_hardened(engine: Engine, container: Container) -> None:
    """ImageError unless the server runs as the numeric user, without a capability, and can gain none."""
    status = execute(engine, container, "cat", "/proc/1/status") or ""
    found = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    uid, capabilities, locked = found.get("Uid", "?").split()[0], found.get("CapEff", "?"), found.get("NoNewPrivs")
    if uid != str(UID) or capabilities.strip("0") or locked != "1":
        raise ImageError(
            f"the container runs with uid {uid}, capabilities {capabilities} and NoNewPrivs {locked}; "
            f"{UID}, none and 1 were asked for: see how the engine is configured"
        )
    if execute(engine, container, "sh", "-c", "touch /written || touch /home/bentoml/written") is not None:
        raise ImageError("the container's root is writable, although it was started read-only: see the engine")


def packages(engine: Engine, container: Container) -> dict[str, list[dict[str, str]]]:
    """Names and versions of what is installed: `pypi`, and `deb` where the base is Debian's."""
    python = execute(engine, container, "/app/.venv/bin/python", "-c", LIST)
    if python is None:
        raise ImageError("the container cannot list its Python packages")
    debian = execute(engine, container, "dpkg-query", "--show", "--showformat=${Package} ${Version}\n") or ""
    pairs = [line.split(" ", 1) for line in debian.splitlines() if " " in line]
    return {"pypi": json.loads(python), "deb": [{"name": name, "version": version} for name, version in pairs]}
