"""Hot routes: well-formed predictions answered ahead of BentoML's middlewares, everything else by BentoML as ever.

A request that passes all middlewares and pydantic costs about 500 microseconds more than its answer does. These
routes answer only what they are sure of: JSON in the exact shape of the use case's row, or a list of such. Anything
else (a malformed body or row, another content type, too many rows) goes on to BentoML with its body, so statuses and
messages of refusals are written in one place.
"""

import os
import time
from contextlib import suppress
from functools import cache, partial
from typing import Any

import bentoml
import orjson
from _bentoml_sdk import Service
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.service.openapi.specification import MediaType, OpenAPISpecification, PathItem, Schema
from pydantic import BaseModel
from starlette.types import ASGIApp, Receive, Scope, Send

from bentos import comparison, drain
from bentos.admin import Admin
from bentos.hosted import hosted
from bentos.limits import Limits, bounds, once
from bentos.protocols import Beside, Protocols, shape_of
from bentos.protocols.arrow import STREAM
from bentos.protocols.columns import own_fields
from bentos.protocols.documents import documented, own
from bentos.refusals import Refusals
from bentos.runtime import metrics
from bentos.runtime.answers import Answer, Results, RowError, encoded, errors
from bentos.runtime.batcher import Overloaded
from bentos.runtime.scoring.inputs import MAX_ROWS
from bentos.runtime.scoring.wire import ANY, Order, Unfit, Wire

current_service = bentoml.get_current_service  # once: the package looks every name up anew
JSON = (b"content-type", b"application/json")
BODY = f"JSON in UTF-8, at most {MAX_ROWS:,} rows. Of a name that stands twice in an object the last one counts."
ARROW = STREAM.encode()
DRIFT_CHECK = "drift_check"
READS = frozenset({DRIFT_CHECK})  # admin routes that answer at once


class HotService(Service[Any]):
    """A BentoML service whose worker gets the hot routes in front of its ASGI app, and limits in front of all.

    With CORS or another middleware than our own they step aside, since it would not see what they answer. `entity` is
    the field of a row that names it; the other protocols need one.
    """

    entity = ""

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """BentoML's app, behind the limits, the hot route and the other protocols."""
        app: Any = super().to_asgi(is_main=is_main)
        prefix = (self.path_prefix or "").rstrip("/")
        routes = {name: f"{prefix}{api.route}" for name, api in self.apis.items()}
        files = {name for name, api in self.apis.items() if getattr(api.input_spec, "multipart_fields", ())}
        forms = {route: frozenset[bytes]() for name, route in routes.items() if name not in files}
        if self._row is not None:
            forms[f"{prefix}/predict"] = frozenset({ARROW})
        if DRIFT_CHECK in routes:
            forms[routes[DRIFT_CHECK]] = frozenset(form.encode() for form in comparison.Tables.forms)
        shape = partial(shape_of, prefix=prefix)
        limited = Limits(self._answering(app, prefix, routes), bounds(), use_case=self.name, shape=shape, forms=forms)
        return hosted(limited, os.environ, prefix)

    def _answering(self, bento: Any, prefix: str, routes: dict[str, str]) -> ASGIApp:
        """BentoML's app behind the faster routes; what is no prediction is an admin route."""
        beside = comparison.Tables(bento, routes[DRIFT_CHECK], current_service) if DRIFT_CHECK in routes else bento
        asked = Refusals(beside, [r for name, r in routes.items() if is_prediction(name)], use_case=self.name)
        app: ASGIApp = Admin(asked, [route for name, route in routes.items() if not is_prediction(name)])
        others = [m for m, _ in self.middlewares if not getattr(m, "sees_no_predictions", False)]
        aside = bool(others) or BentoMLContainer.http.cors.enabled.get()
        if self._row is not None:
            speak = partial(Protocols, fields=own_fields(self._row), service=current_service, prefix=prefix)
            if aside:
                bento.router.routes.insert(0, Beside(speak(bento.router.default)))
            else:
                app = speak(app)
        hot = {} if aside else hot_routes(self, prefix)
        return HotRoutes(app, hot) if hot else app

    @property
    def openapi_spec(self) -> OpenAPISpecification:
        """BentoML's document, with the other protocols' routes."""
        spec = super().openapi_spec
        for name, api in self.apis.items():
            if (operation := spec.paths[api.route].post if api.route in spec.paths else None) is None:
                continue
            operation["responses"].update(own(admin=not is_prediction(name), begins=name not in READS))
            operation["description"] = f"{operation.get('description', '')}\n\n{BODY}".strip()
        if DRIFT_CHECK in self.apis:
            _take(spec.paths[self.apis[DRIFT_CHECK].route].post["requestBody"], *comparison.Tables.forms)
        spec.paths["/readyz"].get.responses[503] = {"description": "Why nothing can answer now"}
        if self._row is not None:
            paths = documented(self.name, self.apis["predict"].input_spec.example)  # type: ignore[attr-defined]
            spec.paths.update({path: PathItem(**operations) for path, operations in paths.items()})
            predict = spec.paths["/predict"].post
            for body in (predict["requestBody"], predict["responses"][200]):
                _take(body, STREAM)
        return spec

    @property
    def _row(self) -> type[BaseModel] | None:
        """The model of a row, None if /predict takes something else; the other protocols need rows."""
        return getattr(self.apis["predict"].input_spec, "row", None) if self.entity else None


def _take(body: Any, *forms: str) -> None:
    """Document media types of a body beside its JSON."""
    content = body["content"] if isinstance(body, dict) else body.content
    content.update({form: MediaType(schema=Schema(type="string", format="binary")) for form in forms})


def is_prediction(name: str) -> bool:
    """Whether an API of a service answers rows; every other one is taken to change something, and needs the token."""
    return name.startswith("predict")


class Hot:
    """A route that takes rows: decodes those of the releases that answer now."""

    def __init__(self, row: type[BaseModel], *, single: bool) -> None:
        self._wire = cache(partial(Wire, row, single=single))
        self._wire(ANY)  # Unfit, if it is

    def rows(self, body: bytes, order: Order) -> Any:
        """A row or a list of rows, None unless every one is exactly as the use case's schema wants it."""
        try:
            value = self._wire(order).decode(body)
        except Unfit:  # a feature's name, or texts where the schema has none
            value = self._wire(ANY).decode(body)
        return None if type(value) is list and len(value) > MAX_ROWS else value


def hot_routes(service: Service[Any], prefix: str) -> dict[str, Hot]:
    """The service's routes that take rows which can be decoded on the wire, by path."""
    found = {}
    for api in service.apis.values():
        if (row := getattr(api.input_spec, "row", None)) is not None:
            with suppress(Unfit):
                found[prefix + api.route] = Hot(row, single=api.input_spec.takes_one)
    return found


class HotRoutes:
    """ASGI: answers POST to the hot routes where it can, and hands on the rest."""

    def __init__(self, app: ASGIApp, hot: dict[str, Hot]) -> None:
        self.app, self.hot = app, hot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        hot = self.hot.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if hot is None or (service := current_service()) is None:
            await self.app(scope, receive, send)
            return
        if drain.begun():
            send = drain.closing(send)
        started = time.perf_counter()
        headers = dict(reversed(scope["headers"]))  # the first of several counts, as in starlette
        message = await receive()  # whole, since the limits read it
        rows = hot.rows(message.get("body", b""), service.predictor.order) if _json(headers) else None
        if rows is None:
            await self.app(scope, once(message, receive), send)
            return
        single = type(rows) is not list
        arm = headers.get(b"x-bentoflow-arm", b"").decode("latin-1") or None
        smoke = headers.get(b"x-bentoflow-smoke") == b"1"
        try:
            results = await service.predictor.answer([rows] if single else rows, arm=arm, smoke=smoke)
            status, name, content = compose(results, single=single)
        except Overloaded as error:
            status, name, content = refuse(error)
        fields = [JSON, (b"content-length", b"%d" % len(content)), (b"x-request-id", name.encode())]
        if status == 503:
            fields.append((b"retry-after", b"1"))
        await send({"type": "http.response.start", "status": status, "headers": fields})
        await send({"type": "http.response.body", "body": content})
        metrics.count_request(service.predictor.use_case, time.perf_counter() - started)


def _json(headers: dict[bytes, bytes]) -> bool:
    """Whether a request brings JSON and takes it."""
    media_type = headers.get(b"content-type", JSON[1])
    known = media_type == JSON[1] or media_type.partition(b";")[0].strip() == JSON[1]
    return known and ARROW not in headers.get(b"accept", b"")


def refuse(error: Overloaded) -> tuple[int, str, bytes]:
    """Status, request id and JSON of the reply to a request that does not fit into the queue."""
    return 503, os.urandom(16).hex(), orjson.dumps(RowError(503, str(error)).dump())


def compose(results: Results, *, single: bool) -> tuple[int, str, bytes]:
    """Status, request id and JSON of a whole reply: 207 if some rows of a list failed, else the first row's own."""
    if single:
        result = results[0]
        if isinstance(result, Answer):
            return 200, result.request_id, result.encoded
        return result.status, os.urandom(16).hex(), orjson.dumps(result.dump())
    if not (failed := errors(results)):
        return 200, os.urandom(16).hex(), encoded(results)
    parts = [r.encoded if isinstance(r, Answer) else orjson.dumps({"status": r.status, **r.dump()}) for r in results]
    status = failed[min(failed)].status if len(failed) == len(results) else 207
    return status, os.urandom(16).hex(), b"[%b]" % b",".join(parts)
