"""The drain: a worker that is told to end answers what comes for a moment longer, and says that it closes.

On SIGTERM uvicorn closes connections that wait for a request at once, also those whose next request is on its way or
lies unread in a queue, which its client then finds reset without an answer. For `LINGER_S` the worker goes on, and
every reply carries `connection: close`, so that clients leave with an answer; then uvicorn shuts down as ever: what is
under way is answered, and the journal is closed.
"""

import asyncio
import signal
import threading
from types import FrameType

from starlette.types import Message, Send

LINGER_S = 0.5
CLOSE = (b"connection", b"close")

_begun = False


def begun() -> bool:
    """Whether this worker was told to end."""
    return _begun


def install() -> None:
    """Put the drain before the server's own handler of SIGTERM, from its event loop; nothing where there is none."""
    ending = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or not callable(ending):
        return
    loop = asyncio.get_running_loop()

    def begin(number: int, frame: FrameType | None) -> None:
        global _begun
        if _begun:  # asked twice: at once
            ending(number, frame)
            return
        _begun = True
        loop.call_soon_threadsafe(loop.call_later, LINGER_S, ending, number, frame)

    signal.signal(signal.SIGTERM, begin)


def closing(send: Send) -> Send:
    """A `send` whose reply says that the connection is closed after it."""

    async def last(message: Message) -> None:
        if message["type"] == "http.response.start":
            others = [field for field in message.get("headers", ()) if field[0].lower() != b"connection"]
            message = {**message, "headers": [*others, CLOSE]}
        await send(message)

    return last
