"""The hot route answers exactly as BentoML's own path does."""

import asyncio
import importlib
import json
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import astuple

from bentos.churn import ChurnRequest
from bentos.hot import Hot, HotRoutes, HotService, hot_routes
from bentos.limits import Bounds, Limits
from bentos.protocols.exchange import plain_error
from bentos.rows import one_or_many
from bentos.runtime.scoring.wire import ANY, Order

from .conftest import FRESH, GIVEN, OLD, UNKNOWN
from .shop import ShopRequest

A = Order(("a",))
BODIES = [
    {"user_id": FRESH},
    {"user_id": OLD},
    {"user_id": UNKNOWN},
    {"user_id": 0, "features": None},
    {"user_id": 1, "features": GIVEN},
    {"user_id": 1, "features": {**GIVEN, "spend": None}},
    {"user_id": 1, "features": {**GIVEN, "spend": 3}},
    {"user_id": 1, "features": {**GIVEN, "spend": 10**20}},
    {"user_id": 1, "features": {**GIVEN, "spend": 1e300}},
    {"user_id": 1, "features": {**GIVEN, "spend": True}},
    {"user_id": 1, "features": {**GIVEN, "spend": "3"}},
    {"user_id": 1, "features": {**GIVEN, "age": 3}},
    {"user_id": 1, "features": {}},
    {"user_id": 1, "features": []},
    {"user_id": 2**63 - 1},
    {"user_id": 2**63},
    {"user_id": 2**64},
    {"user_id": -1},
    {"user_id": 1.0},
    {"user_id": True},
    {"user_id": None},
    {"user_id": 1, "x": 2},
    {"features": GIVEN},
    {},
    [],
    [[]],
    None,
    5,
    [{"user_id": FRESH}, {"user_id": UNKNOWN}],
    [{"user_id": FRESH}, {"user_id": 5, "features": GIVEN}, {"user_id": 1, "features": {"visits": 1}}],
    [{"user_id": UNKNOWN}, {"user_id": "x"}],
    [{"user_id": 5, "features": GIVEN}, {"user_id": 6, "features": {**GIVEN, "visits": None}}],
]
RAW = [
    b"",
    b"{",
    b"\xff",
    b'{"user_id": NaN}',
    b'{"user_id": 1, "user_id": 2}',
    b'\xef\xbb\xbf{"user_id": 1}',
    b' {"user_id" : 1 }\n',
    b'{"user_id": 01}',
    b'{"user_id": 1}{}',
    b"[" * 2000,
    '{"user_id": 1, "features": {"é": 1}}'.encode(),
]


def replies(http, content: bytes) -> tuple[tuple, tuple]:
    """What both paths answer: BentoML takes every kind of JSON, the hot route leaves all but one alone."""
    found = []
    for media_type in ("application/json", "application/x-anything+json"):
        response = http.post("/predict", content=content, headers={"content-type": media_type})
        body = response.json()
        for row in body if isinstance(body, list) else [body]:
            row.pop("request_id", None)
        headers = {k: v for k, v in response.headers.items() if k in ("content-type", "retry-after")}
        assert "x-request-id" in response.headers or response.status_code == 400
        found.append((response.status_code, body, headers))
    return found[0], found[1]


@pytest.mark.parametrize(
    "content", [*(json.dumps(b).encode() for b in BODIES), *RAW], ids=lambda b: b[:48].decode("latin-1")
)
def test_both_paths_give_the_same_status_body_and_headers(http, content):
    """Status, messages, fields and scores do not depend on the path that a request took."""
    hot, slow = replies(http, content)
    assert hot == slow


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=3), st.just([]), st.just({})
)
features = st.dictionaries(st.sampled_from([*GIVEN, "age"]), scalars, max_size=4)
rows = st.fixed_dictionaries(
    {},
    optional={
        "user_id": st.one_of(st.integers(0, 10), scalars),
        "features": st.one_of(features, scalars),
        "x": scalars,
    },
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.one_of(rows, st.lists(st.one_of(rows, scalars), max_size=4)))
def test_any_body_gets_the_same_reply_on_both_paths(http, body):
    """Whatever is posted, the hot route is a matter of speed only."""
    hot, slow = replies(http, json.dumps(body).encode())
    assert hot == slow


def test_a_good_request_never_reaches_bentomls_app():
    """Well-formed rows are taken by the hot route, malformed ones are left to BentoML."""
    hot = Hot(ChurnRequest, single=True)
    one, [listed] = hot.rows(b'{"user_id": 3}', ANY), hot.rows(b'[{"user_id": 3, "features": {"a": null}}]', A)
    assert (one["user_id"], one.get("features"), "age" in one) == (3, None, False)
    assert (listed["user_id"], astuple(listed["features"]), listed["features"].order) == (3, (None,), A)
    assert hot.rows(b'[{"user_id": 3, "features": {"a": 1}}]', ANY)[0]["features"] == {"a": 1.0}
    assert hot.rows(b'{"user_id": 3, "features": {"a": 1}}', Order(("b",))) is None
    assert hot.rows(b'{"user_id": "3"}', ANY) is None
    assert hot.rows(json.dumps([{"user_id": 3}] * 10_001).encode(), ANY) is None
    assert Hot(ChurnRequest, single=False).rows(b'{"user_id": 3}', ANY) is None


@pytest.mark.parametrize(
    ("module", "name", "routes"),
    [("churn", "Churn", {"/x/predict"}), ("fraud", "Fraud", {"/x/predict", "/x/predict/batch"})],
)
def test_every_route_that_takes_rows_is_hot(module, name, routes):
    """A service's own schema is simple enough; what is no row, such as /retrain, stays BentoML's."""
    service = getattr(importlib.import_module(f"bentos.{module}"), name)
    assert set(hot_routes(service, "/x")) == routes


def test_a_body_in_pieces_is_put_together_and_handed_on_whole(monkeypatch):
    """BentoML's app reads the body that the hot route read."""
    monkeypatch.setattr("bentos.hot.current_service", lambda: SimpleNamespace(predictor=SimpleNamespace(order=ANY)))

    async def main():
        seen = []

        async def app(scope, receive, send):
            seen.append(await receive())

        waiting = [
            {"type": "http.request", "body": b'{"user', "more_body": True},
            {"type": "http.request", "body": b'_id": "x"}', "more_body": False},
        ]

        async def receive():
            return waiting.pop(0)

        scope = {"type": "http", "path": "/predict", "method": "POST", "headers": []}
        hot = HotRoutes(app, {"/predict": Hot(ChurnRequest, single=True)})
        await Limits(hot, Bounds(), use_case="churn", shape=lambda path: plain_error, forms={})(scope, receive, None)
        assert seen == [{"type": "http.request", "body": b'{"user_id": "x"}', "more_body": False}]

    asyncio.run(main())


def test_another_middleware_makes_the_route_step_aside():
    """What somebody puts in front of predictions sees every prediction."""
    import bentoml

    class Other:
        def __init__(self, app):
            self.app = app

    class Plain:
        @bentoml.api(input_spec=one_or_many(ChurnRequest, example={}))
        def predict(self, body, /) -> str:
            return ""

    service = bentoml.service(Plain, name="plain", service_class=HotService)
    service.entity = "user_id"
    assert isinstance(service.to_asgi().app, HotRoutes)
    service.add_asgi_middleware(Other)
    assert not isinstance(service.to_asgi().app, HotRoutes)


def test_texts_are_answered_ahead_of_bentomls_app_where_the_rows_schema_has_them():
    """A use case whose rows may bring texts is as hot as any; elsewhere a text goes on to the schema's own refusal."""
    body = b'{"user_id": 1, "features": {"a": 1, "country": "DE", "plan": null}}'
    expected = Order(("country", "plan", "a"), ("country", "plan"))
    for order in (expected, ANY):
        assert Hot(ChurnRequest, single=True).rows(body, order) is None
        assert Hot(ShopRequest, single=True).rows(body, order) is not None
    row = Hot(ShopRequest, single=True).rows(body, expected)
    assert astuple(row["features"]) == ("DE", None, 1.0)
    assert Hot(ShopRequest, single=True).rows(body.replace(b'"DE"', b"3"), expected) is None
    assert Hot(ShopRequest, single=True).rows(body.replace(b'"DE"', b'["DE"]'), ANY) is None
