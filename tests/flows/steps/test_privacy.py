"""Personal columns leave the table, or stay as keyed hashes that still join."""

import hashlib
import hmac

import pandas as pd
import pytest

from flows.errors import ContractError
from flows.steps.data.contract import check
from flows.steps.data.privacy import apply
from flows.usecases.spec import Column, Contract

KEY = b"0123456789abcdef"
CONTRACT = Contract(
    columns=(
        Column(name="customer", kind="int", nullable=True, pii="mask"),
        Column(name="email", kind="str", nullable=True, pii="mask"),
        Column(name="phone", kind="str", nullable=True, pii="drop"),
        Column(name="amount", kind="float", minimum=0),
    ),
    max_bad_share=1,
    min_rows=0,
)


def people() -> pd.DataFrame:
    return pd.DataFrame({"customer": [7, None, 7], "email": ["a@b", None, "7"], "phone": "1", "amount": 1.5})


def good() -> pd.DataFrame:
    return check(people(), CONTRACT).good


def test_mask_is_a_keyed_hash_of_the_text() -> None:
    """A masked value is the first 16 hex digits of HMAC-SHA256, equal for equal text in any column; null stays null."""
    masked = apply(good(), CONTRACT, key=KEY)
    seven = hmac.new(KEY, b"7", hashlib.sha256).hexdigest()[:16]
    assert masked["customer"].tolist() == [seven, None, seven]
    assert masked["email"].tolist()[1:] == [None, seven]
    assert masked["email"][0] not in (seven, "a@b")


def test_dropped_columns_are_gone_and_others_untouched() -> None:
    """`drop` removes the column, `no` leaves it, and the given table is not changed."""
    frame = good()
    masked = apply(frame, CONTRACT, key=KEY)
    assert list(masked) == ["customer", "email", "amount"]
    pd.testing.assert_series_equal(masked["amount"], frame["amount"])
    assert frame["customer"].tolist()[0] == 7


def test_other_key_other_mask() -> None:
    """Without the key the masks cannot be reproduced."""
    masks = [apply(good(), CONTRACT, key=key)["customer"][0] for key in (KEY, KEY[::-1])]
    assert masks[0] != masks[1]


def test_short_key_is_refused() -> None:
    """An empty or short key is an error, unless there is nothing to mask."""
    with pytest.raises(ContractError, match="has 0 bytes, fewer than 16"):
        apply(good(), CONTRACT, key=b"")
    plain = Contract(columns=(Column(name="amount", kind="float"),))
    assert apply(good(), plain, key=b"").equals(good())


def test_quarantined_rows_are_masked_alike_and_reasons_tell_nothing() -> None:
    """A bad row's identifiers get the masks that good rows get, and its reason hides personal values."""
    bad = apply(check(people().assign(amount=[1, 2, -1], email=[1, 2, 3.5]), CONTRACT).bad, CONTRACT, key=KEY)
    assert bad["reason"].str.contains("email: not text: (hidden)", regex=False).all()
    assert "phone" not in bad
    integers = check(people().astype(object).assign(amount=[1, 2, -1]), CONTRACT)
    assert integers.bad["customer"].tolist() == ["7.0"]  # pandas made floats of 7 beside a null: text as delivered
