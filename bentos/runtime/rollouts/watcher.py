"""The watcher: keeps what a service answers with equal to the rollout file, or to the last one that loaded."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Generic, TypeVar

from bentos.runtime.rollouts.rollout import CHAMPION, SHADOW, Rollout, RolloutError, read
from bentos.runtime.rollouts.split import Split, split_of

log = logging.getLogger("bentoflow.rollout")
T = TypeVar("T")


@dataclass(frozen=True)
class Bundle(Generic[T]):
    """A rollout with its arms loaded, by name, shadows apart; immutable, so that a swap is one assignment.

    `split` assigns entities to arms; None while the champion answers all.
    """

    rollout: Rollout
    arms: Mapping[str, T]
    split: Split | None = None


class Watcher(Generic[T]):
    """Keeps `.bundle` equal to the rollout file, or to the last one that loaded, with `.problem` saying why."""

    def __init__(
        self,
        path: Path,
        load: Callable[[str], T],
        *,
        fallback: Rollout | None = None,
        interval_s: float = 0.2,
        retry_s: float = 5.0,
        on_change: Callable[["Bundle[T] | None", str | None], None] | None = None,
    ) -> None:
        self.path = path
        self.bundle: Bundle[T] | None = None
        self.problem: str | None = None
        self._load, self._fallback, self._on_change = load, fallback, on_change
        self._interval_s, self._retry_s = interval_s, retry_s
        self._seen: tuple[int, int, int] | str | None = "never"
        self._failed_at = 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Load what the file says now, then follow it in a thread until `stop`."""
        self.poll()
        self._thread = threading.Thread(target=self._follow, name="rollout-watcher", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a load in progress is waited for."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def poll(self) -> None:
        """Look once: load new arms if the file changed, or again some seconds after a load failed."""
        stamp = self._stamp()
        retry = self.problem is not None and time.monotonic() - self._failed_at >= self._retry_s
        if stamp == self._seen and not retry:
            return
        problem: str | None = None
        bundle = self.bundle
        try:
            bundle, problem = self._loaded()
        except Exception as error:  # whatever a new artefact does, the old one goes on answering
            problem = f"{type(error).__name__}: {error}"
        if problem is not None:
            self._failed_at = time.monotonic()
            if problem != self.problem:
                log.warning("rollout %s not followed: %s", self.path, problem)
        self._seen = stamp
        self.problem, self.bundle = problem, bundle
        if self._on_change is not None:
            self._on_change(bundle, problem)

    def _follow(self) -> None:
        while not self._stop.wait(self._interval_s):
            try:
                self.poll()
            except Exception:
                log.exception("watching %s failed", self.path)

    def _loaded(self) -> tuple[Bundle[T] | None, str | None]:
        """The file's rollout with its arms, and which of them had to be left out.

        An arm that cannot be loaded keeps the whole of the last rollout in charge. Where there is none, as when a
        server starts, the others answer without it.
        """
        rollout = read(self.path)
        if rollout is None and self.bundle is not None and self._fallback is None:
            raise RolloutError(f"{self.path} is gone; the last rollout goes on answering")
        rollout = rollout or self._fallback
        if rollout is None:
            return None, None
        old = self.bundle
        known = {} if old is None else {a.release: old.arms[a.name] for a in old.rollout.arms if a.name in old.arms}
        arms, problem = {}, None
        for arm in rollout.arms:
            if arm.kind == SHADOW:
                continue  # scores in a process of its own, which loads it
            try:
                arms[arm.name] = known[arm.release] if arm.release in known else self._load(arm.release)
            except Exception as error:
                if arm.kind == CHAMPION or (old is not None and old.rollout != rollout):
                    raise
                problem = f"without the {arm.name}: {type(error).__name__}: {error}"  # better than answering nobody
        return Bundle(rollout, MappingProxyType(arms), split_of(rollout, arms)), problem

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size
