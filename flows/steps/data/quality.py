"""A picture of a table's health, column by column; it describes, and the contract decides."""

from collections.abc import Sequence
from typing import Any, Final, TypedDict

import numpy as np
import pandas as pd

from flows.errors import ContractError
from flows.usecases.spec import Contract

FENCE: Final = 1.5  # interquartile ranges beyond the quartiles: Tukey, Exploratory Data Analysis, 1977
Value = float | int | str | None


class ColumnQuality(TypedDict):
    """Shares are 0 to 1 of all rows, the outliers' of the numbers that are there; times are ISO 8601."""

    name: str
    type: str
    missing_share: float
    distinct: int
    minimum: Value
    median: Value
    maximum: Value
    outlier_share: float | None


class Quality(TypedDict):
    """The health of a table, ready for JSON."""

    rows: int
    duplicate_share: float
    columns: list[ColumnQuality]


def quality(frame: pd.DataFrame, columns: Contract | Sequence[str] | None = None) -> Quality:
    """Missing, distinct, range and outliers per column, and the share of exact copies of earlier rows.

    Outliers lie over 1.5 interquartile ranges beyond the quartiles (Tukey 1977); infinities count among them and
    stay out of range and quartiles. Raises ContractError if a column is not in the table.
    """
    names = (
        [c.name for c in columns.columns]
        if isinstance(columns, Contract)
        else list(frame.columns if columns is None else columns)
    )
    if missing := [name for name in names if name not in frame.columns]:
        raise ContractError(f"no column {missing[0]!r} to describe; name one of: {', '.join(map(str, frame.columns))}")
    copies = frame[names].duplicated().mean() if len(frame) and names else 0.0
    return Quality(rows=len(frame), duplicate_share=float(copies), columns=[_column(n, frame[n]) for n in names])


def _column(name: str, series: "pd.Series[Any]") -> ColumnQuality:
    low, middle, high, outliers = _range(series.dropna())
    return ColumnQuality(
        name=name,
        type=str(series.dtype),
        missing_share=float(series.isna().mean()) if len(series) else 0.0,
        distinct=int(series.nunique()),
        minimum=low,
        median=middle,
        maximum=high,
        outlier_share=outliers,
    )


def _range(values: "pd.Series[Any]") -> tuple[Value, Value, Value, float | None]:
    kind = values.dtype.kind
    if values.empty or kind not in "iufM":
        return None, None, None, None
    if kind == "M":
        ordered = values.sort_values()
        low, middle, high = (pd.Timestamp(ordered.iloc[at]).isoformat() for at in (0, (len(ordered) - 1) // 2, -1))
        return low, middle, high, None
    numbers = values.to_numpy(dtype="float64")
    finite = numbers[np.isfinite(numbers)]
    if not len(finite):
        return None, None, None, 1.0
    lower, median, upper = (float(q) for q in np.percentile(finite, [25, 50, 75]))
    reach = FENCE * (upper - lower)
    outliers = float(((numbers < lower - reach) | (numbers > upper + reach)).mean())
    exact = int if kind in "iu" else float
    ends = values[np.isfinite(numbers)]
    return exact(ends.min()), median, exact(ends.max()), outliers


def as_markdown(report: Quality) -> str:
    """The picture as a Markdown table, one line per column."""
    lines = [
        f"{report['rows']:,} rows, {report['duplicate_share']:.2%} of them exact copies of earlier ones",
        "",
        "| column | type | missing | distinct | minimum | median | maximum | outliers |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for c in report["columns"]:
        cells = [
            _cell(c["name"]),
            c["type"],
            f"{c['missing_share']:.2%}",
            f"{c['distinct']:,}",
            *(_cell(c[end]) for end in ("minimum", "median", "maximum")),
            "" if c["outlier_share"] is None else f"{c['outlier_share']:.2%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(value: Value) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"
    return text.replace("|", "\\|").replace("\n", " ")
