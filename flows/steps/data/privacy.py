"""Keeping personal data out of what is stored: columns marked `pii` are dropped or replaced by a keyed hash."""

import hashlib
import hmac
from typing import Any, Final

import numpy as np
import pandas as pd

from flows.errors import ContractError
from flows.usecases.spec import Contract

MASK_CHARS: Final = 16
MIN_KEY_BYTES: Final = 16


def apply(frame: pd.DataFrame, contract: Contract, *, key: bytes) -> pd.DataFrame:
    """Drop `pii="drop"` columns and replace `pii="mask"` values by their HMAC-SHA256 (first 16 hex digits).

    The same value and key give the same mask in every table and column, so that joins still work; missing stays
    missing; columns that are not there, or not in the contract, are left alone, so that it works on quarantined rows
    too. Raises ContractError for a key under 16 bytes when there is something to mask.
    """
    masked = [c.name for c in contract.columns if c.pii == "mask" and c.name in frame.columns]
    if masked and len(key) < MIN_KEY_BYTES:
        raise ContractError(
            f"cannot mask {', '.join(masked)}: the privacy key has {len(key)} bytes, fewer than "
            f"{MIN_KEY_BYTES}; set a random one of at least {MIN_KEY_BYTES} bytes and keep it"
        )
    kept = frame.drop(columns=[c.name for c in contract.columns if c.pii == "drop"], errors="ignore")
    return kept.assign(**{name: _masked(kept[name], key) for name in masked})


def _masked(values: "pd.Series[Any]", key: bytes) -> "pd.Series[Any]":
    codes, unique = pd.factorize(values)
    masks = np.array([*(_mask(value, key) for value in unique), None], dtype=object)  # a null has code -1
    return pd.Series(masks[codes], index=values.index, dtype=object)


def _mask(value: object, key: bytes) -> str:
    text = value.isoformat() if isinstance(value, pd.Timestamp) else str(value)
    return hmac.new(key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:MASK_CHARS]
