"""Columns: what a call brings in any protocol, as rows for the predictor.

A call brings all of the model's features by name, in any order, with the entity's column or without it; or the entity's
column alone, and then the features come from the online store. A row that brings its features may leave its entity out
(or null): it is answered and journalled with a null entity, and labels find it by its request id only. Rows of events
have more of their own (`events`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any, get_type_hints

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, TypeAdapter, ValidationError

from bentos.runtime.scoring import table
from bentos.runtime.scoring.given import NUMBERS, TEXTS
from bentos.runtime.scoring.inputs import MAX_ROWS, Fields
from bentos.runtime.scoring.table import Table
from bentos.runtime.scoring.wire import FEATURES, Order, assembled

Column = Sequence[Any] | npt.NDArray[Any]
Columns = dict[str, Column]
Rows = Sequence[Fields]
EXACT = 2**53  # whole numbers up to here are what they seem to be as a float


class Refused(Exception):
    """Why a call as a whole has no answer: an HTTP status, a sentence and, where it helps, the row and the field."""

    def __init__(self, status: int, error: str, *, row: int | None = None, field: str | None = None) -> None:
        where = ", ".join([*([f"row {row}"] if row is not None else []), *([field] if field else [])])
        self.status, self.row, self.field = status, row, field
        self.error = f"{where}: {error}" if where else error
        self.counted = False  # by the predictor already
        super().__init__(self.error)

    def dump(self) -> dict[str, Any]:
        """The error as /predict gives one, with the row's number."""
        place = {"row": self.row, "field": self.field}
        return {"error": self.error, **{k: v for k, v in place.items() if v is not None}}


class Field:
    """A field of a use case's rows, such as an entity's key, checked as the use case's own schema does."""

    def __init__(self, row: type[BaseModel], name: str) -> None:
        kind = get_type_hints(row, include_extras=True)[name]
        self.name = name
        self._many: TypeAdapter[list[Any]] = TypeAdapter(list[kind])  # type: ignore[valid-type]
        item = self._many.json_schema()["items"]
        self._types = {part.get("type") for part in item.get("anyOf", [item])}

    @property
    def text(self) -> bool:
        """Whether it is a text, as keys may be and times are in JSON."""
        return "string" in self._types

    @property
    def whole(self) -> bool:
        """Whether it is a whole number."""
        return "integer" in self._types

    def check(self, column: Column, *, required: bool) -> list[Any]:
        """A column's values, None where it has none; whole numbers may come as floats, as tables with gaps do."""
        found = column.tolist() if isinstance(column, np.ndarray) else list(column)
        there: Sequence[int] = range(len(found))
        if not {float, NoneType}.isdisjoint(map(type, found)):
            found = [_number(value, whole=self.whole) if type(value) is float else value for value in found]
            there = [i for i, value in enumerate(found) if value is not None]
        if required and len(there) < len(found):
            row = next(i for i, value in enumerate(found) if value is None)
            raise Refused(400, "is missing, and there are no features instead", row=row, field=self.name)
        try:
            valid = self._many.validate_python(found if len(there) == len(found) else [found[i] for i in there])
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            raise Refused(400, first["msg"], row=there[int(first["loc"][0])], field=self.name) from None
        if len(there) == len(found):
            return valid
        for i, value in zip(there, valid, strict=True):
            found[i] = value
        return found


def own_fields(row: type[BaseModel]) -> dict[str, Field]:
    """The fields of a use case's rows that are not the model's features, by name."""
    return {name: Field(row, name) for name in row.model_fields if name != FEATURES}


@dataclass(frozen=True)
class Layout:
    """What a release's rows consist of: `fields` of their own, of which one names the entity, and the features."""

    entity: str
    names: tuple[str, ...]
    fields: Mapping[str, Field]
    categorical: tuple[str, ...] = ()

    @property
    def texts(self) -> set[str]:
        """Columns that hold texts."""
        return {*self.categorical, *(name for name, field in self.fields.items() if field.text)}

    @property
    def known(self) -> tuple[str, ...]:
        """Every column that a call may have."""
        return tuple(dict.fromkeys((*self.fields, *self.names)))

    def rows(self, columns: Mapping[str, Column], *, extra: bool = False) -> Rows:
        """The rows of columns, Refused if one is not as it must be; `extra` columns are refused or left out."""
        n = self._length(columns)
        given = [name for name in self.names if name in columns]
        self._all_known(columns, extra=extra)
        if not n:
            return []
        if not given:
            if self.entity not in columns:
                raise Refused(400, f"bring {', '.join(self.names)}, or {self.entity} alone", field=self.entity)
            keys = self.fields[self.entity].check(columns[self.entity], required=True)
            return assembled(self.entity, keys)
        self._all_features(columns)
        keys = self.fields[self.entity].check(columns.get(self.entity, [None] * n), required=False)
        return Table(self.entity, keys, Order(self.names, self.categorical), self._values(columns))

    def _all_known(self, columns: Mapping[str, Column], *, extra: bool) -> None:
        unknown = [name for name in columns if name not in self.known]
        if unknown and not extra:
            raise Refused(400, f"unknown; there are {', '.join(self.known)}", field=f"{unknown[0]:.80}")

    def _all_features(self, columns: Mapping[str, Column]) -> None:
        if lacking := [name for name in self.names if name not in columns]:
            raise Refused(400, "missing; bring all features or none", field=lacking[0])

    def _values(self, columns: Mapping[str, Column]) -> list[table.Column]:
        """The values of each feature in the order of the names: numbers with NaN where missing, texts with None."""
        return [(texts if name in self.categorical else floats)(columns[name], name) for name in self.names]

    def matrix(self, values: Any) -> Columns:
        """The columns of a list of lists, or an array, that has the features in the model's order."""
        if isinstance(values, np.ndarray):
            if values.ndim != 2 or values.shape[1] != len(self.names):
                raise Refused(400, f"has shape {list(values.shape)}; it must be [rows, {len(self.names)}]")
            return dict(zip(self.names, values.T, strict=True))
        return by_position(values, self.names)

    def _length(self, columns: Mapping[str, Column]) -> int:
        lengths = {name: len(column) for name, column in columns.items()}
        n = max(lengths.values(), default=0)
        for name, length in lengths.items():
            if length != n:
                raise Refused(400, f"has {length} values where another has {n}", field=name)
        return too_many(n)


def too_many(n: int) -> int:
    """The number of rows, Refused if one call may not bring so many."""
    if n > MAX_ROWS:
        raise Refused(400, f"{n} rows are more than the {MAX_ROWS} of one call; send them in several")
    return n


def floats(column: Column, field: str) -> npt.NDArray[np.float64]:
    """A feature's values, NaN where missing; Refused names the first that is no finite number."""
    if isinstance(column, np.ndarray) and column.dtype.kind in "iuf":
        x = column.astype(np.float64)
    else:
        values = column.tolist() if isinstance(column, np.ndarray) else column
        if not NUMBERS.issuperset(map(type, values)):
            row = next(i for i, value in enumerate(values) if type(value) not in NUMBERS)
            raise Refused(400, f"{values[row]!r:.40} is not a number; missing is null", row=row, field=field)
        try:
            x = np.array(values, dtype=np.float64)
        except OverflowError:
            x = np.array([_bounded(value) for value in values], dtype=np.float64)
    if len(wrong := np.flatnonzero(np.isinf(x))):
        raise Refused(400, "is infinite or too large; missing is null", row=int(wrong[0]), field=field)
    return x


def texts(column: Column, field: str) -> Sequence[str | None]:
    """A categorical feature's values, None where missing; Refused names the first that is no text."""
    values = column.tolist() if isinstance(column, np.ndarray) else column
    if not TEXTS.issuperset(map(type, values)):
        values = [None if value != value else value for value in values]  # NaN, as tables mark gaps with it
        row = next((i for i, value in enumerate(values) if type(value) not in TEXTS), None)
        if row is not None:
            raise Refused(400, f"{values[row]!r:.40} is not a text; missing is null", row=row, field=field)
    return values


def by_position(values: Any, names: Sequence[str]) -> Columns:
    """The columns of a list of rows, each a list with a value per name."""
    if not isinstance(values, list):
        raise Refused(400, f"give a list of rows, not {_kind(values)}")
    too_many(len(values))
    for i, row in enumerate(values):
        if not isinstance(row, list):
            raise Refused(400, f"is {_kind(row)}; it must be a list of {len(names)} values", row=i)
        if len(row) != len(names):
            raise Refused(400, f"has {len(row)} values; it must have {len(names)} ({', '.join(names)})", row=i)
    return dict(zip(names, zip(*values, strict=True), strict=True)) if values else {}


def by_name(records: Any) -> Columns:
    """The columns of a list of objects, all with the same names."""
    if not isinstance(records, list):
        raise Refused(400, f"give a list of objects, not {_kind(records)}")
    too_many(len(records))
    names = records[0].keys() if records and isinstance(records[0], dict) else {}
    for i, row in enumerate(records):
        if not isinstance(row, dict) or not row:
            raise Refused(400, f"is {_kind(row)}; it must be an object with a value per column", row=i)
        if row.keys() != names:
            odd = next(name for name in (*names, *row) if (name in names) != (name in row))
            raise Refused(400, "missing" if odd in names else "row 0 has none", row=i, field=f"{odd:.80}")
    return {name: [row[name] for row in records] for name in names}


def _number(value: float, *, whole: bool) -> Any:
    """A float of a table: None for NaN, and a whole number where one is wanted."""
    if value != value:
        return None
    return int(value) if whole and abs(value) <= EXACT and value.is_integer() else value


def _bounded(value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except OverflowError:
        return np.inf


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "text", type(None): "null", bool: "true or false"}
    return ("an empty " + kinds[type(value)].split()[-1]) if value in ({}, []) else kinds.get(type(value), "a number")
