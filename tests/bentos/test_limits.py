"""Real servers under abuse: bodies too large, too slow or in another form, half of one, and more rows than fit."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from bentos import admin, limits
from bentos.runtime import journal
from bentos.runtime.rollouts import rollout
from bentos.runtime.rollouts.rollout import Arm, Rollout

from .conftest import FRESH, GIVEN, Server, Spoken, answers, fill_store, serving, set_clock, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
SIZE, PAUSE_S, TOTAL_S = 200_000, 1.0, 2.5
TENSORS = {"inputs": [{"name": n, "shape": [1], "datatype": "FP64", "data": [v]} for n, v in GIVEN.items()]}
GOOD: dict[str, Any] = {
    "/predict": {"user_id": 1, "features": GIVEN},
    "/invocations": {"dataframe_records": [GIVEN]},
    "/v1/models/churn:predict": {"instances": [GIVEN]},
    "/v2/models/churn/infer": TENSORS,
}
OTHERS = ("/health", "/metrics", "/v2/health/ready", "/nothing")  # which take no body
TOKEN = "a-token-of-this-test"
PAYMENT = {"card_id": 1, "terminal_id": 2}
PAYMENTS = {"/predict": PAYMENT, "/predict/batch": [PAYMENT], "/retrain": {"reason": "x"}}
JSON = {"content-type": "application/json"}
ENV = {limits.SIZE: str(SIZE), limits.PAUSE: str(PAUSE_S), limits.TOTAL: str(TOTAL_S), admin.TOKEN: TOKEN}


@pytest.fixture(scope="module")
def bounded(tmp_path_factory: pytest.TempPathFactory, spoken: Spoken) -> Iterator[Server]:
    """The churn service with small limits."""
    home: Path = tmp_path_factory.mktemp("bounded")
    fill_store(home, extra=range(5, 9))
    set_clock(home)
    rollout.write(rollout.rollout_path(home, "churn"), Rollout((Arm("champion", "churn:v1", 1.0),)))
    with serving(home, spoken.models, log=home / "log", env=ENV) as server:
        wait_for(lambda: answers(server.url, "/readyz"), what="readiness")
        yield server


@pytest.fixture(scope="module")
def fraud(tmp_path_factory: pytest.TempPathFactory, spoken: Spoken) -> Iterator[Server]:
    """The fraud service with small limits and a token; it has no release, which what is refused here never sees."""
    home: Path = tmp_path_factory.mktemp("fraud")
    with serving(home, spoken.models, log=home / "log", env=ENV | {"BENTOFLOW_USE_CASE": "fraud"}) as server:
        yield server


def both(path_bodies: dict[str, Any], use_case: str) -> list[Any]:
    """A case per route of a service."""
    return [pytest.param(use_case, path, body, id=f"{use_case} {path}") for path, body in path_bodies.items()]


ROUTES = [*both(GOOD, "bounded"), *both(PAYMENTS, "fraud")]
EVERY = [*ROUTES, *both(dict.fromkeys(OTHERS), "bounded")]


def connected(server: Server) -> socket.socket:
    """A connection to a server."""
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def head(path: str, *fields: str, method: str = "POST") -> bytes:
    """The head of a request."""
    admitted = f"authorization: Bearer {TOKEN}"
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: x", JSON_FIELD, admitted, *fields, "", ""]).encode()


JSON_FIELD = "content-type: application/json"


def heard(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """All that a server sends until it closes the connection: status, fields and body."""
    found = b""
    while piece := connection.recv(65536):
        found += piece
    top, _, body = found.partition(b"\r\n\r\n")
    status, *fields = top.decode().split("\r\n")
    pairs = (field.partition(": ")[::2] for field in fields)
    return int(status.split()[1]), {name.lower(): value for name, value in pairs}, body


def says(path: str, body: bytes) -> str:
    """The sentence of an error, which must be in the shape of the path's protocol and nothing else."""
    error = json.loads(body)
    if path == "/invocations":
        assert set(error) == {"error_code", "message"}, error
        return str(error["message"])
    assert set(error) == {"error"}, error
    return str(error["error"])


def written(server: Server) -> int:
    """Bytes in the journals of a server's use cases."""
    return sum(path.stat().st_size for path in (server.home / "journal").rglob("*") if path.is_file())


def worker(server: Server) -> psutil.Process:
    """The process that answers."""
    return max(server.family(), key=lambda process: process.memory_info().rss)


@pytest.fixture
def server(request: pytest.FixtureRequest, use_case: str) -> Server:
    """The service that a case is about."""
    found: Server = request.getfixturevalue(use_case)
    return found


@pytest.mark.parametrize(("use_case", "path", "good"), EVERY)
def test_a_body_that_says_it_is_too_large_is_not_read(server: Server, use_case: str, path: str, good: Any) -> None:
    """413 in the protocol's shape without a byte of the body, also to a client that waits to be asked for it."""
    method = "POST" if good else "GET"
    for fields in ([f"content-length: {SIZE + 1}"], [f"content-length: {10**15}", "expect: 100-continue"]):
        with closing(connected(server)) as connection:
            connection.sendall(head(path, *fields, method=method))
            status, found, body = heard(connection)
        assert (status, found["connection"]) == (413, "close")
        assert str(SIZE) in says(path, body)
        assert limits.SIZE in says(path, body)


@pytest.mark.parametrize(("use_case", "path", "good"), ROUTES)
def test_a_body_in_chunks_is_counted_as_it_comes(server: Server, use_case: str, path: str, good: Any) -> None:
    """A chunked body says no size: it is refused once it has too much, and the sender gets to see that."""
    before, rss = written(server), worker(server).memory_info().rss
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    with closing(connected(server)) as connection:
        connection.sendall(head(path, "transfer-encoding: chunked"))
        sender = threading.Thread(target=_send, args=(connection, chunk, 400))  # 26 MB
        sender.start()
        status, found, body = heard(connection)
        sender.join()
    assert (status, found["connection"]) == (413, "close")
    assert str(SIZE) in says(path, body)
    assert written(server) == before
    assert worker(server).memory_info().rss - rss < 8 * 2**20


def _send(connection: socket.socket, chunk: bytes, times: int) -> None:
    try:
        for _ in range(times):
            connection.sendall(chunk)
    except OSError:
        return  # the server closed it


@pytest.mark.parametrize(("use_case", "path", "good"), ROUTES)
def test_a_body_of_the_size_allowed_is_read_in_pieces(server: Server, use_case: str, path: str, good: Any) -> None:
    """The limit itself is not refused, whatever the pieces; fraud has no release and says so."""
    content = json.dumps(good).encode()
    content += b" " * (SIZE - len(content))
    pieces = [content[i : i + 60_000] for i in range(0, SIZE, 60_000)]
    headers = JSON | ({} if path == "/retrain" else {"authorization": f"Bearer {TOKEN}"})
    for sent in (content, iter(pieces)):
        response = httpx.post(server.url + path, content=sent, headers=headers, timeout=30)
        assert response.status_code == (200 if use_case == "bounded" else 401 if path == "/retrain" else 503)


@pytest.mark.parametrize(("use_case", "path", "good"), ROUTES)
def test_a_body_that_stops_or_drips_is_a_408(server: Server, use_case: str, path: str, good: Any) -> None:
    """Each piece has a time and the whole has one; others are answered meanwhile, and nothing is journalled."""
    content = json.dumps(good).encode()
    before = written(server)
    for drips, least, most in ((0, PAUSE_S, TOTAL_S), (12, TOTAL_S, TOTAL_S + 2 * PAUSE_S)):
        with closing(connected(server)) as connection:
            start = time.monotonic()
            connection.sendall(head(path, f"content-length: {len(content) + 50}") + content[:2])
            for at in range(drips):
                time.sleep(0.3)
                try:
                    connection.sendall(content[at + 2 : at + 3] or b" ")
                except OSError:
                    break
            status, found, body = heard(connection)
            took = time.monotonic() - start
        assert (status, found["connection"]) == (408, "close")
        assert "did not arrive" in says(path, body)
        assert least <= took < most + 10  # a busy machine wakes up late
    assert written(server) == before


def test_others_are_answered_while_a_hundred_clients_are_slow(bounded: Server) -> None:
    """A connection that sends nothing costs nobody else anything."""
    slow = [connected(bounded) for _ in range(100)]
    for connection in slow:
        connection.sendall(head("/predict", "content-length: 50") + b"{")
    statuses = [httpx.post(bounded.url + "/predict", json={"user_id": FRESH}, timeout=30).status_code for _ in range(5)]
    assert set(statuses) == {200}
    assert {heard(connection)[0] for connection in slow} == {408}
    for connection in slow:
        connection.close()


@pytest.mark.parametrize(("use_case", "path", "good"), ROUTES)
def test_a_client_that_leaves_midway_leaves_nothing(server: Server, use_case: str, path: str, good: Any) -> None:
    """Whether the rest was to come by length or in chunks: no line in the journal, no connection, no error."""
    before, errors = written(server), server.log.read_text().count("Traceback")
    open_before = len(worker(server).net_connections("tcp"))
    content = json.dumps(good).encode()
    chunk = b"%x\r\n%b\r\n" % (len(content), content)
    for fields, body in ((f"content-length: {len(content) + 1}", content), ("transfer-encoding: chunked", chunk)):
        for _ in range(5):
            with closing(connected(server)) as connection:
                connection.sendall(head(path, fields) + body)
    wait_for(lambda: len(worker(server).net_connections("tcp")) <= open_before, seconds=20, what="the end of them all")
    assert written(server) == before
    assert server.log.read_text().count("Traceback") == errors


FORMS = {
    "gzip": {"content-type": "application/json", "content-encoding": "gzip"},
    "xml": {"content-type": "application/xml"},
    "files": {"content-type": "multipart/form-data; boundary=x"},
    "utf-16": {"content-type": "application/json; charset=utf-16"},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("use_case", "path", "good"), ROUTES)
def test_a_body_in_another_form_is_a_415(server: Server, use_case: str, path: str, good: Any, form: str) -> None:
    """A media type, charset or encoding that a route does not read; MLflow says so in plain text."""
    before = written(server)
    headers = FORMS[form] | {"authorization": f"Bearer {TOKEN}"}
    response = httpx.post(server.url + path, content=json.dumps(good), headers=headers, timeout=30)
    assert (response.status_code, written(server)) == (415, before)
    if path == "/invocations":
        assert response.headers["content-type"].startswith("text/plain")
    else:
        assert "support" in says(path, response.content)


@pytest.mark.parametrize("kind", ["application/json; charset=UTF-8", "application/vnd.api+json", None])
@pytest.mark.parametrize("path", [path for path in GOOD if path != "/invocations"])
def test_json_by_any_of_its_names_is_read(bounded: Server, path: str, kind: str | None) -> None:
    """Also a body that does not say what it is."""
    headers = {} if kind is None else {"content-type": kind}
    content = json.dumps(GOOD[path])
    assert httpx.post(bounded.url + path, content=content, headers=headers, timeout=30).status_code == 200


def test_an_admin_route_needs_the_token_and_tells_nobody(fraud: Server) -> None:
    """No token, half of it, another scheme: 401 before the body is looked at; nothing of it in answers and logs."""
    for given in ("", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", "Bearer é"):
        for path in ("/retrain", "/retrain/"):
            headers = {b"authorization": given.encode("latin-1"), b"content-type": b"application/json"}
            response = httpx.post(fraud.url + path, content=b"nothing", headers=headers, timeout=30)
            assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
            assert TOKEN not in response.text + str(response.headers)
    admitted = {"authorization": f"Bearer {TOKEN}"}
    assert httpx.post(fraud.url + "/retrain", json={"reason": 5}, headers=admitted, timeout=30).status_code == 400
    assert httpx.post(fraud.url + "/retrain", json={}, headers=admitted, timeout=30).status_code == 503  # no Prefect
    assert TOKEN[:8] not in fraud.log.read_text()


def many(path: str, rows: int) -> bytes:
    """A call with a number of rows that name a customer alone."""
    row = {"user_id": FRESH}
    tensor = {"name": "user_id", "shape": [rows], "datatype": "INT64", "data": [FRESH] * rows}
    bodies: dict[str, Any] = {
        "/predict": [row] * rows,
        "/invocations": {"dataframe_records": [row] * rows},
        "/v1/models/churn:predict": {"instances": [row] * rows},
        "/v2/models/churn/infer": {"inputs": [tensor]},
    }
    return json.dumps(bodies[path]).encode()


@pytest.mark.parametrize("path", GOOD)
def test_more_rows_than_fit_are_a_503_and_soon_over(spoken: Spoken, path: str) -> None:
    """Calls of 10,000 rows at once are answered or told when to come back; then one row is answered at once."""
    content = many(path, 10_000)
    with ThreadPoolExecutor(24) as pool:

        def post(_: int) -> httpx.Response:
            return httpx.post(spoken.url + path, content=content, headers=JSON, timeout=120)

        responses = list(pool.map(post, range(24)))
    refused = [r for r in responses if r.status_code == 503]
    assert {r.status_code for r in responses} == {200, 503}
    assert {r.headers["retry-after"] for r in refused} == {"1"}
    assert all("rows wait already" in says(path, r.content) for r in refused)
    start = time.monotonic()
    assert httpx.post(spoken.url + path, content=many(path, 1), headers=JSON, timeout=30).status_code == 200
    assert time.monotonic() - start < 1.0
    answered = {r["request_id"] for r in journal.scan(spoken.home / "journal" / "churn")}
    ids = [row["request_id"] for r in responses if r.status_code == 200 and path == "/predict" for row in r.json()]
    assert answered.issuperset(ids)
