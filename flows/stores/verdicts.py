"""Verdicts of the drift checks, each beside its report, and the quality that labels measured."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

KEPT = 32  # windows before a check that its persistence may ask about


def stem(home: Path, use_case: str, release: str, start: datetime, end: datetime) -> Path:
    """Path of a window's report and verdict, without their endings."""
    label = f"{start:%Y-%m-%d}_{end:%Y-%m-%d}"
    return home / "reports" / use_case / f"drift-{label}-{release.split(':')[-1]}"


def before(home: Path, use_case: str, release: str, end: datetime) -> list[dict[str, Any]]:
    """The newest verdicts on a release's windows that ended before a moment, the newest last."""
    folder = home / "reports" / use_case
    found = [json.loads(path.read_text()) for path in folder.glob(f"drift-*-{release.split(':')[-1]}.json")]
    earlier = [v for v in found if v["rows"] and datetime.fromisoformat(v["until"]) < end]
    return sorted(earlier, key=lambda v: datetime.fromisoformat(v["until"]))[-KEPT:]


def measured(home: Path, use_case: str, release: str) -> dict[str, Any]:
    """The newest month of live quality that is this release's alone: metrics with value, low, high; {} if none."""
    path = home / "feedback" / f"{use_case}.json"
    return newest(json.loads(path.read_text())["months"] if path.exists() else [], release)


def newest(months: list[dict[str, Any]], release: str) -> dict[str, Any]:
    """The newest of the measured months that is this release's alone; {} if none."""
    own = [month for month in months if month["releases"] == [release]]
    return own[-1] if own else {}
