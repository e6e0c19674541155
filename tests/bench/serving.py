"""Serving against what a user would otherwise choose: same pipeline, same core, interleaved rounds of wrk.

The machine's other load makes every latency an upper bound; rounds are interleaved, so ratios hold.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from subprocess import CalledProcessError

from bentos.runtime.home import home as project_home
from tests.bench import artefact, peers
from tests.bench.figures import Figure, plain, ratio
from tests.bench.load import SERVER_CORE, Load, measure
from tests.bentos.conftest import serving

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "3"))


@dataclass(frozen=True)
class Case:
    """One server under one kind of request."""

    name: str
    url: str
    bodies: Path
    connections: int = 32


def run() -> list[Figure]:
    """Start every server, measure all cases in turn, say how they compare."""
    os.sched_setaffinity(0, {SERVER_CORE})  # what is started from here on inherits it; wrk moves to its own core
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    home, models = folder / "home", folder / "home" / "bentoml"
    artefact.build(home, models)
    bodies = artefact.bodies(folder)
    try:
        with ExitStack() as servers:
            return _figures(_measured(_start(servers, home, models, bodies)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _start(servers: ExitStack, home: Path, models: Path, bodies: dict[str, Path]) -> list[Case]:
    first = {name: path.read_bytes().splitlines()[0] for name, path in bodies.items()}
    ours = servers.enter_context(serving(home, models, log=home / "ours.log")).url + "/predict"
    bare_env = {"BENTOFLOW_HOME": str(_sibling(home)), "BENTOML_HOME": str(_sibling(home) / "bentoml")}
    bare = serving(home, models, log=home / "bare.log", env=bare_env, service="tests.bench.bare:Service")
    plain_url = servers.enter_context(peers.tutorial(home, "/predict", first["row"]))
    feast_url = servers.enter_context(peers.tutorial(home, "/predict/user", first["user"], feast=True))
    cases = [
        Case("ours.row", ours, bodies["row"]),
        Case("fastapi.row", plain_url, bodies["row"]),
        Case("bare.row", servers.enter_context(bare).url + "/predict", bodies["row"]),
        Case("ours.row.alone", ours, bodies["row"], 1),
        Case("fastapi.row.alone", plain_url, bodies["row"], 1),
        Case("ours.user", ours, bodies["user"]),
        Case("fastapi.user", feast_url, bodies["user"]),
        Case("ours.bulk", ours, bodies["bulk"], 4),
        Case("fastapi.bulk", plain_url + "/bulk", bodies["bulk"], 4),
    ]
    venvs = project_home() / "bench"
    optional: dict[str, tuple[str, Callable[[], AbstractContextManager[str]]]] = {
        "mlserver.row": ("v2", lambda: peers.mlserver(home, venvs, first["v2"])),
        "mlflow.row": ("mlflow", lambda: peers.mlflow(home, first["mlflow"])),
    }
    for name, (body, start) in optional.items():
        try:
            cases.append(Case(name, servers.enter_context(start()), bodies[body]))
        except (RuntimeError, AssertionError, OSError, CalledProcessError) as error:
            print(f"SKIPPED {name}: {error} {getattr(error, 'stderr', '') or ''}")
    return cases


def _sibling(home: Path) -> Path:
    """A copy of the home for a second server: BentoML empties the metrics of servers that share one."""
    copy = home.with_name("bare")
    if not copy.exists():
        shutil.copytree(home, copy, ignore=shutil.ignore_patterns("journal", "*.log"))
    return copy


def _measured(cases: list[Case]) -> dict[str, list[Load]]:
    found: dict[str, list[Load]] = {case.name: [] for case in cases}
    for case in cases:  # warm up
        measure(case.url, case.bodies, connections=case.connections, seconds=1)
    for number in range(ROUNDS):
        for case in cases:
            load = measure(case.url, case.bodies, connections=case.connections, seconds=SECONDS)
            found[case.name].append(load)
            bad = f"  NOT 2xx OR FAILED: {load.bad}" if load.bad else ""
            print(
                f"round {number + 1} {case.name:<18} {load.rps:>9,.0f}/s "
                f"p50 {load.p50_ms:8.2f} ms p99 {load.p99_ms:8.2f} ms{bad}"
            )
    return found


def _figures(found: dict[str, list[Load]]) -> list[Figure]:
    rps = {name: [load.rps for load in loads] for name, loads in found.items()}
    p99 = {name: [load.p99_ms for load in loads] for name, loads in found.items()}
    p50 = {name: [load.p50_ms for load in loads] for name, loads in found.items()}
    known = [name for name in ("fastapi.row", "mlserver.row", "mlflow.row") if name in found]
    best = [min(p99[name][i] for name in known) for i in range(ROUNDS)]
    cost = [1 - ours / bare for ours, bare in zip(rps["ours.row"], rps["bare.row"], strict=True)]
    figures = [
        plain("serving.request.rps", rps["ours.row"], "1/s"),
        plain("serving.request.p99", p99["ours.row"], "ms"),
        plain("serving.user_id.rps", rps["ours.user"], "1/s"),
        plain("serving.bulk1000.rows", [1_000 * r for r in rps["ours.bulk"]], "1/s"),
        ratio("serving.request.rps_over_fastapi", rps["ours.row"], rps["fastapi.row"]),
        ratio("serving.request.p99_over_best_peer", p99["ours.row"], best),
        ratio("serving.request.p50_alone_over_fastapi", p50["ours.row.alone"], p50["fastapi.row.alone"]),
        ratio("serving.user_id.rps_over_fastapi", rps["ours.user"], rps["fastapi.user"]),
        ratio("serving.bulk1000.rows_over_fastapi", rps["ours.bulk"], rps["fastapi.bulk"]),
        plain("serving.journal_cost", cost, "share"),
    ]
    for peer in ("mlserver", "mlflow"):
        if f"{peer}.row" in found:
            figures.append(ratio(f"serving.request.rps_over_{peer}", rps["ours.row"], rps[f"{peer}.row"]))
    return figures
