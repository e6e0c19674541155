"""Whatever is wrong with a body, on every route: a 4xx in the protocol's shape that names the field, and no trace."""

import io
import json
import re
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from .conftest import FRESH, GIVEN, NAMES, Spoken

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
JSON, CSV = "application/json", "text/csv"
ARROW, PARQUET = "application/vnd.apache.arrow.stream", "application/vnd.apache.parquet"
INFER = "/v2/models/churn/infer"


def tensors(values: dict[str, str]) -> str:
    """Tensors of one value each, given as JSON."""
    kinds = {name: "INT64" if name == "user_id" else "FP64" for name in values}
    parts = [
        f'{{"name": "{name}", "shape": [1], "datatype": "{kinds[name]}", "data": [{value}]}}'
        for name, value in values.items()
    ]
    return ", ".join(parts)


def members(values: dict[str, str]) -> str:
    """The inside of an object, its values given as JSON."""
    return ", ".join(f'"{name}": {value}' for name, value in values.items())


def own(values: dict[str, str]) -> str:
    """A row as /predict takes it."""
    features = {name: value for name, value in values.items() if name != "user_id"}
    row = {"user_id": values.get("user_id", "1")} | ({"features": f"{{{members(features)}}}"} if features else {})
    return f"{{{members(row)}}}"


def in_split(values: dict[str, str]) -> str:
    """A frame of one row."""
    names, row = ", ".join(f'"{name}"' for name in values), ", ".join(values.values())
    return f'{{"dataframe_split": {{"columns": [{names}], "data": [[{row}]]}}}}'


# A route with headers, and how it takes one row whose values are given as JSON.
FORMS: dict[str, tuple[str, dict[str, str], Callable[[dict[str, str]], str]]] = {
    "predict": ("/predict", {}, own),
    "predict, a list": ("/predict", {}, lambda v: f"[{own(v)}]"),
    "predict, Arrow out": ("/predict", {"accept": ARROW}, own),
    "records": ("/invocations", {}, lambda v: f'{{"dataframe_records": [{{{members(v)}}}]}}'),
    "split": ("/invocations", {}, in_split),
    "MLflow's inputs": ("/invocations", {}, lambda v: f'{{"inputs": {{{members(v)}}}}}'),
    "instances": ("/v1/models/churn:predict", {}, lambda v: f'{{"instances": [{{{members(v)}}}]}}'),
    "v1's inputs": ("/v1/models/churn:predict", {}, lambda v: f'{{"inputs": {{{members(v)}}}}}'),
    "tensors": (INFER, {}, lambda v: f'{{"inputs": [{tensors(v)}]}}'),
}
ROW = {name: str(value) for name, value in GIVEN.items()}


def send(spoken: Spoken, path: str, content: bytes, headers: dict[str, str]) -> httpx.Response:
    """What a call is answered with; a refusal must be in the protocol's shape and leave no line in the journal."""
    before = spoken.written()
    response = httpx.post(spoken.url + path, content=content, headers={"content-type": JSON} | headers, timeout=60)
    if response.status_code != 200:
        assert 400 <= response.status_code < 500, response.text
        assert spoken.written() == before
        if response.status_code != 415:
            error = response.json()
            error = error[0] if isinstance(error, list) else error
            assert {"error_code", "message"} if path == "/invocations" else {"error"} <= error.keys()
    return response


def refused(spoken: Spoken, form: str, values: dict[str, str], field: str) -> None:
    """A row is refused, and the refusal names the field."""
    path, headers, written = FORMS[form]
    response = send(spoken, path, written(values).encode(), headers)
    assert response.status_code in (400, 422), response.text
    assert field in response.text


VALUES = {
    "infinity": "Infinity",
    "minus infinity": "-Infinity",
    "beyond float64": "1e999",
    "400 digits": "1" + "0" * 400,
    "5,000 digits": "1" + "0" * 5000,
    "text": '"12"',
    "half a sign": '"\\ud800"',
    "true": "true",
    "an object": "{}",
    "100 brackets": "[" * 100 + "]" * 100,
    "beyond float32": "1e300",
}


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("form", FORMS)
def test_a_feature_that_is_no_number_is_named(spoken: Spoken, form: str, value: str) -> None:
    """Infinite, too large for a float or no number at all: refused in every protocol, and nothing is journalled."""
    no_json = value in ("half a sign", "5,000 digits")
    mixed = value == "100 brackets" and form.endswith("inputs")  # a list beside a number: the other one is named
    field = "" if no_json else "spend" if mixed else "recency"
    refused(spoken, form, ROW | {"recency": VALUES[value]}, field)


@pytest.mark.parametrize("form", FORMS)
def test_nan_is_a_gap_in_tables_and_refused_in_rows(spoken: Spoken, form: str) -> None:
    """Tables mark gaps with it; /predict's own rows have null for that."""
    path, headers, written = FORMS[form]
    response = send(spoken, path, written(ROW | {"recency": "NaN"}).encode(), headers)
    assert response.status_code == (200 if path != "/predict" else 400 if headers else 422)
    assert "recency" in response.text or response.status_code == 200


KEYS = ["9223372036854775808", "18446744073709551616", "1e30", "-1", "1.5", "true", '"1"', "[[]]", "1" + "0" * 100]


@pytest.mark.parametrize("key", [*KEYS, "null", "NaN"], ids=lambda key: key[:24])
@pytest.mark.parametrize("form", FORMS)
def test_a_key_that_is_none_is_named(spoken: Spoken, form: str, key: str) -> None:
    """Beyond 64 bits, negative, a fraction or no number."""
    refused(spoken, form, {"user_id": key}, "user_id")


def nothing(content: bytes) -> dict[str, bytes]:
    """Bodies that are made from a good one, and are none."""
    return {
        "cut short": content[:-2],
        "two of them": content + content,
        "UTF-16": content.decode().encode("utf-16"),
        "UTF-16 without a mark": content.decode().encode("utf-16-le"),
        "UTF-32": content.decode().encode("utf-32"),
        "a byte order mark": b"\xef\xbb\xbf" + content,
        "Latin-1": content.replace(b"recency", "récency".encode("latin-1")),
        "a zero byte": content.replace(b"recency", b"rec\x00ency"),
        "single quotes": content.replace(b'"', b"'"),
    }


BODIES = {
    "nothing": b"",
    "a blank": b" ",
    "null": b"null",
    "a number": b"5",
    "a text": b'"x"',
    "an object": b"{}",
    "rows that are none": b"[null, 5]",
    "100,000 brackets": b"[" * 100_000,
    "100,000 objects": b'{"user_id":' * 100_000,
    "100,000 brackets closed": b"[" * 100_000 + b"]" * 100_000,
    "half a sign for a name": b'{"\\ud800": 1}',
    "5,000,000 lists": b"[" + b"[]," * 5_000_000 + b"[]]",
    "10,000,000 numbers": b'{"user_id": 1, "instances": [' + b"0," * 10_000_000 + b"0]}",
    "200,000 fields": b'{"user_id": 1' + b"".join(b', "f%d": ""' % i for i in range(200_000)) + b"}",
}


@pytest.mark.parametrize("body", [*BODIES, *nothing(b"xx")])
@pytest.mark.parametrize("form", FORMS)
def test_a_body_that_is_none_is_a_400(spoken: Spoken, form: str, body: str) -> None:
    """Cut short, in another encoding, nested a hundred thousand deep, or no rows: refused soon, in little space."""
    path, headers, written = FORMS[form]
    good = written(ROW).encode()
    content = BODIES[body] if body in BODIES else nothing(good)[body]
    with small(spoken, 250 if body[0].isdigit() else 60):
        response = send(spoken, path, content, headers)
    assert response.status_code == 400, response.text[:300]
    assert len(response.content) < 2_000_000


def _numbers(response: httpx.Response) -> list[str] | list[float]:
    """The score of a reply, with the features where it has them."""
    if response.headers["content-type"] != ARROW:
        return re.findall(r"\d+\.\d+", response.text)
    with pa.ipc.open_stream(response.content) as reader:
        found: list[float] = reader.read_all()["probability"].to_pylist()
    return found


@pytest.mark.parametrize("form", [f for f in FORMS if f not in ("split", "tensors")])
def test_of_a_name_that_stands_twice_the_last_counts(spoken: Spoken, form: str) -> None:
    """As in every JSON parser of the languages that clients are written in; on each route alike."""
    path, headers, written = FORMS[form]
    text = written(ROW)
    content = text.replace('"visits"', '"visits": 12345, "visits"').encode()
    twice, once = (send(spoken, path, body, headers) for body in (content, text.encode()))
    assert (twice.status_code, once.status_code) == (200, 200)
    assert _numbers(twice) == _numbers(once)
    content = written(ROW).replace('"visits"', '"recency": "x", "visits"').encode()
    response = send(spoken, path, content, headers)
    assert response.status_code in (400, 422)
    assert "recency" in response.text


@contextmanager
def small(spoken: Spoken, mib: float, *, seconds: float = 20.0) -> Iterator[None]:
    """The workers must not grow by more, at any moment of the block, nor take longer."""
    port = int(spoken.url.rpartition(":")[2])
    workers = [p for p in psutil.Process().children(recursive=True) if listens(p, port)]
    assert workers
    before, peaks, over = {p: p.memory_info().rss for p in workers}, dict.fromkeys(workers, 0), threading.Event()

    def watch() -> None:
        while not over.wait(0.005):
            for p in workers:
                peaks[p] = max(peaks[p], p.memory_info().rss)

    watcher, start = threading.Thread(target=watch), time.monotonic()
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    assert time.monotonic() - start < seconds
    assert max(peaks[p] - before[p] for p in workers) < mib * 2**20


def listens(process: psutil.Process, port: int) -> bool:
    """Whether a process has the port."""
    return any(c.laddr and c.laddr.port == port for c in process.net_connections("tcp"))


def stream(table: pa.Table, **options: Any) -> bytes:
    """A table as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def parquet(table: pa.Table, **options: Any) -> bytes:
    """A table as a Parquet file."""
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


def blown(rows: int) -> pa.Table:
    """One row that holds a list of zeros."""
    return pa.table({"recency": pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(rows)), rows)})


def shaped(shape: list[int], **more: Any) -> bytes:
    """A request with a tensor that says its shape and brings one value."""
    return json.dumps({"inputs": [{"name": "x", "shape": shape, "datatype": "FP64", "data": [1.0]} | more]}).encode()


def lying(size: int) -> bytes:
    """A compressed stream whose buffer says that it becomes larger than it does."""
    good = stream(pa.table({"user_id": [FRESH] * 100}), compression="lz4")
    at = good.index(struct.pack("<q", 800))
    return good[:at] + struct.pack("<q", size) + good[at + 8 :]


def shared() -> bytes:
    """10,000 keys that are all the same text of a million characters."""
    keys = pa.DictionaryArray.from_arrays(pa.array(np.zeros(10_000, np.int32)), pa.array(["x" * 1_000_000]))
    return stream(pa.table({"user_id": keys}))


BOMBS: dict[str, tuple[str, str, Callable[[], bytes]]] = {
    "800 MB in 30 kB of zstd": ("/predict", ARROW, lambda: stream(blown(10**8), compression="zstd")),
    "a buffer of a terabyte": ("/predict", ARROW, lambda: lying(2**40)),
    "a buffer of 60 MB": ("/predict", ARROW, lambda: lying(60_000_000)),
    "a billion nulls": ("/predict", ARROW, lambda: stream(pa.table({"user_id": pa.nulls(10**9)}))),
    "one text for all rows": ("/predict", ARROW, shared),
    "400 MB in Parquet": ("/invocations", PARQUET, lambda: parquet(blown(5 * 10**7), compression="zstd")),
    "30,000,000 rows in Parquet": (
        "/invocations",
        PARQUET,
        lambda: parquet(pa.table({n: np.zeros(3 * 10**7) for n in NAMES[:1]}), compression="zstd"),
    ),
    "texts in Parquet": ("/invocations", PARQUET, lambda: parquet(pa.table({"user_id": ["x" * 10**6] * 500}))),
    "a shape of 10^12 rows": (INFER, JSON, lambda: shaped([10**12, 11])),
    "a shape of 2^63 columns": (INFER, JSON, lambda: shaped([0, 2**63 - 1], data=[])),
    "a shape of 2^64 columns": (INFER, JSON, lambda: shaped([0, 2**64 - 1], data=[])),
    "a size that lies": (INFER, JSON, lambda: shaped([10_000], parameters={"binary_data_size": 2**40})),
    "100,000 tensors": (
        INFER,
        JSON,
        lambda: json.dumps({"inputs": json.loads(shaped([1]))["inputs"] * 10**5}).encode(),
    ),
    "a cell of 120,000 digits": ("/invocations", CSV, lambda: b"recency,spend,visits\n" + b"1" * 120_000 + b"x,1,1\n"),
    "5,000,000 lines": ("/invocations", CSV, lambda: b"recency,spend,visits\n" + b"1,2,3\n" * 5_000_000),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_what_promises_more_than_it_brings_is_refused_in_little_time_and_space(spoken: Spoken, bomb: str) -> None:
    """Tables that decompress to gigabytes, shapes and sizes that lie, a cell that a careless pattern chokes on."""
    path, media_type, made = BOMBS[bomb]
    content = made()
    with small(spoken, 220 if len(content) > 10**7 else 80, seconds=10):
        response = send(spoken, path, content, {"content-type": media_type})
    assert response.status_code == 400, response.text[:300]


def columns(rows: int) -> dict[str, list[float]]:
    """A table of as many rows."""
    return {name: [value] * rows for name, value in GIVEN.items()}


def tensor(rows: int) -> bytes:
    """A request with one binary tensor of all features."""
    raw = np.tile(np.array([GIVEN[name] for name in NAMES]), (rows, 1)).tobytes()
    given = {"name": "x", "shape": [rows, 3], "datatype": "FP64", "parameters": {"binary_data_size": len(raw)}}
    return json.dumps({"inputs": [given]}).encode() + raw


LONG: dict[str, tuple[str, str, Callable[[int], bytes]]] = {
    "predict": ("/predict", JSON, lambda n: json.dumps([{"user_id": FRESH}] * n).encode()),
    "arrow": ("/predict", ARROW, lambda n: stream(pa.table(columns(n)), compression="zstd")),
    "records": ("/invocations", JSON, lambda n: json.dumps({"dataframe_records": [GIVEN] * n}).encode()),
    "csv": ("/invocations", CSV, lambda n: b"recency,spend,visits\n" + b"1,2,3\n" * n),
    "parquet": ("/invocations", PARQUET, lambda n: parquet(pa.table(columns(n)))),
    "instances": ("/v1/models/churn:predict", JSON, lambda n: json.dumps({"instances": [GIVEN] * n}).encode()),
    "columns": ("/v1/models/churn:predict", JSON, lambda n: json.dumps({"inputs": columns(n)}).encode()),
    "tensor": (INFER, JSON, tensor),
}


@pytest.mark.parametrize("form", LONG)
def test_ten_thousand_rows_are_answered_and_one_more_is_refused(spoken: Spoken, form: str) -> None:
    """The bound is the same in every protocol and encoding."""
    path, media_type, made = LONG[form]
    for rows, status in ((10_000, 200), (10_001, 400)):
        content = made(rows)
        size = str(len(content) - 240_000 if rows == 10_000 else len(content) - 240_024)
        headers = {"content-type": media_type} | ({"inference-header-content-length": size} if form == "tensor" else {})
        response = send(spoken, path, content, headers)
        assert response.status_code == status, response.text[:300]
    assert "10001" in response.text or "too_long" in response.text
