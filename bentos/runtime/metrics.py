"""Metrics of a service, counted as plain integers in the event loop and moved to Prometheus by `export`.

A Prometheus counter takes a lock and writes to a shared file: with a handful per request that costs as much as the
model. `export` runs four times a second and before this process answers /metrics, so other workers' figures in a
scrape are at most that old. Nothing is counted twice, nor lost but by SIGKILL.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

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

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

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


def count_answers(use_case: str, answers: Sequence[tuple[str, str, float]]) -> None:
    """Count answers given as (model version, risk, score)."""
    for (version, risk), count in Counts([(version, risk) for version, risk, _ in answers]).items():
        _pending.predictions[use_case, version, risk] += count
    for version in {version for version, _, _ in answers}:
        tally = _pending.score.get((use_case, version))
        if tally is None:
            tally = _pending.score[use_case, version] = Tally(SCORES)
        for named, _, score in answers:
            if named == version:
                tally.observe(score)


def count_errors(use_case: str, statuses: Iterable[int]) -> None:
    """Count rows that got an error instead of an answer."""
    for status in statuses:
        _pending.errors[use_case, str(status)] += 1


def count_request(use_case: str, seconds: float) -> None:
    """Count a request by how long it took."""
    if (tally := _pending.seconds.get(use_case)) is None:
        tally = _pending.seconds[use_case] = Tally(SECONDS)
    tally.observe(seconds)


def count_batch(use_case: str, rows: int) -> None:
    """Count a batch by its rows."""
    if (tally := _pending.rows.get(use_case)) is None:
        tally = _pending.rows[use_case] = Tally(ROWS)
    tally.observe(rows)


def export() -> None:
    """Move what was counted to Prometheus; call it in the event loop, where the counting is done."""
    global _pending
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
