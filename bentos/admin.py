"""Admin routes, those that change something: off unless a token is set, and then for those who send it alone."""

import hmac
import os
from collections.abc import Iterable

import orjson
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

TOKEN = "BENTOFLOW_ADMIN_TOKEN"


class Admin:
    """ASGI: hands a request for one of the routes, or a path below it, on if it brings the token.

    404 while no token is set, 401 without the right one. The token is read at each request, and neither it nor what
    was sent in its place is logged or answered.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[str]) -> None:
        self.app, self._routes = app, frozenset(routes)
        self._below = tuple(f"{route.rstrip('/')}/" for route in self._routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = self._refusal(scope) if scope["type"] == "http" and self._guards(scope["path"]) else None
        await (response or self.app)(scope, receive, send)

    def _guards(self, path: str) -> bool:
        return path in self._routes or path.startswith(self._below)

    def _refusal(self, scope: Scope) -> Response | None:
        if scope["method"] == "OPTIONS":  # of CORS, which brings no token and changes nothing
            return None
        token = os.environ.get(TOKEN, "").strip()
        if not token:
            return _error(404, f"this route is off; set {TOKEN} where the service is started", {})
        given = dict(scope["headers"]).get(b"authorization", b"")
        if not hmac.compare_digest(given, b"Bearer " + token.encode()):
            return _error(401, f"send `Authorization: Bearer` with {TOKEN}", {"www-authenticate": "Bearer"})
        return None


def _error(status: int, text: str, headers: dict[str, str]) -> Response:
    return Response(orjson.dumps({"error": text}), status, headers, media_type="application/json")
