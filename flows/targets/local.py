"""The local target: `bentoml serve` on this machine, which follows the rollout file."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from flows import environment, processes
from flows.errors import ReleaseError
from flows.processes import Process
from flows.settings import Settings
from flows.targets import golden


def process_name(use_case: str) -> str:
    """Name of the service's process."""
    return f"service-{use_case}"


def ensure(chosen: Settings, use_case: str, bento: str | None = None) -> Process:
    """The running service of a use case, started if need be and alive, though perhaps without a champion yet."""
    name, home = process_name(use_case), chosen.home
    if (alive := processes.running(home, name)) is None:
        port = processes.free_port(chosen.service_port, chosen.host)
        command = [
            sys.executable,
            "-m",
            "bentoml",
            "serve",
            bento or "bentos.service:Service",
            "--host",
            chosen.host,
            "--port",
            str(port),
        ]
        # BentoML empties the metrics of every server that shares its home, so each server has its own below ours
        env = {**environment.unset_defaults(home), "BENTOFLOW_USE_CASE": use_case, **_prefect(home)}
        alive = processes.start(home, name, command, url=f"http://{chosen.host}:{port}", env=env, cwd=_root())
    url = alive.url
    return processes.wait(home, name, lambda: processes.answers(f"{url}/livez"), seconds=180)


def _prefect(home: Path) -> dict[str, str]:
    """Where the service can ask for a training, if this home's Prefect server runs and no other one is named."""
    server = None if os.environ.get("PREFECT_API_URL") else processes.running(home, "prefect")
    return {"PREFECT_API_URL": f"{server.url}/api"} if server else {}


def _root() -> Path:
    from flows.environment import ROOT

    return ROOT


def address(chosen: Settings, use_case: str) -> str:
    """Address of the running service."""
    name = process_name(use_case)
    process = processes.running(chosen.home, name)
    if process is None:
        raise processes.ProcessError(f"the service is not running; see {name}.log")
    return process.url


def wait_for(url: str, expected: str, seconds: float = 10) -> None:
    """Wait until the service answers for a release."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if health(url).get("release") == expected:
            return
        time.sleep(0.1)
    raise processes.ProcessError(f"{url} does not answer for {expected} after {seconds:.0f} s")


def health(url: str) -> dict[str, Any]:
    """What the service says of itself; empty while it does not answer."""
    try:
        found: dict[str, Any] = httpx.get(f"{url}/health", timeout=5.0).json()
    except (httpx.HTTPError, ValueError):
        return {}
    return found


def stop(chosen: Settings, use_case: str) -> bool:
    """Stop the service; False if none runs."""
    return processes.stop(chosen.home, process_name(use_case))


def smoke(url: str, folder: Path, release: str, *, arm: str, seconds: float = 30.0) -> int:
    """Post the release's golden rows to one arm; every answer must equal the training-time score. Gives their number.

    Waits until the arm answers for this release. Raises ReleaseError with the first row that differs.
    """
    asked = golden.read(folder)
    rows = [keys | {"features": given} for keys, given in zip(asked.keys, asked.features, strict=True)]
    return asked.check(_post(url, rows, release, arm=arm, seconds=seconds), release)


def _post(url: str, rows: list[dict[str, Any]], release: str, *, arm: str, seconds: float) -> list[dict[str, Any]]:
    deadline, last = time.monotonic() + seconds, "no answer yet"
    headers = {"x-bentoflow-arm": arm, "x-bentoflow-smoke": "1"}
    while time.monotonic() < deadline:
        try:
            response = httpx.post(f"{url}/predict", json=rows, headers=headers, timeout=10.0)
            found = response.json()
            if response.status_code == 200 and isinstance(found, list) and found[0].get("release") == release:
                return found
            last = f"{response.status_code} {response.text[:300]}"
        except (httpx.HTTPError, ValueError) as error:
            last = repr(error)
        time.sleep(0.1)
    raise ReleaseError(f"{url} does not answer for {release} on arm {arm} after {seconds:.0f} s: {last}")
