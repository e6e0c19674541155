"""The journal as frames: the answers of a window, of one release, or of one request."""

from collections.abc import Collection, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bentos.runtime import bucket, journal, shipping
from bentos.runtime.rollouts import rollout
from flows.errors import StoreError


def folder(home: Path, use_case: str) -> Path:
    """Where the service of a use case writes its journal."""
    return home / "journal" / use_case


def segments(home: Path, use_case: str) -> list[Path]:
    """All segments of the journal, oldest first, those included that are fetched from the bucket now."""
    if (shared := bucket.opened()) is not None:
        shipping.fetch(folder(home, use_case), shared, use_case)
    return journal.segments(folder(home, use_case))


def answered(record: dict[str, Any]) -> bool:
    """Whether somebody got this as an answer: no smoke test, no shadow's score."""
    return not record.get("smoke") and rollout.kind(record["arm"]) != rollout.SHADOW


def features_frame(
    records: Iterable[dict[str, Any]], names: Iterable[str], categorical: Collection[str] = ()
) -> pd.DataFrame:
    """Feature values (float64, NaN where missing; categorical ones text or None) and the score of each answer."""
    listed = list(records)
    columns = {
        n: np.array([r["features"].get(n) for r in listed], dtype=object if n in categorical else np.float64)
        for n in names
    }
    return pd.DataFrame({**columns, "score": np.array([r["score"] for r in listed], dtype=np.float64)})


def identity_frame(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """What tells one answer from another beside its features: the entity, and the call that it was answered in."""
    listed = list(records)
    return pd.DataFrame({"entity": [str(r["entity"]) for r in listed], "wall": [r["wall"] for r in listed]})


def recent(
    home: Path, use_case: str, since: datetime, *, arms: Iterable[str]
) -> dict[str, dict[int | str, dict[str, Any]]]:
    """Each entity's latest answer by some arms since a moment on the machine's clock: arm, entity, record.

    Of this machine's services alone: a release under way does not wait for the bucket.
    """
    found: dict[str, dict[int | str, dict[str, Any]]] = {arm: {} for arm in arms}
    for path in journal.segments(folder(home, use_case)):
        try:
            if path.stat().st_mtime < since.timestamp() - 1.0:  # a file's clock ticks in milliseconds
                continue
        except FileNotFoundError:  # it was closed, and so renamed, meanwhile: `read` finds it
            pass
        for record in journal.read(path):
            if record["arm"] in found and answered(record) and datetime.fromisoformat(record["wall"]) >= since:
                found[record["arm"]][record["entity"]] = record
    return found


def find(home: Path, use_case: str, request_id: str) -> dict[str, Any]:
    """The one answer of that request id; StoreError if the journal has none."""
    needle = request_id.encode()
    for path in reversed(segments(home, use_case)):
        if path.exists() and needle not in path.read_bytes():
            continue
        for record in journal.read(path):  # finds a segment that was closed, and so renamed, meanwhile
            if record["request_id"] == request_id and rollout.kind(record["arm"]) != rollout.SHADOW:
                return record
    raise StoreError(f"no answer {request_id!r} in the journal of {use_case} below {folder(home, use_case)}")
