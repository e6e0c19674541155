"""Processes that the stack starts and stops by name: pid file, log, a wait until healthy. Nothing else is ended."""

import fcntl
import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

from flows.errors import BentoflowError

MARK = "BENTOFLOW_PROCESS"
PORTS = 100  # how many are tried from the wanted one
_children: dict[int, subprocess.Popen[bytes]] = {}  # what this process started and must reap
_claims: dict[int, int] = {}  # ports that it chose and started nothing on yet, and the descriptors that lock them


class ProcessError(BentoflowError):
    """A process did not start or did not become healthy; the end of its log is in the message."""


@dataclass(frozen=True, kw_only=True)
class Process:
    """One started process; `started` is the kernel's start time, so that a reused pid is never taken for it."""

    name: str
    pid: int
    started: int
    url: str
    log: str


def free_port(preferred: int = 0, host: str = "127.0.0.1") -> int:
    """`preferred` if nobody listens there, else the next free one; any free one for 0.

    The port is claimed: no other call gives it, here or in another process of this user, until what `start` starts on
    it has ended, or this process has. A server takes seconds until it listens, and a second one would see it free.
    """
    last = min(preferred + PORTS, 65_536) - 1
    for port in range(preferred, last + 1) if preferred else [0] * PORTS:
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind((host, port))
            except OSError:
                continue
            found = int(s.getsockname()[1])
            if _claim(found):
                return found
    raise ProcessError(f"no free port on {host}" + (f" from {preferred} to {last}" if preferred else ""))


def _claim(port: int) -> bool:
    """Lock a port's file; the lock goes on in whoever inherits the descriptor and ends with the last of them."""
    folder = Path(tempfile.gettempdir()) / f"bentoflow-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(folder / str(port), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return False
    _claims[port] = descriptor
    return True


def _started(pid: int) -> int | None:
    """The kernel's start time of a living process, clock ticks since boot; None for a dead one or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def _file(home: Path, name: str) -> Path:
    return home / "run" / f"{name}.json"


def running(home: Path, name: str) -> Process | None:
    """The process of that name if it lives."""
    try:
        process = Process(**json.loads(_file(home, name).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return process if _started(process.pid) == process.started else None


def start(
    home: Path,
    name: str,
    command: Sequence[str],
    *,
    url: str = "",
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Process:
    """Start a command in its own process group, output to a log; gives the living one of that name if there is one."""
    claim = _claims.pop(urlsplit(url).port or 0, None)
    try:
        if (alive := running(home, name)) is not None:
            return alive
        return _launch(home, name, command, url, {**(env or {}), MARK: _mark(home, name)}, cwd, claim)
    finally:
        if claim is not None:
            os.close(claim)


def _launch(
    home: Path, name: str, command: Sequence[str], url: str, env: dict[str, str], cwd: Path | None, claim: int | None
) -> Process:
    _sweep(home, name)
    log = home / "logs" / f"{name}.log"
    for folder in (log.parent, home / "run"):
        folder.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        child = subprocess.Popen(
            list(command),
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            cwd=cwd,
            start_new_session=True,
            env={**os.environ, **env},
            pass_fds=() if claim is None else (claim,),
        )
    _children[child.pid] = child
    process = Process(name=name, pid=child.pid, started=_started(child.pid) or 0, url=url, log=str(log))
    _file(home, name).write_text(json.dumps(asdict(process)))
    return process


def tail(path: str, lines: int = 12) -> str:
    """The last lines of a log."""
    try:
        return "\n".join(Path(path).read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def listens(process: Process) -> bool:
    """Whether the process or a descendant listens on its address, so that a neighbour's answer is not taken for its."""
    port = urlsplit(process.url).port
    if port is None:
        return True
    try:
        leader = psutil.Process(process.pid)
        family = [leader, *leader.children(recursive=True)]
        found = [c for p in family for c in p.net_connections(kind="inet")]
    except psutil.Error:
        return False
    return any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in found)


def wait(home: Path, name: str, ready: Callable[[], bool], *, seconds: float) -> Process:
    """Wait until `ready` at its own address; ProcessError with the end of the log when it dies or time is up."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        process = running(home, name)
        if process is None:
            raise ProcessError(f"{name} ended at once; the end of its log:\n{tail(str(home / 'logs' / f'{name}.log'))}")
        if ready() and listens(process):
            return process
        time.sleep(0.1)
    log = home / "logs" / f"{name}.log"
    raise ProcessError(f"{name} was not ready within {seconds:.0f} s; the end of {log}:\n{tail(str(log))}")


def answers(url: str, *, accept: Callable[[int], bool] = lambda status: status == 200) -> bool:
    """Whether a GET of the URL is answered with an accepted status."""
    try:
        return accept(httpx.get(url, timeout=2.0).status_code)
    except httpx.HTTPError:
        return False


def stop(home: Path, name: str, *, seconds: float = 15.0) -> bool:
    """SIGTERM, then SIGKILL to it and its descendants after `seconds`; False if there was nothing to stop."""
    process = running(home, name)
    if process is None:
        _file(home, name).unlink(missing_ok=True)
        return _sweep(home, name)
    leader = psutil.Process(process.pid)
    family = [leader, *leader.children(recursive=True)]  # BentoML's workers leave the process group
    with suppress(psutil.NoSuchProcess):
        leader.terminate()
    left = psutil.wait_procs(family, timeout=seconds)[1]
    for survivor in left:
        with suppress(psutil.NoSuchProcess):
            survivor.kill()
    psutil.wait_procs(left, timeout=5.0)
    if (child := _children.pop(process.pid, None)) is not None:
        child.wait()
    _file(home, name).unlink(missing_ok=True)
    return True


def _mark(home: Path, name: str) -> str:
    return f"{home}:{name}"


def _sweep(home: Path, name: str) -> bool:
    """End what a killed process of that name left behind: its descendants inherit a mark in their environment."""
    left = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == _mark(home, name) and process.pid != os.getpid():
                process.kill()
                left.append(process)
    psutil.wait_procs(left, timeout=5.0)
    return bool(left)


def names(home: Path) -> list[str]:
    """Names of the processes with a pid file."""
    return sorted(p.stem for p in (home / "run").glob("*.json"))
