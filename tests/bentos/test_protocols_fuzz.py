"""Whatever is posted, a protocol answers or refuses it in its own shape; many clients at once are all answered."""

import io
import json
import random
from concurrent.futures import ThreadPoolExecutor

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .conftest import FRESH, GIVEN, NAMES

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
