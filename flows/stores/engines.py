"""Container engines: which of Docker, Podman and Buildah is there, and one way to call them all."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, TypeVar

from flows.errors import ImageError

Backend = Literal["auto", "docker", "podman", "buildah"]
Say = Callable[[str], object]
T = TypeVar("T")

LAST_LINES = 12
DELAYS_S = (1.0, 4.0, 10.0)  # between attempts that go over the network
FINAL = re.compile(  # what no further attempt changes
    r"unauthorized|authentication required|denied|forbidden|manifest unknown|name unknown|not found|no such image|"
    r"image not known|invalid reference|x509|server gave HTTP response to HTTPS|"
    r"no signatures found|no matching signatures",
    re.IGNORECASE,
)
CREDENTIALS = re.compile(r"(://)[^/\s:@]*:[^/\s@]+@")


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What builds images, and what runs, pushes and pulls them; both work on the same local storage."""

    builder: str
    runner: str


def find(backend: Backend = "auto") -> Engine:
    """Docker if its daemon answers, else Podman, else Buildah (with Podman to run); ImageError if that is not there."""
    if backend in ("auto", "docker") and daemon():
        return Engine(builder="docker", runner="docker")
    if backend == "docker":
        raise ImageError("BENTOFLOW_IMAGE_BACKEND is docker, but no daemon answers `docker version`: start it")
    found = [tool for tool in ("podman", "buildah") if backend in ("auto", tool) and shutil.which(tool)]
    if not found:
        raise ImageError(
            f"no {'container engine' if backend == 'auto' else backend} found: install Docker, Podman or Buildah; "
            "BENTOFLOW_IMAGE_BACKEND names one of them"
        )
    if not shutil.which("podman"):
        raise ImageError("Buildah builds, but cannot run an image to test it before it is pushed: install Podman too")
    return Engine(builder=found[0], runner="podman")


def daemon() -> bool:
    """Whether a Docker daemon answers."""
    if not shutil.which("docker"):
        return False
    asked = ["docker", "version", "--format", "{{.Server.Version}}"]
    try:
        return subprocess.run(asked, capture_output=True, timeout=10).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def call(
    command: Sequence[str], *, env: Mapping[str, str] | None = None, say: Say | None = None, what: str = ""
) -> str:
    """Run a command to its end, each line to `say`; its standard output, or ImageError with its last lines."""
    shown = what or " ".join(command[:2])
    last: deque[str] = deque(maxlen=LAST_LINES)
    out: list[str] = []
    try:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, **(env or {})},
            start_new_session=True,  # so that what it started can be ended with it
        )
    except OSError as error:
        raise ImageError(f"{shown} could not be started: {error}") from error
    with process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                line = CREDENTIALS.sub(r"\1…@", line)
                out.append(line)
                if line.strip():
                    last.append(line.rstrip())
                    if say is not None:
                        say(line.rstrip())
        except BaseException:  # Ctrl-C: nothing goes on building behind the user's back
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            raise
    if process.returncode:
        raise ImageError(f"{shown} failed with {process.returncode}; its last lines:\n" + "\n".join(last))
    return "".join(out)


def persistently(attempt: Callable[[], T], say: Say, delays: Sequence[float] = DELAYS_S) -> T:
    """The result of an attempt over the network, made again after each delay unless its failure is final."""
    for delay in delays:
        try:
            return attempt()
        except ImageError as error:
            if FINAL.search(str(error)):
                raise
            say(f"{str(error).splitlines()[0]}; again in {delay:g} s")
        time.sleep(delay)
    return attempt()


def ask(command: Sequence[str]) -> str | None:
    """A command's standard output, None if it fails: for questions whose answer may be no."""
    done = subprocess.run(list(command), stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    return done.stdout if done.returncode == 0 else None
