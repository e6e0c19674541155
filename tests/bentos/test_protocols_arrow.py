"""Arrow streams at /predict, written and read by pyarrow and pandas."""

from datetime import datetime
from decimal import Decimal

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from .conftest import FRESH, GIVEN, NAMES, OLD, UNKNOWN, as_rows, sample

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
STREAM = "application/vnd.apache.arrow.stream"
HEADERS = {"content-type": STREAM}
GOOD = {name: [1.0, 2.0] for name in NAMES}
COLUMNS = ["request_id", "user_id", "probability", "risk", "event_time", "stale", "model_version", "release", "arm"]


def stream(table: pa.Table, *, batch_rows: int | None = None, **options) -> bytes:
    """A table as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=batch_rows)
    return bytes(sink.getvalue())


def answered(spoken, content: bytes, **headers) -> pa.Table:
    """The table of answers to a stream."""
    response = httpx.post(spoken.url + "/predict", content=content, headers=HEADERS | headers, timeout=60)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == STREAM
    return pa.ipc.open_stream(response.content).read_all()


def test_a_frame_in_is_a_table_out_with_predicts_scores(spoken):
    """Key, probability and what it was decided by, in the rows' order, the same bits as /predict, all journalled."""
    found = answered(spoken, stream(pa.Table.from_pandas(spoken.frame)))
    assert found.column_names == COLUMNS
    assert found["probability"].to_pylist() == spoken.scores
    assert found["user_id"].to_pylist() == spoken.frame["user_id"].tolist()
    assert set(found["model_version"].to_pylist()) == {"1"}
    records = spoken.journalled()
    assert [records[i]["score"] for i in found["request_id"].to_pylist()] == spoken.scores
    assert [records[i]["decision"] for i in found["request_id"].to_pylist()] == found["risk"].to_pylist()


def test_keys_alone_are_looked_up_with_their_event_times(spoken):
    """What /predict says of stored features stands in the table, its types kept."""
    own = httpx.post(spoken.url + "/predict", json=[{"user_id": key} for key in (FRESH, OLD)], timeout=30).json()
    found = answered(spoken, stream(pa.table({"user_id": [FRESH, OLD]}))).to_pylist()
    assert [row["probability"] for row in found] == [row["probability"] for row in own]
    assert [row["stale"] for row in found] == [False, True]
    assert [row["event_time"] for row in found] == [datetime.fromisoformat(row["event_time"]) for row in own]


def test_ten_thousand_rows_are_one_call(spoken):
    """In one batch, in many and compressed: the same answers; one more row is refused."""
    frame = sample(10_000, seed=4)
    table = pa.Table.from_pandas(frame)
    own = [r["probability"] for r in httpx.post(spoken.url + "/predict", json=as_rows(frame), timeout=60).json()]
    for content in (stream(table), stream(table, batch_rows=777), stream(table, compression="zstd")):
        found = answered(spoken, content)
        assert found["probability"].to_pylist() == own
        assert set(found["request_id"].to_pylist()) <= spoken.journalled().keys()
    found = spoken.refuses("/predict", 400, content=stream(pa.Table.from_pandas(sample(10_001))), headers=HEADERS)
    assert found["error"].startswith("10001 rows are more than the 10000")


def column_types() -> dict[str, dict[str, pa.Array]]:
    """Tables whose columns are of other Arrow types but hold the same numbers."""
    values = {"recency": [12, 100], "spend": [80, 7], "visits": [3, None]}
    tables = {str(kind): {n: pa.array(v, kind) for n, v in values.items()} for kind in (pa.int8(), pa.uint64())}
    tables["float16"] = {n: pa.array([None if x is None else np.float16(x) for x in v]) for n, v in values.items()}
    tables["decimal"] = {
        n: pa.array([None if x is None else Decimal(x) for x in v], pa.decimal128(9, 2)) for n, v in values.items()
    }
    tables["pandas index"] = {n: pa.array(v, pa.float32()) for n, v in values.items()}
    tables["pandas index"]["__index_level_0__"] = pa.array([5, 9])
    return tables


@pytest.mark.parametrize("columns", column_types().values(), ids=column_types())
def test_numbers_of_every_type_are_taken_for_their_value(spoken, columns):
    """Integers, halves, decimals and pandas' index beside them; null is a gap; a table may bring no key."""
    rows = [{"recency": 12, "spend": 80, "visits": 3}, {"recency": 100, "spend": 7, "visits": None}]
    own = httpx.post(spoken.url + "/predict", json=[{"user_id": 1, "features": r} for r in rows], timeout=30).json()
    found = answered(spoken, stream(pa.table(columns)))
    assert found["probability"].to_pylist() == [row["probability"] for row in own]
    assert found["user_id"].to_pylist() == [None, None]
    records = spoken.journalled()
    assert {records[i]["entity"] for i in found["request_id"].to_pylist()} == {None}


def test_a_column_of_nulls_is_one_of_gaps(spoken):
    """What pandas makes of a column without any value."""
    columns = {"recency": pa.array([12.0]), "spend": pa.nulls(1), "visits": pa.array([3.0])}
    own = {"user_id": 1, "features": {**GIVEN, "spend": None}}
    expected = httpx.post(spoken.url + "/predict", json=own, timeout=30).json()["probability"]
    assert answered(spoken, stream(pa.table(columns)))["probability"].to_pylist() == [expected]


def test_some_rows_may_name_nobody(spoken):
    """A nullable key column, as integers or as pandas' floats: rows without a key are answered and journalled."""
    frame = pd.DataFrame({**GOOD, "user_id": pd.array([17, None], dtype="Int64")})
    for keys in (frame["user_id"], frame["user_id"].astype("float64")):
        found = answered(spoken, stream(pa.Table.from_pandas(frame.assign(user_id=keys))))
        assert found["user_id"].to_pylist() == [17, None]
        records = spoken.journalled()
        assert [records[i]["entity"] for i in found["request_id"].to_pylist()] == [17, None]


def test_accept_chooses_the_form_of_the_answer(spoken):
    """Arrow in and JSON out, JSON in and Arrow out, and Arrow for Arrow where Accept leaves it open."""
    rows, table = as_rows(spoken.frame), stream(pa.Table.from_pandas(spoken.frame))
    headers = HEADERS | {"accept": "application/json"}
    response = httpx.post(spoken.url + "/predict", content=table, headers=headers, timeout=30)
    assert response.headers["content-type"] == "application/json"
    assert [row["probability"] for row in response.json()] == spoken.scores
    own = httpx.post(spoken.url + "/predict", json=rows, timeout=30).json()
    assert [row | {"request_id": ""} for row in response.json()] == [row | {"request_id": ""} for row in own]
    for accept in (STREAM, f"{STREAM}, application/json;q=0.5"):
        response = httpx.post(spoken.url + "/predict", json=rows, headers={"accept": accept}, timeout=30)
        assert response.headers["content-type"] == STREAM
        assert pa.ipc.open_stream(response.content).read_all()["probability"].to_pylist() == spoken.scores
    for accept in ("*/*", f"application/json, {STREAM}"):
        assert answered(spoken, table, accept=accept)["probability"].to_pylist() == spoken.scores
    single = httpx.post(spoken.url + "/predict", json={"user_id": FRESH}, headers={"accept": STREAM}, timeout=30)
    [row] = pa.ipc.open_stream(single.content).read_all().to_pylist()
    assert row["request_id"] == single.headers["x-request-id"]


def test_no_rows_are_no_answers(spoken):
    """An empty table is answered with an empty table of the same columns."""
    found = answered(spoken, stream(pa.table({"user_id": pa.array([], pa.int64())})))
    assert (found.column_names, found.num_rows) == (COLUMNS, 0)


@pytest.mark.parametrize(
    ("columns", "row", "field", "says"),
    [
        ({"user_id": [FRESH, UNKNOWN]}, 1, "user_id", "no user_id 999 in the feature store"),
        ({"user_id": [FRESH, -1]}, 1, "user_id", "greater than or equal to 0"),
        ({"user_id": [FRESH, None]}, 1, "user_id", "is missing"),
        ({"user_id": [1.0, 1.5]}, 1, "user_id", "valid integer"),
        ({"user_id": ["1", "2"]}, 0, "user_id", "valid integer"),
        ({**GOOD, "user_id": [1, -1]}, 1, "user_id", "greater than or equal to 0"),
        ({**GOOD, "spend": [1.0, np.inf]}, 1, "spend", "is infinite"),
        ({**GOOD, "recency": [1.0, 1e300]}, 1, "features.recency", "too large for the model"),
        ({**GOOD, "spend": ["1", "2"]}, 0, "spend", "'1' is not a number"),
        ({**GOOD, "spend": [True, False]}, None, "spend", "is of Arrow type bool"),
        ({**GOOD, "spend": [[1.0], [2.0]]}, None, "spend", "is of Arrow type list"),
        ({**GOOD, "age": [1, 2]}, None, "age", "unknown; there are user_id, recency, spend, visits"),
        ({"spend": [1.0, 2.0]}, None, "recency", "missing; bring all features or none"),
    ],
)
def test_a_bad_row_fails_the_call_and_is_named(spoken, columns, row, field, says):
    """The error is /predict's JSON with the row's number, and nothing of the call is journalled."""
    found = spoken.refuses("/predict", 400, content=stream(pa.table(columns)), headers=HEADERS)
    assert (found.get("row"), found["field"]) == (row, field)
    assert says in found["error"]


def damaged() -> dict[str, bytes]:
    """Bodies that are no Arrow streams, or were."""
    good = stream(pa.table(GOOD))
    texts = stream(pa.table({**GOOD, "user_id": ["abc", "def"]}))
    offsets = np.array([0, 3, 6], np.int32).tobytes()
    return {
        "nothing": b"",
        "text": b"not arrow at all",
        "cut short": good[: len(good) // 2],
        "no end, no batch": good[:100],
        "offsets that point outside": texts.replace(offsets, np.array([0, 3, 2**30], np.int32).tobytes()),
        "a name that is no text": good.replace(b"spend", b"sp\xb1nd"),
        "twice a name": stream(pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["user_id", "user_id"])),
    }


@pytest.mark.parametrize("content", damaged().values(), ids=damaged())
def test_what_is_no_whole_stream_is_a_400(spoken, content):
    """Bytes from outside never crash the server: it says what is wrong and goes on answering."""
    assert "error" in spoken.refuses("/predict", 400, content=content, headers=HEADERS)
    assert httpx.post(spoken.url + "/predict", json={"user_id": FRESH}, timeout=30).status_code == 200


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ([{"user_id": FRESH}, {"user_id": UNKNOWN}], "row 1, user_id: no user_id 999"),
        ([{"user_id": FRESH}, {"user_id": "x"}], "row 1, user_id: Input should be a valid integer"),
        ([{"user_id": FRESH}, {"features": GIVEN}], "row 1, user_id: is missing"),
        ([{"user_id": FRESH}, 5], "row 1: must be an object with user_id"),
        ([{"user_id": FRESH, "x": 1}], "row 0: must be an object with user_id"),
        ([{"user_id": FRESH, "features": [1]}], "row 0, features: must be an object"),
        ([{"user_id": 1, "features": {**GIVEN, "spend": "1"}}], "row 0, features.spend: feature spend is '1'"),
        ([{"user_id": 1, "features": {"spend": 1}}], "missing: recency, visits"),
    ],
)
def test_json_that_asks_for_arrow_is_refused_as_a_whole(spoken, body, says):
    """An Arrow table has no place for a row's own error, so one bad row fails the call."""
    assert says in spoken.refuses("/predict", 400, json=body, headers={"accept": STREAM})["error"]


def test_another_content_type_that_asks_for_arrow_is_a_415(spoken):
    """Only Arrow and JSON are read there."""
    spoken.refuses("/predict", 415, content=b"x", headers={"content-type": "text/csv", "accept": STREAM})
