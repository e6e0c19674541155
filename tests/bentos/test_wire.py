"""What the wire takes is what the service's own schema takes, with the same values; the rest is left to it."""

import json
from typing import Annotated

import msgspec
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError, field_validator

from bentos.churn import ChurnRequest
from bentos.fraud import FraudRequest
from bentos.runtime.scoring.wire import ANY, Order, Row, Unfit, Values, Wire, assembled, encoded

NAMES = ("spend", "visits")
ORDER = Order(NAMES)
numbers = st.one_of(st.integers(-(2**70), 2**70), st.floats(), st.integers(0, 5))
scalars = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=3), st.just([]), st.just({}))
features = st.dictionaries(st.sampled_from([*NAMES, "age"]), st.one_of(st.none(), numbers, scalars), max_size=3)
times = st.one_of(
    st.datetimes(timezones=st.timezones()).map(lambda t: t.isoformat()),
    st.datetimes().map(lambda t: t.isoformat()),
    st.sampled_from(["2024-03-01T12:30:00Z", "2024-03-01 12:30Z", "2024-03-01", "1709296200", "noon"]),
    scalars,
)
churn = st.fixed_dictionaries({"user_id": numbers}, optional={"features": features, "x": scalars})
fraud = st.fixed_dictionaries(
    {"card_id": st.integers(0, 9), "terminal_id": numbers},
    optional={"amount": st.one_of(numbers, scalars), "time": times, "features": features, "x": scalars},
)


@pytest.mark.parametrize("order", [ANY, ORDER], ids=["any-names", "names"])
@pytest.mark.parametrize(("model", "rows"), [(ChurnRequest, churn), (FraudRequest, fraud)], ids=["entity", "event"])
def test_what_the_wire_takes_is_valid_and_equal(model, rows, order):
    """A body that is decoded here is accepted by pydantic, field by field with the same value."""
    wire, taken = Wire(model, order), []

    @given(rows)
    def check(row):
        body = json.dumps(row).encode()
        if (found := wire.decode(body)) is None:
            return
        taken.append(found)
        valid = model.model_validate_json(body)
        for name in model.model_fields:
            value = getattr(found, name)
            value = msgspec.to_builtins(value) if isinstance(value, Values) else value
            assert value == getattr(valid, name)

    check()
    assert taken, "nothing was decoded at all"


@given(st.lists(st.tuples(st.integers(0, 2**63 - 1), st.lists(st.floats(width=64), min_size=2, max_size=2))))
def test_good_rows_are_always_taken(rows):
    """Rows of finite numbers and null are decoded, whatever their number."""
    bodies = [
        {"user_id": key, "features": {n: v if np.isfinite(v) else None for n, v in zip(NAMES, values, strict=True)}}
        for key, values in rows
    ]
    found = Wire(ChurnRequest, ORDER).decode(json.dumps(bodies).encode())
    assert [msgspec.to_builtins(row) for row in found] == bodies


@pytest.mark.parametrize("body", [b"", b"\xff", b"[" * 100_000, b'{"user_id": "\xff"}', b"1e999", b"null", b"NaN"])
def test_what_is_no_row_is_left_alone(body):
    """Neither malformed nor deep JSON raises."""
    assert Wire(ChurnRequest).decode(body) is None
    assert Wire(ChurnRequest, single=False).decode(b'{"user_id": 1}') is None


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999", "-1e400", "1" + "0" * 400])
def test_a_number_off_the_wire_is_finite(number):
    """So what is not finite in a matrix of such rows was null, and nobody has to look for it."""
    body = b'{"user_id": 1, "features": {"%s": %s, "%s": 1e308}}'
    names = [name.encode() for name in NAMES]
    assert Wire(ChurnRequest, ORDER).decode(body % (names[0], number.encode(), names[1])) is None
    assert Wire(ChurnRequest, ORDER).decode(body % (names[0], b"null", names[1])) is not None


def test_a_model_that_asks_for_more_than_types_is_unfit():
    """Validators, patterns, defaults and aliases are pydantic's to apply."""

    class Validated(BaseModel):
        a: int

        @field_validator("a")
        @classmethod
        def odd(cls, value: int) -> int:
            if value % 2 == 0:
                raise ValueError("even")
            return value

    class Patterned(BaseModel):
        a: Annotated[str, Field(pattern="x+")]

    class Defaulted(BaseModel):
        a: int = 3

    class Renamed(BaseModel):
        a: int = Field(alias="b")

    for model in (Validated, Patterned, Defaulted, Renamed):
        with pytest.raises(Unfit):
            Wire(model)
    with pytest.raises(ValidationError):
        Validated(a=2)


def test_bounds_are_kept():
    """Lengths and limits of a field hold here too."""

    class Bounded(BaseModel):
        a: Annotated[int, Field(gt=0, lt=5)]
        b: Annotated[str, Field(min_length=1, max_length=2)] | None = None

    wire = Wire(Bounded)
    assert wire.decode(b'{"a": 4, "b": "xy"}')["b"] == "xy"
    for body in (b'{"a": 0}', b'{"a": 5}', b'{"a": 1, "b": ""}', b'{"a": 1, "b": "xyz"}'):
        assert wire.decode(body) is None


@given(st.lists(st.tuples(st.floats(), st.floats()), min_size=1, max_size=5))
def test_encoded_features_are_read_back_to_the_bit(rows):
    """Answers and the journal carry every float exactly, and null where it is not finite."""
    lines = encoded(ORDER, np.array(rows).T.tolist())
    for line, row in zip(lines, rows, strict=True):
        read = orjson.loads(line)
        want = [v if np.isfinite(v) else None for v in row]
        assert [read[name] for name in NAMES] == want


def test_assembled_rows_are_like_decoded_ones():
    """Rows from columns have keys and features under the same names."""
    alone, [row] = assembled("user_id", [7]), assembled("user_id", [None], ORDER, [[1.5, float("nan")]])
    assert (alone[0]["user_id"], alone[0].get("features")) == (7, None)
    assert isinstance(row, Row)
    assert (row["user_id"], "user_id" in row, row["features"].order) == (None, True, ORDER)
