"""Profiles: summaries of any table, mergeable, as bytes: whylogs' where it has a wheel, else the same on datasketches.

Drift is judged on exact counts (bentos/runtime/monitoring/sketches.py): a profile answers the questions that nobody
thought of when the bins were fixed. A library reads its own profiles only; what both remember of a column is the same.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from bentos.runtime.monitoring.measures import Sketch
from bentos.runtime.monitoring.sketches import OTHER
from flows.errors import StoreError
from flows.stores.profiles.columns import Remembered

try:
    from flows.stores.profiles import whylogs as maker
except ModuleNotFoundError as error:  # no wheel but for Linux on x86_64
    if (error.name or "").split(".")[0] not in ("whylogs", "whylogs_sketching"):
        raise
    from flows.stores.profiles import datasketches as maker  # type: ignore[no-redef]


def profile(frame: pd.DataFrame) -> bytes:
    """The profile of a frame: the same bytes for the same rows in the same order.

    Per column: counts (rows, null, nan, inf, true), types, cardinality, distribution, integer range, frequent items.
    Missing values are null; text, None, times, lists and mixtures are accepted.
    """
    return maker.profile(frame)


def merge(parts: Sequence[bytes]) -> bytes:
    """One profile of the rows of all parts: the same bytes for the same parts in the same order.

    Counts and types are exact, distributions within 0.1 % of rank for the parts and 0.1 % for each merge.
    """
    if not parts:
        raise StoreError("no profile to merge: the window has no part; profile an empty frame instead")
    return maker.merge(parts)


def remembered(profile_bytes: bytes) -> dict[str, Remembered]:
    """What a profile remembers of each column; StoreError if it is none, or another library's."""
    return maker.remembered(profile_bytes)


def cardinality(profile_bytes: bytes, column: str) -> float:
    """About how many distinct values a column has: within 3 % of them, two standard errors of a HyperLogLog of 2^12."""
    return _column(profile_bytes, column).cardinality


def reference_edges(profile_bytes: bytes, column: str, bins: int) -> tuple[float, ...]:
    """Inner quantile edges of a numeric column, strictly increasing; () if it has no number."""
    kept = _column(profile_bytes, column).kept
    if kept is None:
        return ()
    edges = np.unique(kept.quantiles(np.linspace(0, 1, bins + 1)[1:-1]))
    return tuple(edges[np.isfinite(edges) & (edges > kept.low)].tolist())


def sketch(profile_bytes: bytes, column: str, *, edges: Sequence[float] = (), categories: Sequence[str] = ()) -> Sketch:
    """A column's counts as the profile remembers them: numbers in bins between `edges`, or `categories` and the rest.

    Numeric counts are within 0.35 % of the rows; of categories the most frequent are kept, and only of integers, text
    and booleans. What is not a number counts as missing from a numeric sketch. StoreError for an unknown column.
    """
    found = _column(profile_bytes, column)
    if categories:
        names = tuple(name for name in categories if name != OTHER)
        known = [found.frequent.get(name, 0) for name in names]
        return Sketch(
            name=column,
            kind="categorical",
            n=found.n,
            missing=found.missing,
            categories=(*names, OTHER),
            counts=(*known, max(0, found.n - found.missing - sum(known))),
        )
    below = [] if found.kept is None else found.kept.below(np.asarray(edges, dtype=np.float64)).tolist()
    numbers = 0 if found.kept is None else int(found.kept.weights.sum())
    borders = [*(below or [0] * len(edges)), numbers]
    return Sketch(
        name=column,
        kind="numeric",
        n=found.n,
        missing=found.n - numbers,
        edges=tuple(map(float, edges)),
        counts=tuple(np.diff(borders, prepend=0).tolist()),
    )


def _column(profile_bytes: bytes, column: str) -> Remembered:
    found = remembered(profile_bytes)
    if column not in found:
        raise StoreError(f"the profile has no column {column!r}; it has {', '.join(sorted(found))}")
    return found[column]
