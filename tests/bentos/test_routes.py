"""Every route and protocol under load: five hundred calls each at sixteen connections, and no status but 200."""

import http.client
import json
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest

from bentos.protocols import HANDLERS

from .conftest import FRESH, GIVEN, NAMES

CALLS, CONNECTIONS = 500, 16
ARROW, JSON = "application/vnd.apache.arrow.stream", "application/json"
Call = tuple[str, str, bytes, dict[str, str]]  # method, path, body, headers
PROBES = ("/livez", "/readyz", "/healthz", "/health", "/metrics")


def posted(path: str, body: object, **headers: str) -> Call:
    """A POST of JSON."""
    return "POST", path, json.dumps(body).encode(), {"Content-Type": JSON, **headers}


def arrow() -> bytes:
    """Two rows as an Arrow stream."""
    table = pa.table({"user_id": [FRESH, FRESH], **{name: [value, None] for name, value in GIVEN.items()}})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def tensors(binary: bool) -> Call:
    """Two rows as tensors of Open Inference v2, in JSON or behind it."""
    path = "/v2/models/churn/infer"
    inputs = [{"name": name, "shape": [2], "datatype": "FP64", "data": [GIVEN[name]] * 2} for name in NAMES]
    if not binary:
        return posted(path, {"inputs": inputs})
    raw = b"".join(np.array(tensor.pop("data"), "<f8").tobytes() for tensor in inputs)
    for tensor in inputs:
        tensor["parameters"] = {"binary_data_size": 16}
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return "POST", path, head + raw, headers


def calls() -> list[tuple[Call, int]]:
    """A call of every route and encoding, and how many rows each one journals."""
    row, user = {"user_id": FRESH, "features": GIVEN}, {"user_id": FRESH}
    values = [GIVEN[name] for name in NAMES]
    split = {"columns": list(NAMES), "data": [values, values]}
    csv = ",".join(NAMES) + "\n" + ",".join(map(str, values)) + "\n"
    versioned = "/v2/models/churn/versions/1"
    found = [
        (posted("/predict", row), 1),
        (posted("/predict", user), 1),
        (posted("/predict", [row, user, row]), 3),
        (posted("/predict", user, Accept=ARROW), 1),
        (("POST", "/predict", arrow(), {"Content-Type": ARROW}), 2),
        (("POST", "/predict", arrow(), {"Content-Type": ARROW, "Accept": JSON}), 2),
        (posted("/invocations", {"dataframe_records": [GIVEN]}), 1),
        (posted("/invocations", {"dataframe_split": split}), 2),
        (posted("/invocations", {"inputs": {name: [GIVEN[name]] for name in NAMES}}), 1),
        (posted("/invocations", {"instances": [values]}), 1),
        (("POST", "/invocations", csv.encode(), {"Content-Type": "text/csv"}), 1),
        (posted("/v1/models/churn:predict", {"instances": [values, values]}), 2),
        (posted("/v1/models/churn/versions/1:predict", {"instances": [user]}), 1),
        (tensors(binary=False), 2),
        (tensors(binary=True), 2),
        (posted(f"{versioned}/infer", {"inputs": [user_tensor()]}), 1),
    ]
    paths = ["/ping", "/version", "/v1/models", "/v1/models/churn", "/v1/models/churn/versions/1"]
    paths += ["/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/churn", "/v2/models/churn/ready"]
    paths += [versioned, f"{versioned}/ready", *PROBES]
    return found + [(("GET", path, b"", {}), 0) for path in paths]


def user_tensor() -> dict[str, object]:
    """A key alone, whose features are read from the store."""
    return {"name": "user_id", "shape": [1], "datatype": "INT64", "data": [FRESH]}


def test_no_route_is_left_out():
    """A protocol's new route has to be called here too."""
    called = {(call[0], call[1]) for call, _ in calls()}
    for method, path, *_ in HANDLERS:
        pattern = re.compile(re.sub(r"\\{\w+\\}", "[^/:]+", re.escape(path)))
        assert any(verb == method and pattern.fullmatch(at) for verb, at in called), f"{method} {path}"


@pytest.mark.integration
def test_five_hundred_calls_of_every_route_at_sixteen_connections_are_all_answered(spoken):
    """Each connection calls every route in turn; whatever was answered with rows is in the journal."""
    todo, before = calls(), len(spoken.journalled())
    host, port = spoken.address.split(":")

    def client(k: int) -> Counter[tuple[str, int]]:
        connection, seen = http.client.HTTPConnection(host, int(port), timeout=60), Counter[tuple[str, int]]()
        for n in range(k, CALLS, CONNECTIONS):
            for at in range(len(todo)):
                (method, path, body, headers), _ = todo[(n + at) % len(todo)]  # not all at the same route at once
                connection.request(method, path, body or None, headers)
                response = connection.getresponse()
                response.read()
                seen[f"{method} {path}", response.status] += 1
        connection.close()
        return seen

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        seen = sum(pool.map(client, range(CONNECTIONS)), Counter[tuple[str, int]]())
    assert {pair: n for pair, n in seen.items() if pair[1] != 200} == {}
    assert seen.total() == CALLS * len(todo)
    assert len(spoken.journalled()) == before + CALLS * sum(rows for _, rows in todo)
