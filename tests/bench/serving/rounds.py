"""Interleaved rounds: every case once per round, so that the machine's other load is the same for all of them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.error import HTTPError

from tests.bench.serving.bodies import Bodies
from tests.bench.serving.load import Load, measure
from tests.bench.serving.processes import Running, post
from tests.bench.serving.site import Site


def whole(name: str, default: int) -> int:
    """A setting that is a whole number above zero; SystemExit says what it is instead."""
    text = os.environ.get(name, "").strip() or str(default)
    if not text.isdecimal() or int(text) < 1:
        raise SystemExit(f"{name} is {text!r}; give a whole number from 1, such as {default}")
    return int(text)


ROUNDS, SECONDS = whole("BENCH_ROUNDS", 3), whole("BENCH_SECONDS", 3)


@dataclass(frozen=True)
class Case:
    """One server under one kind of request."""

    name: str
    server: Running
    path: str
    bodies: Bodies
    connections: int = 32


def closed_loop(site: Site, cases: Sequence[Case]) -> dict[str, list[Load]]:
    """Each case's rounds, after one second of each to warm up; what is not answered with 2xx becomes a failure."""
    found: dict[str, list[Load]] = {case.name: [] for case in cases}
    for case in cases:
        measure(case.server, case.path, case.bodies, connections=case.connections, seconds=1)
        case.server.settle()
    for number in range(ROUNDS):
        for case in cases:
            load = measure(case.server, case.path, case.bodies, connections=case.connections, seconds=SECONDS)
            found[case.name].append(load)
            report(site, case.name, number, load)
            case.server.settle()
            site.tidy()
    return found


def report(site: Site, name: str, number: int, load: Load) -> None:
    """Print one run, and keep what went wrong."""
    latency = f"p50 {load.p50_ms:8.2f} ms  p99 {load.p99_ms:8.2f} ms  cpu {load.cpu_us:8.0f} us"
    print(f"round {number + 1}  {name:<18} {load.rps:>9,.0f}/s  {latency}", flush=True)
    if load.non_2xx or load.failed:
        failure(site, f"{name}, round {number + 1}: {load.non_2xx} answers not 2xx, {load.failed} broken or late")


def failure(site: Site, text: str) -> None:
    """Print what went wrong and keep it; the benchmark's exit status tells of it."""
    print(f"FAILED {text}", flush=True)
    site.failures.append(text)


def same_answers(site: Site, cases: Sequence[Case], *, within: float = 1e-5) -> None:
    """See that all cases give their first row, the same for all, one probability: wrong answers are fast ones."""
    scores: dict[str, float] = {}
    for case in cases:
        try:
            scores[case.name] = case.bodies.score(post(case.server.url + case.path, case.bodies))
        except HTTPError as error:
            failure(site, f"{case.name}: {error.code} {error.read()[:300]!r}")
        except (LookupError, ValueError) as error:
            failure(site, f"{case.name} gives no probability: {error!r}")
    if scores and max(scores.values()) - min(scores.values()) > within:
        failure(site, "the servers answer differently: " + ", ".join(f"{k} {v:.6f}" for k, v in scores.items()))


def column(loads: dict[str, list[Load]], field: str) -> dict[str, list[float]]:
    """One measure of every case's rounds."""
    return {name: [getattr(load, field) for load in rounds] for name, rounds in loads.items()}
