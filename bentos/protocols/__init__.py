"""What the service speaks beside its own /predict: MLflow's scoring protocol, Open Inference v2, TF-Serving v1, Arrow.

All of them bring their rows to the same predictor and get the same scores, journalled and counted alike. A call is
answered as a whole: if one row has no answer the call is an error that names it, and nothing of it is journalled.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from bentos.protocols import arrow, inference, invocations, tfserving
from bentos.protocols.columns import Field, Refused
from bentos.protocols.exchange import Call, Handler, Shape, exchange, plain_error

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")  # a wrong one is refused in a protocol's shape
MODEL = "/models/{name}"
VERSION = MODEL + "/versions/{version}"
# The first that matches answers: a name may have any sign but /, so the longer paths stand first.
HANDLERS: tuple[tuple[str, str, Handler, Shape], ...] = (
    ("POST", "/invocations", invocations.invocations, invocations.problem),
    ("GET", "/ping", invocations.ping, invocations.problem),
    ("GET", "/version", invocations.version, invocations.problem),
    ("GET", "/v1/models", tfserving.models, plain_error),
    *(("POST", f"/v1{model}:predict", tfserving.predict, plain_error) for model in (MODEL, VERSION)),
    *(("GET", f"/v1{model}", tfserving.model, plain_error) for model in (MODEL, VERSION)),
    ("GET", "/v2", inference.server, plain_error),
    ("GET", "/v2/health/live", inference.live, plain_error),
    ("GET", "/v2/health/ready", inference.ready, plain_error),
    *(("GET", f"/v2{model}", inference.model, plain_error) for model in (MODEL, VERSION)),
    *(("GET", f"/v2{model}/ready", inference.model_ready, plain_error) for model in (MODEL, VERSION)),
    *(("POST", f"/v2{model}/infer", inference.infer, plain_error) for model in (MODEL, VERSION)),
)


def shape_of(path: str, prefix: str = "") -> Shape:
    """The form of an error at a path: its protocol's, /predict's own for all others."""
    top = path.removeprefix(prefix)
    return next((shape for _, route, _, shape in HANDLERS if route == top), plain_error)


class Protocols:
    """ASGI: answers the routes of the protocols, and hands on the rest.

    `fields` are those of a row's own. `service` gives the running service, None before it has started; `prefix` stands
    before every route.
    """

    def __init__(
        self, app: ASGIApp, *, fields: Mapping[str, Field], service: Callable[[], Any], prefix: str = ""
    ) -> None:
        self.app, self._fields, self._service = app, fields, service
        self._predict = f"{prefix}/predict"
        self._tops = frozenset(f"{prefix}{top}" for top in ("/v1", "/v2", "/invocations", "/ping", "/version"))
        self._depth = prefix.count("/") + 2
        routes = [
            Route(prefix + path, partial(self._run, handler, shape, method), methods=METHODS)
            for method, path, handler, shape in HANDLERS
        ]
        self._router = Router(routes, redirect_slashes=False, default=app)

    def takes(self, scope: Scope) -> bool:
        """Whether a request may be one of a protocol's."""
        if scope["type"] != "http":
            return False
        path: str = scope["path"]
        if path == self._predict:
            return scope["method"] == "POST" and _arrow(scope)
        return "/".join(path.split("/", self._depth)[: self._depth]) in self._tops

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self.takes(scope):
            await self.app(scope, receive, send)
        elif scope["path"] == self._predict:
            response = await self._run(arrow.predict, arrow.problem, "POST", Request(scope, receive))
            await response(scope, receive, send)
        else:
            await self._router(dict(scope), receive, send)

    async def _run(self, handler: Handler, shape: Shape, method: str, request: Request) -> Response:
        async def made() -> Call:
            if request.method not in (method, "HEAD" if method == "GET" else method):
                raise Refused(405, f"{request.method} is not what this route takes; send {method}")
            service = self._service()
            if service is None:
                raise Refused(503, "the service has not started yet")
            body = await request.body() if request.method == "POST" else b""
            return Call(request, service.predictor, self._fields, body)

        return await exchange(made, handler, shape)


class Beside(BaseRoute):
    """The protocols as a route among others, behind whatever middlewares an application has."""

    def __init__(self, protocols: Protocols) -> None:
        self._protocols = protocols

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """All that may be a protocol's."""
        return (Match.FULL if self._protocols.takes(scope) else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer it."""
        await self._protocols(scope, receive, send)


def _arrow(scope: Scope) -> bool:
    headers = dict(reversed(scope["headers"]))  # the first of several counts, as in starlette
    return arrow.wanted(
        headers.get(b"content-type", b"").decode("latin-1"), headers.get(b"accept", b"").decode("latin-1")
    )
