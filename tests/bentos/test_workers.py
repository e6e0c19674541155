"""Several workers: each with its own segment, one killed or all, drained on SIGTERM; the journal has every answer."""

import asyncio
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import httpx
import orjson
import psutil
import pytest

from bentos import endpoint
from bentos.runtime import journal
from bentos.runtime.journal import OPEN
from bentos.runtime.rollouts import rollout
from bentos.runtime.rollouts.rollout import Arm, Rollout

from .conftest import (
    FRESH,
    GIVEN,
    OLD,
    Server,
    answers,
    fill_store,
    fit,
    make_release,
    save_release,
    serving,
    set_clock,
    wait_for,
)
from .test_shadow import slow

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

BODIES = [  # one row and many, features brought and read from the store
    orjson.dumps(body)
    for body in (
        {"user_id": FRESH},
        {"user_id": 9, "features": GIVEN},
        [{"user_id": i} for i in (FRESH, OLD, *range(5, 40))],
        [{"user_id": i, "features": GIVEN} for i in range(300)],
    )
]
TURNS = 20


class Crowd:
    """Connections that post without pause from a thread of their own; keeps every answer that arrived whole.

    A connection that breaks, or has posted `TURNS` times, is opened again: any worker may accept it. `broken` counts
    what it broke with, by the error's name; `unanswered` are requests that had no reply when it broke: when they
    were sent, and how many the connection had carried before; `refusals` are replies without an answer.
    """

    def __init__(self, url: str, connections: int = 24) -> None:
        host, port = url.removeprefix("http://").split(":")
        self._address, self._connections = (host, int(port)), connections
        self.ids: list[str] = []
        self.broken: Counter[str] = Counter()
        self.unanswered: list[tuple[float, int]] = []
        self.refusals: list[bytes] = []
        self.over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all()))

    def __enter__(self) -> "Crowd":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._thread.join()

    async def _all(self) -> None:
        await asyncio.gather(*[self._one(k) for k in range(self._connections)])

    async def _one(self, k: int) -> None:
        while not self.over.is_set():
            try:
                reader, writer = await asyncio.open_connection(*self._address)
            except OSError as error:
                self.broken[type(error).__name__] += 1
                await asyncio.sleep(0.02)
                continue
            try:
                await self._post(k, reader, writer)
            except (OSError, EOFError) as error:
                self.broken[type(error).__name__] += 1
            finally:
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()

    async def _post(self, k: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Requests on one connection, until the server says that it closes it, or it is time for another."""
        for turn in range(TURNS):
            if self.over.is_set():
                return
            body = BODIES[(k + turn) % len(BODIES)]
            head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            sent = time.monotonic()
            try:
                writer.write(head % len(body) + body)
                said = (await reader.readuntil(b"\r\n\r\n")).lower()
                content = await reader.readexactly(int(said.partition(b"content-length: ")[2].partition(b"\r")[0]))
            except (OSError, EOFError):
                self.unanswered.append((sent, turn))
                raise
            if said[9:12] in (b"200", b"207"):
                rows = orjson.loads(content)
                self.ids += [row["request_id"] for row in (rows if isinstance(rows, list) else [rows])]
            else:
                self.refusals.append(content)
            if b"connection: close" in said:
                return


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a materialised home and the releases v1, v2 and a slow one in a BentoML home."""
    folder = tmp_path_factory.mktemp("site")
    fill_store(folder / "home")
    set_clock(folder / "home")
    for i, (tag, model) in enumerate({"v1": fit(), "v2": fit(seed=4), "slow": slow(layers=60)}.items(), 1):
        save_release(folder / "bentoml", make_release(folder / tag, version=str(i), model=model), f"churn:{tag}")
    return folder


def put(home: Path, tag: str) -> None:
    """Make a tag the champion."""
    rollout.write(rollout.rollout_path(home, "churn"), Rollout((Arm("champion", f"churn:{tag}", 1.0),)))


@pytest.fixture
def two(site: Path, tmp_path: Path, request: pytest.FixtureRequest):
    """A server with two workers and a feature cache, answering for v1 or the release that the test names."""
    import shutil

    shutil.rmtree(site / "home" / "journal", ignore_errors=True)
    put(site / "home", getattr(request, "param", "v1"))
    env = {"BENTOFLOW_WORKERS": "2", "BENTOFLOW_FEATURE_CACHE_S": "600"}
    with serving(site / "home", site / "bentoml", log=tmp_path / "log", env=env) as server:
        wait_for(lambda: started(server) == 2, what="both workers")
        wait_for(lambda: answers(server.url, "/readyz"), what="readiness")
        yield server


def started(server: Server) -> int:
    """How many workers have come up so far."""
    return server.log.read_text().count("Completed async startup hook")


def workers(server: Server) -> list[psutil.Process]:
    """The processes that answer."""
    found = psutil.Process(server.process.pid).children(recursive=True)
    return [process for process in found if "_bentoml_impl.worker.service" in " ".join(process.cmdline())]


def folder(server: Server) -> Path:
    return server.home / "journal" / "churn"


def journalled(server: Server) -> list[str]:
    return [record["request_id"] for record in journal.scan(folder(server))]


def by_worker(server: Server) -> Counter[int]:
    """Journal segments by the process that wrote them."""
    return Counter(int(path.name.split("-")[1]) for path in journal.segments(folder(server)))


def counted(server: Server, name: str, **labels: str) -> float:
    """A counter's sum over its labels and over all workers, by /metrics."""
    lines = httpx.get(server.url + "/metrics", timeout=30).text.splitlines()
    wanted = [f'{k}="{v}"' for k, v in labels.items()]
    found = [line for line in lines if line.startswith(name + "{") and all(part in line for part in wanted)]
    return sum(float(line.split()[-1]) for line in found)


def test_every_worker_counts_and_journals_what_it_answers(two):
    """Sums over both workers are exact whichever is scraped: answers, and rows looked up in their feature caches."""
    with Crowd(two.url) as crowd:
        wait_for(lambda: len(crowd.ids) > 20_000 and len(by_worker(two)) == 2, what="answers of both")
    assert (crowd.broken, crowd.refusals) == (Counter(), [])
    n = len(crowd.ids)
    wait_for(lambda: {counted(two, "bentoflow_predictions_total") for _ in range(8)} == {n}, what="the sum")
    asked = sum(r["source"] == "online" for r in journal.scan(folder(two)))
    assert counted(two, "bentoflow_feature_lookups_total") == asked
    misses = counted(two, "bentoflow_feature_lookups_total", outcome="miss")
    assert 37 <= misses <= 2 * 37, "each worker has read each entity once"
    assert sorted(journalled(two)) == sorted(crowd.ids)
    assert set(by_worker(two)) == {process.pid for process in workers(two)}
    assert set(by_worker(two).values()) == {1}
    health = httpx.get(two.url + "/health", timeout=30).json()["feature_cache"]
    assert 0 <= health["hit_rate"] < 1, "of the worker that was asked"


def test_sigkill_of_all_at_full_load_loses_no_answer(two):
    """Both workers and their supervisor killed in the middle of work: what any client received is in the journal."""
    with Crowd(two.url) as crowd:
        wait_for(lambda: len(crowd.ids) > 20_000 and len(by_worker(two)) == 2, what="answers of both")
        two.kill(two.family())
        wait_for(lambda: crowd.broken["ConnectionRefusedError"] > 0, what="the end")
    found = journalled(two)
    lost = set(crowd.ids) - set(found)
    assert not lost, f"{len(lost)} of {len(crowd.ids)} answers are not in the journal"
    assert len(found) == len(set(found))
    assert len(found) - len(crowd.ids) <= 24 * 300, "no more than what was under way was written and not received"
    assert [path.suffix for path in journal.segments(folder(two))] == [OPEN, OPEN]
    for path in journal.segments(folder(two)):  # as a kill in the middle of a write would leave it
        with path.open("ab") as out:
            out.write(b'{"request_id":"never-answered","entity":1,"sco')
    assert journalled(two) == found


def test_one_worker_killed_the_other_goes_on_and_it_comes_back(two):
    """No answer is lost, the supervisor starts another, counts go on, and the dead one's gauges do not linger."""
    with Crowd(two.url) as crowd:
        wait_for(lambda: len(crowd.ids) > 10_000 and len(by_worker(two)) == 2, what="answers of both")
        victim, other = workers(two)
        exported = counted(two, "bentoflow_predictions_total")
        victim.kill()
        before = len(crowd.ids)
        wait_for(lambda: len(crowd.ids) > before + 5_000, what="answers of the other")
        took = wait_for(lambda: started(two) == 3, what="another worker")
        wait_for(lambda: len(by_worker(two)) == 3, what="answers of the new one")
    assert took < 60
    assert {process.pid for process in workers(two)} == {other.pid, *by_worker(two)} - {victim.pid}
    assert crowd.refusals == []
    assert crowd.broken.total() <= 24, "only what the dead worker had under way"
    assert set(crowd.ids) <= set(journalled(two))
    segments = journal.segments(folder(two))
    living = sum(1 for path in segments if f"-{victim.pid}-" not in path.name for _ in journal.read(path))
    wait_for(lambda: counted(two, "bentoflow_predictions_total") >= max(living, exported), what="counts")
    assert counted(two, "bentoflow_predictions_total") <= len(journalled(two))
    put(two.home, "v2")
    info = {"arm": "champion"}
    wait_for(lambda: counted(two, "bentoflow_release_info", model_version="2", **info) == 1, what="the new release")
    wait_for(
        lambda: counted(two, "bentoflow_release_info", model_version="1", **info) == 0,
        seconds=5,
        what="the end of the old release in the metrics",
    )


def test_sigterm_at_full_load_answers_what_was_sent_and_closes_the_journal(two):
    """Requests sent before it, or on a connection that was open, are answered; segments are finished, exit code 0.

    Only clients that connect while the workers end may be turned away.
    """
    with Crowd(two.url) as crowd:
        wait_for(lambda: len(crowd.ids) > 10_000 and len(by_worker(two)) == 2, what="answers of both")
        told = time.monotonic()
        two.process.terminate()
        assert two.process.wait(20) == 0
    assert [(sent - told, turn) for sent, turn in crowd.unanswered if sent <= told or turn] == []
    assert set(crowd.ids) <= set(journalled(two))
    assert [path.suffix for path in journal.segments(folder(two))] == [".jsonl", ".jsonl"]
    assert {b"shutting down" in refusal for refusal in crowd.refusals} <= {True}
    with pytest.raises(httpx.ConnectError):
        httpx.get(two.url + "/livez", timeout=5)


@pytest.mark.parametrize(("text", "number"), [("", 1), ("0", 1), (" 3 ", 3)])
def test_the_number_of_workers_is_a_setting(monkeypatch, text, number):
    """BENTOFLOW_WORKERS is a whole number; unset is one."""
    monkeypatch.setenv("BENTOFLOW_WORKERS", text)
    assert endpoint.workers() == number


@pytest.mark.parametrize("text", ["two", "-1", "1.5"])
def test_another_text_than_a_number_of_workers_is_refused_by_name(monkeypatch, text):
    """The error says which variable, its value and what to write."""
    monkeypatch.setenv("BENTOFLOW_WORKERS", text)
    with pytest.raises(ValueError, match=f"BENTOFLOW_WORKERS is '{text}'; give a whole number"):
        endpoint.workers()


@pytest.mark.parametrize("two", ["slow"], indirect=True)
def test_sigterm_waits_for_large_requests_under_way(two):
    """Requests of many slow batches that are half done when the server is told to end are answered in full."""
    rows = [{"user_id": i, "features": GIVEN} for i in range(10_000)]  # ten batches each
    replies: list[httpx.Response] = []
    ask = [
        threading.Thread(target=lambda: replies.append(httpx.post(two.url + "/predict", json=rows, timeout=60)))
        for _ in range(3)
    ]
    for thread in ask:
        thread.start()
    wait_for(lambda: any(path.stat().st_size for path in journal.segments(folder(two))), what="the first batch")
    assert not replies
    two.process.terminate()
    assert two.process.wait(30) == 0
    for thread in ask:
        thread.join()
    assert [(reply.status_code, len(reply.json())) for reply in replies] == [(200, 10_000)] * 3
    found = {row["request_id"] for reply in replies for row in reply.json()}
    assert found == set(journalled(two))
    assert {path.suffix for path in journal.segments(folder(two))} == {".jsonl"}
