"""The journal: an append-only log of every answer, written before the answer leaves.

A line holds one record, or the records of rows that were decided together, which `read` takes apart (`blocks`).
A segment is open while its process holds a lock on it, then finished, then perhaps shipped to a bucket (`shipping`);
each step renames it, and its records stay readable under every name that it had.
"""

import fcntl
import os
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, NamedTuple

import orjson

from bentos.runtime import blocks

OPEN = ".open"  # suffix of a segment that a process writes to, or wrote to when it was killed
SHIPPED = "shipped"  # folder, below a journal's, of segments that a bucket holds too


class JournalError(RuntimeError):
    """The journal cannot be written, or a segment is corrupt."""


class Mark(NamedTuple):
    """Bytes of a segment and when it was last written to, in ns: the same as long as nobody touches it."""

    size: int
    written: int


class Journal:
    """One process' segments of a journal; thread-safe. Appending rotates a segment that is too large or too old."""

    def __init__(
        self, folder: Path, *, max_bytes: int = 64_000_000, max_age_s: float = 3600.0, fsync: bool = False
    ) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self.max_age_s = max_age_s
        self.fsync = fsync
        self._lock = threading.Lock()
        self._fd: int | None = None
        self._path = folder
        self._length = 0
        self._born = 0.0

    def append(self, records: Sequence[dict[str, Any] | bytes]) -> None:
        """Append all records in one write, or none and JournalError (disk full, folder gone, not serialisable).

        A record in bytes is lines already, their ends included.
        """
        try:
            data = b"".join(
                [r if isinstance(r, bytes) else orjson.dumps(r, option=orjson.OPT_APPEND_NEWLINE) for r in records]
            )
        except TypeError as error:
            raise JournalError(f"a record is not JSON: {error}") from error
        if not data:
            return
        with self._lock:
            try:
                self._write(self._segment(), data)
            except OSError as error:
                raise JournalError(f"cannot append to {self._path}: {error}; free space or fix the folder") from error

    def close(self) -> None:
        """Finish the current segment; a later append starts another."""
        with self._lock:
            self._finish()

    def rotate(self) -> None:
        """Finish the current segment if it is too large or too old: nobody may append to it for a while."""
        with self._lock:
            if self._length >= self.max_bytes or time.monotonic() - self._born >= self.max_age_s:
                self._finish()

    def _segment(self) -> int:
        full = self._length >= self.max_bytes or time.monotonic() - self._born >= self.max_age_s
        if self._fd is not None and full:
            self._finish()
        while self._fd is None:
            self._open()
        return self._fd

    def _open(self) -> None:
        """A new segment, locked as long as its process lives; none if it was taken for a dead one's before it was."""
        self.folder.mkdir(parents=True, exist_ok=True)
        start = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        path = self.folder / f"{start}-{os.getpid()}-{secrets.token_hex(4)}.jsonl{OPEN}"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
        with suppress(OSError):  # a file system without locks: then nobody can take the segment for a dead one's either
            fcntl.flock(fd, fcntl.LOCK_EX)
        if not path.exists():
            os.close(fd)
            return
        self._fd, self._path, self._length, self._born = fd, path, 0, time.monotonic()

    def _write(self, fd: int, data: bytes) -> None:
        try:
            written = os.write(fd, data)
            if written != len(data):
                raise OSError(f"only {written} of {len(data)} bytes were written: the disk is full")
            if self.fsync:
                os.fsync(fd)
        except OSError:
            self._revert(fd)
            raise
        self._length += written

    def _revert(self, fd: int) -> None:
        """Take back what a failed write left, so that nobody reads an answer that was never given."""
        try:
            os.ftruncate(fd, self._length)
        except OSError:
            self._finish()  # leave the damaged segment alone and start another

    def _finish(self) -> None:
        if self._fd is None:
            return
        os.close(self._fd)
        self._fd = None
        with suppress(FileNotFoundError):
            if self._length:
                self._path.rename(_finished(self._path))
            else:
                self._path.unlink()


def segment_age() -> float:
    """Seconds after which a service finishes a segment, by `BENTOFLOW_JOURNAL_AGE_S` (3,600); ValueError if no number.

    With a bucket it is how long an answer is on the local disk alone.
    """
    text = os.environ.get("BENTOFLOW_JOURNAL_AGE_S", "").strip()
    try:
        return float(text or 3600)
    except ValueError as error:
        raise ValueError(f"BENTOFLOW_JOURNAL_AGE_S is {text!r:.40}; give seconds, such as 60") from error


def segments(folder: Path) -> list[Path]:
    """All segments of a journal, oldest first, those still open or left open by a killed process included."""
    steps = (f"*.jsonl{OPEN}", "*.jsonl", f"{SHIPPED}/*.jsonl")  # in this order: one renamed meanwhile counts once
    found = {_finished(path).name: path for step in steps for path in folder.glob(step)}
    return [found[name] for name in sorted(found)]


def adopt(folder: Path, idle_s: float = 0.0) -> None:
    """Finish the segments that killed processes left open: nobody holds their locks, or wrote to them for `idle_s`.

    The time is for shared disks whose locks do not reach other machines.
    """
    for path in folder.glob(f"*.jsonl{OPEN}"):
        with suppress(OSError), path.open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = os.fstat(file.fileno())
            if time.time() - found.st_mtime < idle_s:
                continue
            if found.st_size:
                path.rename(_finished(path))
            else:
                path.unlink()


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a segment. A last line without its end was never answered and is left out.

    JournalError names file and line of any other line that is not a JSON object.
    """
    with _opened(path) as file:
        yield from parse(file, path)


def mark(path: Path) -> Mark:
    """The mark of a segment, of the finished one if it was closed, and so renamed, meanwhile."""
    with _opened(path) as file:
        found = os.fstat(file.fileno())
    return Mark(found.st_size, found.st_mtime_ns)


def head(path: Path, size: int) -> bytes:
    """The whole lines among a segment's first `size` bytes, which stay the same while it grows."""
    with _opened(path) as file:
        data = file.read(size)
    return data[: data.rfind(b"\n") + 1]


def parse(lines: Iterable[bytes], path: Path) -> Iterator[dict[str, Any]]:
    """The records of a segment's lines, as `read` gives them."""
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            return
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise JournalError(
                f"{path}, line {number} is corrupt: {error}; restore the segment or remove "
                "the line if you accept to lose that answer"
            ) from error
        if not isinstance(record, dict):
            raise JournalError(f"{path}, line {number} is corrupt: it holds no object but {line[:40]!r}")
        try:
            records = list(blocks.expand(record))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise JournalError(f"{path}, line {number} is corrupt: {error!r}; restore the segment") from error
        yield from records


def scan(
    folder: Path, *, since: datetime | None = None, until: datetime | None = None, include_smoke: bool = False
) -> Iterator[dict[str, Any]]:
    """The records of all segments with `since <= time < until` on the domain's clock, smoke tests left out."""
    for path in segments(folder):
        for record in read(path):
            if record.get("smoke") and not include_smoke:
                continue
            if since is not None or until is not None:
                at = _time(record, path)
                if (since is not None and at < since) or (until is not None and at >= until):
                    continue
            yield record


def _time(record: dict[str, Any], path: Path) -> datetime:
    try:
        return datetime.fromisoformat(record["time"])
    except (KeyError, TypeError, ValueError) as error:
        raise JournalError(f"{path} has a record without a time: {record.get('request_id')}: {error}") from error


def _finished(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(OPEN))


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except FileNotFoundError:  # finished, or shipped, since it was listed
        done = _finished(path)
        return (done if done.exists() else done.parent / SHIPPED / done.name).open("rb")
