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
    non_2xx: int
    failed: int  # connections refused or broken, and requests without an answer within 30 s


def wrk() -> str:
    """The generator's path; SystemExit says how to get it."""
    if found := shutil.which("wrk"):
        return found
    raise SystemExit("the serving benchmark needs wrk, a load generator: apt-get install wrk")


def measure(server: Running, path: str, bodies: Bodies, *, connections: int, seconds: int) -> Load:
    """Post bodies over and over from `connections` connections; RuntimeError if wrk fails."""
    command = [wrk(), "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s"]
    for name, value in bodies.headers:
        command += ["-H", f"{name}: {value}"]
    command += ["-s", str(Path(__file__).with_name("wrk.lua")), server.url + path, "--", *map(str, bodies.paths)]
    before = server.cpu_seconds()
    with on_cores(CLIENT_CORES):
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 90)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        raise RuntimeError(f"wrk against {server.url}{path} failed: {done.stdout[-500:]}{done.stderr[-500:]}")
    raw = json.loads(lines[0].removeprefix("RESULT "))
    cpu = (server.cpu_seconds() - before) / max(raw["requests"], 1) * 1e6
    return Load(
        raw["requests"] / raw["seconds"],
        raw["p50_ms"],
        raw["p99_ms"],
        raw["p999_ms"],
        cpu,
        raw["non_2xx"],
        raw["failed"],
    )
