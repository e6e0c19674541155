"""Prometheus metrics of a service; created once per process, after the server has chosen where processes share them."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Iterable
from dataclasses import dataclass
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


def count_answers(use_case: str, answers: Iterable[tuple[str, str, float]]) -> None:
    """Count answers given as (model version, risk, score)."""
    m, given = metrics(), list(answers)
    for (version, risk), count in Counts((version, risk) for version, risk, _ in given).items():
        m.predictions.labels(use_case, version, risk).inc(count)
    scores = {version: m.score.labels(use_case, version) for version in {version for version, _, _ in given}}
    for version, _, score in given:
        scores[version].observe(score)


def count_errors(use_case: str, statuses: Iterable[int]) -> None:
    """Count rows that got an error instead of an answer."""
    for status, count in Counts(statuses).items():
        metrics().errors.labels(use_case, str(status)).inc(count)
