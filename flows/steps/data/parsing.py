"""Turning a raw column into one of the four kinds of a contract, keeping track of what could not be read."""

import datetime as dt
import math
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]

Kind = Literal["int", "float", "str", "time"]
UTC_US: Final = pd.DatetimeTZDtype("us", "UTC")
EPOCH_UNITS: Final = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}  # microseconds in one unit
MISSING: Final = frozenset({"", "na", "n/a", "nan", "nat", "null", "none", "\\n"})
FAILED: Final = object()
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_OFFSET = r"[T ].*(?:Z|[+-]\d\d(?::?\d\d)?)$"


@dataclass(frozen=True)
class Parsed:
    """A typed column, null where the raw value was missing or could not be read; `failed` marks the latter."""

    values: "pd.Series[Any]"
    failed: npt.NDArray[np.bool_]


def parse_column(raw: "pd.Series[Any]", kind: Kind, time_format: str | None = None) -> Parsed:
    """Read a column as a kind: Int64, float64, object strings or datetime64[us, UTC].

    Times without a zone are UTC. `time_format` is a strptime format, or an epoch unit (s, ms, us, ns); without it
    strings are ISO 8601 and numbers are no times. Booleans are never numbers, infinities never floats.
    """
    raw = raw.astype(object) if isinstance(raw.dtype, pd.CategoricalDtype) else raw
    if kind == "int":
        return _whole(raw)
    if kind == "float":
        return _float(raw)
    return _text(raw) if kind == "str" else _time(raw, time_format)


def _none_of(raw: "pd.Series[Any]", dtype: Any) -> Parsed:
    return Parsed(pd.Series(None, index=raw.index, dtype=dtype), raw.notna().to_numpy(dtype=bool))


def _codes(raw: "pd.Series[Any]") -> tuple[npt.NDArray[np.intp], list[Any]]:
    """Positions into a list of values to convert once each; mixed values stay apart, as 1 == True == 1.0."""
    if raw.dtype.kind in "iuf" or pd.api.types.infer_dtype(raw, skipna=True) == "string":
        codes, unique = pd.factorize(raw)
        return codes, [*unique, None]  # -1, the code of a null, finds the last one
    codes = np.where(raw.isna(), -1, np.arange(len(raw)))
    return codes, [*raw.to_numpy(dtype=object), None]


def _each(raw: "pd.Series[Any]", convert: Callable[[Any], Any], empty: Any, dtype: Any) -> tuple[Any, Any, Any]:
    """Values, missing mask and failed mask of a column whose cells are Python objects."""
    codes, unique = _codes(raw)
    done = [None if v is None else convert(v) for v in unique]
    missing = np.array([v is None for v in done], dtype=bool)
    failed = np.array([v is FAILED for v in done], dtype=bool)
    values = np.empty(len(done), dtype=dtype)
    values[:] = [empty if v is None or v is FAILED else v for v in done]
    return values[codes], missing[codes], failed[codes]


def _as_float(value: Any) -> Any:
    if isinstance(value, bool | np.bool_):
        return FAILED
    if isinstance(value, str):
        value = value.strip()
        if value.lower() in MISSING:
            return None
        if "_" in value:  # float() would read 1_000
            return FAILED
    elif not isinstance(value, int | float | np.integer | np.floating | Decimal):
        return FAILED
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return FAILED
    return number if math.isfinite(number) else FAILED


def _as_int(value: Any) -> Any:
    digits = isinstance(value, str) and _INTEGER.fullmatch(value.strip())
    if digits or (isinstance(value, int | np.integer) and not isinstance(value, bool)):
        number = int(value)
    else:
        real = _as_float(value)
        if real is None or real is FAILED:
            return real
        exact = value if isinstance(value, Decimal) else Decimal(real)
        if exact != exact.to_integral_value() or (isinstance(value, str) and abs(real) >= 2**53):
            return FAILED
        number = int(exact)
    return number if -(2**63) <= number < 2**63 else FAILED


def _whole(raw: "pd.Series[Any]") -> Parsed:
    kind, missing = raw.dtype.kind, raw.isna().to_numpy(dtype=bool)
    if kind in "iu":
        numbers = raw.where(~missing, 0).to_numpy(dtype="uint64" if kind == "u" else "int64")
        failed = numbers > np.iinfo(np.int64).max
    elif kind == "f":
        numbers = raw.to_numpy(dtype="float64", na_value=np.nan)
        failed = ~missing & ~((numbers == np.floor(numbers)) & (np.abs(numbers) < 2.0**63))
    elif kind == "O":
        numbers, missing, failed = _each(raw, _as_int, 0, np.int64)
    else:
        return _none_of(raw, "Int64")
    whole = np.where(missing | failed, 0, numbers).astype(np.int64)
    return Parsed(pd.Series(pd.arrays.IntegerArray(whole, missing | failed), index=raw.index), failed)


def _float(raw: "pd.Series[Any]") -> Parsed:
    if raw.dtype.kind in "iuf":
        numbers = raw.to_numpy(dtype="float64", na_value=np.nan)
        failed = np.isinf(numbers)
    elif raw.dtype.kind == "O":
        numbers, _, failed = _each(raw, _as_float, np.nan, np.float64)
    else:
        return _none_of(raw, "float64")
    return Parsed(pd.Series(np.where(failed, np.nan, numbers), index=raw.index), failed)


def _as_text(value: Any) -> Any:
    if isinstance(value, int | np.integer | uuid.UUID) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        return FAILED
    try:
        value.encode()
    except UnicodeEncodeError:  # half a surrogate pair: JSON allows it, no store does
        return FAILED
    return str(value)


def _text(raw: "pd.Series[Any]") -> Parsed:
    if raw.dtype.kind not in "iuO":
        return _none_of(raw, object)
    if pd.api.types.infer_dtype(raw, skipna=True) in ("string", "empty") and _is_unicode(raw):
        return Parsed(raw.astype(object).where(raw.notna(), None), np.zeros(len(raw), dtype=bool))
    values, _, failed = _each(raw, _as_text, None, object)
    return Parsed(pd.Series(values, index=raw.index, dtype=object), failed)


def _is_unicode(raw: "pd.Series[Any]") -> bool:
    try:
        pa.array(raw, type=pa.large_string(), from_pandas=True)
    except (UnicodeEncodeError, pa.ArrowException):
        return False
    return True


def _iso(cells: "pd.Series[Any]") -> "pd.Series[Any]":
    """ISO 8601 strings as UTC; those with an offset go apart, or pandas applies it to the rows that follow."""
    offset = cells.str.contains(_OFFSET, na=False).to_numpy(dtype=bool)
    parts = [
        pd.to_datetime(cells[rows], format="ISO8601", utc=True, errors="coerce").astype(UTC_US)
        for rows in (offset, ~offset)
    ]
    times: pd.Series[Any] = pd.concat([part for part in parts if len(part)] or parts[:1]).reindex(cells.index)
    return times


def _epoch(raw: "pd.Series[Any]", scale: float) -> Parsed:
    seconds = _float(raw)
    micros = np.round(seconds.values.to_numpy(dtype="float64") * scale)
    failed = seconds.failed | (np.abs(micros) > 2.5e17)  # year 9999 and further away than that
    whole = np.where(np.isnan(micros) | failed, np.iinfo(np.int64).min, np.nan_to_num(micros)).astype("int64")
    times = pd.Series(whole.view("datetime64[us]"), index=raw.index).dt.tz_localize("UTC")
    return Parsed(times, failed)


def _strings(raw: "pd.Series[Any]", numbers: bool) -> tuple[Any, Any]:
    """Times as strings (native ones as ISO), and which are missing; numbers count only with a format."""

    def convert(value: Any) -> Any:
        if isinstance(value, str):
            return None if value.strip().lower() in MISSING else value.strip()
        if isinstance(value, np.datetime64):
            return pd.Timestamp(value).isoformat()
        if isinstance(value, dt.date):  # so is a datetime, and so is a Timestamp
            return value.isoformat()
        number = _as_int(value) if numbers else FAILED
        return number if number is FAILED or number is None else str(number)

    values, missing, _ = _each(raw, convert, None, object)
    return pd.Series(values, dtype=object), missing


def _is_native(raw: "pd.Series[Any]") -> npt.NDArray[np.bool_]:
    if raw.dtype.kind != "O" or pd.api.types.infer_dtype(raw, skipna=True) == "string":
        return np.zeros(len(raw), dtype=bool)
    return np.fromiter((isinstance(v, dt.date | np.datetime64) for v in raw), dtype=bool, count=len(raw))


def _time(raw: "pd.Series[Any]", time_format: str | None) -> Parsed:
    if raw.dtype.kind == "M":
        return Parsed(pd.to_datetime(raw, utc=True).astype(UTC_US), np.zeros(len(raw), dtype=bool))
    if raw.dtype.kind not in "iufO":
        return _none_of(raw, UTC_US)
    if time_format in EPOCH_UNITS and not _is_native(raw).any():
        return _epoch(raw, EPOCH_UNITS[time_format])
    cells, missing = _strings(raw, numbers=time_format is not None)
    if time_format is None:
        times = _iso(cells)
    else:
        native = _is_native(raw)
        parsed = pd.to_datetime(cells.where(~native), format=time_format, utc=True, errors="coerce").astype(UTC_US)
        times = _iso(cells.where(native)).where(native, parsed)
    times.index = raw.index
    return Parsed(times, times.isna().to_numpy() & ~missing)
