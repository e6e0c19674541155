"""Metrics of a service, counted as plain integers and moved to Prometheus by `export`.

A Prometheus counter takes a lock and writes to a shared file: with a handful per request that costs as much as the
model. `export` runs four times a second and before this process answers /metrics, so other workers' figures in a
scrape are at most that old. Nothing is counted twice, nor lost but by SIGKILL.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from bentos.runtime.answers import Answer

if TYPE_CHECKING:
    from prometheus_client import Counter, Gauge, Histogram

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SCORES = tuple(round(i / 20, 2) for i in range(1, 21))
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384)


@dataclass(frozen=True)
class Metrics:
    """The service's metrics; counters leave smoke tests out."""

    predictions: Counter
    errors: Counter
    seconds: Histogram
    score: Histogram
    rows: Histogram
    release: Gauge
    problem: Gauge


@cache
def metrics() -> Metrics:
    """This process' metrics. prometheus_client decides at import whether processes share files: import it late."""
    from prometheus_client import Counter, Gauge, Histogram

    return Metrics(
        Counter("bentoflow_predictions", "Answers given", ["use_case", "model_version", "risk"]),
        Counter("bentoflow_prediction_errors", "Rows without an answer", ["use_case", "status"]),
        Histogram("bentoflow_request_seconds", "Time of a request", ["use_case"], buckets=SECONDS),
        Histogram("bentoflow_score", "Probability answered", ["use_case", "model_version"], buckets=SCORES),
        Histogram("bentoflow_batch_rows", "Rows of a batch", ["use_case"], buckets=ROWS),
        Gauge(
            "bentoflow_release_info",
            "1 for each arm's release in charge",
            ["use_case", "arm", "release", "model_version"],
            multiprocess_mode="livemax",
        ),
        Gauge(
            "bentoflow_rollout_problem",
            "1 while the rollout file cannot be followed",
            ["use_case"],
            multiprocess_mode="livemax",
        ),
    )


class Tally:
    """A histogram's observations since the last export."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, *values: float) -> None:
        """Count values."""
        counts, bounds = self.counts, self.bounds
        for value in values:
            counts[bisect_left(bounds, value)] += 1
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
    score: dict[tuple[str, str], Tally] = field(default_factory=dict)
    seconds: dict[str, Tally] = field(default_factory=dict)
    rows: dict[str, Tally] = field(default_factory=dict)


_pending = Pending()
_lock = threading.Lock()  # taken once per batch or request: a batch may be counted in a thread


def count_answers(use_case: str, answers: Sequence[Answer]) -> None:
    """Count answers given."""
    if not answers:
        return
    with _lock:
        for (version, risk), count in Counts([(a.model_version, a.risk) for a in answers]).items():
            _pending.predictions[use_case, version, risk] += count
        for version in {a.model_version for a in answers}:
            tally = _pending.score.setdefault((use_case, version), Tally(SCORES))
            tally.observe(*[a.probability for a in answers if a.model_version == version])


def count_errors(use_case: str, statuses: Iterable[int]) -> None:
    """Count rows that got an error instead of an answer."""
    with _lock:
        for status in statuses:
            _pending.errors[use_case, str(status)] += 1


def count_request(use_case: str, seconds: float) -> None:
    """Count a request by how long it took."""
    with _lock:
        if (tally := _pending.seconds.get(use_case)) is None:
            tally = _pending.seconds[use_case] = Tally(SECONDS)
        tally.observe(seconds)


def count_batch(use_case: str, rows: int) -> None:
    """Count a batch by its rows."""
    with _lock:
        _pending.rows.setdefault(use_case, Tally(ROWS)).observe(rows)


def export() -> None:
    """Move what was counted to Prometheus."""
    global _pending
    with _lock:
        if _pending == Pending():
            return
        counted, _pending = _pending, Pending()
    m = metrics()
    for prediction, count in counted.predictions.items():
        m.predictions.labels(*prediction).inc(count)
    for error, count in counted.errors.items():
        m.errors.labels(*error).inc(count)
    for scored, tally in counted.score.items():
        tally.export(m.score.labels(*scored))
    for histogram, tallies in ((m.seconds, counted.seconds), (m.rows, counted.rows)):
        for use_case, tally in tallies.items():
            tally.export(histogram.labels(use_case))
