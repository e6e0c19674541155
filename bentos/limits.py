"""What a request may cost before anything reads it: the bytes and the time of its body, and the form that it is in.

The body is read here, counted and timed piece by piece, and handed on whole. A request that breaks a limit, or whose
client leaves before all of it is there, reaches no route.
"""

import asyncio
import os
import types
from collections.abc import Callable, Coroutine, Generator, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bentos.protocols.columns import Refused
from bentos.protocols.exchange import Shape, check_parts, is_json
from bentos.runtime import metrics
from bentos.runtime.scoring.inputs import MAX_ROWS

SIZE, PAUSE, TOTAL = "BENTOFLOW_MAX_BODY_BYTES", "BENTOFLOW_BODY_PAUSE_S", "BENTOFLOW_BODY_TOTAL_S"
BODIES = 8  # of the largest size may be held at once by a worker, whatever the number of connections
MAX_PARTS = 10 * MAX_ROWS  # objects and lists in rows; a good row has one or two
LINGER_S = 1.0  # for how long the rest of a refused body is read and dropped, so that its sender sees the refusal
JSON = b"application/json"


@dataclass(frozen=True)
class Bounds:
    """Of one body: bytes at most, seconds until its next piece comes, and seconds from the first to the last."""

    size: int = 32 * 2**20
    pause_s: float = 10.0
    total_s: float = 60.0


def bounds() -> Bounds:
    """The bounds that the environment sets; ValueError names a setting that is no number above zero."""
    usual = Bounds()
    return Bounds(
        int(_setting(SIZE, usual.size)), float(_setting(PAUSE, usual.pause_s)), float(_setting(TOTAL, usual.total_s))
    )


def _setting(name: str, usual: float) -> float:
    text = os.environ.get(name, "").strip()
    try:
        value = float(text or usual)
    except ValueError:
        value = 0.0
    if not 0 < value < 2**53:
        raise ValueError(f"{name} is {text!r}; give a number above 0, or leave it out for {usual}")
    return value


class Limits:
    """ASGI: hands on requests whose body is within `bounds`, in one piece, and refuses the others.

    `shape` gives the form of an error for a path. `forms` has, for the paths whose bodies are JSON, the media types
    that they take besides. What is refused is counted for `use_case`.
    """

    def __init__(
        self,
        app: ASGIApp,
        bounds: Bounds,
        *,
        use_case: str,
        shape: Callable[[str], Shape],
        forms: Mapping[str, frozenset[bytes]],
    ) -> None:
        self.app, self._bounds, self._use_case, self._shape, self._forms = app, bounds, use_case, shape, forms
        self._size = bounds.size
        self._held = 0  # bytes of bodies in more than one piece

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        held = 0
        try:
            message, held = await self._read(scope, receive)
            if message["type"] == "http.disconnect":
                await send({"type": "http.response.start", "status": 400, "headers": []})  # nobody reads it
                await send({"type": "http.response.body"})
                return
            self._readable(scope, message["body"])
        except (Refused, TimeoutError) as error:
            self._held -= held
            refused = error if isinstance(error, Refused) else self._too_slow()
            await self._refuse(refused, scope, receive, send)
            return
        try:
            await self.app(scope, once(message, receive), send)
        finally:
            self._held -= held

    async def _read(self, scope: Scope, receive: Receive) -> tuple[Message, int]:
        """The body in one message, or the client's leaving, and how many bytes count as held."""
        for name, value in scope["headers"]:
            if name == b"content-length" and int(value) > self._size:
                raise self._too_large(f"{int(value)} bytes")
        message = await arrived(receive, self._bounds.pause_s)
        if message.get("more_body"):
            return await self._whole(message, receive)
        if len(body := message.get("body", b"")) > self._size:
            raise self._too_large(f"{len(body)} bytes")
        return (message if "body" in message else {**message, "body": b""}), 0

    async def _whole(self, message: Message, receive: Receive) -> tuple[Message, int]:
        """The body's pieces as one message, and how many bytes of it count as held."""
        loop, body = asyncio.get_running_loop(), bytearray()
        over, most = loop.time() + self._bounds.total_s, BODIES * self._size
        try:
            while True:
                piece = message.get("body", b"")
                body += piece
                self._held += len(piece)
                if len(body) > self._size:
                    raise self._too_large(f"more than {self._size} bytes")
                if self._held > most:
                    raise Refused(503, f"bodies of more than {most} bytes are held already; retry later")
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    break
                message = await arrived(receive, min(self._bounds.pause_s, over - loop.time()))
        except BaseException:
            self._held -= len(body)
            raise
        if message["type"] == "http.disconnect":
            self._held -= len(body)
            return message, 0
        return {"type": "http.request", "body": bytes(body), "more_body": False}, len(body)

    def _readable(self, scope: Scope, body: bytes) -> None:
        """Refused if the body is in a form that the path does not take, or would be too large once it is decoded."""
        headers = dict(scope["headers"])
        if b"content-encoding" in headers and headers[b"content-encoding"].strip().lower() not in (b"", b"identity"):
            raise Refused(415, "a content encoding is not supported; send the body as it is")
        if (others := self._forms.get(scope["path"])) is None or scope["method"] != "POST":
            return
        given = headers.get(b"content-type", JSON)
        if given != JSON and given.partition(b";")[0].strip().lower() in others:
            return
        if given != JSON and not is_json(text := given.decode("latin-1")):
            taken = ", ".join(form.decode() for form in (JSON, *sorted(others)))
            raise Refused(415, f"content type {text!r:.80} is not supported; send {taken} in UTF-8")
        check_parts(body, MAX_PARTS)

    def _too_large(self, size: str) -> Refused:
        what = f"the body has {size}; a request may have {self._size}"
        return Refused(413, f"{what}. Send its rows in several requests, or raise {SIZE} where the service is started")

    def _too_slow(self) -> Refused:
        each, total = self._bounds.pause_s, self._bounds.total_s
        return Refused(
            408, f"the body did not arrive: each piece must come within {each:g} s and all within {total:g} s"
        )

    async def _refuse(self, refused: Refused, scope: Scope, receive: Receive, send: Send) -> None:
        """Send a refusal; where the body is not read to its end, the connection ends with it."""
        metrics.count_errors(self._use_case, [refused.status])
        response = self._shape(scope["path"])(refused)
        unread = refused.status in (408, 413, 503)
        if unread:
            response.headers["connection"] = "close"
        if refused.status == 503:
            response.headers["retry-after"] = "1"
        await send({"type": "http.response.start", "status": refused.status, "headers": response.raw_headers})
        await send({"type": "http.response.body", "body": response.body, "more_body": unread})
        if unread:
            if refused.status != 408 and not any(name == b"expect" for name, _ in scope["headers"]):
                await _drop(receive)
            await send({"type": "http.response.body"})


async def arrived(receive: Receive, seconds: float) -> Message:
    """The next message; TimeoutError if it does not come within the seconds.

    Most are there already. Then no timer is set, which would cost more than all else that is done here.
    """
    coming: Any = receive()
    try:
        pending = coming.send(None)
    except StopIteration as there:
        message: Message = there.value
        return message
    async with asyncio.timeout(seconds):
        return await _continued(coming, pending)


@types.coroutine
def _continued(coming: Coroutine[Any, Any, Message], pending: Any) -> Generator[Any, Any, Message]:
    """What is left of a coroutine that waits for `pending`."""
    try:
        yield pending
        return (yield from coming)  # type: ignore[misc]
    finally:
        coming.close()


async def _drop(receive: Receive) -> None:
    """Read on for a while without keeping anything: closing at once could destroy the refusal on its way."""
    loop = asyncio.get_running_loop()
    over = loop.time() + LINGER_S
    try:
        while loop.time() < over:
            message = await arrived(receive, over - loop.time())
            if message["type"] == "http.disconnect" or not message.get("more_body"):
                return
    except TimeoutError:
        return


def once(message: Message, receive: Receive) -> Receive:
    """A `receive` that gives the message, then what comes."""
    waiting = [message]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again
