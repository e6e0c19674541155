"""The cases that wrk measures: single rows, users from the online stores, bulk in three encodings, bursts, workers."""

from collections.abc import Sequence

from tests.bench.figures import Figure, plain, ratio
from tests.bench.serving.bodies import BULK_ROWS
from tests.bench.serving.load import Load, measure
from tests.bench.serving.processes import CORES
from tests.bench.serving.rounds import ROUNDS, SECONDS, Case, closed_loop, column, report, same_answers
from tests.bench.serving.site import Site

Loads = dict[str, list[Load]]


def single_rows(site: Site) -> list[Figure]:
    """Features in the request, one row each: ours against every peer, alone, at 128 connections, without journal."""
    ours, bare, row = site.server("ours"), site.server("bare"), site.bodies["row"]
    fastapi = Case("fastapi", site.server("fastapi"), "/predict", row)  # the one peer that is always there
    peers = [Case(name, *peer) for name, peer in site.peers().items()]
    cases = [
        Case("ours", ours, "/predict", row),
        *peers,
        Case("bare", bare, "/predict", row),
        Case("ours alone", ours, "/predict", row, 1),
        Case("fastapi alone", fastapi.server, "/predict", row, 1),
        Case("ours 128", ours, "/predict", row, 128),
    ]
    same_answers(site, cases)
    loads = closed_loop(site, cases)
    rps, p50, p99 = (column(loads, field) for field in ("rps", "p50_ms", "p99_ms"))
    cpu = column(loads, "cpu_us")
    best = [min(p99[peer.name][i] for peer in peers) for i in range(ROUNDS)]
    figures = [
        plain("serving.request.rps", rps["ours"], "1/s"),
        plain("serving.request.p50", p50["ours"], "ms"),
        plain("serving.request.p99", p99["ours"], "ms"),
        *(ratio(f"serving.request.rps_over_{peer.name}", rps["ours"], rps[peer.name]) for peer in peers),
        ratio("serving.request.p99_over_best_peer", p99["ours"], best),
        ratio("serving.request.p50_alone_over_fastapi", p50["ours alone"], p50["fastapi alone"]),
        ratio("serving.request.cpu_of_fastapi_over_ours", cpu["fastapi"], cpu["ours"]),
        plain("serving.request_128.rps", rps["ours 128"], "1/s"),
        plain("serving.request_128.p99", p99["ours 128"], "ms"),
        _journal_cost(cpu["ours"], cpu["bare"]),
    ]
    site.latencies |= {case.name: loads[case.name] for case in cases}
    return figures


def _journal_cost(ours: Sequence[float], bare: Sequence[float]) -> Figure:
    """Journal and metrics together as a share of CPU time, which other load on the machine changes least."""
    found = plain("serving.journal_cost", [1 - b / o for o, b in zip(ours, bare, strict=True)], "share")
    return Figure(found.name, found.value, found.unit, plain("", bare, "us").value, found.spread)


def users(site: Site) -> list[Figure]:
    """A user's id in the request, features from the embedded online store."""
    cases = [
        Case("ours user", site.server("ours"), "/predict", site.bodies["user"]),
        Case("fastapi user", site.server("fastapi_feast"), "/predict/user", site.bodies["user"]),
    ]
    return _by_user(site, cases, "user_id")


def redis_users(site: Site) -> list[Figure]:
    """A user's id in the request, features from Redis or Valkey for both."""
    cases = [
        Case("ours redis", site.server("ours_redis"), "/predict", site.bodies["user"]),
        Case("fastapi redis", site.server("fastapi_redis"), "/predict/user", site.bodies["user"]),
    ]
    return _by_user(site, cases, "user_id_redis")


def _by_user(site: Site, cases: list[Case], name: str) -> list[Figure]:
    same_answers(site, cases)
    loads = closed_loop(site, cases)
    ours, theirs = (case.name for case in cases)
    rps, p99, cpu = (column(loads, field) for field in ("rps", "p99_ms", "cpu_us"))
    return [
        plain(f"serving.{name}.rps", rps[ours], "1/s"),
        plain(f"serving.{name}.p99", p99[ours], "ms"),
        ratio(f"serving.{name}.rps_over_fastapi", rps[ours], rps[theirs]),
        ratio(f"serving.{name}.p99_over_fastapi", p99[ours], p99[theirs]),
        ratio(f"serving.{name}.cpu_of_fastapi_over_ours", cpu[theirs], cpu[ours]),
    ]


def bulk(site: Site) -> list[Figure]:
    """A thousand rows a request: JSON both, and ours through Arrow and the binary tensors of Open Inference v2."""
    ours, row = site.server("ours"), site.bodies
    cases = [
        Case("ours bulk", ours, "/predict", row["bulk"], 4),
        Case("ours arrow", ours, "/predict", row["bulk_arrow"], 4),
        Case("ours v2 binary", ours, "/v2/models/churn/infer", row["bulk_v2"], 4),
        Case("fastapi bulk", site.server("fastapi"), "/predict/bulk", row["bulk"], 4),
    ]
    same_answers(site, cases)
    loads = closed_loop(site, cases)
    rows = {name: [BULK_ROWS * value for value in rps] for name, rps in column(loads, "rps").items()}
    cpu, theirs = column(loads, "cpu_us"), "fastapi bulk"
    return [
        plain("serving.bulk1000.rows", rows["ours bulk"], "1/s"),
        ratio("serving.bulk1000.rows_over_fastapi", rows["ours bulk"], rows[theirs]),
        ratio("serving.bulk1000_arrow.rows_over_fastapi", rows["ours arrow"], rows[theirs]),
        ratio("serving.bulk1000_v2_binary.rows_over_fastapi", rows["ours v2 binary"], rows[theirs]),
        ratio("serving.bulk1000.cpu_of_fastapi_over_ours", cpu[theirs], cpu["ours bulk"]),
        ratio("serving.bulk1000_arrow.cpu_of_fastapi_over_ours", cpu[theirs], cpu["ours arrow"]),
    ]


def burst(site: Site) -> list[Figure]:
    """A lone client before and right after 128 connections at once: a batcher that remembers would keep it waiting."""
    ours, row = site.server("ours"), site.bodies["row"]
    p50: dict[str, list[float]] = {"before": [], "burst": [], "after": []}
    measure(ours, "/predict", row, connections=1, seconds=1)
    for number in range(ROUNDS):
        for name, connections in (("before", 1), ("burst", 128), ("after", 1)):
            load = measure(ours, "/predict", row, connections=connections, seconds=SECONDS)
            report(site, f"ours {name}", number, load)
            p50[name].append(load.p50_ms)
        site.tidy()
    return [
        plain("serving.burst.p50_before", p50["before"], "ms"),
        plain("serving.burst.p50_after", p50["after"], "ms"),
        ratio("serving.burst.p50_after_over_before", p50["after"], p50["before"]),
    ]


def workers(site: Site) -> list[Figure]:
    """Two workers on two cores against one on one; left out where the client would share a core with them."""
    if len(CORES) < 4:
        print(f"LEFT OUT: two workers need 4 cores, one of them for wrk and one for the rest; there are {len(CORES)}")
        return []
    servers, row = {"ours": site.server("ours"), "2 workers": site.server("workers")}, site.bodies["row"]
    cases = [Case(name, server, "/predict", row) for name, server in servers.items()]
    rps = column(closed_loop(site, cases), "rps")
    return [
        plain("serving.workers_2.rps", rps["2 workers"], "1/s"),
        ratio("serving.workers_2.rps_over_one", rps["2 workers"], rps["ours"]),
    ]
