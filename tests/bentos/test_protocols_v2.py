"""The Open Inference Protocol v2, spoken by Triton's client in JSON and with binary tensors."""

import asyncio
import json
import struct

import httpx
import numpy as np
import pytest

from .conftest import FRESH, GIVEN, NAMES, UNKNOWN, as_rows, sample

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
INFER = "/v2/models/churn/infer"


@pytest.fixture(scope="module")
def triton(spoken):
    """Triton's HTTP client."""
    import tritonclient.http

    with tritonclient.http.InferenceServerClient(spoken.address, network_timeout=60, connection_timeout=60) as client:
        yield client


def tensor(name, values, datatype, *, binary=True):
    """An input of Triton's client."""
    from tritonclient.http import InferInput

    given = InferInput(name, list(values.shape), datatype)
    given.set_data_from_numpy(values, binary_data=binary)
    return given


def by_feature(frame, *, binary=True, keys=True):
    """A tensor per column, in the frame's own order."""
    names = [name for name in frame if keys or name != "user_id"]
    return [
        tensor(name, frame[name].to_numpy(), "INT64" if name == "user_id" else "FP64", binary=binary) for name in names
    ]


def outputs(names, *, binary):
    """The outputs that a request names."""
    from tritonclient.http import InferRequestedOutput

    return [InferRequestedOutput(name, binary_data=binary) for name in names]


@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("binary_in", [True, False])
def test_tritons_client_gets_predicts_scores(spoken, triton, binary_in, binary_out):
    """JSON or binary either way: the same bits as /predict, and every row in the journal with its key."""
    frame = spoken.frame if binary_in else spoken.frame.dropna()
    asked = outputs(["probability", "risk", "request_id", "stale"], binary=binary_out)
    found = triton.infer("churn", by_feature(frame, binary=binary_in), outputs=asked, request_id="mine")
    scores = [spoken.scores[i] for i in frame.index]
    assert found.as_numpy("probability").dtype == np.float64
    assert found.as_numpy("probability").tolist() == scores
    assert found.as_numpy("stale").tolist() == [False] * len(frame)
    assert found.as_numpy("model_version") is None
    ids = [i.decode() if binary_out else i for i in found.as_numpy("request_id").tolist()]
    records = spoken.journalled()
    assert [records[i]["score"] for i in ids] == scores
    assert [records[i]["entity"] for i in ids] == frame["user_id"].tolist()
    risks = [r.decode() if binary_out else r for r in found.as_numpy("risk").tolist()]
    assert risks == [records[i]["decision"] for i in ids]
    about = found.get_response()
    assert (about["id"], about["model_name"], about["model_version"]) == ("mine", "churn", "1")


def test_without_named_outputs_all_come_in_binary(spoken, triton):
    """Triton's client asks for binary_data_output when it names no outputs."""
    found = triton.infer("churn", by_feature(spoken.frame))
    assert found.as_numpy("probability").tolist() == spoken.scores
    assert set(found.as_numpy("model_version").tolist()) == {b"1"}
    assert all(out["parameters"]["binary_data_size"] for out in found.get_response()["outputs"])


def test_one_matrix_has_the_features_in_the_models_order(spoken, triton):
    """A tensor [n, k] of any name scores as the columns do, with keys or without, and names nobody without."""
    x = tensor("input-0", spoken.frame[list(NAMES)].to_numpy(), "FP64")
    keys = tensor("user_id", spoken.frame["user_id"].to_numpy(), "INT64")
    for given, entities in (([x], [None] * 600), ([keys, x], spoken.frame["user_id"].tolist())):
        found = triton.infer("churn", given)
        assert found.as_numpy("probability").tolist() == spoken.scores
        records = spoken.journalled()
        assert [records[i.decode()]["entity"] for i in found.as_numpy("request_id")] == entities


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8", "int16", "int32", "int64", "uint8", "uint64"])
def test_every_numeric_datatype_is_taken_for_its_value(spoken, triton, dtype):
    """A smaller datatype scores as /predict scores the numbers that it holds; [n, 1] is as good as [n]."""
    from tritonclient.utils import np_to_triton_dtype

    x = np.array([[12.4, 80.5, 3], [100.2, 7.7, 1]]).astype(dtype)
    given = [tensor(name, x[:, [j]], np_to_triton_dtype(x.dtype)) for j, name in enumerate(NAMES)]
    rows = [{"user_id": 0, "features": dict(zip(NAMES, row, strict=True))} for row in x.astype(float).tolist()]
    own = httpx.post(spoken.url + "/predict", json=rows, timeout=30).json()
    assert triton.infer("churn", given).as_numpy("probability").tolist() == [row["probability"] for row in own]


def test_keys_alone_are_looked_up(spoken, triton):
    """The entity's tensor alone is answered from the online store."""
    keys = np.array([FRESH, 7, 8], dtype=np.int64)
    own = httpx.post(spoken.url + "/predict", json=[{"user_id": int(key)} for key in keys], timeout=30).json()
    found = triton.infer("churn", [tensor("user_id", keys, "INT64")])
    assert found.as_numpy("probability").tolist() == [row["probability"] for row in own]


def test_ten_thousand_rows_are_one_call(spoken, triton):
    """The bound on a call is answered whole; one more row is refused."""
    frame = sample(10_000, seed=6)
    own = httpx.post(spoken.url + "/predict", json=as_rows(frame), timeout=60).json()
    found = triton.infer("churn", by_feature(frame))
    assert found.as_numpy("probability").tolist() == [row["probability"] for row in own]
    assert {i.decode() for i in found.as_numpy("request_id")} <= spoken.journalled().keys()
    refused(lambda: triton.infer("churn", by_feature(sample(10_001))), "400", "10001 rows are more than the 10000")


def test_a_version_in_the_path_picks_the_arm_that_has_it(spoken, triton):
    """Version 2 is the challenger's; without a version the champion answers; an unknown one is a 404."""
    given = by_feature(spoken.frame.head(5))
    first, second = triton.infer("churn", given, model_version="1"), triton.infer("churn", given, model_version="2")
    assert first.as_numpy("probability").tolist() == spoken.scores[:5]
    assert second.as_numpy("probability").tolist() != spoken.scores[:5]
    assert second.get_response()["model_version"] == "2"
    records = spoken.journalled()
    assert {records[i.decode()]["arm"] for i in second.as_numpy("request_id")} == {"challenger"}
    refused(lambda: triton.infer("churn", given, model_version="9"), "404", "no version '9' of 'churn'")


def refused(call, status, says):
    """The call fails in Triton's client with a status and a message."""
    from tritonclient.utils import InferenceServerException

    with pytest.raises(InferenceServerException) as caught:
        call()
    assert caught.value.status() == status
    assert says in caught.value.message()


def test_tritons_client_reads_health_and_metadata(triton):
    """Live, ready, and what the model takes and gives."""
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("churn")
    assert triton.is_model_ready("churn", "2")
    assert not triton.is_model_ready("churn", "3")
    assert not triton.is_model_ready("other")
    assert triton.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    about = triton.get_model_metadata("churn")
    assert (about["name"], about["versions"]) == ("churn", ["1", "2"])
    assert {i["name"]: i["datatype"] for i in about["inputs"]} == dict.fromkeys(NAMES, "FP64") | {"user_id": "INT64"}
    assert about["outputs"][0] == {"name": "probability", "datatype": "FP64", "shape": [-1]}
    refused(lambda: triton.get_model_metadata("other"), "404", "no model 'other' here; there is 'churn'")


def test_the_asynchronous_client_speaks_too(spoken):
    """Triton's aiohttp client gets the same scores for calls at the same time."""
    import tritonclient.http.aio

    async def main():
        async with tritonclient.http.aio.InferenceServerClient(spoken.address) as client:
            return await asyncio.gather(*[client.infer("churn", by_feature(spoken.frame)) for _ in range(4)])

    for found in asyncio.run(main()):
        assert found.as_numpy("probability").tolist() == spoken.scores


def test_errors_reach_tritons_client_by_row_and_field(spoken, triton):
    """A row without an answer fails the call, is named, and nothing of the call is journalled."""
    before = spoken.written()
    keys = np.array([FRESH, UNKNOWN], dtype=np.int64)
    refused(lambda: triton.infer("churn", [tensor("user_id", keys, "INT64")]), "400", "row 1, user_id: no user_id 999")
    keys = np.array([FRESH, -1], dtype=np.int64)
    refused(lambda: triton.infer("churn", [tensor("user_id", keys, "INT64")]), "400", "row 1, user_id: Input should")
    x = np.array([[12.0, 80.0, 3.0], [12.0, np.inf, 3.0]])
    refused(lambda: triton.infer("churn", [tensor("x", x, "FP64")]), "400", "row 1, spend: is infinite")
    refused(lambda: triton.infer("churn", [tensor("x", x[:, :2], "FP64")]), "400", "it must be [rows, 3]")
    refused(lambda: triton.infer("churn", [tensor("spend", x[:, 1], "FP64")]), "400", "recency: missing")
    refused(
        lambda: triton.infer("churn", [tensor("spent", x[:, 1], "FP64")]), "400", "spent: unknown; there are user_id"
    )
    texts = np.array([b"1", b"2"], dtype=object)
    refused(lambda: triton.infer("churn", [tensor("user_id", texts, "BYTES")]), "400", "row 0, user_id: Input should")
    flags = np.array([True, False])
    refused(
        lambda: triton.infer("churn", [tensor(n, flags, "BOOL") for n in NAMES]), "400", "recency: True is not a number"
    )
    given = by_feature(spoken.frame)
    refused(lambda: triton.infer("other", given), "404", "no model 'other'")
    refused(lambda: triton.infer("churn", given, outputs=outputs(["odds"], binary=True)), "400", "no output 'odds'")
    assert spoken.written() == before


def test_nulls_in_json_are_gaps(spoken):
    """JSON has no NaN: null is one, in a tensor per feature as in a matrix."""
    rows = [[12.0, None, 3.0], [12.0, 80.0, None]]
    columns = [
        {"name": name, "datatype": "FP64", "shape": [2], "data": [row[j] for row in rows]}
        for j, name in enumerate(NAMES)
    ]
    columns[2] |= {"datatype": "INT32", "data": [3, None]}
    asked = [{"user_id": 0, "features": dict(zip(NAMES, row, strict=True))} for row in rows]
    own = [r["probability"] for r in httpx.post(spoken.url + "/predict", json=asked, timeout=30).json()]
    matrix = {"name": "x", "datatype": "FP64", "shape": [2, 3], "data": rows}
    flat = matrix | {"data": rows[0] + rows[1]}
    for inputs in (columns, [matrix], [flat]):
        found = httpx.post(spoken.url + INFER, json={"inputs": inputs}, timeout=30).json()
        assert found["outputs"][0] == {"name": "probability", "datatype": "FP64", "shape": [2], "data": own}


X = {"name": "x", "datatype": "FP64", "shape": [1, 3], "data": [12.0, 80.0, 3.0]}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ([], "the body must be an object with a list of inputs"),
        ({}, "the body must be an object with a list of inputs"),
        ({"inputs": []}, "the body must be an object with a list of inputs"),
        ({"inputs": [3]}, "an input must be an object with a name"),
        ({"inputs": [X], "id": 3}, "the id must be a text"),
        ({"inputs": [X | {"shape": [2, 3]}]}, "x: has 3 values; its shape [2, 3] says 6"),
        ({"inputs": [X | {"shape": [1, -3]}]}, "x: its shape must be a list of whole numbers"),
        ({"inputs": [X | {"shape": [1, 1, 3]}]}, "x: shape [1, 1, 3] is neither"),
        ({"inputs": [X | {"shape": [10**9, 10**9]}]}, "x: shape [1000000000, 1000000000] is neither"),
        ({"inputs": [X | {"datatype": "FP8"}]}, "x: datatype 'FP8' is none of"),
        ({"inputs": [X | {"datatype": None}]}, "x: datatype None is none of"),
        ({"inputs": [X | {"data": [12.0, "80", 3.0]}]}, "x: '80' at place 1 is no FP64"),
        ({"inputs": [X | {"data": [12.0, True, 3.0]}]}, "x: True at place 1 is no FP64"),
        ({"inputs": [X | {"data": [[12.0, 80.0], [3.0]]}]}, "row 0, x: is not of the shape [1, 3]"),
        ({"inputs": [X | {"data": None}]}, "x: has neither data nor binary_data_size"),
        ({"inputs": [X | {"datatype": "INT8", "data": [12, 300, 3]}]}, "x: a value is too large for INT8"),
        ({"inputs": [X | {"datatype": "INT8", "data": [12, 3.5, 3]}]}, "x: a value is no whole number, as INT8 is"),
        ({"inputs": [X | {"datatype": "FP16", "data": [12, 1e9, 3]}]}, "row 0, spend: is infinite or too large"),
        ({"inputs": [X, X]}, "recency: is there twice"),
        ({"inputs": [X | {"parameters": {"binary_data_size": 24}}]}, "x: binary_data_size 24 is not the length"),
        ({"inputs": [X], "outputs": {"name": "risk"}}, "outputs must be a list"),
        ({"inputs": [X], "outputs": [{"name": "probability", "parameters": {"classification": 2}}]}, "classification"),
    ],
)
def test_a_malformed_request_is_a_400_with_an_error(spoken, body, says):
    """Whatever is wrong is said in the protocol's shape."""
    found = spoken.refuses(INFER, 400, json=body)
    assert found.keys() == {"error"}
    assert says in found["error"]


@pytest.mark.parametrize("length", ["-1", "x", "99999", "1" * 5000, "٣"])
def test_a_header_length_that_is_none_is_refused(spoken, length):
    """Inference-Header-Content-Length must lie within the body."""
    headers = {"inference-header-content-length": length.encode()}
    found = spoken.refuses(INFER, 400, content=b'{"inputs": []}', headers=headers)
    assert "Inference-Header-Content-Length" in found["error"]


@pytest.mark.parametrize(
    ("size", "raw", "says"),
    [
        (24, struct.pack("<3d", 1, 2, 3) + b"x", "1 bytes follow that no input's binary_data_size accounts for"),
        (25, struct.pack("<3d", 1, 2, 3) + b"x", "25 bytes are no whole number of values"),
        (16, struct.pack("<2d", 1, 2), "has 2 values; its shape [1, 3] says 3"),
        (-1, b"", "binary_data_size -1 is not the length"),
        ("24", struct.pack("<3d", 1, 2, 3), "binary_data_size '24' is not the length"),
    ],
)
def test_binary_data_that_does_not_fit_is_refused(spoken, size, raw, says):
    """Too much, too little, and what is no size at all."""
    given = {k: v for k, v in X.items() if k != "data"} | {"parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [given]}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    assert says in spoken.refuses(INFER, 400, content=head + raw, headers=headers)["error"]


@pytest.mark.parametrize("raw", [b"\x05\0\0\0abc", b"\x01\0", b"\xff\xff\xff\xff", b"\x01\0\0\0\xff"])
def test_texts_whose_lengths_lie_are_refused(spoken, raw):
    """BYTES must hold together and be UTF-8."""
    given = {"name": "user_id", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [given]}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    assert "user_id: " in spoken.refuses(INFER, 400, content=head + raw, headers=headers)["error"]


def test_no_rows_are_no_answers_and_a_wrong_method_is_a_405(spoken):
    """A shape of [0] is answered with outputs of shape [0]; GET on /infer is refused in the protocol's shape."""
    inputs = [{"name": name, "datatype": "FP64", "shape": [0], "data": []} for name in NAMES]
    found = httpx.post(spoken.url + INFER, json={"inputs": inputs}, timeout=30).json()
    assert (found["outputs"][0]["shape"], found["model_version"]) == ([0], "1")
    wrong = httpx.get(spoken.url + INFER, timeout=30)
    assert (wrong.status_code, wrong.json().keys()) == (405, {"error"})


def test_the_arm_and_smoke_headers_count_here_too(spoken, triton):
    """x-bentoflow-arm picks an arm, x-bentoflow-smoke marks the record, as at /predict."""
    given = [tensor("x", np.array([list(GIVEN.values())]), "FP64")]
    headers = {"x-bentoflow-arm": "challenger", "x-bentoflow-smoke": "1"}
    found = triton.infer("churn", given, headers=headers)
    record = spoken.journalled()[found.as_numpy("request_id")[0].decode()]
    assert (record["arm"], record["smoke"], record["model_version"]) == ("challenger", True, "2")
    refused(lambda: triton.infer("churn", given, headers={"x-bentoflow-arm": "king"}), "400", "no arm 'king'")
