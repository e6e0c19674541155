"""Refusals: what BentoML itself answers a prediction with before a row was made of it, counted like any other error."""

from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bentos.runtime import metrics

NAMED = b"x-request-id"  # a reply that our routes composed has it, and its rows are counted already


class Refusals:
    """ASGI: counts one row without an answer for each reply of 400 and above that none of our routes composed."""

    def __init__(self, app: ASGIApp, routes: Collection[str], *, use_case: str) -> None:
        self.app, self._routes, self._use_case = app, frozenset(routes), use_case

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            refused = message["type"] == "http.response.start" and message["status"] >= 400
            if refused and all(name.lower() != NAMED for name, _ in message["headers"]):
                metrics.count_errors(self._use_case, [message["status"]])
            await send(message)

        found = scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in self._routes
        await self.app(scope, receive, counted if found else send)
