"""Processes: started once by name, stopped with all that they started, and never taken for somebody else's."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from flows import environment, processes
from flows.processes import Process, ProcessError
from tests.servers import free_port

# what is started here is meant to outlive the object that started it
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")

SLEEPS = "import time; time.sleep(300)"
# as BentoML: workers in sessions of their own, which the end of the parent does not end
FAMILY = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
print(child.pid, flush=True)
time.sleep(300)
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(300)
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder in which processes are started; whatever is left is ended."""
    yield tmp_path
    for name in processes.names(tmp_path):
        processes.stop(tmp_path, name, seconds=0.2)


def start(place: Path, code: str, name: str = "one") -> Process:
    return processes.start(place, name, [sys.executable, "-c", code])


def said(place: Path, name: str = "one") -> str:
    """The first line of a process' log, once it is there."""
    log = place / "logs" / f"{name}.log"
    processes.wait(place, name, lambda: log.read_text().endswith("\n"), seconds=30)
    return log.read_text().split()[0]


def lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_start_running_stop(place: Path) -> None:
    """A started process runs under its name until it is stopped, and then there is nothing to stop."""
    process = start(place, SLEEPS)
    assert processes.running(place, "one") == process
    assert processes.names(place) == ["one"]
    assert processes.stop(place, "one")
    assert not lives(process.pid)
    assert processes.running(place, "one") is None
    assert processes.names(place) == []
    assert not processes.stop(place, "one")


def test_starting_twice_gives_the_living_one(place: Path) -> None:
    """A name stands for one process at a time."""
    assert start(place, SLEEPS) == start(place, SLEEPS)


def test_a_dead_one_is_started_anew(place: Path) -> None:
    """After the process died its name is free, and its pid file does not pass for it."""
    first = start(place, SLEEPS)
    psutil.Process(first.pid).kill()
    psutil.Process(first.pid).wait(10)
    assert processes.running(place, "one") is None
    assert start(place, SLEEPS).pid != first.pid


def test_a_zombie_is_not_running(place: Path) -> None:
    """A process that has ended but was not waited for is not taken for a living one."""
    process = start(place, "pass")
    with pytest.raises(ProcessError, match="ended at once"):
        processes.wait(place, "one", lambda: False, seconds=30)
    assert processes.running(place, "one") is None
    assert processes.names(place) == ["one"]
    assert process.pid > 0


def test_the_pid_of_another_process_is_not_taken_for_ours(place: Path) -> None:
    """A pid that was reused, as its start time shows, is neither running nor stopped: here it is this very test."""
    other = Process(name="one", pid=os.getpid(), started=1, url="", log="")
    (place / "run").mkdir()
    (place / "run" / "one.json").write_text(json.dumps(asdict(other)))
    assert processes.running(place, "one") is None
    assert not processes.stop(place, "one")
    mine = replace(other, started=processes._started(os.getpid()) or 0)
    (place / "run" / "one.json").write_text(json.dumps(asdict(mine)))
    assert processes.running(place, "one") == mine
    (place / "run" / "one.json").unlink()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}'])
def test_a_broken_pid_file_is_nobody(place: Path, text: str) -> None:
    """A pid file that cannot be read names no process."""
    (place / "run").mkdir()
    (place / "run" / "one.json").write_text(text)
    assert processes.running(place, "one") is None


def test_stop_ends_grandchildren_in_sessions_of_their_own(place: Path) -> None:
    """Workers that left the process group end with the process that started them."""
    process = start(place, FAMILY)
    worker = int(said(place))
    assert lives(worker)
    assert os.getsid(worker) != os.getsid(process.pid)
    assert processes.stop(place, "one", seconds=0.5)
    assert not lives(worker)
    assert not lives(process.pid)


def test_who_ignores_sigterm_is_killed(place: Path) -> None:
    """After the time that it was given a process is ended anyway."""
    process = start(place, STUBBORN)
    assert said(place) == "ready"
    assert processes.stop(place, "one", seconds=0.2)
    assert not lives(process.pid)


def test_stop_ends_nothing_else(place: Path) -> None:
    """The other processes of the home go on."""
    other = start(place, SLEEPS, "other")
    start(place, SLEEPS)
    processes.stop(place, "one")
    assert lives(other.pid)
    assert processes.names(place) == ["other"]


def test_wait_reports_the_end_of_the_log_when_the_process_dies(place: Path) -> None:
    """A process that ends before it is ready is an error that shows why."""
    start(place, "import sys; print('no port left', file=sys.stderr); sys.exit(3)")
    with pytest.raises(ProcessError, match=r"one ended at once; the end of its log:\n.*no port left"):
        processes.wait(place, "one", lambda: False, seconds=30)


def test_wait_reports_the_end_of_the_log_when_time_runs_out(place: Path) -> None:
    """A process that never gets ready is an error that shows its last words and the log's path."""
    start(place, "print('still loading', flush=True); " + SLEEPS)
    said(place)
    with pytest.raises(ProcessError, match=r"not ready within 0 s; the end of .*one\.log:\nstill loading"):
        processes.wait(place, "one", lambda: False, seconds=0.2)


def test_the_environment_is_added_to_this_ones(place: Path) -> None:
    """A process sees what it was given beside what there was."""
    code = "import os; print(os.environ['GIVEN'], 'PATH' in os.environ, flush=True); " + SLEEPS
    processes.start(place, "one", [sys.executable, "-c", code], env={"GIVEN": "yes"})
    assert said(place) == "yes"


def test_answers_tells_health_from_silence() -> None:
    """Only an answer of status 200 counts, unless told otherwise; a closed port is no answer."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Teapot(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/ok" else 418)
            self.end_headers()

        def log_message(self, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Teapot) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert processes.answers(f"{url}/ok")
        assert not processes.answers(f"{url}/other")
        assert processes.answers(f"{url}/other", accept=lambda status: status == 418)
        server.shutdown()
    assert not processes.answers(url)


def test_free_port_prefers_what_is_free() -> None:
    """The wanted port if nobody listens there, else one of the next."""
    wanted = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", wanted))
        taken.listen()
        assert wanted < processes.free_port(wanted) < wanted + processes.PORTS


def test_a_port_is_given_once_until_what_started_on_it_has_ended(place: Path) -> None:
    """Servers listen only after seconds, so two that start at once would both see the wanted port free."""
    program = "import sys; from flows import processes; print(processes.free_port(int(sys.argv[1])))"
    port = processes.free_port(free_port() + 1)

    def given() -> int:
        return int(subprocess.check_output([sys.executable, "-c", program, str(port)], cwd=environment.ROOT))

    assert given() != port, "claimed, and nothing started on it yet"
    silent = [sys.executable, "-c", SLEEPS]
    processes.start(place, "silent", silent, url=f"http://127.0.0.1:{port}")
    assert given() != port, "it runs, and does not listen yet"
    processes.stop(place, "silent")
    assert given() == port, "it has ended"


def test_no_free_port_is_an_error_that_names_those_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user reads when the wanted port and the next ones are all taken."""
    monkeypatch.setattr(processes, "PORTS", 1)
    port = processes.free_port(free_port() + 1)
    with pytest.raises(processes.ProcessError, match=f"no free port on 127.0.0.1 from {port} to {port}"):
        processes.free_port(port)
