"""Whatever is posted, a protocol answers or refuses it in its own shape; many clients at once are all answered."""

import io
import json
import os
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection

import httpx
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .conftest import FRESH, GIVEN, NAMES, serving

ARROW = "application/vnd.apache.arrow.stream"
PARQUET = "application/vnd.apache.parquet"
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=4), st.just([]), st.just({})
)
names = st.sampled_from([*NAMES, "user_id", "age"])
record = st.dictionaries(names, scalars, max_size=5)
columns = st.dictionaries(names, st.one_of(scalars, st.lists(scalars, max_size=3)), max_size=5)
matrix = st.lists(st.lists(scalars, max_size=4), max_size=3)
split = st.fixed_dictionaries(
    {}, optional={"columns": st.one_of(scalars, st.lists(names, max_size=5)), "data": st.one_of(scalars, matrix)}
)
table = st.one_of(scalars, st.lists(st.one_of(record, scalars), max_size=3), columns, matrix, split)
forms = st.sampled_from(["dataframe_split", "dataframe_records", "inputs", "instances", "params"])
tensor = st.fixed_dictionaries(
    {},
    optional={
        "name": st.one_of(names, scalars),
        "shape": st.one_of(scalars, st.lists(st.one_of(st.integers(-1, 4), scalars), max_size=3)),
        "datatype": st.one_of(st.sampled_from(["FP64", "INT64", "BYTES", "BOOL", "FP16", "UINT8"]), scalars),
        "data": st.one_of(scalars, st.lists(st.one_of(scalars, st.lists(scalars, max_size=3)), max_size=6)),
        "parameters": st.one_of(scalars, st.fixed_dictionaries({"binary_data_size": st.integers(-1, 20)})),
    },
)
call = st.fixed_dictionaries(
    {},
    optional={
        "inputs": st.one_of(scalars, st.lists(st.one_of(tensor, scalars), max_size=4)),
        "id": scalars,
        "outputs": st.one_of(scalars, st.lists(st.one_of(scalars, st.fixed_dictionaries({"name": scalars})))),
        "parameters": st.one_of(scalars, st.fixed_dictionaries({"binary_data_output": scalars})),
    },
)
many = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def kept(response: httpx.Response, *shape: str) -> None:
    """Answered, or refused with a reason."""
    assert response.status_code in (200, 400), response.text
    if response.status_code == 400:
        assert set(shape) <= response.json().keys()


@many
@given(body=st.one_of(scalars, st.dictionaries(forms, table, max_size=2)))
def test_any_table_in_json_is_answered_or_refused(http, body):
    """No body makes /invocations, :predict or Arrow's /predict fail."""
    content, headers = json.dumps(body).encode(), {"content-type": "application/json"}
    kept(http.post("/invocations", content=content, headers=headers), "error_code", "message")
    kept(http.post("/v1/models/churn:predict", content=content, headers=headers), "error")
    kept(http.post("/predict", content=content, headers=headers | {"accept": ARROW}), "error")


@many
@given(body=st.one_of(scalars, call), raw=st.binary(max_size=30))
def test_any_inference_request_is_answered_or_refused(http, body, raw):
    """No JSON, and nothing behind it, makes /infer fail."""
    content = json.dumps(body).encode()
    kept(http.post("/v2/models/churn/infer", content=content), "error")
    headers = {"inference-header-content-length": str(len(content))}
    kept(http.post("/v2/models/churn/infer", content=content + raw, headers=headers), "error")


@many
@given(text=st.text(alphabet="recny,spdvit\n\"'\r0123456789.eE+- \x00é", max_size=80), raw=st.binary(max_size=50))
def test_any_csv_is_answered_or_refused(http, text, raw):
    """No text behind a header, and no bytes at all, make /invocations fail."""
    for content in (f"recency,spend,visits\n{text}".encode(), f"user_id\n{text}".encode(), text.encode(), raw):
        headers = {"content-type": "text/csv"}
        kept(http.post("/invocations", content=content, headers=headers), "error_code", "message")


def damaged(good: bytes, n: int) -> list[bytes]:
    """A good body with some bytes changed, `n` times."""
    rng, found = random.Random(7), []
    for _ in range(n):
        body = bytearray(good)
        for _ in range(rng.randint(1, 6)):
            body[rng.randrange(len(body))] = rng.randrange(256)
        found.append(bytes(body))
    return found


def rows() -> pa.Table:
    """Two rows with keys of text, whose offsets can be damaged."""
    return pa.table({**{name: [value, None] for name, value in GIVEN.items()}, "user_id": ["abc", "de"]})


def test_no_damaged_stream_or_file_harms_the_server(http):
    """Bytes from outside never reach past their buffers: each body is read or refused."""
    stream, file = pa.BufferOutputStream(), io.BytesIO()
    with pa.ipc.new_stream(stream, rows().schema) as writer:
        writer.write_table(rows())
    pq.write_table(rows(), file)
    for body in damaged(bytes(stream.getvalue()), 600):
        kept(http.post("/predict", content=body, headers={"content-type": ARROW}), "error")
    for body in damaged(file.getvalue(), 400):
        kept(http.post("/invocations", content=body, headers={"content-type": PARQUET}), "error_code", "message")


def calls() -> dict[str, dict[str, object]]:
    """A good call of every protocol."""
    one = pa.table({"user_id": [FRESH]})
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, one.schema) as writer:
        writer.write_table(one)
    tensors = [{"name": n, "shape": [1], "datatype": "FP64", "data": [v]} for n, v in GIVEN.items()]
    return {
        "/predict": {"content": bytes(stream.getvalue()), "headers": {"content-type": ARROW}},
        "/invocations": {"json": {"dataframe_records": [GIVEN]}},
        "/v1/models/churn:predict": {"json": {"instances": [{"user_id": FRESH}]}},
        "/v2/models/churn/infer": {"json": {"inputs": tensors}},
    }


@pytest.mark.integration
def test_five_hundred_calls_at_sixteen_connections_are_all_answered(spoken):
    """Through every protocol at once: no status but 200, and one line in the journal for each."""
    before = len(spoken.journalled())
    with httpx.Client(base_url=spoken.url, timeout=60, limits=httpx.Limits(max_connections=16)) as client:

        def post(path: str) -> int:
            return client.post(path, **calls()[path]).status_code

        with ThreadPoolExecutor(16) as pool:
            statuses = list(pool.map(post, [*calls()] * 500))
    assert set(statuses) == {200}
    assert len(spoken.journalled()) == before + len(statuses)


RANDOM = int(os.environ.get("BENTOFLOW_FUZZ_BODIES", "1000"))  # a route
WARM = 600  # rounds until every import is done and the collector has run over what they left
LONG = RANDOM > 10 * WARM  # a run that ends with as much memory as it had in its middle
HELD_S = 40  # BentoML's timer holds some 5 kB of each request until its timeout of 30 s: a long run is weighed after it
STEADY = 24 * 2**20  # how much a worker may grow after that
WORDS = (
    b"null",
    b"true",
    b"-1",
    b"1e999",
    b"NaN",
    b"18446744073709551616",
    b'""',
    b"[]",
    b"{}",
    b"[[",
    b'{"',
    b",",
    b":",
)


def json_bodies(use_case: str) -> dict[str, bytes]:
    """A good body for every route of a service that takes JSON."""
    if use_case == "fraud":
        payment = {"card_id": 1, "terminal_id": 2, "amount": 61.5, "time": "2024-06-10T00:00:00Z"}
        bodies = {"/predict": payment, "/predict/batch": [payment] * 2, "/retrain": {"reason": "x"}}
    else:
        bodies = {path: call["json"] for path, call in calls().items() if "json" in call}
        bodies["/predict"] = [{"user_id": FRESH}, {"user_id": 5, "features": GIVEN}]
    return {path: json.dumps(body).encode() for path, body in bodies.items()}


def garbled(good: bytes, rng: random.Random) -> bytes:
    """A body with some bytes changed, left out, repeated or replaced by a word of JSON; or bytes alone."""
    if rng.random() < 0.1:
        return rng.randbytes(rng.randrange(200))
    body = bytearray(good)
    for _ in range(rng.randint(1, 5)):
        at, size = rng.randrange(len(body) + 1), rng.choice((0, 1, 1, 2, 8, 30))
        kind = rng.randrange(4)
        new = (b"", rng.randbytes(size), rng.choice(WORDS), bytes(body[at : at + size]) * rng.randrange(5))[kind]
        body[at : at + (size if kind < 3 else 0)] = new
    return bytes(body)


def posted(connection: HTTPConnection, path: str, body: bytes, headers: dict[str, str]) -> int:
    """The status of an answer, which must be whole."""
    connection.request("POST", path, body, headers)
    response = connection.getresponse()
    assert response.read()
    if response.status == 503:
        assert response.getheader("retry-after")
    return response.status


def bombard(url: str, workers: list[psutil.Process], bodies: dict[str, bytes], kind: str) -> Counter[int]:
    """Post garbled bodies to every route in turn: the statuses, if none is a 5xx but 503 and the memory stays."""
    rng, statuses, sizes, rounds = random.Random(11), Counter[int](), dict[psutil.Process, int](), 0
    weigh, end = time.monotonic() + HELD_S, time.monotonic() + 2 * HELD_S
    with closing(HTTPConnection(url.removeprefix("http://"), timeout=30)) as connection:
        while rounds < RANDOM or (LONG and time.monotonic() < end):
            if not sizes and (time.monotonic() > weigh if LONG else rounds == min(WARM, RANDOM * 3 // 5)):
                sizes = {p: p.memory_info().rss for p in workers}
            for path, good in bodies.items():
                content = garbled(good, rng)
                status = posted(connection, path, content, {"content-type": kind})
                assert status < 500 or status == 503, (path, content)
                statuses[status] += 1
            rounds += 1
    assert sizes
    assert max(p.memory_info().rss - size for p, size in sizes.items()) < STEADY
    assert statuses.total() == rounds * len(bodies)
    return statuses


def workers_of(url: str) -> list[psutil.Process]:
    """The processes that have a server's port."""
    port = int(url.rpartition(":")[2])
    children = psutil.Process().children(recursive=True)
    return [p for p in children if any(c.laddr and c.laddr.port == port for c in p.net_connections("tcp"))]


@pytest.mark.integration
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["application/json", "application/x+json", ARROW, PARQUET, "text/csv"])
def test_random_bodies_are_answered_or_refused_and_memory_is_steady(spoken, kind):
    """Thousands of them to every route of a real server, by the hot route and by BentoML's; JSON and tables."""
    bodies = json_bodies("churn")
    if not kind.endswith("json"):
        sink, file = pa.BufferOutputStream(), io.BytesIO()
        with pa.ipc.new_stream(sink, rows().schema) as writer:
            writer.write_table(rows())
        pq.write_table(rows(), file)
        tables = {ARROW: bytes(sink.getvalue()), PARQUET: file.getvalue(), "text/csv": b"recency,spend,visits\n1,2,3\n"}
        bodies = {"/predict" if kind == ARROW else "/invocations": tables[kind]}
    if kind == "application/x+json":
        bodies = {"/predict": bodies["/predict"]}
    statuses = bombard(spoken.url, workers_of(spoken.url), bodies, kind)
    assert statuses[400] > RANDOM // 4
    assert httpx.post(spoken.url + "/predict", json={"user_id": FRESH}, timeout=30).status_code == 200


@pytest.mark.integration
@pytest.mark.timeout(1800)
def test_random_bodies_to_the_other_service_and_its_admin_route(spoken, tmp_path):
    """Its rows have texts and times beside numbers; what is well-formed is a 503, as it has no release."""
    env = {"BENTOFLOW_USE_CASE": "fraud", "BENTOFLOW_ADMIN_TOKEN": "t"}
    with serving(tmp_path, spoken.models, log=tmp_path / "log", env=env) as server:
        statuses = bombard(server.url, server.family(), json_bodies("fraud"), "application/json")
    assert set(statuses) <= {200, 207, 400, 401, 422, 503}
    assert statuses[401] * len(json_bodies("fraud")) == statuses.total()  # the route that needs a token reads nothing
