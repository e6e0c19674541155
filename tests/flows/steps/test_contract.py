"""The contract: every rule fires alone, with its reason, and nothing that is bad gets past it."""

import datetime as dt
import pickle
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from flows.errors import ContractError
from flows.steps.data.contract import Checked, check, parse
from flows.usecases.spec import Column, Contract

CONTRACT = Contract(
    columns=(
        Column(name="id", kind="int", minimum=1),
        Column(name="at", kind="time"),
        Column(name="amount", kind="float", minimum=0, maximum=1000),
        Column(name="channel", kind="str", allowed=("web", "shop")),
        Column(name="visits", kind="int", nullable=True),
        Column(name="email", kind="str", nullable=True, pii="mask"),
    ),
    unique=("id",),
    max_bad_share=0.5,
    max_duplicate_share=0.1,
)


def events(rows: int = 10) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": np.arange(1, rows + 1),
            "at": [f"2026-01-{1 + i % 28:02d}T10:00:00" for i in range(rows)],
            "amount": [10.0 + i for i in range(rows)],
            "channel": ["web", "shop"] * (rows // 2) + ["web"] * (rows % 2),
            "visits": [None if i % 3 else i for i in range(rows)],
            "email": [f"{i}@example.org" for i in range(rows)],
        }
    ).astype(object)


def one(kind: str, values: object, *, time_format: str | None = None, **column: object) -> Checked:
    """Check a table of one column, however many of its rows are bad."""
    contract = Contract(
        columns=(Column(name="x", kind=kind, **column),),  # type: ignore[arg-type]
        max_bad_share=1,
        max_duplicate_share=1,
        min_rows=0,
    )
    return check(pd.DataFrame({"x": values}), contract, time_format=time_format)


def test_good_rows_are_all_kept_in_the_contract_s_types() -> None:
    """A table that keeps the contract comes back whole, typed, with its columns in the contract's order."""
    checked = check(events()[["email", "visits", "channel", "amount", "at", "id"]], CONTRACT)
    assert {name: str(t) for name, t in checked.good.dtypes.items()} == {
        "id": "int64",
        "at": "datetime64[us, UTC]",
        "amount": "float64",
        "channel": "object",
        "visits": "Int64",
        "email": "object",
    }
    assert list(checked.good) == [column.name for column in CONTRACT.columns]
    assert len(checked.good) == 10
    assert checked.bad.empty
    assert checked.report["reasons"] == {}


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("id", None, "id: missing"),
        ("id", 0, "id: below minimum 1: 0"),
        ("id", "x7", "id: not a whole number: 'x7'"),
        ("id", 1.5, "id: not a whole number: 1.5"),
        ("id", True, "id: not a whole number: True"),
        ("id", 2**63, "id: not a whole number: 9223372036854775808"),
        ("id", 3, "id: repeats the key: 3"),
        ("at", None, "at: missing"),
        ("at", "2026-02-30", "at: not a time: '2026-02-30'"),
        ("at", 20260101, "at: not a time: 20260101"),
        ("amount", np.nan, "amount: missing"),
        ("amount", -0.5, "amount: below minimum 0: -0.5"),
        ("amount", 1000.5, "amount: above maximum 1000: 1000.5"),
        ("amount", np.inf, "amount: not a finite number: inf"),
        ("amount", "12,50", "amount: not a finite number: '12,50'"),
        ("amount", False, "amount: not a finite number: False"),
        ("channel", None, "channel: missing"),
        ("channel", "fax", "channel: not one of web, shop: 'fax'"),
        ("channel", 1.0, "channel: not text: 1.0"),
        ("visits", "many", "visits: not a whole number: 'many'"),
        ("email", "\ud800@x", "email: not text: (hidden)"),
    ],
)
def test_each_rule_fires_alone(column: str, value: object, reason: str) -> None:
    """One mutated cell makes exactly its row bad, for exactly its reason, and the row's number is kept."""
    frame = events()
    frame.loc[5, column] = value
    checked = check(frame, CONTRACT)
    assert checked.bad["reason"].to_dict() == {5: reason}
    assert len(checked.good) == 9
    assert checked.report["bad"] == 1
    assert checked.report["reasons"] == {": ".join(reason.split(": ")[:2]): 1}
    assert not checked.good.isna()[["id", "at", "amount", "channel"]].any(axis=None)


def test_bounds_belong_to_the_range() -> None:
    """The minimum and the maximum themselves are good."""
    frame = events()
    frame.loc[:1, "amount"] = [0, 1000]
    assert check(frame, CONTRACT).bad.empty


@pytest.mark.parametrize("column", [c.name for c in CONTRACT.columns])
def test_missing_column_is_refused(column: str) -> None:
    """Without a column of the contract the table is refused, and the message names it and those that are there."""
    with pytest.raises(ContractError, match=f"no column '{column}'; it has: ") as caught:
        check(events().drop(columns=column), CONTRACT)
    assert caught.value.bad is None


def test_several_faults_of_a_row_are_told_together() -> None:
    """A row that breaks several rules is in quarantine once, with all its reasons."""
    frame = events()
    frame.loc[2, ["id", "amount", "channel"]] = ["?", -1, "fax"]
    reason = check(frame, CONTRACT).bad["reason"].loc[2]
    assert reason == "id: not a whole number: '?'; amount: below minimum 0: -1.0; channel: not one of web, shop: 'fax'"


def test_quarantine_holds_the_values_as_delivered() -> None:
    """Bad rows keep the raw values as text, nulls as nulls, so that any mixture can be stored."""
    frame = events()
    frame.loc[4, ["id", "amount", "visits"]] = [{"a": 1}, "x", None]
    bad = check(frame, CONTRACT).bad
    assert bad.loc[4, ["id", "amount", "visits"]].tolist() == ["{'a': 1}", "x", None]


def test_too_many_bad_rows_stop_the_run_and_stay_available() -> None:
    """Above max_bad_share the run stops, says what was wrong how often, and hands over the bad rows."""
    frame = events()
    frame.loc[:2, "amount"] = -1
    allowed = check(frame, replace(CONTRACT, max_bad_share=0.3))
    assert len(allowed.bad) == 3
    with pytest.raises(ContractError, match=r"3 of 10 rows are bad, 30.00%.*below minimum 0 \(3\)") as caught:
        check(frame, replace(CONTRACT, max_bad_share=0.29))
    assert caught.value.bad is not None
    assert list(caught.value.bad.index) == [0, 1, 2]
    assert caught.value.report["bad"] == 3


def test_contract_error_survives_pickling() -> None:
    """The error crosses process borders with its quarantine."""
    with pytest.raises(ContractError) as caught:
        check(events().assign(amount=-1), CONTRACT)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert len(again.bad) == 10


def test_min_rows_counts_what_is_left() -> None:
    """The minimum is compared with the good rows, not with the delivered ones."""
    frame = events()
    frame.loc[0, "amount"] = -1
    assert len(check(frame, replace(CONTRACT, min_rows=9)).good) == 9
    with pytest.raises(ContractError, match="9 good rows of 10, fewer than min_rows 10"):
        check(frame, replace(CONTRACT, min_rows=10))


def test_delivery_loaded_twice_is_refused() -> None:
    """Exact copies are counted and kept, and refused above max_duplicate_share, key or no key."""
    frame, free = events(), replace(CONTRACT, unique=())
    once = check(pd.concat([frame, frame.head(1)]), free)
    assert (once.report["duplicates"], len(once.good), len(once.bad)) == (1, 11, 0)
    for contract in (free, CONTRACT):
        with pytest.raises(ContractError, match=r"10 of 20 rows are exact copies, 50.00%, allowed 10.00%"):
            check(pd.concat([frame, frame]), contract)


def test_repeated_key_keeps_the_first_row_that_is_otherwise_good() -> None:
    """A row whose first bearer of the key is itself bad is not lost with it."""
    frame = events()
    frame.loc[0, ["id", "amount"]] = [3, -1]
    frame.loc[7, "id"] = 3
    bad = check(frame, CONTRACT).bad["reason"]
    assert bad.to_dict() == {0: "amount: below minimum 0: -1.0", 7: "id: repeats the key: 3"}


def test_extra_columns_are_dropped_and_listed() -> None:
    """Columns that the contract does not know leave the table and are named in the report."""
    checked = check(events().assign(note="n", reason="r"), CONTRACT)
    assert checked.report["extra_columns"] == ["note", "reason"]
    assert "note" not in checked.good


def test_empty_table() -> None:
    """No rows are too few by default; where none are asked for, the types are right all the same."""
    with pytest.raises(ContractError, match="0 good rows of 0"):
        check(events(0), CONTRACT)
    good = check(events(0), replace(CONTRACT, min_rows=0)).good
    assert [str(t) for t in good.dtypes] == ["int64", "datetime64[us, UTC]", "float64", "object", "Int64", "object"]


@pytest.mark.parametrize(
    ("kind", "dtype"), [("int", "Int64"), ("float", "float64"), ("str", "object"), ("time", "datetime64[us, UTC]")]
)
@pytest.mark.parametrize("raw", ["object", "float64", "string"])
def test_all_null_column(kind: str, dtype: str, raw: str) -> None:
    """A column of nothing is missing in every row, or all right where it is nullable, whatever it came as."""
    nothing = pd.Series([None] * 3, dtype=raw)
    assert one(kind, nothing).bad["reason"].tolist() == ["x: missing"] * 3
    good = one(kind, nothing, nullable=True).good["x"]
    assert str(good.dtype) == dtype
    assert good.isna().all()


@pytest.mark.parametrize(
    ("values", "want", "bad"),
    [
        ([1, 2.0, "3", " 4 ", "5.0", Decimal(6), np.int8(7)], [1, 2, 3, 4, 5, 6, 7], []),
        ([1, True, 1.0, "True"], [1, 1], [1, 3]),
        ([2**63 - 1, -(2**63), 2**63, "9223372036854775807", 10**400], [2**63 - 1, -(2**63), 2**63 - 1], [2, 4]),
        (["9007199254740993", "x", None], [2**53 + 1], [1, 2]),
        (["9007199254740993.0", "1e17", "4e2"], [400], [0, 1]),
        (["1_000", "0x10", "1e3", "nan", "inf", "1.5", "9" * 5000], [1000], [0, 1, 3, 4, 5, 6]),
        (np.array([1.0, 1.5, np.inf, 2.0**63, np.nan]), [1], [1, 2, 3, 4]),
        (np.array([1, 2**64 - 1], dtype="uint64"), [1], [1]),
        (pd.array([2**53 + 1, None], dtype="Int64"), [2**53 + 1], [1]),
        (np.array([True, False]), [], [0, 1]),
        (pd.Categorical(["1", "2"]), [1, 2], []),
        ([dt.date(2026, 1, 1), {"a": 1}, [1], b"1"], [], [0, 1, 2, 3]),
        (np.array(["2026-01-01"], dtype="datetime64[us]"), [], [0]),
    ],
)
def test_whole_numbers(values: object, want: list[int], bad: list[int]) -> None:
    """Whole numbers are read exactly from any mixture, and nothing else passes for one."""
    checked = one("int", values)
    assert checked.good["x"].tolist() == want
    assert checked.good["x"].dtype == "int64"
    assert list(checked.bad.index) == bad


@pytest.mark.parametrize(
    ("values", "want", "bad"),
    [
        ([1, "2.5", Decimal("0.1"), " 1e3 "], [1.0, 2.5, 0.1, 1000.0], []),
        ([True, "1_0", "NaN", "inf", -np.inf, 10**400, Decimal("NaN"), "", None], [], list(range(9))),
        (np.array([True]), [], [0]),
        (np.array([1, 2], dtype="int8"), [1.0, 2.0], []),
        (pd.array([0.5, None], dtype="Float64"), [0.5], [1]),
    ],
)
def test_numbers(values: object, want: list[float], bad: list[int]) -> None:
    """Finite numbers are read from any mixture; booleans, infinities and separators are not numbers."""
    checked = one("float", values)
    assert checked.good["x"].tolist() == want
    assert list(checked.bad.index) == bad


def test_text_is_taken_as_it_is() -> None:
    """Whole numbers may stand for identifiers; leading zeros, blanks and 'NA' stay; floats would gain a '.0'."""
    checked = one("str", ["007", 7, " a ", "NA", "", 7.0, True, b"x"])
    assert checked.good["x"].tolist() == ["007", "7", " a ", "NA", ""]
    assert list(checked.bad.index) == [5, 6, 7]


def test_times_of_every_kind_become_utc() -> None:
    """Naive times are UTC, offsets are honoured row by row, and dates are midnights."""
    east = dt.timezone(dt.timedelta(hours=2))
    checked = one(
        "time",
        [
            "2026-01-01T00:00:00+02:00",
            "2026-01-01 10:00",
            dt.datetime(2026, 1, 1, tzinfo=east),
            dt.datetime(2026, 1, 1),
            dt.date(2026, 1, 1),
            pd.Timestamp("2026-01-01", tz="UTC"),
            "2026-01-01T00:00:00Z",
            np.datetime64("2026-01-01"),
            5,
            True,
            "9999-12-31x",
            None,
        ],
    )
    assert [t.isoformat()[:16] for t in checked.good["x"]] == [
        "2025-12-31T22:00",
        "2026-01-01T10:00",
        "2025-12-31T22:00",
        *["2026-01-01T00:00"] * 5,
    ]
    assert list(checked.bad.index) == [8, 9, 10, 11]


@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_time_columns_keep_their_instants(zone: str | None) -> None:
    """A column that holds times already is only moved to UTC."""
    times = pd.Series(pd.date_range("2026-07-01 12:00", periods=2, tz=zone))
    hour = 10 if zone == "Europe/Berlin" else 12
    assert [t.hour for t in one("time", times).good["x"]] == [hour, hour]


@pytest.mark.parametrize(
    "values",
    [np.array([19970101, 19971301]), ["19970101", "19971301"], [19970101.0, 19971301.0], ["19970101", 19971301]],
)
def test_time_format(values: object) -> None:
    """A format reads integers and strings alike, and the reason names it."""
    checked = one("time", values, time_format="%Y%m%d")
    assert checked.good["x"].tolist() == [pd.Timestamp("1997-01-01", tz="UTC")]
    assert checked.bad["reason"].iloc[0].startswith("x: not a time of format %Y%m%d: ")


def test_time_format_leaves_native_times_alone() -> None:
    """Native times need no format, and stand beside strings that do."""
    good = one("time", ["19970101", dt.date(1997, 1, 2)], time_format="%Y%m%d").good
    assert [t.day for t in good["x"]] == [1, 2]


@pytest.mark.parametrize(("unit", "scale"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_epoch_units(unit: str, scale: int) -> None:
    """An epoch unit reads numbers since 1970, and refuses those beyond the calendar."""
    checked = one("time", [1_700_000_000 * scale, str(1_700_000_000 * scale), 10**300, None], time_format=unit)
    assert checked.good["x"].tolist() == [pd.Timestamp("2023-11-14T22:13:20", tz="UTC")] * 2
    assert list(checked.bad.index) == [2, 3]


def test_parse_reads_what_it_can() -> None:
    """Parsing alone never refuses a row: what cannot be read is missing, and the index stays."""
    frame = events().set_axis(range(100, 110))
    frame.loc[103, ["id", "at"]] = ["?", "?"]
    typed = parse(frame, CONTRACT)
    assert typed["id"].dtype == "Int64"
    assert typed.loc[103, ["id", "at"]].isna().all()
    assert list(typed.index) == list(frame.index)


@pytest.mark.parametrize(
    ("contract", "match"),
    [
        (Contract(columns=(Column(name="a", kind="int"), Column(name="a", kind="str"))), "repeat"),
        (Contract(columns=(Column(name="reason", kind="str"),)), "'reason'"),
        (Contract(columns=(Column(name="a", kind="str", minimum=1),)), "bounds are for int and float"),
        (Contract(columns=(Column(name="a", kind="time", allowed=("x",)),)), "allowed values"),
        (Contract(columns=(Column(name="a", kind="int"),), unique=("b",)), r"unique names \['b'\]"),
    ],
)
def test_contract_that_cannot_be_kept_is_refused(contract: Contract, match: str) -> None:
    """A rule that would never fire, or contradicts another, is an error rather than silence."""
    with pytest.raises(ContractError, match=match):
        check(pd.DataFrame({"a": ["1"], "reason": ["x"]}), contract)


def test_ambiguous_column_is_refused() -> None:
    """Two columns of one name are refused, whichever would be right."""
    with pytest.raises(ContractError, match="'id' more than once"):
        check(pd.concat([events(), events()[["id"]]], axis=1), CONTRACT)


def test_the_index_of_the_table_does_not_matter() -> None:
    """Repeated or odd index values neither lose rows nor misplace a reason."""
    frame = events()
    frame.loc[5, "amount"] = -1
    checked = check(frame.set_axis([0] * 10), CONTRACT)
    assert list(checked.bad.index) == [5]
    assert 6 not in checked.good["id"].tolist()
