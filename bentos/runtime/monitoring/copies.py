"""Copies: the share of a window's rows that repeat another row, from a sample of row hashes that merges exactly.

Kept are the `K` smallest distinct hashes and how often each occurred: a uniform sample of the distinct rows, so that
the mean number of copies in it estimates that of the window (bottom-k sampling: Cohen & Kaplan 2007).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

K = 512

Copies = tuple[tuple[int, int], ...]  # hash and number of rows, rising


def sample(rows: pd.DataFrame) -> Copies:
    """The sample of a frame's rows; equal rows have equal hashes in every process."""
    if rows.empty:
        return ()
    hashes, times = np.unique(pd.util.hash_pandas_object(rows, index=False).to_numpy(), return_counts=True)
    return tuple(zip(hashes[:K].tolist(), times[:K].tolist(), strict=True))


def merge(parts: Sequence[Copies]) -> Copies:
    """The sample of all parts' rows, as if they had been one."""

    times: dict[int, int] = {}
    for key, rows in (pair for part in parts for pair in part):
        times[key] = times.get(key, 0) + rows
    return tuple(sorted(times.items())[:K])


def share(copies: Copies) -> float:
    """Share 0..1 of rows that repeat an earlier one: 0.5 where every row came twice."""
    rows = sum(n for _, n in copies)
    return 1 - len(copies) / rows if rows else 0.0
