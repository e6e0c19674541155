"""Shipping: a journal's finished segments go to the bucket, and come back where they are read.

An answer is in a local segment before it leaves (`journal`). A finished segment is written to the bucket under its name
and the hash of its bytes, read back, and only then moved to `shipped/`, from where it may be deleted at any time: who
reads the journal fetches it again. A kill in between ships the same bytes to the same name once more.
"""

import fcntl
import hashlib
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bentos.runtime import journal, metrics
from bentos.runtime.bucket import Bucket, BucketError, opened
from bentos.runtime.home import replace
from bentos.runtime.journal import SHIPPED, Journal

PERIOD_S, LONGEST_S = 5.0, 120.0  # between two looks at the journal, and between attempts while the bucket is away
LAST_S = 10.0  # that a service which ends waits for its last segments to be shipped

log = logging.getLogger("bentoflow.shipping")


def place(use_case: str) -> str:
    """The folder of a use case's journal in the bucket."""
    return f"journal/{use_case}"


def ship(folder: Path, bucket: Bucket, use_case: str, *, idle_s: float = 0.0, wait: bool = False) -> list[str]:
    """Ship what is finished, and what killed processes left open `idle_s` ago; the names of these segments.

    Does nothing while another process ships the same journal, unless it shall `wait` for its turn.
    """
    if not folder.is_dir():
        return []
    done = []
    with _turn(folder, wait=wait) as alone:
        if alone:
            journal.adopt(folder, idle_s)
            for path in sorted(folder.glob("*.jsonl")):
                data = path.read_bytes()
                digest = hashlib.sha256(data).hexdigest()
                bucket.put(f"{place(use_case)}/{path.stem}.{digest}.jsonl", data)
                (folder / SHIPPED).mkdir(exist_ok=True)
                path.rename(folder / SHIPPED / path.name)
                done.append(path.name)
    return done


def fetch(folder: Path, bucket: Bucket, use_case: str) -> list[str]:
    """Bring what the bucket has of a journal and this folder has not to `shipped/`; the names of these segments.

    BucketError for an object whose bytes are not those of its name.
    """
    new = []
    for name in bucket.names(place(use_case)):
        stem, _, digest = name.removesuffix(".jsonl").rpartition(".")
        segment = f"{stem}.jsonl"
        if (folder / segment).exists() or (folder / SHIPPED / segment).exists():
            continue
        data = bucket.get(f"{place(use_case)}/{name}")
        if hashlib.sha256(data).hexdigest() != digest:
            raise BucketError(
                f"{bucket.url}/{place(use_case)}/{name} was altered or is cut off: restore it, or remove it if you "
                "accept to lose its answers"
            )
        replace(folder / SHIPPED / segment, data)
        new.append(segment)
    return new


def unshipped_seconds(folder: Path) -> float:
    """How long ago the oldest of the finished segments that are not shipped was written to; 0 if all are."""
    written = []
    for path in folder.glob("*.jsonl"):
        with suppress(FileNotFoundError):  # another process ships it now
            written.append(path.stat().st_mtime)
    return max(0.0, time.time() - min(written)) if written else 0.0


def shipper(book: Journal, use_case: str) -> "Shipper | None":
    """What ships a service's journal, None without a bucket."""
    bucket = opened()
    return Shipper(book, bucket, use_case) if bucket else None


class Shipper:
    """A thread that finishes a journal's old segments and ships them; what fails is tried again, ever more seldom."""

    def __init__(self, book: Journal, bucket: Bucket, use_case: str) -> None:
        self._book, self._bucket, self._use_case = book, bucket, use_case
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shipping", daemon=True)

    def start(self) -> None:
        """Begin, with what earlier processes left."""
        self._thread.start()

    def stop(self) -> None:
        """Once the journal is closed: ship what is left, for `LAST_S` at most; the next start ships the rest."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(LAST_S)

    def _run(self) -> None:
        period = min(PERIOD_S, self._book.max_age_s)
        idle_s = self._book.max_age_s + 2 * period  # by then every living process has finished its segment
        wait, over = 0.0, False
        while not over:
            over = self._over.wait(wait)
            self._book.rotate()
            try:
                ship(self._book.folder, self._bucket, self._use_case, idle_s=idle_s, wait=over)
                wait = period
            except (BucketError, OSError) as error:
                wait = min(LONGEST_S, max(1.0, 2 * wait))
                log.error("the journal is kept here and shipped later: %s", error)
            metrics.metrics().unshipped.labels(self._use_case).set(unshipped_seconds(self._book.folder))


@contextmanager
def _turn(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Whether this process is the one that ships the journal, for the length of the block."""
    with (folder / ".shipping").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
