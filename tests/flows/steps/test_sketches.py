"""Counting into the reference's bins: exact, additive, and safe on any column."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bentos.runtime.monitoring import sketches
from bentos.runtime.monitoring.measures import Sketch

ROWS = st.lists(
    st.tuples(
        st.one_of(st.none(), st.floats(allow_nan=True)),
        st.sampled_from(["a", "b", "c", None]),
        st.one_of(st.none(), st.integers(0, 5)),
    ),
    min_size=1,
    max_size=60,
)


def frame(rows: list[tuple[Any, ...]]) -> pd.DataFrame:
    """Three columns: float, text, nullable integer."""
    table = pd.DataFrame(rows, columns=["x", "t", "i"])
    return table.assign(x=table["x"].astype(float), t=table["t"].astype(object), i=table["i"].astype("Int64"))


def one(column: Any, bins: int = 10, **options: Any) -> Sketch:
    """The sketch of one column."""
    return sketches.reference(pd.DataFrame({"c": pd.Series(column, **options)}), bins=bins)[0]


@settings(max_examples=100, deadline=None)
@given(ROWS, ROWS, st.integers(0, 60), st.sampled_from([2, 4, 10]))
def test_counting_in_parts_and_adding_equals_counting_at_once(
    base: list[tuple[Any, ...]], rows: list[tuple[Any, ...]], cut: int, bins: int
) -> None:
    """Any window is the sum of its parts, whatever the rows, the bins and the cut."""
    reference = sketches.reference(frame(base), bins=bins)
    parts = [sketches.bin_counts(frame(part), reference) for part in (rows[:cut], rows[cut:])]
    assert sketches.merge(parts) == sketches.bin_counts(frame(rows), reference)


@settings(max_examples=100, deadline=None)
@given(ROWS)
def test_every_row_is_counted_once(rows: list[tuple[Any, ...]]) -> None:
    """Counts and missing rows sum to the rows, infinities included, and edges increase strictly."""
    for sketch in sketches.reference(frame(rows)):
        assert sketch.n == len(rows) == sum(sketch.counts) + sketch.missing
        assert len(sketch.counts) == len(sketch.categories or (*sketch.edges, None))
        assert list(sketch.edges) == sorted(set(sketch.edges))


@settings(max_examples=50, deadline=None)
@given(ROWS)
def test_sketches_survive_json(rows: list[tuple[Any, ...]]) -> None:
    """What is written is what is read, floats exactly."""
    made = sketches.reference(frame(rows))
    assert sketches.from_json(sketches.to_json(made)) == made


def test_continuous_numbers_get_equal_bins() -> None:
    """Each of ten quantile bins holds a tenth of a continuous column, within rounding."""
    sketch = one(np.random.default_rng(0).normal(size=1000))
    assert len(sketch.counts) == 10
    assert all(abs(count - 100) <= 1 for count in sketch.counts)


def test_bins_are_closed_on_the_left() -> None:
    """A value on an edge belongs to the bin that starts there."""
    reference = (Sketch(name="x", kind="numeric", n=0, missing=0, counts=(0, 0, 0), edges=(1.0, 2.0)),)
    counted = sketches.bin_counts(pd.DataFrame({"x": [0.9, 1.0, 1.9, 2.0, np.inf, -np.inf, np.nan]}), reference)
    assert counted[0].counts == (2, 2, 2)
    assert counted[0].missing == 1


@pytest.mark.parametrize(
    ("values", "edges", "counts"),
    [
        ([0, 1, 1, 1], (0.0, 1.0, 2.0), (0, 1, 3, 0)),
        ([7.5] * 4, (7.5, np.nextafter(7.5, 8)), (0, 4, 0)),
        ([2.0**60] * 3, (2.0**60, np.nextafter(2.0**60, np.inf)), (0, 3, 0)),
        ([np.nan] * 3, (), (0,)),
    ],
)
def test_few_distinct_numbers_get_a_bin_each(
    values: list[float], edges: tuple[float, ...], counts: tuple[int, ...]
) -> None:
    """A discrete or constant column has one bin per value, and empty ones below and above for what may come."""
    sketch = one(values)
    assert sketch.edges == edges
    assert sketch.counts == counts


def test_a_column_that_is_mostly_zero_keeps_zero_apart() -> None:
    """A spike that fills several quantiles has its own bin, so that its share can be followed."""
    rng = np.random.default_rng(1)
    values = np.where(rng.random(2000) < 0.95, 0.0, rng.exponential(size=2000))
    sketch = one(values)
    assert sketch.counts[0] == int((values == 0).sum())
    assert len(sketch.counts) > 1


def test_unseen_categories_fall_into_other() -> None:
    """A category that the reference does not name is counted, under other."""
    reference = sketches.reference(pd.DataFrame({"c": ["x", "x", "y", None]}))
    counted = sketches.bin_counts(pd.DataFrame({"c": ["x", "z", None, "z"]}), reference)[0]
    assert reference[0].categories == ("x", "y", sketches.OTHER)
    assert counted.counts == (1, 0, 2)
    assert counted.missing == 1


def test_many_categories_keep_the_most_frequent() -> None:
    """Beyond the limit the rest of the reference itself is in other, so that it is not unseen later."""
    sketch = one([f"k{i:03d}" for i in range(200)] + ["k000"] * 5)
    assert len(sketch.categories) == sketches.MAX_CATEGORIES + 1
    assert sketch.categories[0] == "k000"
    assert sketch.counts[-1] == 150


def test_integers_that_a_missing_value_made_floats_keep_their_category() -> None:
    """A category column of 1 and 2 is not unseen when it comes back as 1.0 and 2.0."""
    reference = sketches.reference(pd.DataFrame({"c": pd.Categorical([1, 2, 2])}))
    assert sketches.bin_counts(pd.DataFrame({"c": [1.0, 2.0, np.nan]}), reference)[0].counts == (1, 1, 0)


def test_an_absent_column_counts_as_missing() -> None:
    """A window that lacks a column has it missing in every row, so that parts with and without it can be added."""
    reference = sketches.reference(pd.DataFrame({"x": [1.0, 2.0], "t": ["a", "b"]}))
    counted = sketches.bin_counts(pd.DataFrame({"t": ["a"] * 3}), reference)
    assert (counted[0].n, counted[0].missing, sum(counted[0].counts)) == (3, 3, 0)


def test_text_where_numbers_were_is_missing() -> None:
    """Numbers in text are read, other text is missing: a broken source does not stop the check."""
    reference = sketches.reference(pd.DataFrame({"x": [1.0, 2.0, 3.0]}))
    counted = sketches.bin_counts(pd.DataFrame({"x": ["1", "two", None, "3"]}), reference)[0]
    assert (sum(counted.counts), counted.missing) == (2, 2)


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pd.Series([1, None, 3], dtype=object), "numeric"),
        (pd.Series([True, False, None], dtype=object), "categorical"),
        (pd.Series([True, False]), "categorical"),
        (pd.Series([True, None], dtype="boolean"), "categorical"),
        (pd.Series([1, "a", 2.5], dtype=object), "categorical"),
        (pd.Series([[1, 2], [3], None]), "categorical"),
        (pd.Series(["p", None], dtype="string"), "categorical"),
        (pd.Series(pd.to_datetime(["2026-01-01", None], utc=True)), "numeric"),
        (pd.Series(pd.to_timedelta([1, None], unit="s")), "numeric"),
        (pd.Series([None, None], dtype=object), "numeric"),
        (pd.Series([], dtype=float), "numeric"),
        (pd.Series([1, None], dtype="Int64"), "numeric"),
    ],
)
def test_any_column_can_be_sketched(column: pd.Series, kind: str) -> None:
    """Whatever a frame holds is counted or missing, and never an error."""
    sketch = one(column)
    assert sketch.kind == kind
    assert sketch.n == len(column) == sum(sketch.counts) + sketch.missing
    assert sketch.missing == int(column.isna().sum())


def test_sketches_of_other_bins_cannot_be_added() -> None:
    """Adding counts of different bins would be silently wrong, so it is refused with what to do."""
    with pytest.raises(ValueError, match="count both with bin_counts and the same reference"):
        sketches.add(one([1.0, 2.0]), one([1.0, 3.0]))
    with pytest.raises(ValueError, match="different columns"):
        sketches.merge([(one([1.0]),), ()])


@pytest.mark.parametrize("text", ["{}", "[1]", "nonsense", '[{"name": "x"}]'])
def test_other_json_is_refused(text: str) -> None:
    """A file that holds no sketches is an error, not an empty reference."""
    if text != "{}":
        with pytest.raises(ValueError, match="not a list of sketches"):
            sketches.from_json(text)
    else:
        assert sketches.from_json(text) == ()
