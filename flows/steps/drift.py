"""Drift between a reference and a window: measures on column sketches, and the verdict over all columns."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """Counts of one column: `counts` per numeric bin or per category, `missing` besides; `n` is their sum.

    Numeric: `edges` are the inner bin borders fixed by the reference (k edges, k + 1 counts, bins
    `(-inf, e0), [e0, e1), …, [ek, inf)`). Categorical: `categories` names the counts and `edges` is empty.
    """

    name: str
    kind: str                               # "numeric" or "categorical"
    n: int
    missing: int
    counts: tuple[int, ...]
    edges: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()
