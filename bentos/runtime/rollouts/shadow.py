"""Shadows: releases that score what others answered, each in a process of its own that may be slow, crash or hang.

A thread in the service would hold the interpreter's lock and the core while it scores; a process at the lowest
priority takes what is left of the machine. The service appends answered rows to a bounded queue, and a thread passes
them on. What the queue cannot hold is dropped and counted.
"""

import logging
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
from msgspec import to_builtins

from bentos.runtime import metrics
from bentos.runtime.answers import Results, column, errors
from bentos.runtime.home import ROOT
from bentos.runtime.rollouts.rollout import SHADOW, Arm, Rollout
from bentos.runtime.scoring.inputs import Fields

QUEUED = 20_000  # rows that may wait for one shadow
LIMIT = 64_000  # bytes of a message: a third of what a socket's buffer holds by default
TICK_S = 0.02
RESTART_S = 5.0  # between the end of a shadow's process and the next one
PATIENCE_S = 3.0  # for a process to score what it was sent, when it is told to end

log = logging.getLogger("bentoflow.shadow")


@dataclass(frozen=True)
class Scored:
    """Rows that were answered together: request ids, the rows as they came, the domain's time."""

    ids: list[str]
    rows: list[Fields]
    now: datetime


class Shadow:
    """One shadow arm: its queue, the thread that feeds its process, and how it does."""

    def __init__(self, use_case: str, home: Path, arm: Arm, locate: Callable[[str], Path]) -> None:
        self.arm, self.state, self.version = arm, "starting", ""
        self._use_case, self._home, self._locate = use_case, home, locate
        self._queue: deque[Scored] = deque()
        self._queued = 0
        self._sent = 0  # rows that this process has not accounted for
        self._ready = False  # it has loaded its release
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=arm.name, daemon=True)
        self._thread.start()

    def offer(self, scored: Scored) -> None:
        """Queue rows, or drop and count them."""
        rows = len(scored.rows)
        with self._lock:
            fits = self._queued + rows <= QUEUED
            if fits:
                self._queue.append(scored)
                self._queued += rows
        if not fits:
            self._count("dropped", rows)

    def stop(self) -> None:
        """Begin to end the process, once it has scored what it was sent; what still waits is dropped."""
        self._stop.set()

    def join(self) -> None:
        """Wait until it has ended."""
        self._thread.join(timeout=2 * PATIENCE_S)

    def _count(self, outcome: str, rows: int) -> None:
        if rows:
            metrics.count_shadow(self._use_case, self.arm.name, outcome, rows)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with self._process() as channel:
                    self._feed(channel)
            except Exception as error:
                if self.state in ("starting", "scoring"):
                    self.state = f"{type(error).__name__}: {error}"
                log.warning("%s %s: %s", self.arm.name, self.arm.release, self.state)
                self._count("failed", self._sent)
                self._sent = 0
                self._stop.wait(RESTART_S)

    @contextmanager
    def _process(self) -> Iterator[socket.socket]:
        """A new process and the channel to it; at the end it is given time to finish, then killed."""
        self._ready = False
        folder = self._locate(self.arm.release)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs:
                command = [sys.executable, "-m", "bentos.runtime.rollouts.understudy"]
                process = subprocess.Popen(
                    [*command, self._use_case, str(self._home), str(folder), self.arm.name],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    cwd=ROOT,
                    start_new_session=True,  # an interrupt of the service's group leaves it to finish its rows
                )
            try:
                ours.setblocking(False)
                yield ours
                ours.shutdown(socket.SHUT_WR)
                process.wait(timeout=PATIENCE_S)
                self._hear(ours)
            finally:
                process.kill()
                process.wait()

    def _feed(self, channel: socket.socket) -> None:
        """Pass rows on and hear what became of them, until told to stop; ConnectionError when the process ended."""
        try:
            while not self._stop.wait(TICK_S):
                self._hear(channel)
                while self._ready and self._queue and not self._stop.is_set():
                    with self._lock:
                        scored = self._queue.popleft()
                        self._queued -= len(scored.rows)
                    self._pass_on(channel, scored)
        except OSError as error:  # end of file, a broken pipe, or a reset where rows were left unread
            raise ConnectionError("its process ended") from error

    def _pass_on(self, channel: socket.socket, scored: Scored) -> None:
        """Send rows in messages that fit; a single row that does not is dropped."""
        n = len(scored.rows)
        message = {"ids": scored.ids, "rows": scored.rows, "now": scored.now}
        data = orjson.dumps(message, default=to_builtins)
        if len(data) > LIMIT:
            if n == 1:
                return self._count("dropped", 1)
            for part in (slice(n // 2), slice(n // 2, n)):
                self._pass_on(channel, Scored(scored.ids[part], scored.rows[part], scored.now))
            return None
        self._sent += n
        while not self._stop.is_set():
            try:
                channel.send(data)
                return None
            except BlockingIOError:  # its buffer is full: it is slow
                self._hear(channel)
                self._stop.wait(TICK_S)
        self._sent -= n
        return self._count("dropped", n)

    def _hear(self, channel: socket.socket) -> None:
        """Take what the process has said; ConnectionError when it ended of itself."""
        with suppress(BlockingIOError):
            while True:
                said = channel.recv(LIMIT)
                if not said:
                    if self._stop.is_set():
                        return
                    raise ConnectionError("its process ended")
                told = orjson.loads(said)
                self.state, self.version = told.get("state", self.state), told.get("version", self.version)
                self._ready = self._ready or "version" in told
                for outcome in ("scored", "failed"):
                    self._sent -= told.get(outcome, 0)
                    self._count(outcome, told.get(outcome, 0))


class Shadows:
    """The shadows of the rollout that a service follows."""

    def __init__(self, use_case: str, home: Path, locate: Callable[[str], Path]) -> None:
        self._use_case, self._home, self._locate = use_case, home, locate
        self.running: tuple[Shadow, ...] = ()

    def follow(self, rollout: Rollout | None) -> None:
        """Start the shadows that a rollout names, end the others; those that stay go on."""
        wanted = [arm for arm in (rollout.arms if rollout else ()) if arm.kind == SHADOW]
        gone = [shadow for shadow in self.running if shadow.arm not in wanted]
        kept = {shadow.arm: shadow for shadow in self.running if shadow.arm in wanted}
        self.running = tuple(kept.get(arm) or Shadow(self._use_case, self._home, arm, self._locate) for arm in wanted)
        for shadow in gone:
            shadow.stop()

    def offer(self, rows: Sequence[Fields], results: Results, now: datetime) -> None:
        """Let every shadow score the rows that were answered."""
        failed = errors(results)
        answered = [row for i, row in enumerate(rows) if i not in failed] if failed else list(rows)
        if answered:
            ids = list(column(results, "request_id"))
            for shadow in self.running:
                shadow.offer(Scored(ids, answered, now))

    def health(self) -> dict[str, dict[str, Any]]:
        """Release, version and state of each, by arm: starting, scoring, or what is wrong."""
        return {
            s.arm.name: {"release": s.arm.release, "version": s.version or None, "weight": 0.0, "state": s.state}
            for s in self.running
        }

    def stop(self) -> None:
        """End all of them."""
        last = self.running
        self.follow(None)
        for shadow in last:
            shadow.join()
