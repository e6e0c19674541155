"""The domain's clock: wall time, or the day up to which a finished log has been prepared."""

import json
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from bentos.runtime.home import replace

_parsed: dict[Path, tuple[int, datetime]] = {}


class ClockError(ValueError):
    """A clock file cannot be read as a time."""


def clock_path(home: Path, use_case: str) -> Path:
    """Where a use case's clock file lies, if it has one."""
    return home / "clock" / f"{use_case}.json"


@cache
def _path(home: Path, use_case: str) -> Path:
    return clock_path(home, use_case)  # made once: joining paths costs more than looking at the file


def now(home: Path, use_case: str) -> datetime:
    """The time of the use case's clock file if there is one, else wall time; UTC."""
    path = _path(home, use_case)
    try:
        stamp = path.stat().st_mtime_ns
    except FileNotFoundError:
        return datetime.now(UTC)
    known = _parsed.get(path)
    if known is None or known[0] != stamp:
        known = _parsed[path] = (stamp, _parse(path))
    return known[1]


def write(home: Path, use_case: str, time: datetime) -> None:
    """Set a use case's clock; readers see the old or the new time, never half of one."""
    if time.tzinfo is None:
        raise ClockError(f"clock of {use_case}: {time.isoformat()} has no time zone; pass an aware datetime")
    replace(clock_path(home, use_case), json.dumps({"now": time.astimezone(UTC).isoformat()}).encode())


def _parse(path: Path) -> datetime:
    try:
        time = datetime.fromisoformat(json.loads(path.read_text())["now"])
    except (ValueError, KeyError, TypeError) as error:
        raise ClockError(f'{path} is not {{"now": "<ISO time>"}}: {error}; run the prepare flow again') from error
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
