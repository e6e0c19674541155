"""The load: wrk on a core of its own, posting bodies that differ."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, CLIENT_CORE = CORES[0], CORES[-1]


@dataclass(frozen=True)
class Load:
    """What one run of wrk measured."""

    rps: float
    p50_ms: float
    p99_ms: float
    bad: int


def pinned(core: int, command: list[str]) -> list[str]:
    """A command that runs on one core; as it is where there is only one or no taskset."""
    return ["taskset", "-c", str(core), *command] if len(CORES) > 1 and shutil.which("taskset") else command


def measure(url: str, bodies: Path, *, connections: int, seconds: float) -> Load:
    """Post a file's lines over and over from `connections` connections."""
    if not (wrk := shutil.which("wrk")):
        raise SystemExit("the benchmarks need wrk: apt-get install wrk")
    script = Path(__file__).with_name("wrk.lua")
    command = [wrk, "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "30s"]
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
    return Load(raw["requests"] / raw["seconds"], raw["p50_ms"], raw["p99_ms"], raw["bad"])
