"""The quality report counts right and always fits into JSON and Markdown."""

import json

import numpy as np
import pandas as pd
import pytest

from flows.errors import ContractError
from flows.steps.data.quality import as_markdown, quality
from flows.usecases.spec import Column, Contract


def test_numbers_are_described_by_range_and_tukey_s_fences() -> None:
    """Quartiles 2 and 4 put the fences at -1 and 7: of 1, 2, 3, 4, 100 only the last lies outside."""
    column = quality(pd.DataFrame({"x": [1, 2, 3, 4, 100]}))["columns"][0]
    assert column == {
        "name": "x",
        "type": "int64",
        "missing_share": 0.0,
        "distinct": 5,
        "minimum": 1,
        "median": 3.0,
        "maximum": 100,
        "outlier_share": 0.2,
    }


def test_the_fence_itself_is_inside() -> None:
    """A value exactly 1.5 interquartile ranges beyond the quartile is no outlier, the next one is."""
    assert quality(pd.DataFrame({"x": [1.0, 2, 3, 4, 7]}))["columns"][0]["outlier_share"] == 0.0
    assert quality(pd.DataFrame({"x": [1.0, 2, 3, 4, 7.01]}))["columns"][0]["outlier_share"] == 0.2


def test_missing_distinct_and_copies() -> None:
    """Missing values and exact copies of earlier rows are counted over all rows."""
    report = quality(pd.DataFrame({"a": ["x", "x", None, "y"], "b": [1.0, 1.0, np.nan, 2.0]}))
    assert (report["rows"], report["duplicate_share"]) == (4, 0.25)
    assert [(c["missing_share"], c["distinct"]) for c in report["columns"]] == [(0.25, 2), (0.25, 2)]


@pytest.mark.parametrize(
    "values",
    [
        [np.inf, 1.0, 2.0],
        [np.nan, np.nan],
        [],
        pd.array([1, None, 3], dtype="Int64"),
        [True, False],
        pd.date_range("2026-01-01", periods=4, tz="UTC"),
        [np.inf, -np.inf],
        ["a|b", "c\nd"],
    ],
)
def test_every_column_fits_into_json_and_markdown(values: object) -> None:
    """Infinities, nulls, nothing at all, times and booleans give strict JSON and one table line."""
    report = quality(pd.DataFrame({"x|y": values}))
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    lines = as_markdown(report).splitlines()
    assert len(lines) == 5
    assert lines[4].startswith("| x\\|y | ")


def test_infinity_is_an_outlier_and_not_a_range() -> None:
    """An infinite value counts as an outlier without spoiling minimum and maximum."""
    column = quality(pd.DataFrame({"x": [1.0, 2.0, 3.0, np.inf]}))["columns"][0]
    assert (column["minimum"], column["maximum"], column["outlier_share"]) == (1.0, 3.0, 0.25)


def test_columns_may_come_from_a_contract() -> None:
    """A contract or a list chooses the columns, and an unknown one is named."""
    frame = pd.DataFrame({"a": [1], "b": [2]})
    contract = Contract(columns=(Column(name="b", kind="int"),))
    assert [c["name"] for c in quality(frame, contract)["columns"]] == ["b"]
    with pytest.raises(ContractError, match="no column 'c' to describe; name one of: a, b"):
        quality(frame, ["c"])
