"""The serving benchmark's own parts: servers that end whatever happens, accounts, bodies, instrumented services."""

import json
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pyarrow as pa
import pytest

from tests.bench.serving import accounts, artefact, bodies
from tests.bench.serving.bodies import JSON, Bodies
from tests.bench.serving.processes import CORES, ROOT, NoStart, started
from tests.servers import free_port

SERVER = """
import http.server, os, subprocess, sys
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = f'{{"child": {child.pid}, "cores": {sorted(os.sched_getaffinity(0))}}}'.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def one(tmp_path):
    """One body."""
    (tmp_path / "one.jsonl").write_text("{}\n")
    return Bodies((tmp_path / "one.jsonl",), JSON, lambda content: 0.0)


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_a_server_and_its_children_are_ended_whatever_happens(tmp_path, one, error):
    """Children with a session of their own too, after success, failure and Ctrl-C alike."""
    import urllib.request

    port = free_port()
    url, found = f"http://127.0.0.1:{port}", {}
    command = [sys.executable, "-c", SERVER, str(port)]
    try:
        with started(command, tmp_path / "log", url=url, path="/", bodies=one, env={}, cores={CORES[0]}) as running:
            with urllib.request.urlopen(urllib.request.Request(url, b"{}"), timeout=10) as response:
                found = json.load(response)
            family = {p.pid for p in running.family()}
            assert family == {running.process.pid, found["child"]}
            assert running.memory_mb() > 5
            assert 0 < running.first_answer_s < 60
            if error is not None:
                raise error
    except (RuntimeError, KeyboardInterrupt) as raised:
        assert type(raised) is error  # noqa: PT017
    assert found["cores"] == [CORES[0]]
    for pid in family:
        assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_server_that_ends_says_why(tmp_path, one):
    """The error holds the end of its log."""
    command = [sys.executable, "-c", "raise SystemExit('no such model')"]
    url = f"http://127.0.0.1:{free_port()}"
    with (
        pytest.raises(NoStart, match="no such model"),
        started(command, tmp_path / "log", url=url, path="/", bodies=one, env={}),
    ):
        pass


BUSY = """
import http.server, sys, threading, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        threading.Thread(target=work).start()
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *args): pass
def work():
    while time.thread_time() < 0.4: pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_what_a_server_still_works_on_is_waited_for(tmp_path, one):
    """The next server on the same core starts with the core to itself, unless the first one never ends."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-c", BUSY, str(port)]
    with started(command, tmp_path / "log", url=url, path="/", bodies=one, env={}) as running:
        running.settle(0.01)  # busy with the first request
        assert running.cpu_seconds() < 0.4
        running.settle(60)
        assert running.cpu_seconds() >= 0.4


def burn(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_a_part_is_charged_its_own_cpu_time_without_what_it_calls():
    """Nested parts are charged once, waiting not at all, and threads' accounts add up."""
    inner = accounts.charged("inner", lambda: burn(0.03))
    before = accounts.balance()

    def calls() -> None:
        burn(0.02)
        inner()
        time.sleep(0.1)

    outer = accounts.charged("outer", accounts.counted(calls))
    threads = [threading.Thread(target=outer) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = accounts.balance()
    spent = {name: (after[name] - before.get(name, 0)) / 1e9 for name in ("inner", "outer", "cpu")}
    assert spent["inner"] == pytest.approx(0.06, abs=0.01)
    assert spent["outer"] == pytest.approx(0.04, abs=0.01)
    assert spent["cpu"] >= 0.1
    assert after["requests"] - before["requests"] == 2


def test_a_part_that_raises_is_charged_too():
    """And what called it is not charged for it."""

    def fails() -> None:
        burn(0.02)
        raise RuntimeError("no")

    def calls() -> None:
        with pytest.raises(RuntimeError):
            accounts.charged("failing", fails)()

    before = accounts.balance()
    accounts.charged("calling", calls)()
    after = accounts.balance()
    assert after["failing"] - before.get("failing", 0) >= 0.02e9
    assert after["calling"] - before.get("calling", 0) < 0.02e9


@pytest.mark.integration
def test_the_instrumented_services_know_the_parts_that_they_replace():
    """A part of the service that was renamed or moved is an error here, not a figure that is wrong."""
    code = "from tests.bench.serving import bare, profiled; print(bare.Service.name, profiled.Service.name)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["churn", "churn"], done.stderr


@pytest.mark.parametrize("categories", [{}, {"feature_02": ("a", "b"), "feature_08": ("x", "y", "z")}])
def test_data_pipeline_and_bodies_follow_the_table_of_categories(tmp_path, monkeypatch, categories):
    """Every protocol's first body is the same row, and the fitted pipeline takes it."""
    for name in list(artefact.CATEGORIES):
        monkeypatch.delitem(artefact.CATEGORIES, name)
    for name, values in categories.items():
        monkeypatch.setitem(artefact.CATEGORIES, name, values)
    frame, y = artefact.data(bodies.BULK_ROWS, 3)
    assert 0.3 < y.mean() < 0.7
    assert {name: tuple(sorted(frame[name].unique())) for name in categories} == categories
    written = bodies.write(tmp_path)
    row = json.loads(written["row"].all[0])["features"]
    given = {name: None if value != value else value for name, value in frame.iloc[0].items()}
    assert row == given
    assert json.loads(written["mlflow"].all[0])["dataframe_records"] == [given]
    v2 = json.loads(written["v2"].all[0])["inputs"]
    assert [value for tensor in v2 for value in tensor["data"]] == list(given.values())
    with pa.ipc.open_stream(written["bulk_arrow"].all[0]) as reader:
        assert reader.read_all().drop_columns("user_id").slice(0, 1).to_pylist() == [given]
    raw = written["bulk_v2"].all[0][int(dict(written["bulk_v2"].headers)["Inference-Header-Content-Length"]) :]
    first = np.frombuffer(raw[: 8 * bodies.BULK_ROWS], "<f8")
    np.testing.assert_array_equal(first, frame["feature_00"].to_numpy())
    assert len({len(body) for body in written["bulk_v2"].all}) == 1  # one header says where the bytes begin
    scores = artefact.fit(trees=20).predict_proba(frame)[:, 1]
    assert np.mean((scores > 0.5) == y) > 0.7
