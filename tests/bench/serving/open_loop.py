"""The cases at fixed arrival rates: what callers see who do not wait for each other."""

import numpy as np

from tests.bench.figures import Figure, compared, plain
from tests.bench.serving.arrivals import Arrivals, drive
from tests.bench.serving.rounds import ROUNDS, SECONDS, failure
from tests.bench.serving.site import Site

RATES = (1_000, 2_000, 3_000)
PEERS = RATES[::2]


def open_loop(site: Site) -> list[Figure]:
    """Ours at every rate, the peers at the lowest and the highest; a percentile is a lower bound if answers lack."""
    servers = {"ours": (site.server("ours"), "/predict", site.bodies["row"]), **site.peers()}
    found: dict[tuple[str, int], list[Arrivals]] = {}
    for number in range(ROUNDS):
        for rate in RATES:
            for name, (server, path, bodies) in servers.items():
                if name != "ours" and rate not in PEERS:
                    continue
                run = drive(server.url + path, bodies.all, bodies.headers, rate=rate, seconds=SECONDS)
                found.setdefault((name, rate), []).append(run)
                _report(site, f"{name} at {rate:,}/s", number, run)
                server.settle()
                site.tidy()
    site.arrivals |= found
    return [figure for rate in RATES for figure in _figures(found, rate)]


def _report(site: Site, name: str, number: int, run: Arrivals) -> None:
    p50, p99, p999 = (run.percentile_ms(q) for q in (50, 99, 99.9))
    late = np.percentile(run.late_s, 99) * 1e3
    shown = f"p50 {p50:8.2f} ms  p99 {p99:8.2f} ms  p99.9 {p999:8.2f} ms  sent late by {late:8.2f} ms (p99)"
    print(f"round {number + 1}  {name:<20} answered {run.share:6.1%}  {shown}", flush=True)
    if run.non_2xx or run.broken:
        failure(site, f"{name}, round {number + 1}: {run.non_2xx} answers not 2xx, {run.broken} connections broken")


def _figures(found: dict[tuple[str, int], list[Arrivals]], rate: int) -> list[Figure]:
    """Ours at a rate, next to the peer that does best there where any was measured."""
    peers = [runs for (name, at), runs in found.items() if at == rate and name != "ours"]
    name, ours = f"serving.open_loop_{rate}", found["ours", rate]
    figures = []
    for q, label in ((50, "p50"), (99, "p99"), (99.9, "p999")):
        best = [min(runs[i].percentile_ms(q) for runs in peers) for i in range(ROUNDS)] if peers else None
        figures.append(compared(f"{name}.{label}", [run.percentile_ms(q) for run in ours], best, "ms"))
    most = [max(runs[i].share for runs in peers) for i in range(ROUNDS)] if peers else None
    figures.append(compared(f"{name}.answered", [run.share for run in ours], most, "share"))
    return [*figures, plain(f"{name}.sent_late_p99", [float(np.percentile(r.late_s, 99) * 1e3) for r in ours], "ms")]
