"""The open loop: latencies count from when a request was due, and what has no answer is not forgotten."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from tests.bench.serving.arrivals import Arrivals, drive

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
BUSY = OK.replace(b"200 OK", b"503 Busy")
Answer = Callable[[int], bytes | None]  # the n-th request's answer; b"" closes the connection, None says nothing


@contextmanager
def answering(answer: Answer) -> Iterator[str]:
    """A server on one thread, so that whatever holds up one request holds up all."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.01)
    over, connections, n = threading.Event(), list[socket.socket](), 0

    def serve() -> None:
        nonlocal n
        while not over.is_set():
            for connection in list(connections):
                try:
                    asked = connection.recv(65_536)
                except BlockingIOError:
                    continue
                except OSError:
                    asked = b""
                said = answer(n) if asked else b""
                n += bool(asked)
                if said == b"":
                    connections.remove(connection)
                    connection.close()
                elif said is not None:
                    connection.sendall(said)
            try:
                listener.settimeout(0.0005)
                connection = listener.accept()[0]
            except TimeoutError:
                continue
            connection.setblocking(False)
            connections.append(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/predict"
    finally:
        over.set()
        thread.join()
        for open_socket in (*connections, listener):
            open_socket.close()


def driven(answer: Answer, *, connections: int = 4, rate: float = 200, patience_s: float = 2.0) -> Arrivals:
    """One second of requests that are five milliseconds apart."""
    with answering(answer) as url:
        return drive(url, [b"{}"], [], rate=rate, seconds=1, connections=connections, patience_s=patience_s)


def test_a_stall_is_felt_by_every_request_that_was_due_in_it():
    """Four connections send four requests into half a second of silence; a hundred were due, and all of them waited."""

    def stalls(n: int) -> bytes:
        if n == 60:
            time.sleep(0.5)
        return OK

    run = driven(stalls)
    assert run.share == 1.0
    assert (run.latency_s > 0.1).sum() >= 70  # of the 80 that were due in its first 0.4 s
    assert run.latency_s.max() >= 0.45
    assert run.percentile_ms(75) > 100  # a closed loop would have seen 4 of 104
    assert (run.late_s > 0.1).sum() >= 60  # most had to wait for a connection


def test_refused_and_dropped_requests_are_counted_and_not_answered():
    """A 503 is no answer, however fast; nor is a closed connection, after which another one takes over."""
    run = driven(lambda n: BUSY if n % 10 == 3 else b"" if n % 10 == 7 else OK)
    assert (run.non_2xx, run.broken) == (20, 20)
    assert run.share == pytest.approx(0.8)


def test_requests_without_an_answer_count_with_how_long_they_waited():
    """A server that falls silent has no good percentiles because it answered the first few at once."""
    run = driven(lambda n: OK if n < 100 else None, patience_s=0.5)
    assert run.share == pytest.approx(0.5)
    assert run.latency_s[~run.answered].min() >= 0.5
    assert run.latency_s.max() >= 0.95  # due at half a second, given up after one and a half
    assert run.percentile_ms(51) >= 500
    assert (run.non_2xx, run.broken) == (0, 0)


def test_requests_go_out_when_they_are_due():
    """A server that keeps up gets a second's requests in a second, one after the other."""
    began = time.perf_counter()
    run = driven(lambda n: OK, rate=500, connections=16)
    assert len(run.latency_s) == 500
    assert time.perf_counter() - began >= 0.99
    assert run.share == 1.0
    assert run.late_s.min() >= 0


def test_a_percentile_is_one_that_was_measured_and_none_is_made_up_between():
    """The highest of ten is their 99th percentile."""
    latency = np.arange(1, 11) / 1e3
    run = Arrivals(latency, latency, np.ones(10, dtype=bool), 0, 0)
    assert (run.percentile_ms(50), run.percentile_ms(99)) == (pytest.approx(6), pytest.approx(10))
