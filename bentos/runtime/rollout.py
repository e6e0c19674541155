"""The rollout: which releases answer now, kept in one file that is replaced atomically and watched by every service."""

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Generic, TypeVar

from bentos.runtime.home import replace

CHAMPION, CHALLENGER = "champion", "challenger"
WEIGHTS = {CHAMPION: 1.0, CHALLENGER: 0.0}

log = logging.getLogger("bentoflow.rollout")
T = TypeVar("T")


class RolloutError(ValueError):
    """A rollout names impossible arms, or its file cannot be read."""


@dataclass(frozen=True)
class Arm:
    """A release taking part: its role, its tag and the share of requests that it answers unasked."""

    name: str
    release: str
    weight: float


@dataclass(frozen=True)
class Rollout:
    """At most one champion (weight 1) and one challenger (weight 0: answers only those who name it)."""

    arms: tuple[Arm, ...]

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        for arm in self.arms:
            if arm.name not in WEIGHTS:
                raise RolloutError(f"no arm is called {arm.name!r}; known: {', '.join(WEIGHTS)}")
            if names.count(arm.name) > 1:
                raise RolloutError(f"a rollout has one {arm.name}, this has {names.count(arm.name)}")
            if not arm.release:
                raise RolloutError(f"the {arm.name} names no release; give its tag, such as name:v3-ab12cd34")
            if not math.isclose(arm.weight, WEIGHTS[arm.name]):
                raise RolloutError(f"the {arm.name}'s weight is {WEIGHTS[arm.name]:g}, not {arm.weight!r}")


def rollout_path(home: Path, use_case: str) -> Path:
    """Where a use case's rollout file lies."""
    return home / "rollout" / f"{use_case}.json"


def read(path: Path) -> Rollout | None:
    """The rollout in a file, None if there is no file; RolloutError says what is wrong with it."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    try:
        raw = json.loads(text)
        arms = tuple(Arm(str(a["name"]), str(a["release"]), float(a["weight"])) for a in raw["arms"])
        return Rollout(arms)
    except RolloutError as error:
        raise RolloutError(f"{path}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RolloutError(
            f'{path} is not {{"arms": [{{"name", "release", "weight"}}]}}: {error!r}; run `bentoflow release`'
        ) from error


def write(path: Path, rollout: Rollout) -> None:
    """Replace a rollout file; services and a start after a crash find the old or the new one."""
    replace(path, json.dumps(asdict(rollout), indent=1).encode())


@dataclass(frozen=True)
class Bundle(Generic[T]):
    """A rollout with its arms loaded, by name; immutable, so that a swap is one assignment."""

    rollout: Rollout
    arms: Mapping[str, T]


class Watcher(Generic[T]):
    """Keeps `.bundle` equal to the rollout file, or to the last one that loaded, with `.problem` saying why."""

    def __init__(
        self,
        path: Path,
        load: Callable[[str], T],
        *,
        fallback: Rollout | None = None,
        interval_s: float = 0.5,
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
        problem, bundle = None, self.bundle
        try:
            bundle = self._loaded()
        except Exception as error:  # whatever a new artefact does, the old one goes on answering
            problem, self._failed_at = f"{type(error).__name__}: {error}", time.monotonic()
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

    def _loaded(self) -> Bundle[T] | None:
        rollout = read(self.path)
        if rollout is None and self.bundle is not None and self._fallback is None:
            raise RolloutError(f"{self.path} is gone; the last rollout goes on answering")
        rollout = rollout or self._fallback
        if rollout is None:
            return None
        known = (
            {} if self.bundle is None else {arm.release: self.bundle.arms[arm.name] for arm in self.bundle.rollout.arms}
        )
        arms = {
            arm.name: known[arm.release] if arm.release in known else self._load(arm.release) for arm in rollout.arms
        }
        return Bundle(rollout, MappingProxyType(arms))

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size
