"""The profile: what of a request's CPU time is the model, the feature read, the journal, metrics, JSON, HTTP."""

import json
import urllib.request
from statistics import median

from tests.bench.figures import Figure, plain
from tests.bench.serving.load import measure
from tests.bench.serving.rounds import ROUNDS, SECONDS, report
from tests.bench.serving.site import Site

PARTS = ("model", "feature_read", "journal", "metrics", "json", "batch", "http")
Snapshot = dict[str, int]


def shares(site: Site) -> list[Figure]:
    """Of requests with a user's id, which use every part (serving.share), and of those with features (share_row)."""
    server = site.server("profiled")
    found: dict[str, list[dict[str, float]]] = {"share": [], "share_row": []}
    each: dict[str, list[float]] = {"share": [], "share_row": []}
    for number in range(-1, ROUNDS):  # the first one warms up
        for name, kind in (("share", "user"), ("share_row", "row")):
            before = _snapshot(server.url)
            load = measure(server, "/predict", site.bodies[kind], connections=32, seconds=SECONDS)
            site.tidy()
            if number < 0:
                continue
            spent = _difference(before, _snapshot(server.url))
            report(site, f"profiled {kind}", number, load)
            found[name].append({part: spent[part] / spent["cpu"] for part in PARTS})
            each[name].append(spent["cpu"] / max(spent["requests"], 1) / 1e3)
    _table(found, each)
    figures = []
    for name, rounds in found.items():
        figures += [plain(f"serving.{name}.{part}", [r[part] for r in rounds], "share") for part in PARTS]
        rest = [r["json"] + r["batch"] + r["http"] for r in rounds]
        figures.append(plain(f"serving.{name}.http_and_rest", rest, "share"))
    return figures


def _snapshot(url: str) -> Snapshot:
    with urllib.request.urlopen(f"{url}/accounts", timeout=30) as response:
        found: Snapshot = json.load(response)
        return found


def _difference(before: Snapshot, after: Snapshot) -> Snapshot:
    """Nanoseconds of each part; what no part accounts for is HTTP and the event loop."""
    spent = {name: after.get(name, 0) - before.get(name, 0) for name in (*PARTS, "cpu", "requests")}
    return spent | {"http": spent["cpu"] - sum(spent[part] for part in PARTS)}


def _table(found: dict[str, list[dict[str, float]]], each: dict[str, list[float]]) -> None:
    print(f"\n{'part of the CPU time of a request':<36} {'by user id':>18} {'features in it':>18}")
    for part in PARTS:
        cells = [
            (median(r[part] for r in rounds), median(us * r[part] for us, r in zip(each[name], rounds, strict=True)))
            for name, rounds in found.items()
        ]
        print(f"{part.replace('_', ' '):<36} " + " ".join(f"{share:7.1%} {us:7.1f} us" for share, us in cells))
    print(f"{'together':<36} " + " ".join(f"{1:7.1%} {median(us):7.1f} us" for us in each.values()) + "\n")
