"""The local stack: Prefect server, pool, deployments, worker, MLflow UI, exporter and service, started and stopped."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import httpx

from flows import processes
from flows.environment import ROOT, unset_defaults
from flows.errors import BentoflowError
from flows.processes import Process
from flows.settings import Settings

POOL = "bentoflow"
SERVER, WORKER, MLFLOW, EXPORTER = "prefect", "worker", "mlflow", "exporter"


def environment(home: Path, api: str | None = None) -> dict[str, str]:
    """Environment of the stack's processes; `api` points them to one Prefect server."""
    return {**unset_defaults(home), **({"PREFECT_API_URL": api} if api else {})}


def prefect(env: Mapping[str, str], *arguments: str, seconds: float = 240) -> str:
    """Run a `prefect` command; BentoflowError with the end of its output if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=seconds,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        raise BentoflowError(f"`prefect {' '.join(arguments)}` failed:\n{(done.stdout + done.stderr)[-2_000:]}")
    return done.stdout


def start_server(chosen: Settings) -> Process:
    """A Prefect server on a free port; not waited for."""
    port = processes.free_port(chosen.prefect_port, chosen.host)
    url = f"http://{chosen.host}:{port}"
    return processes.start(
        chosen.home,
        SERVER,
        [sys.executable, "-m", "prefect", "server", "start", "--host", chosen.host, "--port", str(port)],
        url=url,
        env={**environment(chosen.home), "PREFECT_UI_API_URL": f"{url}/api", "PREFECT_API_URL": ""},
    )


def wait_server(chosen: Settings) -> str:
    """Wait until the server is healthy; its API's address."""
    server = processes.running(chosen.home, SERVER)
    url = server.url if server else ""
    processes.wait(chosen.home, SERVER, lambda: processes.answers(f"{url}/api/health"), seconds=180)
    return f"{url}/api"


def deploy(chosen: Settings, api: str | None) -> None:
    """The work pool and every deployment of prefect.yaml, with its schedules and its automation; idempotent."""
    prefect_pool(api)
    prefect(environment(chosen.home, api), "deploy", "--all")


def schedules(api: str, *, active: bool) -> None:
    """Let the schedules of all deployments run or pause; automations and people start runs all the same."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as client:
        for deployment in client.read_deployments():  # the client tries again while a busy SQLite server says 503
            (client.resume_deployment if active else client.pause_deployment)(deployment.id)


def prefect_pool(api: str | None) -> None:
    """The process work pool, made where it is not there; on the server at `api` or the one that the profile names."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.settings import PREFECT_API_URL, temporary_settings
    from prefect.workers.process import ProcessWorker

    with (
        temporary_settings({PREFECT_API_URL: api} if api else {}),
        get_client(sync_client=True) as client,
        suppress(ObjectAlreadyExists),
    ):
        client.create_work_pool(
            WorkPoolCreate(name=POOL, type="process", base_job_template=ProcessWorker.get_default_base_job_template())
        )


def start_worker(chosen: Settings, api: str) -> Process:
    """A process worker of the pool."""
    return processes.start(
        chosen.home,
        WORKER,
        [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process", "--limit", "2"],
        env={**environment(chosen.home, api), "PREFECT_WORKER_QUERY_SECONDS": "2"},
        cwd=ROOT,
    )


def start_mlflow(chosen: Settings) -> Process:
    """The MLflow UI over the local store; not waited for."""
    port = processes.free_port(chosen.mlflow_port, chosen.host)
    return processes.start(
        chosen.home,
        MLFLOW,
        [sys.executable, "-m", "mlflow", "ui", "--host", chosen.host, "--port", str(port), "--workers", "1"],
        url=f"http://{chosen.host}:{port}",
        env=environment(chosen.home),
        cwd=ROOT,
    )


def start_exporter(chosen: Settings) -> Process:
    """The loop's state for Prometheus; not waited for."""
    port = processes.free_port(chosen.exporter_port, chosen.host)
    return processes.start(
        chosen.home,
        EXPORTER,
        [sys.executable, "-m", "flows.cli", "exporter"],
        url=f"http://{chosen.host}:{port}",
        env={**environment(chosen.home), "BENTOFLOW_EXPORTER_PORT": str(port)},
        cwd=ROOT,
    )


def up(chosen: Settings, use_case: str, say: Callable[[str], None]) -> None:
    """Start everything that does not run yet, wait until each is healthy, and say its address."""
    from flows.release import settle
    from flows.stores import registry
    from flows.targets import local

    if (settled := settle(chosen.home, use_case)) is not None:
        say(f"settled   an interrupted release, {settled}")
    start_server(chosen)
    registry.client()  # makes MLflow's database, which its UI would not make whole
    mlflow, exporter = start_mlflow(chosen), start_exporter(chosen)
    api = wait_server(chosen)
    prefect(environment(chosen.home), "config", "set", f"PREFECT_API_URL={api}")
    say(f"Prefect   {api.removesuffix('/api')}")
    deploy(chosen, api)
    schedules(api, active=True)  # a demo in this home has paused them
    start_worker(chosen, api)
    pools = f"{api}/work_pools/{POOL}/workers/filter"
    processes.wait(chosen.home, WORKER, lambda: _has_worker(pools), seconds=120)
    say(f"worker    pool {POOL}, every deployment of prefect.yaml")
    processes.wait(chosen.home, MLFLOW, lambda: processes.answers(f"{mlflow.url}/health"), seconds=180)
    say(f"MLflow    {mlflow.url}")
    processes.wait(chosen.home, EXPORTER, lambda: processes.answers(f"{exporter.url}/metrics"), seconds=60)
    say(f"metrics   {exporter.url}/metrics, for infra/monitoring")
    champion = registry.by_alias(use_case, "champion")
    service = local.ensure(chosen, use_case, champion.tags.get("bento") if champion else None)
    if champion is not None:
        processes.wait(chosen.home, service.name, lambda: processes.answers(f"{service.url}/readyz"), seconds=120)
    say(
        f"service   {service.url}"
        + ("" if champion else " (no release yet: `bentoflow train`, then `bentoflow release`)")
    )


def _has_worker(url: str) -> bool:
    try:
        found = httpx.post(url, json={}, timeout=2.0).json()
    except (httpx.HTTPError, ValueError):
        return False
    return any(worker.get("status") == "ONLINE" for worker in found)


def down(chosen: Settings, say: Callable[[str], None]) -> None:
    """Stop what was started from this home, the worker first."""
    stopped = [name for name in (WORKER, *processes.names(chosen.home)) if processes.stop(chosen.home, name)]
    if SERVER in stopped:
        prefect(environment(chosen.home), "config", "unset", "PREFECT_API_URL", "-y")
    say(f"stopped {', '.join(stopped)}" if stopped else "nothing was running")
