"""The load: wrk on a core of its own, posting bodies that differ."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, CLIENT_CORE = CORES[0], CORES[-1]


@dataclass(frozen=True)
class Load:
    """What one run of wrk measured."""

    rps: float
    p50_ms: float
    p99_ms: float
    cpu_us: float  # of the server, per request: what other load on the machine changes least
    bad: int


def pinned(core: int, command: list[str]) -> list[str]:
    """A command that runs on one core; as it is where there is only one or no taskset."""
    return ["taskset", "-c", str(core), *command] if len(CORES) > 1 and shutil.which("taskset") else command


def measure(url: str, bodies: Path, *, connections: int, seconds: float) -> Load:
    """Post a file's lines over and over from `connections` connections."""
    if not (wrk := shutil.which("wrk")):
        raise SystemExit("the benchmarks need wrk: apt-get install wrk")
    script = Path(__file__).with_name("wrk.lua")
    servers = listeners(int(url.split(":")[2].split("/")[0]))
    command = [wrk, "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "30s"]
    before = cpu_seconds(servers)
    done = subprocess.run(
        pinned(CLIENT_CORE, [*command, "-s", str(script), url, "--", str(bodies)]),
        capture_output=True,
        text=True,
        timeout=seconds + 90,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        raise RuntimeError(f"wrk against {url} failed: {done.stdout[-500:]}{done.stderr[-500:]}")
    raw = json.loads(lines[0].removeprefix("RESULT "))
    cpu = (cpu_seconds(servers) - before) / max(raw["requests"], 1) * 1e6
    return Load(raw["requests"] / raw["seconds"], raw["p50_ms"], raw["p99_ms"], cpu, raw["bad"])


def listeners(port: int) -> list[psutil.Process]:
    """The processes of the server on a port: those that listen, and their children, which inherited the socket."""
    found = {c.pid for c in psutil.net_connections("tcp") if c.pid and c.laddr.port == port and c.status == "LISTEN"}
    family = found | {c.pid for pid in found for c in psutil.Process(pid).children(recursive=True)}
    return [psutil.Process(pid) for pid in family]


def cpu_seconds(processes: list[psutil.Process]) -> float:
    """User and system time of processes together."""
    return sum(sum(p.cpu_times()[:2]) for p in processes)
