"""Blocks: the journal's records of rows that were decided together, column by column in one line.

A line per row costs five times the bytes and most of the time that journalling takes. What all rows of a block have
alike stands in `same`, the rest in `each`, and the features in `values`, a column for each of `names`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

OPTIONS = orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY


def alike(column: Sequence[Any]) -> bool:
    """Whether a column has one value everywhere; where it has not, two looks mostly tell."""
    return len(column) > 0 and column[0] == column[-1] and column.count(column[0]) == len(column)


def compose(
    rows: int,
    columns: Mapping[str, Sequence[Any]],
    *,
    names: Sequence[str],
    values: Sequence[Any],
    others: Mapping[str, Sequence[Any]],
    same: Mapping[str, Any],
) -> bytes:
    """The line of a block; `values` has a list or array per feature, NaN and None where missing."""
    common, each = dict(same), {}
    for name, column in columns.items():
        if alike(column):
            common[name] = column[0]
        else:
            each[name] = column
    block: dict[str, Any] = {"rows": rows, "same": common, "each": each, "names": names, "values": values}
    return orjson.dumps(block | {"others": others} if others else block, option=OPTIONS)


def expand(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The records that a line of the journal stands for: those of a block, else itself.

    ValueError if a block does not have as many of everything as it has rows.
    """
    if "each" not in record:
        yield record
        return
    n, same, names = record["rows"], record["same"], record["names"]
    parts = [*record["each"].values(), *record["values"], *record.get("others", {}).values()]
    if len(names) != len(record["values"]) or any(len(part) != n for part in parts):
        raise ValueError(f"a block of {n} rows has columns of other lengths")
    columns = dict(record["each"])
    columns["features"] = _objects(n, dict(zip(names, record["values"], strict=True)))
    if "others" in record:
        columns["others"] = _objects(n, record["others"])
    for row in zip(*columns.values(), strict=True):
        yield {**dict(zip(columns, row, strict=True)), **same}


def _objects(n: int, columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """An object per row from columns by name."""
    if not columns:
        return [{} for _ in range(n)]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
