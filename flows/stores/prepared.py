"""Which snapshot the newest prepare made, and as of when."""

import json
from pathlib import Path

import pandas as pd

from bentos.runtime.home import replace
from flows.errors import StoreError
from flows.steps import cohorts


def _path(home: Path, use_case: str) -> Path:
    return home / "snapshots" / use_case / "latest.json"


def remember(home: Path, use_case: str, snapshot: str, as_of: pd.Timestamp) -> None:
    """Point to the snapshot, atomically."""
    replace(_path(home, use_case), json.dumps({"snapshot": snapshot, "as_of": as_of.isoformat()}).encode())


def latest(home: Path, use_case: str) -> tuple[str, pd.Timestamp]:
    """Snapshot and moment of the newest prepare; StoreError if there was none."""
    path = _path(home, use_case)
    if not path.exists():
        raise StoreError(f"nothing is prepared for {use_case}: run `bentoflow prepare --use-case {use_case}`")
    found = json.loads(path.read_text())
    return found["snapshot"], cohorts.utc(found["as_of"])
