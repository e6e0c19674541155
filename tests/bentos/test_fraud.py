"""The fraud service over HTTP, in this process: one payment or many, what is refused, and retraining on request."""

import io
import json
import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

from bentos import admin, retraining
from bentos.protocols import arrow
from bentos.runtime import clock
from bentos.runtime.features.joined import JoinedReader
from bentos.runtime.predictor import Predictor
from bentos.runtime.rollouts import rollout
from bentos.runtime.rollouts.rollout import Arm, Rollout
from bentos.runtime.scoring.manifest import Feature
from bentos.runtime.scoring.request import RequestFeature

from .conftest import NOW, make_release
from .test_events import CARD, NEW, NOON, TERMINAL, stores
from .test_protocols_fuzz import garbled

PAYMENT = {"card_id": CARD, "terminal_id": TERMINAL, "amount": 61.5, "time": NOON.isoformat()}
FEATURES = ("recency", "spend", "amount")
TOKEN = {"authorization": "Bearer abc"}


@pytest.fixture(scope="module")
def fraud_http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A client of the service, whose model has `visits` in the place of the amount."""
    from bentos import endpoint
    from bentos.fraud import Fraud

    home: Path = tmp_path_factory.mktemp("fraud")
    features = (
        Feature(name="recency", fill=30.0, mean=40.0, scale=20.0),
        Feature(name="spend", fill=50.0, mean=3.5, scale=1.2, log=True),
        Feature(name="amount", fill=50.0, mean=50.0, scale=40.0),
    )
    make_release(
        home / "v1",
        use_case="fraud",
        entity="card_id",
        others=("terminal_id",),
        features=features,
        request=(RequestFeature(name="amount", minimum=0.0, maximum=10_000.0),),
        time="time",
        risks=("LOW", "MEDIUM", "HIGH"),
        thresholds=(0.3, 0.6),
        threshold=0.6,
    )
    rollout.write(rollout.rollout_path(home, "fraud"), Rollout((Arm("champion", "v1", 1.0),)))
    clock.write(home, "fraud", NOW)

    def opened(name: str) -> Predictor:
        def reader(_: Any) -> Any:
            return JoinedReader(stores(), ["recency", "spend"])  # type: ignore[arg-type]

        return Predictor(name, home, lambda tag: home / tag, open_reader=reader)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(endpoint, "open_predictor", opened)
        with alone_in_the_process(), TestClient(app=Fraud.to_asgi()) as client:
            yield client


@contextmanager
def alone_in_the_process() -> Iterator[None]:
    """BentoML has one service and one set of metrics a process; a test session has another service in its process."""
    from _bentoml_sdk.service import get_current_service, set_current_service
    from bentoml.exceptions import BentoMLException
    from prometheus_client import REGISTRY

    def clear() -> None:
        for collector, names in list(REGISTRY._collector_to_names.items()):
            if any(name.startswith("bentoml_") for name in names):
                REGISTRY.unregister(collector)

    try:
        other = get_current_service()
    except BentoMLException:  # none has started yet
        other = None
    clear()
    yield
    clear()
    set_current_service(other)


def test_a_payment_is_answered_with_its_risk(fraud_http: TestClient) -> None:
    """One object in, one out, with both keys, a risk of three and the amount among the values used."""
    response = fraud_http.post("/predict", json=PAYMENT)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert (answer["card_id"], answer["terminal_id"], answer["stale"]) == (CARD, TERMINAL, False)
    assert answer["risk"] in {"LOW", "MEDIUM", "HIGH"}
    assert answer["features"] == {"recency": 12.0, "spend": 80.0, "amount": 61.5}
    assert response.headers["x-request-id"] == answer["request_id"]


def test_a_batch_is_answered_like_its_payments_alone(fraud_http: TestClient) -> None:
    """Both routes give every payment the answer that it gets alone, bad ones their own status in their place."""
    rows = [PAYMENT, {**PAYMENT, "amount": 900.0}, {**PAYMENT, "card_id": "x"}, {**PAYMENT, "amount": -1.0}]
    alone = [fraud_http.post("/predict", json=row) for row in rows]
    assert [a.status_code for a in alone] == [200, 200, 400, 422]
    for route in ("/predict", "/predict/batch"):
        response = fraud_http.post(route, json=rows)
        assert response.status_code == 207
        answers = response.json()
        assert [a.get("probability") for a in answers] == [a.json().get("probability") for a in alone]
        assert [(a["status"], a["field"]) for a in answers[2:]] == [(400, "card_id"), (422, "amount")]
    assert fraud_http.post("/predict/batch", json=[]).json() == []


def test_a_batch_is_a_list(fraud_http: TestClient) -> None:
    """One object is not a list of one, and a list has at most 10,000 rows."""
    assert fraud_http.post("/predict/batch", json=PAYMENT).status_code == 400
    assert fraud_http.post("/predict/batch", json=[PAYMENT] * 10_001).status_code == 400


@pytest.mark.parametrize(
    ("change", "status", "field"),
    [
        ({"amount": None}, 422, "amount"),
        ({"time": None}, 422, "time"),
        ({"time": (NOW + timedelta(days=3)).isoformat()}, 422, "time"),
        ({"time": "2024-06-10T12:00:00"}, 400, "time"),
        ({"amount": "61.5"}, 400, "amount"),
        ({"terminal_id": 2**63}, 400, "terminal_id"),
        ({"card": 1}, 400, "card"),
    ],
)
def test_a_payment_that_is_none_is_refused(
    fraud_http: TestClient, change: dict[str, Any], status: int, field: str
) -> None:
    """What is missing, out of range, of another type or unknown is named."""
    (answer,) = fraud_http.post("/predict/batch", json=[{**PAYMENT, **change}]).json()
    assert (answer["status"], answer["field"]) == (status, field)


def test_a_new_card_is_answered_and_flagged(fraud_http: TestClient) -> None:
    """What is not known of the card is null, and the answer says that medians stood in."""
    answer = fraud_http.post("/predict", json={**PAYMENT, "card_id": NEW}).json()
    assert (answer["features"]["recency"], answer["stale"]) == (None, True)


def test_the_documentation_has_every_route_and_a_sample_that_works(fraud_http: TestClient) -> None:
    """/docs.json describes the routes; the sample of a payment has the right shape."""
    paths = fraud_http.get("/docs.json").json()["paths"]
    assert {"/predict", "/predict/batch", "/retrain"} <= set(paths)
    schema = paths["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(schema["example"]) == set(PAYMENT)
    assert fraud_http.post("/predict", json={**schema["example"], **PAYMENT}).status_code == 200


def payments() -> pd.DataFrame:
    """Three payments, as a client of another server has them."""
    times = [NOON, NOON - timedelta(hours=1), NOON]
    rows = {"card_id": [CARD, CARD, NEW], "terminal_id": [TERMINAL] * 3, "amount": [61.5, 900.0, 3.0], "time": times}
    return pd.DataFrame(rows)


def as_json(frame: pd.DataFrame) -> dict[str, list[Any]]:
    """Its columns, as JSON has them."""
    texts = frame.assign(**{"time": frame["time"].map(datetime.isoformat)} if "time" in frame else {})
    return {str(name): column.tolist() for name, column in texts.items()}


def spoken(frame: pd.DataFrame) -> dict[str, tuple[str, Any]]:
    """The same rows in every protocol: the route, and what is posted."""
    columns, triton = as_json(frame), pytest.importorskip("tritonclient.http")
    split = {"columns": [*columns], "data": [list(row) for row in zip(*columns.values(), strict=True)]}
    records = [dict(zip(columns, row, strict=True)) for row in split["data"]]
    inputs = []
    for name, values in columns.items():
        kind = {int: "INT64", float: "FP64", str: "BYTES"}[type(values[0])]
        inputs.append(triton.InferInput(name, [len(values)], kind))
        inputs[-1].set_data_from_numpy(np.array(values, dtype=object if kind == "BYTES" else None))
    body, length = triton.InferenceServerClient.generate_request_body(inputs)
    table, parquet = pa.Table.from_pandas(frame), io.BytesIO()
    frame.to_parquet(parquet)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)

    def raw(content: bytes, kind: str, **headers: str) -> dict[str, Any]:
        return {"content": content, "headers": {"content-type": kind, **headers}}

    def written(value: Any) -> dict[str, Any]:
        return raw(json.dumps(value).encode(), "application/json")  # a gap is NaN, as Python writes it

    tensors = {"Inference-Header-Content-Length": str(length)}
    return {
        "mlflow split": ("/invocations", written({"dataframe_split": split})),
        "mlflow records": ("/invocations", written({"dataframe_records": records})),
        "mlflow csv": ("/invocations", raw(frame.to_csv(index=False).encode(), "text/csv")),
        "mlflow parquet": ("/invocations", raw(parquet.getvalue(), "application/vnd.apache.parquet")),
        "v1": ("/v1/models/fraud:predict", written({"instances": records})),
        "v2": ("/v2/models/fraud/infer", raw(body, "application/octet-stream", **tensors)),
        "arrow": ("/predict", raw(sink.getvalue(), arrow.STREAM, accept="application/json")),
    }


def probabilities(response: Any) -> list[float]:
    """Those of an answer in any protocol."""
    assert response.status_code == 200, response.text
    if "inference-header-content-length" in response.headers:
        found = response.content[: int(response.headers["inference-header-content-length"])]
        first = json.loads(found)["outputs"][0]
        assert first["name"] == "probability"
        raw = response.content[len(found) : len(found) + first["parameters"]["binary_data_size"]]
        return np.frombuffer(raw, "<f8").tolist()
    answer = response.json()
    if isinstance(answer, list):
        return [row["probability"] for row in answer]
    found = answer["predictions"] if "predictions" in answer else answer["outputs"][0]["data"]
    return [row["probability"] if isinstance(row, dict) else row for row in found]


@pytest.mark.parametrize("brings", ["fields", "features"])
def test_every_protocol_takes_payments(fraud_http: TestClient, brings: str) -> None:
    """Keys, amount and time, or keys and all features: what /predict answers, in each form that a client may send."""
    frame = payments()
    if brings == "fields":
        rows = [dict(zip(as_json(frame), row, strict=True)) for row in zip(*as_json(frame).values(), strict=True)]
    else:
        frame = frame.drop(columns="time").assign(recency=[12.0, np.nan, 3.0], spend=[80.0, 5.0, 0.5])
        given = [{n: None if row[n] != row[n] else row[n] for n in FEATURES} for row in frame.to_dict("records")]
        rows = [
            {"card_id": card, "terminal_id": TERMINAL, "features": features}
            for card, features in zip(frame["card_id"].tolist(), given, strict=True)
        ]
    expected = probabilities(fraud_http.post("/predict", json=rows))
    assert len(set(expected)) == 3
    for name, (route, sent) in spoken(frame).items():
        assert probabilities(fraud_http.post(route, **sent)) == expected, name


def test_a_frames_times_may_be_timestamps_of_any_unit(fraud_http: TestClient) -> None:
    """Pandas has nanoseconds, others milliseconds; without a zone a time could be any, and is refused."""
    frame = payments()
    route, sent = spoken(frame)["mlflow csv"]
    expected = probabilities(fraud_http.post(route, **sent))
    for unit in ("ns", "us", "ms"):
        finer = pd.Timedelta(1 if unit == "ns" else 0, "ns")
        route, sent = spoken(frame.assign(time=frame["time"].dt.as_unit(unit) + finer))["arrow"]
        assert probabilities(fraud_http.post(route, **sent)) == expected, unit
    route, sent = spoken(frame.assign(time=frame["time"].dt.tz_localize(None)))["arrow"]
    refused = fraud_http.post(route, **sent)
    assert (refused.status_code, refused.json()["field"]) == (400, "time"), refused.text


@pytest.mark.parametrize(
    ("form", "times"),
    [
        ("arrow", pa.array([10**18], pa.timestamp("us", "UTC"))),  # a year that no calendar has
        ("parquet", pa.array([10**18], pa.timestamp("us", "UTC"))),
        ("arrow", pa.array([10**17], pa.timestamp("s", "UTC"))),  # more microseconds than a number holds
        ("arrow", pa.array([0], pa.timestamp("us", "No/Where"))),
        ("parquet", pa.array([0], pa.timestamp("us", "No/Where"))),
    ],
)
def test_a_time_that_is_none_is_refused(fraud_http: TestClient, form: str, times: pa.Array) -> None:
    """Named, and no error of the server's."""
    keys = {
        name: pa.array([value]) for name, value in {"card_id": CARD, "terminal_id": TERMINAL, "amount": 1.0}.items()
    }
    table, sink = pa.table(keys | {"time": times}), io.BytesIO()
    if form == "arrow":
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    else:
        pq.write_table(table, sink)
    route, kind = ("/predict", arrow.STREAM) if form == "arrow" else ("/invocations", "application/vnd.apache.parquet")
    refused = fraud_http.post(route, content=sink.getvalue(), headers={"content-type": kind})
    assert refused.status_code == 400, refused.text
    assert "time" in refused.text


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (
            {"card_id": [CARD], "terminal_id": [TERMINAL], "amount": [1.0]},
            "time: missing; bring card_id, terminal_id, amount, time",
        ),
        ({"card_id": [CARD], "amount": [1.0], "recency": [1.0], "spend": [2.0]}, "terminal_id: missing; bring"),
        ({"card_id": [CARD], "terminal_id": [TERMINAL], "recency": [1.0]}, "spend: missing; bring all features"),
        (
            {"card_id": [None], "terminal_id": [TERMINAL], "amount": [1.0], "time": [NOON.isoformat()]},
            "row 0, card_id: is missing",
        ),
        (
            {"card_id": [CARD], "terminal_id": [TERMINAL], "amount": [1.0], "time": ["noon"]},
            "row 0, time: Input should be a valid datetime",
        ),
        (
            {"card_id": [CARD], "terminal_id": [TERMINAL], "amount": ["x"], "time": [NOON.isoformat()]},
            "row 0, amount: Input should be a valid number",
        ),
        (
            {"card_id": [CARD], "terminal_id": [TERMINAL], "amount": [-1.0], "time": [NOON.isoformat()]},
            "row 0, amount: amount is -1",
        ),
        ({"card": [CARD]}, "card_id: missing; bring card_id, terminal_id, amount, time, or card_id, terminal_id with"),
    ],
)
def test_a_bad_payment_fails_the_call_and_is_named(fraud_http: TestClient, columns: dict[str, Any], says: str) -> None:
    """By row and field, as in the other use cases."""
    names = list(columns)
    data = [list(row) for row in zip(*columns.values(), strict=True)]
    refused = fraud_http.post("/invocations", json={"dataframe_split": {"columns": names, "data": data}})
    assert (refused.status_code, refused.json()["error_code"]) == (400, "BAD_REQUEST"), refused.text
    assert says in refused.json()["message"]
    unknown = fraud_http.post("/v1/models/fraud:predict", json={"inputs": {"card": [CARD]}})
    assert unknown.json()["error"] == "card: unknown; there are card_id, terminal_id, amount, time, recency, spend"


def test_no_damaged_call_harms_the_service(fraud_http: TestClient) -> None:
    """Answered, or refused with a reason, whatever is wrong with it."""
    rng, frame = random.Random(5), payments()
    for name, (route, sent) in spoken(frame).items():
        statuses = Counter[int]()
        for _ in range(150):
            body = sent["content"] if rng.random() < 0.05 else garbled(sent["content"], rng)
            statuses[fraud_http.post(route, content=body, headers=sent["headers"]).status_code] += 1
        assert set(statuses) <= {200, 400}, (name, statuses)
        assert statuses[200], name


def test_the_models_inputs_are_told_with_their_types(fraud_http: TestClient) -> None:
    """A number that is a feature and a field is told once."""
    inputs = {i["name"]: i["datatype"] for i in fraud_http.get("/v2/models/fraud").json()["inputs"]}
    expected = dict.fromkeys(FEATURES, "FP64") | {"card_id": "INT64", "terminal_id": "INT64", "time": "BYTES"}
    assert inputs == expected


def test_retraining_is_off_without_a_token(fraud_http: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the setting the route does nothing for anybody, whatever they send."""
    monkeypatch.delenv(admin.TOKEN, raising=False)
    for headers in ({}, TOKEN, {"authorization": "Bearer "}):
        response = fraud_http.post("/retrain", json={}, headers=headers)
        assert (response.status_code, admin.TOKEN in response.json()["error"]) == (404, True)


@pytest.mark.parametrize("given", [{}, {"authorization": "Bearer abcd"}, {"authorization": "abc"}])
def test_retraining_needs_the_token(
    fraud_http: TestClient, monkeypatch: pytest.MonkeyPatch, given: dict[str, str]
) -> None:
    """A missing or wrong token is a 401."""
    monkeypatch.setenv(admin.TOKEN, "abc")
    assert fraud_http.post("/retrain", json={}, headers=given).status_code == 401


@pytest.mark.parametrize("api", ["", "http://127.0.0.1:9/api"])
def test_retraining_without_prefect_is_a_503(fraud_http: TestClient, monkeypatch: pytest.MonkeyPatch, api: str) -> None:
    """Where Prefect is not named, or does not answer, the caller is told to come back."""
    monkeypatch.setenv(admin.TOKEN, "abc")
    monkeypatch.setenv("PREFECT_API_URL", api)
    response = fraud_http.post("/retrain", json={}, headers=TOKEN)
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")


def test_a_busy_prefect_is_asked_again_for_the_same_run(
    fraud_http: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its server answers 503 while its database is locked; asking again starts no second run."""
    busy, keys = [503, 503], []

    class Busy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(200, {"id": "d"})

        def do_POST(self) -> None:
            keys.append(json.loads(self.rfile.read(int(self.headers["content-length"])))["idempotency_key"])
            self.reply(busy.pop() if busy else 201, {"id": "r", "name": "busy-bee"})

        def reply(self, status: int, content: dict[str, str]) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Not in the test's output."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Busy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv(admin.TOKEN, "abc")
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.server_address[1]}/api")
    try:
        response = fraud_http.post("/retrain", json={}, headers=TOKEN)
    finally:
        server.shutdown()
        server.server_close()
    assert (response.status_code, response.json()["name"]) == (202, "busy-bee")
    assert (len(keys), len(set(keys))) == (3, 1)


@pytest.mark.integration
def test_retraining_starts_the_deployment(fraud_http: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """202 with the id and page of a run that Prefect has, its parameters the deployment's with the reason given."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    monkeypatch.setenv(admin.TOKEN, "abc")
    with prefect_test_harness(server_startup_timeout=120), get_client(sync_client=True) as client:
        api = str(PREFECT_API_URL.value())
        monkeypatch.setenv("PREFECT_API_URL", api)
        missing = fraud_http.post("/retrain", json={}, headers=TOKEN)
        assert (missing.status_code, "no deployment train/fraud" in missing.json()["error"]) == (503, True)
        flow = httpx.post(f"{api}/flows/", json={"name": "train"}).json()
        deployment = {
            "name": "fraud",
            "flow_id": flow["id"],
            "parameters": {"use_case": "fraud", "reason": "schedule", "release_if_better": True},
        }
        httpx.post(f"{api}/deployments/", json=deployment).raise_for_status()
        response = fraud_http.post("/retrain", json={"reason": "new rules"}, headers=TOKEN)
        assert response.status_code == 202, response.text
        answer = response.json()
        run = client.read_flow_run(answer["flow_run_id"])
    assert run.name == answer["name"]
    assert run.parameters == {"use_case": "fraud", "reason": "new rules", "release_if_better": True}
    assert answer["page"] == f"{api.removesuffix('/api')}/runs/flow-run/{run.id}"


@pytest.mark.parametrize(
    ("api", "page"),
    [
        ("http://127.0.0.1:4200/api", "http://127.0.0.1:4200"),
        (
            "https://api.prefect.cloud/api/accounts/a1/workspaces/w2",
            "https://app.prefect.cloud/account/a1/workspace/w2",
        ),
    ],
)
def test_pages_are_beside_the_api(monkeypatch: pytest.MonkeyPatch, api: str, page: str) -> None:
    """A server's own pages, Prefect Cloud's, or what the setting says."""
    monkeypatch.delenv("PREFECT_UI_URL", raising=False)
    assert retraining.pages(api) == page
    monkeypatch.setenv("PREFECT_UI_URL", "https://prefect.example.com/")
    assert retraining.pages(api) == "https://prefect.example.com"
