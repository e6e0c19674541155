"""Tallies: what was counted since the last export, as plain integers."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Counts
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import add
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from prometheus_client import Histogram

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SCORES = tuple(round(i / 20, 2) for i in range(1, 21))
MANY = 64  # values: fewer are counted faster one by one
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384)


class Tally:
    """A histogram's observations since the last export."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def observe_all(self, values: Sequence[float]) -> None:
        """Count values."""
        if len(values) < MANY:
            for value in values:
                self.counts[bisect_left(self.bounds, value)] += 1
        else:
            places = np.searchsorted(self.bounds, values)
            counts = np.bincount(places, minlength=len(self.counts)).tolist()
            self.counts = list(map(add, self.counts, counts))
        self.total += sum(values)

    def export(self, histogram: Histogram) -> None:
        """Add what was observed to a Prometheus histogram, which has no call of its own for many values."""
        for bucket, count in zip(histogram._buckets, self.counts, strict=True):
            if count:
                bucket.inc(count)
        histogram._sum.inc(self.total)


@dataclass
class Pending:
    """What was counted since the last export, by labels."""

    predictions: Counts[tuple[str, str, str]] = field(default_factory=Counts)
    errors: Counts[tuple[str, str]] = field(default_factory=Counts)
    score: dict[tuple[str, str], Tally] = field(default_factory=partial(defaultdict, partial(Tally, SCORES)))
    seconds: dict[str, Tally] = field(default_factory=partial(defaultdict, partial(Tally, SECONDS)))
    rows: dict[str, Tally] = field(default_factory=partial(defaultdict, partial(Tally, ROWS)))
    arm_rows: Counts[tuple[str, str, str, str]] = field(default_factory=Counts)
    arm_seconds: dict[tuple[str, str, str], Tally] = field(default_factory=dict)
    shadow_rows: Counts[tuple[str, str, str]] = field(default_factory=Counts)
    lookups: Counts[tuple[str, str, str]] = field(default_factory=Counts)
