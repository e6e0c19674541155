"""A stack of containers on one host: its file of variables, its gateway's split, and Compose, which runs it."""

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from bentos.runtime.home import replace as write_file
from flows.errors import ImageError, StackError
from flows.settings import Settings
from flows.stores import engines
from flows.stores.engines import Say, ask, call

NOBODY = "registry.invalid/release@sha256:" + "0" * 64  # an image that can be pulled from nowhere
READY_S = 180.0
BUCKETS = 100


@dataclass(frozen=True)
class Stack:
    """The folder of a compose.yaml, the command that runs it, and the variables of its .env as they were read."""

    folder: Path
    command: tuple[str, ...]
    variables: dict[str, str]

    @property
    def data(self) -> Path:
        """Where the containers' data lie."""
        return Path(self.variables["BENTOFLOW_DATA"])

    def url(self, name: str) -> str:
        """Address at the gateway's port for operators, such as that of a release by its place."""
        return f"http://127.0.0.1:{self.variables.get('OPERATIONS_PORT') or 8081}/{name}"


def find(chosen: Settings, use_case: str) -> Stack:
    """The stack that serves a use case; StackError if there is none, or it serves another one."""
    folder = chosen.compose
    try:
        variables = read(folder / ".env")
    except FileNotFoundError as error:
        raise StackError(f"no {folder / '.env'}: make it with `python3 {folder}/init.py`") from error
    if (served := variables.get("USE_CASE")) != use_case:
        raise StackError(f"the stack in {folder} serves {served!r}, not {use_case!r}: see USE_CASE in its .env")
    if not variables.get("BENTOFLOW_DATA"):
        raise StackError(f"{folder / '.env'} has no BENTOFLOW_DATA: make it anew with `python3 {folder}/init.py`")
    return Stack(folder, compose(engines.find(chosen.image_backend).runner), variables)


def compose(runner: str) -> tuple[str, ...]:
    """The Compose command for an engine; StackError with what to install."""
    if runner == "docker" and ask(["docker", "compose", "version"]) is not None:
        return "docker", "compose"
    name = "docker-compose" if runner == "docker" else "podman-compose"
    if shutil.which(name) is None:
        what = "the plugin `docker compose`" if runner == "docker" else "podman-compose 1.6"
        raise StackError(f"no Compose for {runner} found: install {what}")
    return (name,)


def read(path: Path) -> dict[str, str]:
    """The variables of a file of NAME=value lines; comments and empty lines are none."""
    lines = (line.strip() for line in path.read_text().splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, _, value in pairs}


def put(stack: Stack, **changes: str) -> Stack:
    """Set variables of the .env, atomically; all other lines stay as they are."""
    path, left = stack.folder / ".env", dict(changes)
    lines = []
    for line in path.read_text().splitlines():
        name = line.partition("=")[0].strip()
        lines.append(f"{name}={left.pop(name)}" if name in left else line)
    lines += [f"{name}={value}" for name, value in left.items()]
    write_file(path, ("\n".join(lines) + "\n").encode())
    return Stack(stack.folder, stack.command, {**stack.variables, **changes})


def run(stack: Stack, *arguments: str, what: str, say: Say | None = None) -> str:
    """Run a Compose command on the stack; StackError with its last lines."""
    files = ["--file", str(stack.folder / "compose.yaml"), "--env-file", str(stack.folder / ".env")]
    try:
        return call([*stack.command, *files, *arguments], say=say, what=what)
    except ImageError as error:
        raise StackError(str(error)) from error


def start(stack: Stack, name: str, image: str, *, say: Say) -> Stack:
    """Run an image at a place, instead of what is there; from then on every `compose up` does."""
    changed = put(stack, **{f"{name.upper()}_IMAGE": image}, COMPOSE_PROFILES=",".join(sorted({*places(stack), name})))
    run(changed, "down", name, what=f"stopping {name}", say=say)
    run(changed, "up", "--detach", "--no-deps", name, what=f"starting {image} as {name}", say=say)
    watch(changed)
    return changed


def stop(stack: Stack, name: str, *, say: Say) -> Stack:
    """Leave a place empty; nothing to do where it is."""
    if name not in places(stack):
        return stack
    run(stack, "down", name, what=f"stopping {name}", say=say)
    left = ",".join(sorted(places(stack) - {name}))
    changed = put(stack, **{f"{name.upper()}_IMAGE": NOBODY}, COMPOSE_PROFILES=left)
    watch(changed)
    return changed


def places(stack: Stack) -> set[str]:
    """The places that have a release."""
    return {name for name in stack.variables.get("COMPOSE_PROFILES", "").split(",") if name}


def watch(stack: Stack) -> None:
    """Let Prometheus scrape the places that have a release, and no other: what is not there would be an alert."""
    targets = [{"targets": [f"{name}:3000"]} for name in sorted(places(stack))]
    expose(stack.data / "targets" / "service.json", json.dumps(targets))


def lead(stack: Stack, percent: int) -> None:
    """Let the gateway send that share of the requests to the candidate, from the next request on.

    The gateway draws one of a hundred buckets for each request and looks whether the bucket has a file. No reload: that
    closes open connections, and a request that is on its way on one of them is lost.
    """
    if not 0 <= percent <= BUCKETS:
        raise StackError(f"a share of requests is 0 to 100 percent, not {percent}")
    folder = stack.data / "gateway" / "share"
    for number in range(BUCKETS):
        bucket = folder / f"{number:02d}"
        if number < percent:
            bucket.touch()
        else:
            bucket.unlink(missing_ok=True)


def expose(path: Path, text: str) -> None:
    """Write a file that a container reads, as another user perhaps."""
    write_file(path, text.encode())
    path.chmod(0o644)


def await_ready(stack: Stack, name: str, seconds: float = READY_S) -> None:
    """Wait until the release at a place is ready; StackError with its last lines if it is not in time."""
    deadline, last = time.monotonic() + seconds, "no answer"
    while time.monotonic() < deadline:
        try:
            response = httpx.get(f"{stack.url(name)}/readyz", timeout=5.0)
            if response.status_code == 200:
                return
            last = f"{response.status_code} {response.text[:300]}"
        except httpx.HTTPError as error:
            last = repr(error)
        time.sleep(0.3)
    said = run(stack, "logs", "--tail", str(engines.LAST_LINES), name, what=f"reading the log of {name}")
    raise StackError(f"{name} was not ready after {seconds:.0f} s ({last}); its last lines:\n{said}")
