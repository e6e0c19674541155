"""What a deployed service must do, asked over HTTP as its callers do: `python -m tests.deployed URL`.

Only what a gateway lets through is asked for. Rows bring their features and say that they are no traffic
(x-bentoflow-smoke), so nothing is learned from them. Exit code 1 and a line for each thing that is not so.
"""

import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx

SMOKE = {"x-bentoflow-smoke": "1"}
PROBES = ("/v2/health/live", "/v2/health/ready")
FILLERS: dict[str, Any] = {"FP64": 1.0, "INT64": 1, "BYTES": "a"}
CALLS, SLOW_S = 20, 1.0  # the slowest of so many calls, the way to the service included


def problems(url: str) -> Iterator[str]:
    """What of a service at an address is not as it must be; nothing if all is."""
    with httpx.Client(base_url=url.rstrip("/"), headers=SMOKE, timeout=30) as client:
        down = [f"{path} answers {status}" for path in PROBES if (status := of(client, path)) != 200]
        if down:
            yield from down
            return
        use_case = client.get("/v1/models").json()["models"][0]
        inputs = client.get(f"/v2/models/{use_case}").json()["inputs"]
        row = {tensor["name"]: FILLERS[tensor["datatype"]] for tensor in inputs}
        yield from one_score(client, use_case, inputs, row)
        yield from refusals(client, row)
        yield from slow(client, row)


def of(client: httpx.Client, path: str) -> int:
    """The status of a GET; 0 where nobody answers."""
    try:
        return client.get(path).status_code
    except httpx.TransportError:
        return 0


def one_score(client: httpx.Client, use_case: str, inputs: list[dict[str, Any]], row: dict[str, Any]) -> Iterator[str]:
    """Two protocols answer the same row with the same score, a probability."""
    tensors = [t | {"shape": [1], "data": [row[t["name"]]]} for t in inputs]
    records = client.post("/invocations", json={"dataframe_records": [row]})
    inferred = client.post(f"/v2/models/{use_case}/infer", json={"inputs": tensors})
    for response in (records, inferred):
        if response.status_code != 200:
            yield f"{response.url.path} answers {response.status_code}: {response.text[:200]}"
            return
    outputs = {tensor["name"]: tensor["data"][0] for tensor in inferred.json()["outputs"]}
    one, other = records.json()["predictions"][0]["probability"], outputs["probability"]
    if one != other or not 0 <= one <= 1:
        yield f"the same row scores {one} at /invocations and {other} at /v2"


def refusals(client: httpx.Client, row: dict[str, Any]) -> Iterator[str]:
    """A malformed row is a 400, and what changes or reveals something needs the admin token."""
    malformed = client.post("/invocations", json={"dataframe_records": [row | {name: [] for name in row}]})
    if malformed.status_code != 400:
        yield f"a malformed row is answered with {malformed.status_code}, not 400"
    admin = client.post("/drift-check", json=[row])
    if admin.status_code not in (401, 404):
        yield f"/drift-check answers {admin.status_code} without the admin token, not 401 or 404"


def slow(client: httpx.Client, row: dict[str, Any]) -> Iterator[str]:
    """The slowest call, in seconds from here."""

    def seconds() -> float:
        started = time.perf_counter()
        client.post("/invocations", json={"dataframe_records": [row]})
        return time.perf_counter() - started

    if (worst := max(seconds() for _ in range(CALLS))) > SLOW_S:
        yield f"one of {CALLS} calls took {worst:.1f} s, more than {SLOW_S:.0f} s"


def main() -> None:
    """Ask, and say what is wrong."""
    found = list(problems(sys.argv[1]))
    print("\n".join(found) or f"{sys.argv[1]} is as it must be")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
