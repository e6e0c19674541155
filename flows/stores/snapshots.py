"""Snapshots of the prepared data: below the home, and in the bucket where there is one."""

from pathlib import Path
from typing import Any

import pandas as pd

from bentos.runtime import bucket
from bentos.runtime.home import replace
from flows.stores import tables
from flows.stores.tables import Snapshot


def folder(home: Path, use_case: str) -> Path:
    """Where the snapshots of a use case lie in a home."""
    return home / "snapshots" / use_case


def address(home: Path, use_case: str, id: str) -> str:
    """Where a snapshot's table is found by who looks for it: in the bucket if there is one, else its file."""
    shared = bucket.opened()
    return f"{shared.url}/{_names(use_case, id)[0]}" if shared else str(folder(home, use_case) / f"{id}.parquet")


def write(home: Path, use_case: str, frame: pd.DataFrame, *, meta: dict[str, Any]) -> Snapshot:
    """Keep a table as an immutable snapshot, see `tables.write_snapshot`; BucketError if the bucket does not take it.

    Then it is in the home already, and writing it again writes it to the bucket.
    """
    made = tables.write_snapshot(frame, folder(home, use_case), meta=meta)
    if (shared := bucket.opened()) is not None:
        table, note = _names(use_case, made.id)
        if not shared.has(note):  # comes last: with it the snapshot is whole
            shared.put(table, made.path.read_bytes())
            shared.put(note, made.path.with_suffix(".json").read_bytes())
    return made


def read(home: Path, use_case: str, id: str) -> pd.DataFrame:
    """The table of a snapshot, fetched from the bucket if the home has it not; StoreError if it is not what it was."""
    kept, shared = folder(home, use_case), bucket.opened()
    if shared is not None and not (kept / f"{id}.json").exists():
        table, note = _names(use_case, id)
        if shared.has(note):
            replace(kept / f"{id}.parquet", shared.get(table))
            replace(kept / f"{id}.json", shared.get(note))
    return tables.read_snapshot(kept, id)


def _names(use_case: str, id: str) -> tuple[str, str]:
    """The names of a snapshot's table and of its record in the bucket."""
    return f"snapshots/{use_case}/{id}.parquet", f"snapshots/{use_case}/{id}.json"
