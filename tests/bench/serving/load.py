"""The closed-loop load: wrk on the client's core, each connection posting its next body when it has its answer."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.bench.serving.bodies import Bodies
from tests.bench.serving.processes import CLIENT_CORES, Running, on_cores


@dataclass(frozen=True)
class Load:
    """What one run of wrk measured."""

    rps: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    cpu_us: float  # of the server, per request: what other load on the machine changes least
    non_2xx: float
    failed: float  # connections refused or broken, and requests without an answer within 30 s


def wrk() -> str:
    """The generator's path; SystemExit says how to get it."""
    if found := shutil.which("wrk"):
        return found
    raise SystemExit("the serving benchmark needs wrk, a load generator: apt-get install wrk")


def measure(server: Running, path: str, bodies: Bodies, *, connections: int, seconds: int) -> Load:
    """Post bodies over and over from `connections` connections, longer if the server answers none in that time.

    RuntimeError if wrk fails, or if there is no answer in four times as long.
    """
    for longer in (1, 2, 4):
        before = server.cpu_seconds()
        raw = _run(server.url + path, bodies, connections=connections, seconds=longer * seconds)
        if raw["requests"]:
            cpu = (server.cpu_seconds() - before) / raw["requests"] * 1e6
            latencies = (raw["p50_ms"], raw["p99_ms"], raw["p999_ms"])
            return Load(raw["requests"] / raw["seconds"], *latencies, cpu, raw["non_2xx"], raw["failed"])
    raise RuntimeError(f"{server.url}{path} answered nothing in {4 * seconds} s at {connections} connections: {raw}")


def _run(url: str, bodies: Bodies, *, connections: int, seconds: int) -> dict[str, float]:
    """What wrk.lua prints."""
    command = [wrk(), "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s"]
    for name, value in bodies.headers:
        command += ["-H", f"{name}: {value}"]
    command += ["-s", str(Path(__file__).with_name("wrk.lua")), url, "--", *map(str, bodies.paths)]
    with on_cores(CLIENT_CORES):
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 90)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        raise RuntimeError(f"wrk against {url} failed: {done.stdout[-500:]}{done.stderr[-500:]}")
    found: dict[str, float] = json.loads(lines[0].removeprefix("RESULT "))
    return found
