"""The service with a middleware that somebody else put in front of its predictions; served by a test."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bentos.service import Service


class Marked:
    """Adds x-marked to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-marked", b"yes")]
            await send(message)

        await self.app(scope, receive, marked)


Service.add_asgi_middleware(Marked)
