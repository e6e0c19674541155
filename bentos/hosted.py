"""Routes that a host names in the environment, as Vertex AI does; they answer as /invocations and /ping do.

https://cloud.google.com/vertex-ai/docs/predictions/custom-container-requirements
"""

from collections.abc import Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

NAMED = {"AIP_PREDICT_ROUTE": "/invocations", "AIP_HEALTH_ROUTE": "/ping"}


class Hosted:
    """ASGI: a request for a route that the host named goes to ours."""

    def __init__(self, app: ASGIApp, routes: Mapping[str, str]) -> None:
        self.app, self._routes = app, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (ours := self._routes.get(scope["path"])) is not None:
            scope = {**scope, "path": ours, "raw_path": ours.encode()}
        await self.app(scope, receive, send)


def hosted(app: ASGIApp, env: Mapping[str, str], prefix: str = "") -> ASGIApp:
    """The app with the routes of the environment, or the app itself where it names none but our own."""
    routes = {route: prefix + ours for name, ours in NAMED.items() if (route := env.get(name)) not in (None, "", ours)}
    return Hosted(app, routes) if routes else app
