"""The site: artefact, request bodies, and every server of the benchmark, started when a case first asks for it."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from subprocess import SubprocessError

from bentos.runtime.home import home as project_home
from tests import servers
from tests.bench.serving import artefact, bodies, peers
from tests.bench.serving.arrivals import Arrivals
from tests.bench.serving.load import Load
from tests.bench.serving.processes import CLIENT_CORES, CORES, SERVER_CORES, NoStart, Running, on_cores, started
from tests.bentos.conftest import server_env

OWN = ("BENTOFLOW_", "BENTOML_", "PROMETHEUS_MULTIPROC_DIR")  # what a user may have set for other servers


OURS = "tests.bench.serving.service:Service" if artefact.CATEGORIES else "."  # what `bentoml serve` is given


class Site:
    """What the cases share; closing `stack` ends all servers. `failures` holds whatever was not answered as it must."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.home, self._stack = folder, folder / "home", stack
        self.venvs = project_home() / "bench"
        self.failures: list[str] = []
        self.latencies: dict[str, list[Load]] = {}  # of single rows, by case
        self.arrivals: dict[tuple[str, int], list[Arrivals]] = {}  # at fixed rates, by server and rate
        self._running: dict[str, Running | None] = {}
        self._redis = ""
        stack.enter_context(_clean_environment())
        artefact.build(self.home, self.home / "bentoml")
        self.bodies = bodies.write(folder)

    def server(self, name: str) -> Running:
        """A server, started if it does not run yet; NoStart if it cannot, or could not before."""
        if name not in self._running:
            self._running[name] = None
            self._running[name] = found = self._stack.enter_context(self.start(name))
            print(f"{name} answers {found.first_answer_s:.1f} s after its start", flush=True)
        if (running := self._running[name]) is None:
            raise NoStart(f"{name} did not start")
        return running

    def optional(self, name: str) -> Running | None:
        """A peer, or None with the reason printed once if it cannot be installed or started."""
        if name not in self._running:
            try:
                self.server(name)
            except (NoStart, OSError, SubprocessError) as error:
                print(f"SKIPPED {name}: {error} {getattr(error, 'stderr', '') or ''}", flush=True)
        return self._running[name]

    def peers(self) -> dict[str, tuple[Running, str, bodies.Bodies]]:
        """Server, path and bodies of single rows of each peer that can be had, the tutorial first."""
        known = {"fastapi": ("/predict", "row"), "mlserver": ("/v2/models/churn/infer", "v2")}
        known["mlflow"] = ("/invocations", "mlflow")
        found = {name: (self.optional(name), path, self.bodies[kind]) for name, (path, kind) in known.items()}
        return {name: (running, path, kind) for name, (running, path, kind) in found.items() if running is not None}

    def start(self, name: str) -> AbstractContextManager[Running]:
        """A server of its own by name, for whoever ends it."""
        row, user, v2, frame = (self.bodies[kind] for kind in ("row", "user", "v2", "mlflow"))
        known: dict[str, Callable[[], AbstractContextManager[Running]]] = {
            "ours": lambda: self.ours("ours", row),
            "ours_again": lambda: self.ours("ours_again", row),
            "bare": lambda: self.ours("bare", row, service="tests.bench.serving.bare:Service"),
            "profiled": lambda: self.ours("profiled", row, service="tests.bench.serving.profiled:Service"),
            "workers": lambda: self.ours("workers", row, workers=2),
            "ours_redis": lambda: self.ours("ours_redis", user, online_store=self.redis()),
            "fastapi": lambda: peers.tutorial(self.home, row),
            "fastapi_feast": lambda: peers.tutorial(self.home, user, path="/predict/user", feast=True),
            "fastapi_redis": lambda: peers.tutorial(
                self.sibling("ours_redis"), user, path="/predict/user", feast=True, online_store=self.redis()
            ),
            "mlserver": lambda: peers.mlserver(self.home, self.venvs, v2),
            "mlflow": lambda: peers.mlflow(self.home, self.venvs, frame),
        }
        return known[name]()

    @contextmanager
    def ours(
        self, name: str, first: bodies.Bodies, *, service: str = OURS, online_store: str = "", workers: int = 1
    ) -> Iterator[Running]:
        """Our service on a home of its own."""
        home, port = self.sibling(name), servers.free_port()
        command = [str(Path(sys.executable).with_name("bentoml")), "serve", service, "--host", "127.0.0.1"]
        env = server_env(home, home / "bentoml") | {"BENTOFLOW_WORKERS": str(workers)}
        env["BENTOFLOW_ONLINE_STORE"] = online_store
        cores = SERVER_CORES if workers == 1 else set(CORES[:workers])
        with started(
            [*command, "--port", str(port)],
            home / "server.log",
            url=f"http://127.0.0.1:{port}",
            path="/predict",
            bodies=first,
            env=env,
            cores=cores,
        ) as running:
            yield running

    def sibling(self, name: str) -> Path:
        """A copy of the home for one server: BentoML empties the metrics of servers that share one."""
        copy = self.folder / name
        if not copy.exists():
            shutil.copytree(self.home, copy, ignore=shutil.ignore_patterns("journal", "*.log"))
        return copy

    def redis(self) -> str:
        """The address of a Valkey or Redis server that holds the users, on the client's core as on another machine."""
        if not self._redis:
            with on_cores(CLIENT_CORES):
                self._redis = self._stack.enter_context(servers.redis())
            os.environ["BENTOFLOW_ONLINE_STORE"] = self._redis
            try:
                artefact.store_features(self.sibling("ours_redis"))
            finally:
                del os.environ["BENTOFLOW_ONLINE_STORE"]
        return self._redis

    def tidy(self) -> None:
        """Remove finished journal segments, which would fill the disk: a bulk case writes gigabytes."""
        for segment in self.folder.glob("*/journal/*/*.jsonl"):
            segment.unlink(missing_ok=True)


@contextmanager
def _clean_environment() -> Iterator[None]:
    """Without settings that a user may have for other servers."""
    taken = {k: os.environ.pop(k) for k in list(os.environ) if k.startswith(OWN)}
    try:
        yield
    finally:
        os.environ.update(taken)
