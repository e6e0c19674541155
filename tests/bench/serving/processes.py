"""Servers as processes of their own: pinned to cores, timed until their first answer, ended with all their children."""

import http.client
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.bench.serving.bodies import Bodies

ROOT = Path(__file__).resolve().parents[3]
CORES = sorted(os.sched_getaffinity(0))
REFUSALS = (400, 413, 415, 422)  # a 404 or 5xx may be that of a server that has not started yet
SERVER_CORES, CLIENT_CORES = {CORES[0]}, {CORES[-1]}


class NoStart(RuntimeError):
    """A server ended, or did not answer in time; its log's end says why."""


@dataclass(frozen=True)
class Running:
    """A server that answers: its address, and the seconds from the start of its process to its first 200."""

    url: str
    process: "subprocess.Popen[bytes]"
    first_answer_s: float

    def family(self) -> list[psutil.Process]:
        """Its process and all that it started."""
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def memory_mb(self) -> float:
        """Resident memory of all its processes, in MB; pages that they share count in each."""
        return sum(p.memory_info().rss for p in self.family()) / 1e6

    def cpu_seconds(self) -> float:
        """User and system time of all its processes."""
        return sum(sum(p.cpu_times()[:2]) for p in self.family())

    def settle(self, seconds: float = 5.0) -> None:
        """Wait, at most so long, until it has done with requests that nobody waits for any more.

        A slow server still works on what wrk or an open loop left behind, on the core of the one measured next.
        """
        deadline, before = time.monotonic() + seconds, self.cpu_seconds()
        while time.monotonic() < deadline:
            time.sleep(0.1)
            now = self.cpu_seconds()
            if now - before <= 0.02 and not any(map(_runnable, self.family())):  # it is counted in hundredths
                return
            before = now


def _runnable(process: psutil.Process) -> bool:
    """Whether a thread of a process runs or would if it got a core."""
    for path in Path(f"/proc/{process.pid}/task").glob("*/stat"):
        with suppress(OSError):  # it has just ended
            if path.read_text().rpartition(")")[2].split()[0] == "R":
                return True
    return False


@contextmanager
def on_cores(cores: set[int]) -> Iterator[None]:
    """What is started in the block runs on these cores; where there is one core, everything shares it."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def started(
    command: Sequence[str],
    log: Path,
    *,
    url: str,
    path: str,
    bodies: Bodies,
    env: dict[str, str],
    cwd: Path = ROOT,
    cores: set[int] = SERVER_CORES,
    seconds: float = 120,
) -> Iterator[Running]:
    """A server that has answered a first request of the benchmark; NoStart with its log's end if it never does."""
    with log.open("wb") as out, on_cores(cores):
        began = time.monotonic()
        process = subprocess.Popen(
            command, cwd=cwd, stdout=out, stderr=subprocess.STDOUT, env=env, start_new_session=True
        )
    try:
        while not _answers(url + path, bodies):
            if process.poll() is not None or time.monotonic() - began > seconds:
                state = "has not answered" if process.poll() is None else f"ended with {process.returncode}"
                raise NoStart(f"{' '.join(command[:4])} {state}: {log.read_text(errors='replace')[-1000:]}")
            time.sleep(0.02)
        yield Running(url, process, time.monotonic() - began)
    finally:
        _end(process)


def _answers(url: str, bodies: Bodies) -> bool:
    """Whether a server answers the first body with 2xx; NoStart if it refuses what it understood."""
    try:
        post(url, bodies, timeout=20)
    except urllib.error.HTTPError as error:
        if error.code in REFUSALS:
            raise NoStart(f"{url} refuses the first request with {error.code}: {error.read()[:500]!r}") from None
        return False
    except (OSError, http.client.HTTPException):
        return False
    return True


def post(url: str, bodies: Bodies, *, timeout: float = 60) -> bytes:
    """The answer to the first body; OSError if it is none, HTTPError if its status is not 2xx."""
    request = urllib.request.Request(url, bodies.all[0], dict(bodies.headers))
    with urllib.request.urlopen(request, timeout=timeout) as response:
        content: bytes = response.read()
        return content


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and all that it started, those included that have sessions of their own."""
    try:
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    except psutil.NoSuchProcess:
        family = []
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        pass
    finally:  # also when a second Ctrl-C ends the waiting
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait(timeout=20)
        psutil.wait_procs(family, timeout=5)
