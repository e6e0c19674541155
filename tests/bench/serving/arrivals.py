"""The open-loop load: requests that are due at fixed times, whether or not earlier ones were answered.

A client that waits for its answer before it sends again asks less of a slow server, and times only what it sent: a
stall of a second costs it one slow answer, and real callers a second's worth of them (coordinated omission). Here a
request's latency runs from the time it was due, so waiting for a free connection counts.
"""

import gc
import select
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.bench.serving.processes import CLIENT_CORES, on_cores

Floats = np.ndarray[Any, np.dtype[np.float64]]
NONE, BROKEN = -1, 0  # in place of a status


@dataclass(frozen=True)
class Arrivals:
    """What became of the requests of one run, each by its place in the order that they were due."""

    latency_s: Floats  # from due to answered; of an unanswered one how long it had waited when the run ended
    late_s: Floats  # from due to sent: waiting for a connection, and what the generator itself was late
    answered: Any  # bool: whether it was answered with 2xx
    non_2xx: int
    broken: int  # connections that the server closed instead of answering

    def percentile_ms(self, q: float) -> float:
        """A percentile of the latencies, in ms; a lower bound if more than 100 - q percent have no answer."""
        return float(np.percentile(self.latency_s, q, method="higher") * 1e3)

    @property
    def share(self) -> float:
        """How many of the requests were answered with 2xx by the end of the run."""
        return float(np.mean(self.answered))


class Connection:
    """One keep-alive connection with at most one request under way."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self.socket = socket.create_connection(address, timeout=10)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.request = -1
        self._received = b""

    def fileno(self) -> int:
        """For select."""
        return self.socket.fileno()

    def send(self, request: int, content: bytes) -> None:
        """Send one request; OSError if the server does not take it whole."""
        self.request, self._received = request, b""
        if self.socket.send(content) != len(content):
            raise OSError("the request is larger than the socket's buffer")

    def again(self) -> "Connection":
        """A new connection in place of this one."""
        self.socket.close()
        return Connection(self._address)

    def receive(self) -> int | None:
        """The status of the answer once it is whole, None before, BROKEN if the connection ends."""
        try:
            part = self.socket.recv(262_144)
        except ConnectionError:
            part = b""
        if not part:
            return BROKEN
        self._received += part
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return None
        return int(head[9:12]) if len(body) >= _length(head) else None


def _length(head: bytes) -> int:
    found = head.lower().find(b"\r\ncontent-length:")
    if found < 0:
        raise OSError(f"an answer without Content-Length: {head[:200]!r}")
    return int(head[found + 17 :].partition(b"\r\n")[0])


def compose(url: str, headers: Sequence[tuple[str, str]], body: bytes) -> bytes:
    """A POST as it goes over the wire; `url` is http://host:port/path."""
    host, _, path = url.removeprefix("http://").partition("/")
    lines = [f"POST /{path} HTTP/1.1", f"Host: {host}", *(f"{k}: {v}" for k, v in headers)]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def drive(
    url: str,
    bodies: Sequence[bytes],
    headers: Sequence[tuple[str, str]],
    *,
    rate: float,
    seconds: float,
    connections: int = 64,
    patience_s: float = 1.0,
) -> Arrivals:
    """Send `rate` requests a second, evenly spaced, over at most `connections` connections.

    Whoever waits when all are busy takes the next free one, first come first served. The run ends when all are
    answered, or `patience_s` after the last was due.
    """
    host, _, port = url.removeprefix("http://").partition("/")[0].partition(":")
    requests = [compose(url, headers, body) for body in bodies]
    with on_cores(CLIENT_CORES), _quiet():
        pool = [Connection((host, int(port))) for _ in range(connections)]
        try:
            return _run(pool, requests, rate=rate, n=round(rate * seconds), patience_s=patience_s)
        finally:
            for connection in pool:
                connection.socket.close()


def _run(pool: list[Connection], requests: list[bytes], *, rate: float, n: int, patience_s: float) -> Arrivals:
    clock, idle, busy, following = time.perf_counter, list(pool), dict[int, Connection](), 0
    sent, done, statuses = np.full(n, np.nan), np.full(n, np.nan), np.full(n, NONE)
    due = clock() + 0.01 + np.arange(n) / rate
    times, end = due.tolist(), float(due[-1]) + patience_s
    while (following < n or busy) and (now := clock()) < end:
        while following < n and times[following] <= now and idle:
            connection = idle.pop()
            connection.send(following, requests[following % len(requests)])
            busy[connection.fileno()] = connection
            sent[following] = now = clock()
            following += 1
        until = min(times[following], end) if following < n and idle else end
        for number in select.select(list(busy), (), (), max(0.0, until - clock()))[0]:
            connection = busy[number]
            if (status := connection.receive()) is not None:
                done[connection.request], statuses[connection.request] = clock(), status
                del busy[number]
                if status == BROKEN:
                    pool.append(connection := connection.again())
                idle.append(connection)
    finished, answered = clock(), (statuses >= 200) & (statuses < 300)
    return Arrivals(
        latency_s=np.where(answered, done, finished) - due,
        late_s=np.where(np.isnan(sent), finished, sent) - due,
        answered=answered,
        non_2xx=int(((statuses >= 100) & ~answered).sum()),
        broken=int((statuses == BROKEN).sum()),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without garbage collections, each of which would be a late request."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
