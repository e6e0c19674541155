"""Serving against what a user would otherwise choose: same pipeline, same core, interleaved rounds.

Servers run on the first core, clients on the last. The machine's other load makes every latency an upper bound; rounds
are interleaved, so ratios hold as far as the other load is the same for all. A fast server suffers most when its client
has to share a core, so the servers' own CPU time per request is measured too: its ratios are those of a quiet machine.

BENCH_ROUNDS (3) and BENCH_SECONDS (3, of one run) say how long; BENCH_CASES=row,bulk measures these cases alone.
"""

import os
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from bentos.runtime.home import home
from tests.bench.figures import Figure
from tests.bench.serving import closed, load, plots, shares, startup
from tests.bench.serving.open_loop import open_loop
from tests.bench.serving.rounds import failure
from tests.bench.serving.site import Site

CASES: dict[str, Callable[[Site], list[Figure]]] = {
    "row": closed.single_rows,
    "user": closed.users,
    "redis": closed.redis_users,
    "bulk": closed.bulk,
    "open": open_loop,
    "burst": closed.burst,
    "shares": shares.shares,
    "workers": closed.workers,
    "startup": startup.startup,
}


def run() -> list[Figure]:
    """Measure the chosen cases; every server is ended whatever happens. A case that fails leaves the others alone."""
    cases = chosen(os.environ.get("BENCH_CASES", ""))
    load.wrk()
    before = signal.signal(signal.SIGTERM, _leave)
    picture = home() / "bench-serving.png"  # before the site takes the environment away
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        with ExitStack() as stack:
            site = Site(folder, stack)
            found = [figure for name in cases for figure in _measured(name, site)]
            _drawn(picture, site)
    finally:
        signal.signal(signal.SIGTERM, before)
        shutil.rmtree(folder, ignore_errors=True)
    return [*found, Figure("serving.failures", len(site.failures), "", None, (len(site.failures),) * 2)]


def chosen(names: str) -> list[str]:
    """The cases that a comma-separated list names, all if it is empty; SystemExit names an unknown one."""
    asked = [name.strip() for name in names.split(",") if name.strip()]
    if unknown := [name for name in asked if name not in CASES]:
        raise SystemExit(f"BENCH_CASES names {', '.join(unknown)}; known: {', '.join(CASES)}")
    return asked or list(CASES)


def _measured(name: str, site: Site) -> list[Figure]:
    began = time.monotonic()
    print(f"\n{name}: {' '.join((CASES[name].__doc__ or '').split())}", flush=True)
    try:
        return CASES[name](site)
    except Exception as error:
        traceback.print_exc()
        failure(site, f"{name}: {error}")
        return []
    finally:
        print(f"{name} took {time.monotonic() - began:.0f} s", flush=True)


def _drawn(path: Path, site: Site) -> None:
    """The picture; without it the figures still count."""
    try:
        plots.write(path, site.latencies, site.arrivals)
    except Exception as error:
        traceback.print_exc()
        failure(site, f"no picture in {path}: {error}")


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
