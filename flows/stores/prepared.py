"""Which snapshot the newest prepare made, and as of when."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from bentos.runtime.home import replace
from flows.errors import StoreError
from flows.steps.data import cohorts
from flows.stores import records, snapshots


def _path(home: Path, use_case: str) -> Path:
    return snapshots.folder(home, use_case) / "latest.json"


def _read(home: Path, use_case: str) -> dict[str, Any]:
    return records.read(_path(home, use_case), "remove it, and run `bentoflow prepare` again") or {}


def remember(home: Path, use_case: str, snapshot: str, as_of: pd.Timestamp, *, source_rows: int) -> None:
    """Point to the snapshot, whose feature tables are complete; atomically."""
    found = {"snapshot": snapshot, "as_of": as_of.isoformat(), "source_rows": source_rows, "complete": True}
    replace(_path(home, use_case), json.dumps(found).encode())


def forget(home: Path, use_case: str) -> None:
    """Mark that feature tables are being rewritten."""
    if found := _read(home, use_case):
        replace(_path(home, use_case), json.dumps({**found, "complete": False}).encode())


def source_rows(home: Path, use_case: str) -> int:
    """Good rows of the source at the newest prepare; 0 before the first."""
    return int(_read(home, use_case).get("source_rows", 0))


def latest(home: Path, use_case: str) -> tuple[str, pd.Timestamp]:
    """Snapshot and moment of the newest prepare; StoreError if there was none, or the last one was interrupted."""
    found = _read(home, use_case)
    if not found:
        raise StoreError(f"nothing is prepared for {use_case}: run `bentoflow prepare --use-case {use_case}`")
    if not found["complete"]:
        raise StoreError(
            f"the last prepare of {use_case} did not finish, so its feature tables may mix two snapshots: "
            f"run `bentoflow prepare --use-case {use_case}` again"
        )
    return found["snapshot"], cohorts.utc(found["as_of"])
