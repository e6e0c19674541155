"""How the protocols are mounted: documented, not ready without a release, behind other middlewares, out of the way."""

import asyncio

import bentoml
import httpx
import orjson
import pyarrow as pa
import pytest
from pydantic import BaseModel

from bentos.protocols import HANDLERS, Protocols
from bentos.protocols.columns import Field, Layout, Refused, floats, own_fields
from bentos.runtime.predictor import Predictor
from bentos.runtime.rollouts import rollout
from bentos.runtime.rollouts.rollout import Arm, Rollout

from .conftest import FRESH, GIVEN, NAMES, answers, fill_store, serving, set_clock, wait_for

BODIES = {
    "/invocations": {"dataframe_records": [GIVEN]},
    "/v1/models/churn:predict": {"instances": [GIVEN]},
    "/v2/models/churn/infer": {
        "inputs": [{"name": n, "shape": [1], "datatype": "FP64", "data": [v]} for n, v in GIVEN.items()]
    },
}


@pytest.fixture(scope="module")
def marked(tmp_path_factory, spoken):
    """A server whose service has another middleware, and no release yet."""
    folder = tmp_path_factory.mktemp("marked")
    set_clock(folder)
    with serving(folder, spoken.models, log=folder / "log", service="tests.bentos.marked:Service") as server:
        yield server


def test_every_route_is_in_the_document_and_its_sample_is_a_request(http):
    """/docs.json names each protocol's route with a body that the service takes, and Arrow beside JSON at /predict."""
    paths = http.get("/docs.json").json()["paths"]
    for method, path, *_ in HANDLERS:
        assert method.lower() in paths[path.replace("{name}", "churn")], path
    for path, item in paths.items():
        for media_type, body in item.get("post", {}).get("requestBody", {}).get("content", {}).items():
            if path != "/predict" and "example" in body:
                content = body["example"]
                content = content.encode() if isinstance(content, str) else orjson.dumps(content)
                at = path.replace("{version}", "1")
                response = http.post(at, content=content, headers={"content-type": media_type})
                assert "no user_id 17" in response.text, at  # read and understood; the stand-in does not know them
    for part in ("requestBody", "responses"):
        found = paths["/predict"]["post"][part]
        found = found["200"] if part == "responses" else found
        assert "application/vnd.apache.arrow.stream" in found["content"]


@pytest.mark.integration
def test_without_a_release_every_protocol_says_so_in_its_own_way(marked):
    """Live but not ready, 404 for MLflow's ping, and 503 with Retry-After for what asks for an answer."""
    with httpx.Client(base_url=marked.url, timeout=30) as client:
        assert client.get("/v2/health/live").json() == {"live": True}
        ready = client.get("/v2/health/ready")
        assert (ready.status_code, ready.json(), ready.headers["retry-after"]) == (503, {"ready": False}, "1")
        assert client.get("/ping").status_code == 404
        assert client.get("/v1/models").json() == {"models": ["churn"]}
        for path in ("/v1/models/churn", "/v2/models/churn", "/v2/models/churn/ready"):
            assert client.get(path).status_code == 503
        for path, body in BODIES.items():
            response = client.post(path, json=body)
            assert (response.status_code, response.headers["retry-after"]) == (503, "1")
            assert "no release of churn is in charge" in response.text
        refused = client.post("/invocations", json=BODIES["/invocations"]).json()
        assert refused["error_code"] == "TEMPORARILY_UNAVAILABLE"


@pytest.mark.integration
def test_other_middlewares_see_the_protocols_too(marked, spoken):
    """With a middleware of their own a service's protocols are routes behind it, Arrow at /predict included."""
    fill_store(marked.home)
    rollout.write(rollout.rollout_path(marked.home, "churn"), Rollout((Arm("champion", "churn:v1", 1.0),)))
    wait_for(lambda: answers(marked.url, "/readyz"), what="readiness")
    with httpx.Client(base_url=marked.url, timeout=30) as client:
        for path, body in BODIES.items():
            response = client.post(path, json=body)
            assert (response.status_code, response.headers["x-marked"]) == (200, "yes"), response.text
        arrow = "application/vnd.apache.arrow.stream"
        response = client.post("/predict", json={"user_id": FRESH}, headers={"accept": arrow})
        assert (response.headers["content-type"], response.headers["x-marked"]) == (arrow, "yes")
        assert client.get("/v2/nothing").status_code == 404
        plain = client.post("/predict", json={"user_id": FRESH})
        assert (plain.status_code, plain.headers["x-marked"]) == (200, "yes")


def test_a_call_that_does_not_fit_into_the_queue_is_a_503(http, monkeypatch):
    """Each protocol says when to come back, and nothing of the call is answered."""
    predictor = bentoml.get_current_service().predictor
    monkeypatch.setattr(predictor._batcher, "_max_queued", 1)
    before = http.get("/health").json()["answered"]
    for path in ("/invocations", "/v1/models/churn:predict"):
        response = http.post(path, json={"instances": [GIVEN, GIVEN]})
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert "rows wait already" in response.text
    assert http.get("/health").json()["answered"] == before


@pytest.mark.parametrize(
    ("path", "prefix", "takes"),
    [
        ("/v2", "", True),
        ("/v2/models/x/infer", "", True),
        ("/invocations", "", True),
        ("/v2x", "", False),
        ("/predict", "", False),
        ("/livez", "", False),
        ("/", "", False),
        ("/a/v1/models", "/a", True),
        ("/a/b/v1/models", "/a/b", True),
        ("/v1/models", "/a", False),
    ],
)
def test_only_a_protocols_own_paths_are_taken(path, prefix, takes):
    """Everything else goes on to BentoML unread; a path prefix stands before every route."""
    from bentos.churn import ChurnRequest

    protocols = Protocols(None, fields=own_fields(ChurnRequest), service=lambda: None, prefix=prefix)
    scope = {"type": "http", "path": path, "method": "POST", "headers": []}
    assert protocols.takes(scope) is takes
    assert not protocols.takes({"type": "lifespan"})


def test_an_unexpected_error_is_a_500_that_tells_nothing(http, monkeypatch):
    """What went wrong stands in the log, not in the reply."""

    async def broken(self, *args, **how):
        raise RuntimeError("secret")

    monkeypatch.setattr(Predictor, "answer", broken)
    for path, body in BODIES.items():
        response = http.post(path, json=body)
        assert response.status_code == 500
        assert "secret" not in response.text
        assert "unexpected error" in response.text


def test_a_client_that_leaves_while_it_sends_is_nobodys_error(http, caplog):
    """A connection that ends in the middle of a body is logged as no failure."""

    async def main():
        async def receive():
            return {"type": "http.disconnect"}

        sent = []

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/invocations", "headers": [], "query_string": b""}
        await http.app(scope, receive, send)
        return sent

    assert asyncio.run(main())[0]["status"] == 400
    assert "a call failed" not in caplog.text


def test_metrics_count_calls_and_refusals(http):
    """A protocol's answers, refusals and requests are in the same metrics as /predict's."""

    from prometheus_client import REGISTRY

    def counted():
        assert http.get("/metrics").status_code == 200  # which exports what was counted
        names = ("bentoflow_predictions_total", "bentoflow_request_seconds_count", "bentoflow_prediction_errors_total")
        samples = [sample for family in REGISTRY.collect() for sample in family.samples]
        return [sum(sample.value for sample in samples if sample.name == name) for name in names]

    before = counted()
    http.post("/invocations", json={"instances": [GIVEN] * 3})
    http.post("/invocations", json={"instances": [{**GIVEN, "spend": "x"}]})
    assert [b - a for a, b in zip(before, counted(), strict=True)] == [3, 2, 1]


class TextKey(BaseModel):
    """A row whose entity has a text for a key."""

    card_id: str


def test_keys_of_text_are_checked_by_the_use_cases_own_schema():
    """Nothing here knows that a key is a number: the row's model says so."""
    fields = {"card_id": Field(TextKey, "card_id")}
    layout = Layout("card_id", NAMES, fields)
    assert layout.texts == {"card_id"}
    assert [row["card_id"] for row in layout.rows({"card_id": ["17", "x"]})] == ["17", "x"]
    with pytest.raises(Refused, match="row 1, card_id: Input should be a valid string"):
        layout.rows({"card_id": ["a", 5]})


@pytest.mark.parametrize("value", [10**400, -(10**400)])
def test_a_number_too_large_for_a_float_is_named(value):
    """Not an overflow somewhere, but the row and the field."""
    with pytest.raises(Refused, match="row 1, spend: is infinite or too large"):
        floats([1.0, value, None], "spend")


def test_the_hot_route_hands_a_body_that_it_has_read_to_the_protocols(http):
    """Arrow comes to the same path as JSON, in pieces: it is read once and whole."""
    sink = pa.BufferOutputStream()
    table = pa.table({"user_id": [FRESH, FRESH]})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    content = bytes(sink.getvalue())
    headers = {"content-type": "application/vnd.apache.arrow.stream", "accept": "application/json"}
    response = http.post("/predict", content=iter([content[:50], content[50:]]), headers=headers)
    assert [row["user_id"] for row in response.json()] == [FRESH, FRESH]
