"""The hot route: well-formed predictions answered ahead of BentoML's middlewares, everything else by BentoML as ever.

A request that passes all middlewares and pydantic costs about 500 microseconds more than its answer does. This route
reads the body once and answers only what it is sure of: JSON in the exact shape of the use case's row, or a list of
such. Anything else (a malformed body or row, another content type, too many rows) goes on to BentoML with its body, so
statuses and messages of refusals are written in one place.
"""

import os
import time
from functools import partial
from typing import Any

import bentoml
import orjson
from _bentoml_sdk import Service
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.service.openapi.specification import MediaType, OpenAPISpecification, PathItem, Schema
from pydantic import BaseModel
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bentos.admin import Admin
from bentos.limits import Limits, bounds
from bentos.protocols import Beside, Protocols, shape_of
from bentos.protocols.arrow import STREAM
from bentos.protocols.columns import Keys
from bentos.protocols.documents import documented, own
from bentos.runtime import metrics
from bentos.runtime.answers import Answer, RowError
from bentos.runtime.batcher import Overloaded
from bentos.runtime.scoring.inputs import MAX_KEY, MAX_ROWS, NUMBERS

current_service = bentoml.get_current_service  # once: the package looks every name up anew
JSON = (b"content-type", b"application/json")
BODY = f"JSON in UTF-8, at most {MAX_ROWS:,} rows. Of a name that stands twice in an object the last one counts."
ARROW = STREAM.encode()


class HotService(Service[Any]):
    """A BentoML service whose worker gets the hot route in front of its ASGI app, and limits in front of all.

    Without an `entity` there is no hot route. With CORS or another middleware than our own the route steps aside, since
    they would not see what it answers.
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
        shape = partial(shape_of, prefix=prefix)
        return Limits(self._answering(app, prefix, routes), bounds(), use_case=self.name, shape=shape, forms=forms)

    def _answering(self, bento: Any, prefix: str, routes: dict[str, str]) -> ASGIApp:
        """BentoML's app behind the faster routes; what is no prediction is an admin route."""
        app: ASGIApp = Admin(bento, [route for name, route in routes.items() if not is_prediction(name)])
        others = [m for m, _ in self.middlewares if not getattr(m, "sees_no_predictions", False)]
        aside = bool(others) or BentoMLContainer.http.cors.enabled.get()
        if self._row is not None:
            speak = partial(Protocols, keys=Keys(self._row, self.entity), service=current_service, prefix=prefix)
            if aside:
                bento.router.routes.insert(0, Beside(speak(bento.router.default)))
            else:
                app = speak(app)
        return app if aside or not self.entity else HotRoute(app, self.entity, f"{prefix}/predict")

    @property
    def openapi_spec(self) -> OpenAPISpecification:
        """BentoML's document, with the other protocols' routes."""
        spec = super().openapi_spec
        for name, api in self.apis.items():
            if (operation := spec.paths[api.route].post if api.route in spec.paths else None) is None:
                continue
            operation["responses"].update(own(admin=not is_prediction(name)))
            operation["description"] = f"{operation.get('description', '')}\n\n{BODY}".strip()
        spec.paths["/readyz"].get.responses[503] = {"description": "Why nothing can answer now"}
        if self._row is not None:
            paths = documented(self.name, self.entity)
            spec.paths.update({path: PathItem(**operations) for path, operations in paths.items()})
            predict = spec.paths["/predict"].post
            for body in (predict["requestBody"], predict["responses"][200]):
                content = body["content"] if isinstance(body, dict) else body.content
                content[STREAM] = MediaType(schema=Schema(type="string", format="binary"))
        return spec

    @property
    def _row(self) -> type[BaseModel] | None:
        """The model of a row, None if /predict takes something else; the other protocols need rows."""
        return getattr(self.apis["predict"].input_spec, "row", None) if self.entity else None


def is_prediction(name: str) -> bool:
    """Whether an API of a service answers rows; every other one is taken to change something, and needs the token."""
    return name.startswith("predict")


class HotRoute:
    """ASGI: answers POST /predict where it can, and hands on the rest."""

    def __init__(self, app: ASGIApp, entity: str, path: str) -> None:
        self.app, self.entity, self.path = app, entity, path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != self.path or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = dict(reversed(scope["headers"]))  # the first of several counts, as in starlette
        message = await receive()
        messages, body = [message], message.get("body", b"")
        while message.get("more_body"):
            message = await receive()
            messages.append(message)
        if len(messages) > 1:
            body = b"".join([m.get("body", b"") for m in messages])
        plain = message["type"] == "http.request" and ARROW not in headers.get(b"accept", b"")
        rows = self._rows(headers.get(b"content-type"), body) if plain else None
        service = current_service()
        if rows is None or service is None:
            await self.app(scope, _replay(messages, receive), send)
            return
        single = not isinstance(rows, list)
        arm = headers.get(b"x-bentoflow-arm", b"").decode("latin-1") or None
        smoke = headers.get(b"x-bentoflow-smoke") == b"1"
        try:
            results = await service.predictor.answer([rows] if single else rows, arm=arm, smoke=smoke, checked=True)
            status, name, content = compose(results, single=single)
        except Overloaded as error:
            status, name, content = refuse(error)
        fields = [JSON, (b"content-length", b"%d" % len(content)), (b"x-request-id", name.encode())]
        if status == 503:
            fields.append((b"retry-after", b"1"))
        await send({"type": "http.response.start", "status": status, "headers": fields})
        await send({"type": "http.response.body", "body": content})
        metrics.count_request(service.predictor.use_case, time.perf_counter() - started)

    def _rows(self, media_type: bytes | None, body: bytes) -> Any:
        """The decoded row or rows, None unless every one is exactly as the use case's schema wants it."""
        if media_type is not None and media_type.partition(b";")[0].strip() != b"application/json":
            return None
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError:
            return None
        if isinstance(value, list):
            return value if len(value) <= MAX_ROWS and all(map(self._exact, value)) else None
        return value if self._exact(value) else None

    def _exact(self, row: Any) -> bool:
        """Whether a row is {entity: whole number} or that with {"features": {name: number or null}}."""
        if type(row) is not dict or type(key := row.get(self.entity)) is not int or not 0 <= key <= MAX_KEY:
            return False
        if len(row) == 1:
            return True
        features = row.get("features", row)
        if len(row) > 2 or features is row:
            return False
        return features is None or (type(features) is dict and NUMBERS.issuperset(map(type, features.values())))


def refuse(error: Overloaded) -> tuple[int, str, bytes]:
    """Status, request id and JSON of the reply to a request that does not fit into the queue."""
    return 503, os.urandom(16).hex(), orjson.dumps(RowError(503, str(error)).dump())


def compose(results: list[Answer | RowError], *, single: bool) -> tuple[int, str, bytes]:
    """Status, request id and JSON of a whole reply: 207 if some rows of a list failed, else the first row's own."""
    if single:
        result = results[0]
        if isinstance(result, Answer):
            return 200, result.request_id, result.encoded
        return result.status, os.urandom(16).hex(), orjson.dumps(result.dump())
    parts = [r.encoded if isinstance(r, Answer) else orjson.dumps({"status": r.status, **r.dump()}) for r in results]
    failed = [r.status for r in results if isinstance(r, RowError)]
    status = 200 if not failed else failed[0] if len(failed) == len(results) else 207
    return status, os.urandom(16).hex(), b"[%b]" % b",".join(parts)


def _replay(messages: list[Message], receive: Receive) -> Receive:
    """A `receive` that gives what was read already, then what comes."""
    waiting = iter(messages)

    async def again() -> Message:
        found = next(waiting, None)
        return await receive() if found is None else found

    return again
