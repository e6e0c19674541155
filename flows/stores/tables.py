"""Tables at rest: content-hashed snapshots and idempotent parquet partitions; `read` fetches them from a source."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from flows.errors import StoreError
from flows.stores.sources import read

__all__ = ["Snapshot", "content_hash", "read", "read_snapshot", "write_snapshot", "write_table"]

ID_CHARS: Final = 16
CONTENT: Final = b"bentoflow.content"
FORMAT: Final = b"bentoflow table 1"


@dataclass(frozen=True)
class Snapshot:
    """One immutable version of a table; `created` is False if it was there already, then `meta` is the stored one."""

    id: str
    path: Path
    rows: int
    meta: dict[str, Any]
    created: bool


def content_hash(frame: pd.DataFrame) -> str:
    """SHA-256 (hex) of a table's content: column names, their order, types and values, whatever the row order.

    Index, categories, compression and library versions do not count; int64 equals Int64, missing is missing in every
    type, times count in microseconds. Raises StoreError for a column of anything but numbers, booleans, text, times.
    """
    return _hashed(_canonical(frame)[1])


def write_snapshot(frame: pd.DataFrame, folder: Path, *, meta: dict[str, Any]) -> Snapshot:
    """Keep a table as `<id>.parquet` and `<id>.json`, rows in canonical order; the same content is written once.

    The json file comes last: without it the snapshot is incomplete, and written again. `meta` must be JSON.
    """
    ordered, columns = _canonical(frame)
    full = _hashed(columns)
    name = full[:ID_CHARS]
    path, note = folder / f"{name}.parquet", folder / f"{name}.json"
    if path.exists() and note.exists():
        stored = _note(note)
        if stored["hash"] != full:
            raise StoreError(f"{note} belongs to content {stored['hash']}, not {full}; move that snapshot away")
        return Snapshot(name, path, len(ordered), stored["meta"], created=False)
    text = json.dumps(
        {
            "id": name,
            "hash": full,
            "rows": len(ordered),
            "meta": meta,
            "columns": {c: str(t) for c, t in ordered.dtypes.items()},
        },
        indent=2,
    )
    if _recorded(path) != full:
        _write_parquet(ordered, path, full)
    _write(note, lambda file: Path(file).write_text(text, encoding="utf-8"))
    return Snapshot(name, path, len(ordered), json.loads(text)["meta"], created=True)


def read_snapshot(folder: Path, id: str) -> pd.DataFrame:
    """The table of a snapshot; raises StoreError if it is missing, incomplete or not what was written."""
    path, note = folder / f"{id}.parquet", folder / f"{id}.json"
    if not path.exists() or not note.exists():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.json"))[:10]) or "none"
        raise StoreError(f"no complete snapshot {id!r} in {folder}; known: {known}. Prepare the data again")
    expected = _note(note)["hash"]
    try:
        frame = pd.read_parquet(path)
        found = content_hash(frame)
    except (OSError, ValueError, pa.ArrowException, StoreError) as error:
        raise StoreError(
            f"{path} cannot be read: {error}. Restore it, or delete it with {note.name} and prepare the data again"
        ) from error
    if found != expected or not expected.startswith(id):
        raise StoreError(
            f"{path} was altered: its content is {found[:ID_CHARS]}, its record says "
            f"{expected[:ID_CHARS]}. Restore it, or delete it with {note.name} and prepare the data again"
        )
    return frame


def write_table(frame: pd.DataFrame, path: Path) -> bool:
    """Write one parquet file whole, times in microseconds; False if the file held the same content already."""
    full = content_hash(frame)
    if _recorded(path) == full:
        return False
    _write_parquet(frame, path, full)
    return True


def _note(path: Path) -> dict[str, Any]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return {"hash": str(stored["hash"]), "meta": dict(stored["meta"])}
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is no snapshot record: {error!r}. Delete it and prepare the data again") from error


def _recorded(path: Path) -> str | None:
    """The content hash in a parquet file's own metadata, None if there is no such file or it is not whole."""
    try:
        recorded = (pq.read_metadata(path).metadata or {}).get(CONTENT)
    except (OSError, pa.ArrowException):
        return None
    return recorded.decode() if recorded else None


def _write_parquet(frame: pd.DataFrame, path: Path, full: str) -> None:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    for position, column in enumerate(table.schema):  # or an all-missing partition disagrees with its siblings
        if pa.types.is_null(column.type):
            table = table.set_column(position, column.name, table.column(position).cast(pa.string()))
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), CONTENT: full.encode()})
    _write(path, lambda file: pq.write_table(table, file, coerce_timestamps="us", allow_truncated_timestamps=True))


def _write(path: Path, fill: Callable[[str], object]) -> None:
    """Fill a temporary file beside `path`, flush it to disk, then put it in place in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        fill(temporary)
        os.chmod(temporary, 0o644)
        os.fsync(handle)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)


@dataclass(frozen=True)
class _Column:
    """Canonical form: a type name, a mask of what is missing, fixed-width values (or text) and their sort key."""

    name: str
    type: str
    missing: "np.ndarray[Any, Any]"
    values: "np.ndarray[Any, Any]"
    key: "np.ndarray[Any, Any]"


def _hashed(columns: list[_Column]) -> str:
    digest = hashlib.sha256(FORMAT)
    rows = len(columns[0].missing) if columns else 0
    digest.update(json.dumps([rows, *((c.name, c.type) for c in columns)]).encode())
    for column in columns:
        digest.update(np.packbits(column.missing).tobytes())
        if column.type == "str":
            text = pa.array(column.values, type=pa.large_string())
            offsets = np.frombuffer(text.buffers()[1], dtype="<i8", count=rows + 1)
            digest.update(np.diff(offsets).astype("<i8").tobytes())
            digest.update(bytes(text.buffers()[2] or b"")[: offsets[-1]])
        else:
            digest.update(np.ascontiguousarray(column.values).tobytes())
    return digest.hexdigest()


def _canonical(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[_Column]]:
    """The table sorted by all its columns with times in microseconds, and its columns in canonical form."""
    if not all(isinstance(name, str) for name in frame.columns) or not frame.columns.is_unique:
        raise StoreError(f"column names {list(frame.columns)} must be strings, each once; rename them")
    columns = [_column(name, frame[name]) for name in frame.columns]
    keys = [key for c in reversed(columns) for key in (c.key, c.missing)]
    order = np.lexsort(keys) if keys else np.arange(len(frame))
    ordered = frame.iloc[order].reset_index(drop=True)
    for name in ordered.columns:
        if ordered[name].dtype.kind == "M":
            ordered[name] = ordered[name].dt.as_unit("us")
    return ordered, [_Column(c.name, c.type, c.missing[order], c.values[order], c.key) for c in columns]


def _column(name: str, series: "pd.Series[Any]") -> _Column:
    if isinstance(series.dtype, pd.CategoricalDtype):
        series = series.astype(series.cat.categories.dtype)
    missing, kind = series.isna().to_numpy(dtype=bool), series.dtype.kind
    if kind in "iufb":
        width = str(series.dtype).lower().removesuffix("[pyarrow]")
        plain = np.dtype("bool" if kind == "b" else {"double": "float64", "float": "float32"}.get(width, width))
        values = series.to_numpy(dtype=plain, na_value=plain.type(0)).astype(plain.newbyteorder("<"))
        values = values + 0 if kind == "f" else values  # -0.0 becomes 0.0
        values[missing] = 0
        return _Column(name, str(plain), missing, values, values)
    if kind == "M":
        aware = series.dt.tz is not None
        instants = (series.dt.tz_convert("UTC").dt.tz_localize(None) if aware else series).dt.as_unit("us")
        values = np.where(missing, 0, instants.to_numpy(dtype="datetime64[us]").view("<i8"))
        return _Column(name, "time UTC" if aware else "time", missing, values, values)
    if pd.api.types.infer_dtype(series, skipna=True) not in ("string", "empty"):
        found = sorted({type(value).__name__ for value in series.dropna()})
        raise StoreError(
            f"column {name!r} holds {', '.join(found) or series.dtype}; only numbers, booleans, text and "
            "times can be kept. Parse it with a contract first"
        )
    codes, unique = pd.factorize(series.astype(object), sort=True)
    texts = np.append(np.asarray(unique, dtype=object), "")[codes]
    return _Column(name, "str", missing, texts, codes)
