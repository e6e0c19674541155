"""The MLflow scoring protocol, spoken by MLflow's own client and compared with MLflow's own server."""

import io
import json
import warnings

import httpx
import numpy as np
import pandas as pd
import pytest

from bentos.protocols import invocations

from .conftest import FRESH, GIVEN, NAMES, ROOT, UNKNOWN, as_rows, make_release, sample

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
ROW = [GIVEN[name] for name in NAMES]
SPLIT = {"columns": list(NAMES), "data": [ROW]}


@pytest.fixture(scope="module")
def client(spoken):
    """MLflow's client of a scoring server."""
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient

    host, port = spoken.address.split(":")
    return ScoringServerClient(host, int(port))


@pytest.fixture(scope="module")
def peer(tmp_path_factory, model):
    """MLflow's own scoring server, in this process, of the same release as the registry keeps it."""
    import mlflow
    from mlflow.models import infer_signature
    from mlflow.pyfunc import scoring_server
    from starlette.testclient import TestClient

    folder = tmp_path_factory.mktemp("peer")
    example = pd.DataFrame([ROW], columns=list(NAMES))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.pyfunc.save_model(
            folder / "model",
            python_model=str(ROOT / "flows/stores/pyfunc.py"),
            artifacts={"release": str(make_release(folder / "v1", model=model))},
            signature=infer_signature(example, pd.DataFrame({"probability": [0.5]})),
            pip_requirements=[],
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")  # MLflow sets it for good
            yield TestClient(scoring_server.init(mlflow.pyfunc.load_model(str(folder / "model"))))


def test_mlflows_client_gets_predicts_scores(spoken, client):
    """A frame in another order, with gaps and keys, is answered bit by bit as /predict does, and journalled."""
    found = client.invoke(spoken.frame).get_predictions()
    assert list(found) == ["probability", "risk", "model_version", "request_id"]
    assert found["probability"].tolist() == spoken.scores
    records = spoken.journalled()
    assert [records[i]["score"] for i in found["request_id"]] == spoken.scores
    assert [records[i]["entity"] for i in found["request_id"]] == spoken.frame["user_id"].tolist()
    assert {records[i]["source"] for i in found["request_id"]} == {"request"}


def test_without_keys_rows_are_journalled_without_an_entity(spoken, client):
    """A frame of features alone, as the registered model takes it, is answered; its records name nobody."""
    found = client.invoke(spoken.frame[list(NAMES)]).get_predictions()
    assert found["probability"].tolist() == spoken.scores
    records = spoken.journalled()
    assert {records[i]["entity"] for i in found["request_id"]} == {None}


def test_keys_alone_are_looked_up(spoken, client):
    """A frame with the entity's column only is answered from the online store, as /predict does."""
    keys = [FRESH, 7, 8, FRESH]
    found = client.invoke(pd.DataFrame({"user_id": keys})).get_predictions()
    own = httpx.post(spoken.url + "/predict", json=[{"user_id": key} for key in keys], timeout=30).json()
    assert found["probability"].tolist() == [row["probability"] for row in own]


def test_an_array_is_rows_in_the_models_order(spoken, client):
    """What MLflow's client makes of an array: inputs by position."""
    found = client.invoke(spoken.frame[list(NAMES)].to_numpy()).get_predictions()
    assert found["probability"].tolist() == spoken.scores


def test_ten_thousand_rows_are_one_call_and_one_more_is_refused(spoken, client):
    """The bound on a call is answered whole and journalled whole."""
    frame = sample(10_000, seed=5)
    found = client.invoke(frame).get_predictions()
    own = httpx.post(spoken.url + "/predict", json=as_rows(frame), timeout=60).json()
    assert found["probability"].tolist() == [row["probability"] for row in own]
    assert set(found["request_id"]) <= spoken.journalled().keys()
    with pytest.raises(Exception, match="10001 rows are more than the 10000"):
        client.invoke(sample(10_001))


def test_ping_and_version_are_as_mlflow_has_them(client, peer):
    """The probes' bodies and types are MLflow's, and the version is that of the MLflow that was compared."""
    import mlflow

    client.ping()
    assert client.get_version() == mlflow.__version__ == invocations.VERSION
    assert peer.get("/version").text == client.get_version()
    ours = httpx.get(client.url_prefix + "/ping", timeout=30)
    theirs = peer.get("/ping")
    assert (ours.content, ours.headers["content-type"]) == (theirs.content, theirs.headers["content-type"])


def csv_of(frame: pd.DataFrame, **how) -> bytes:
    return frame.to_csv(**how).encode()


BOTH = sample(40, seed=9)
GOOD = {
    "split": {"dataframe_split": SPLIT},
    "split with index": {"dataframe_split": SPLIT | {"index": [0]}},
    "records": {"dataframe_records": [GIVEN, GIVEN]},
    "records with more columns": {"dataframe_records": [{**GIVEN, "age": 3}]},
    "records with null": {"dataframe_records": [{**GIVEN, "visits": None}, GIVEN]},
    "inputs by name": {"inputs": {name: [value, value] for name, value in GIVEN.items()}},
    "inputs of one row": {"inputs": GIVEN},
    "instances": {"instances": [GIVEN, GIVEN]},
    "params are ignored": {"dataframe_split": SPLIT, "params": {"a": 1}},
}


@pytest.mark.parametrize("body", GOOD.values(), ids=GOOD)
def test_every_json_form_scores_as_mlflows_server_does(spoken, peer, body):
    """Ours and MLflow's server give the same probabilities for the same body."""
    ours, theirs = httpx.post(spoken.url + "/invocations", json=body, timeout=30), peer.post("/invocations", json=body)
    assert (ours.status_code, theirs.status_code) == (200, 200), (ours.text, theirs.text)
    assert ours.headers["content-type"] == theirs.headers["content-type"]
    expected = [row["probability"] for row in theirs.json()["predictions"]]
    assert [row["probability"] for row in ours.json()["predictions"]] == expected


@pytest.mark.parametrize(
    "how", [{"index": False}, {"index": True}, {"index": False, "lineterminator": "\r\n"}], ids=str
)
def test_csv_scores_as_mlflows_server_does(spoken, peer, how):
    """A table as pandas writes it, gaps and index included, quoted or not."""
    content, headers = csv_of(BOTH[list(NAMES)], **how), {"content-type": "text/csv; charset=utf-8"}
    ours = httpx.post(spoken.url + "/invocations", content=content, headers=headers, timeout=30)
    theirs = peer.post("/invocations", content=content, headers=headers)
    assert (ours.status_code, theirs.status_code) == (200, 200), (ours.text, theirs.text)
    expected = [row["probability"] for row in theirs.json()["predictions"]]
    assert [row["probability"] for row in ours.json()["predictions"]] == expected


def test_csv_and_parquet_keep_keys_exact(spoken):
    """Keys beyond what a float holds come through, and scores are those of /predict."""
    scores = [r["probability"] for r in httpx.post(spoken.url + "/predict", json=as_rows(BOTH), timeout=30).json()]
    parquet = io.BytesIO()
    BOTH.to_parquet(parquet)
    bodies = {"text/csv": csv_of(BOTH, index=False), "application/vnd.apache.parquet": parquet.getvalue()}
    for kind, content in bodies.items():
        response = httpx.post(spoken.url + "/invocations", content=content, headers={"content-type": kind}, timeout=30)
        found = response.json()["predictions"]
        assert [row["probability"] for row in found] == scores
        records = spoken.journalled()
        assert [records[row["request_id"]]["entity"] for row in found] == BOTH["user_id"].tolist()


BAD = {
    "no form": {"rows": [ROW]},
    "two forms": {"inputs": [ROW], "instances": [ROW]},
    "a list": [ROW],
    "a number": 5,
    "split is a list": {"dataframe_split": [ROW]},
    "records is an object": {"dataframe_records": GIVEN},
    "a text": {"dataframe_records": [{**GIVEN, "visits": "many"}]},
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD)
def test_what_mlflows_server_refuses_is_refused_alike(spoken, peer, body):
    """Status, content type, shape and error code are MLflow's; nothing is journalled."""
    before = spoken.written()
    ours, theirs = httpx.post(spoken.url + "/invocations", json=body, timeout=30), peer.post("/invocations", json=body)
    assert (ours.status_code, theirs.status_code) == (400, 400), (ours.text, theirs.text)
    assert ours.headers["content-type"] == theirs.headers["content-type"]
    assert {"error_code", "message"} == ours.json().keys() <= theirs.json().keys()
    assert ours.json()["error_code"] == theirs.json()["error_code"] == "BAD_REQUEST"
    assert spoken.written() == before


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"dataframe_records": [{"recency": 1.0, "spend": 2.0}]}, "visits: missing"),
        ({"dataframe_records": [GIVEN, {"recency": 1.0, "spend": 2.0}]}, "row 1, visits: missing"),
        ({"dataframe_split": SPLIT | {"data": [ROW, ROW[:2]]}}, "row 1: has 2 values; it must have 3"),
        ({"dataframe_split": SPLIT | {"columns": ["spend", "spend", "visits"]}}, "Invalid input. The columns"),
        ({"inputs": {**GIVEN, "visits": [1.0]}}, "recency: must be a list as others are"),
        ({"inputs": {**{name: [1, 2] for name in NAMES}, "visits": [1]}}, "visits: has 1 values where another has 2"),
        ({"inputs": [[1.0, 2.0]]}, "row 0: has 2 values; it must have 3"),
        ({"instances": [1.0, 2.0]}, "row 0: is a number"),
        ({"instances": [GIVEN, None]}, "row 1: is null"),
        ({"instances": [{}]}, "row 0: is an empty object"),
        ({"dataframe_split": {"columns": [], "data": [[]]}}, "Invalid input. dataframe_split names no columns"),
    ],
)
def test_a_gap_is_written_as_null_and_nothing_is_guessed(spoken, body, says):
    """Rows of unequal length or names are refused, where MLflow's server would fill them with NaN."""
    found = spoken.refuses("/invocations", 400, json=body)
    assert (found["error_code"], found["message"][: len(says)]) == ("BAD_REQUEST", says)


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"\xff", "application/json", 400),
        (b'{"a', "application/json; charset=utf-8", 400),
        (b"x,y\n1,2\n", "text/csv", 400),
        (b"\xff\xfe,y\n", "text/csv", 400),
        (b"PAR1", "application/vnd.apache.parquet", 400),
        (b"x", "text/plain", 415),
        (b"{}", "application/json; charset=latin-1", 415),
        (b"{}", "application/json; format=pandas-split", 415),
    ],
)
def test_bodies_that_are_none_have_mlflows_statuses(spoken, peer, content, kind, status):
    """400 in JSON for what cannot be read, 415 in plain text for what nobody reads."""
    ours = httpx.post(spoken.url + "/invocations", content=content, headers={"content-type": kind}, timeout=30)
    theirs = peer.post("/invocations", content=content, headers={"content-type": kind})
    assert (ours.status_code, theirs.status_code) == (status, status), (ours.text, theirs.text)
    assert ours.headers["content-type"] == theirs.headers["content-type"]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"user_id": UNKNOWN}, "row 1, user_id: no user_id 999 in the feature store"),
        ({"user_id": -1}, "row 1, user_id: Input should be greater than or equal to 0"),
        ({"user_id": 2**63}, "row 1, user_id: Input should be less than or equal to"),
        ({"user_id": 1.5}, "row 1, user_id: Input should be a valid integer"),
        ({"user_id": True}, "row 1, user_id: Input should be a valid integer"),
        ({"user_id": None}, "row 1, user_id: is missing"),
        ({"user": 1}, "row 1, user_id: missing"),
    ],
)
def test_a_bad_key_fails_the_call_and_is_named(spoken, row, says):
    """Row and field stand in the message; the good row before it is not journalled."""
    found = spoken.refuses("/invocations", 400, json={"dataframe_records": [{"user_id": FRESH}, row]})
    assert (found["error_code"], found["message"][: len(says)]) == ("BAD_REQUEST", says)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("Infinity", "row 1, spend: is infinite or too large"),
        ("1e999", "row 1, spend: is infinite or too large"),
        ("1" + "0" * 400, "row 1, spend: is infinite or too large"),
        ("1e300", "row 1, features.recency: feature recency is 1e+300: too large for the model"),
        ("true", "row 1, spend: True is not a number"),
        ('"3"', "row 1, spend: '3' is not a number"),
        ("[3]", "row 1, spend: [3] is not a number"),
    ],
)
def test_a_bad_value_fails_the_call_and_is_named(spoken, value, says):
    """NaN is a gap here, but no infinity, no text and nothing too large reaches the model."""
    field = "recency" if value == "1e300" else "spend"  # a logarithm would tame it
    content = json.dumps({"dataframe_records": [GIVEN, {**GIVEN, field: "X"}]}).replace('"X"', value)
    found = spoken.refuses("/invocations", 400, content=content, headers={"content-type": "application/json"})
    assert found["message"].startswith(says)


def test_nan_is_a_gap(spoken):
    """MLflow's client writes NaN for a gap; it scores and is journalled as null does."""
    content = json.dumps({"dataframe_split": SPLIT | {"data": [[12.0, np.nan, 3.0], [12.0, None, 3.0]]}})
    headers = {"content-type": "application/json"}
    found = httpx.post(spoken.url + "/invocations", content=content, headers=headers, timeout=30).json()["predictions"]
    assert found[0]["probability"] == found[1]["probability"]
    records = spoken.journalled()
    assert [records[row["request_id"]]["features"]["spend"] for row in found] == [None, None]


def test_no_rows_are_no_predictions(spoken):
    """An empty table is answered with an empty list."""
    for body in ({"dataframe_records": []}, {"dataframe_split": SPLIT | {"data": []}}, {"instances": []}):
        found = httpx.post(spoken.url + "/invocations", json=body, timeout=30)
        assert (found.status_code, found.json()) == (200, {"predictions": []})


def test_a_wrong_method_is_refused_in_mlflows_shape(spoken):
    """GET /invocations is a 405 with a code and a message."""
    response = httpx.get(spoken.url + "/invocations", timeout=30)
    assert (response.status_code, response.json().keys()) == (405, {"error_code", "message"})
