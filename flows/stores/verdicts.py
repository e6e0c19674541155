"""Verdicts of the drift checks, each beside its report, and the quality that labels measured."""

from datetime import datetime
from pathlib import Path
from typing import Any

from flows.errors import StoreError
from flows.stores import records

KEPT = 32  # windows before a check that its persistence may ask about


def stem(home: Path, use_case: str, release: str, start: datetime, end: datetime) -> Path:
    """Path of a window's report and verdict, without their endings."""
    label = f"{start:%Y-%m-%d}_{end:%Y-%m-%d}"
    return home / "reports" / use_case / f"drift-{label}-{release.split(':')[-1]}"


def before(home: Path, use_case: str, release: str, end: datetime) -> list[dict[str, Any]]:
    """The newest verdicts on a release's windows that ended before a moment, the newest last."""
    return [v for v in until(home, use_case, end, f"drift-*-{release.split(':')[-1]}.json") if _ended(v) < end][-KEPT:]


def until(home: Path, use_case: str, end: datetime, pattern: str = "drift-*.json") -> list[dict[str, Any]]:
    """The verdicts on windows with answers, of every release, that ended by a moment, the newest last."""
    found = [read(path) for path in (home / "reports" / use_case).glob(pattern)]
    return sorted((v for v in found if v and v["rows"] and _ended(v) <= end), key=_ended)


def read(path: Path) -> dict[str, Any]:
    """The verdict in a file, {} if there is none; StoreError if it is none."""
    remedy = "remove it: a check of the same window writes it again"
    found = records.read(path, remedy) or {}
    if found and not {"rows", "until"} <= set(found):
        raise StoreError(f"{path} is no verdict of a drift check; {remedy}")
    return found


def _ended(verdict: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(verdict["until"])


def feedback(home: Path, use_case: str) -> dict[str, Any]:
    """What labels measured last: `months` and `windows`; {} before the first time."""
    return records.read(home / "feedback" / f"{use_case}.json", "run `bentoflow feedback` again") or {}


def measured(home: Path, use_case: str, release: str) -> dict[str, Any]:
    """The newest month of live quality that is this release's alone: metrics with value, low, high; {} if none."""
    return newest(feedback(home, use_case).get("months", []), release)


def newest(months: list[dict[str, Any]], release: str) -> dict[str, Any]:
    """The newest of the measured months that is this release's alone; {} if none."""
    own = [month for month in months if month["releases"] == [release]]
    return own[-1] if own else {}
