"""Metrics of a service, counted as plain integers and moved to Prometheus by `export`.

A Prometheus counter takes a lock and writes to a shared file: with a handful per request that costs as much as the
model. `export` runs four times a second and before this process answers /metrics, so other workers' figures in a
scrape are at most that old. Nothing is counted twice, nor lost but by SIGKILL.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from bentos.runtime.answers import Answer, Results, RowError, column
from bentos.runtime.tallies import ROWS, SCORES, SECONDS, Pending, Tally

if TYPE_CHECKING:
    from prometheus_client import Counter, Gauge, Histogram


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
    arm_rows: Counter
    arm_seconds: Histogram
    shadow_rows: Counter
    unshipped: Gauge
    lookups: Counter


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
        Counter("bentoflow_arm_rows", "Rows of an arm beside a canary", ["use_case", "arm", "release", "outcome"]),
        Histogram(
            "bentoflow_arm_seconds",
            "Time of an arm's part of a batch beside a canary",
            ["use_case", "arm", "release"],
            buckets=SECONDS,
        ),
        Counter("bentoflow_shadow_rows", "Rows for a shadow by what became of them", ["use_case", "arm", "outcome"]),
        Gauge(
            "bentoflow_journal_unshipped_seconds",
            "Age of the oldest finished segment that the bucket does not have, 0 if it has all",
            ["use_case"],
            multiprocess_mode="livemax",
        ),
        Counter(
            "bentoflow_feature_lookups",
            "Rows looked up in the feature cache; a miss is an entity that was read",
            ["use_case", "entity", "outcome"],
        ),
    )


def forget_dead() -> None:
    """Remove the gauges of workers that were killed: what they said last is not so any more. Counters stay."""
    for path in Path(os.environ.get("PROMETHEUS_MULTIPROC_DIR", os.devnull)).glob("gauge_live*_*.db"):
        try:
            os.kill(int(path.stem.rpartition("_")[2]), 0)
        except ProcessLookupError:
            path.unlink(missing_ok=True)  # another worker that starts may be faster
        except PermissionError:  # alive, and somebody else's
            continue


_pending = Pending()
_lock = threading.Lock()  # taken once per batch or request: a batch may be counted in a thread


def count_answers(use_case: str, results: Results) -> int:
    """Count the answers among results; how many there are."""
    versions, risks = column(results, "model_version"), column(results, "risk")
    scores: Sequence[float] = column(results, "probability")
    different = set(versions)
    with _lock:
        for version in different:
            if len(different) > 1:
                alike = [i for i, other in enumerate(versions) if other == version]
                _count_answers(use_case, version, [risks[i] for i in alike], [scores[i] for i in alike])
            else:
                _count_answers(use_case, version, risks, scores)
    return len(scores)


def _count_answers(use_case: str, version: str, risks: Sequence[str], scores: Sequence[float]) -> None:
    for risk in set(risks):
        _pending.predictions[use_case, version, risk] += risks.count(risk)
    _pending.score[use_case, version].observe_all(scores)


def count_errors(use_case: str, statuses: Iterable[int]) -> None:
    """Count rows that got an error instead of an answer."""
    with _lock:
        for status in statuses:
            _pending.errors[use_case, str(status)] += 1


def count_request(use_case: str, seconds: float) -> None:
    """Count a request by how long it took."""
    with _lock:
        _pending.seconds[use_case].observe(seconds)


def count_batch(use_case: str, rows: int) -> None:
    """Count a batch by its rows."""
    with _lock:
        _pending.rows[use_case].observe(rows)


def count_part(arm: tuple[str, str, str], seconds: float, results: Sequence[object]) -> None:
    """Count an arm's part of a batch, by use case, arm and release: how long it took, rows answered and failed.

    Failed are those that got a 5xx; what is wrong with a request is no arm's fault.
    """
    answered = sum(isinstance(r, Answer) for r in results)
    failed = sum(isinstance(r, RowError) and r.status >= 500 for r in results)
    with _lock:
        _pending.arm_rows[*arm, "answered"] += answered
        _pending.arm_rows[*arm, "failed"] += failed
        _pending.arm_seconds.setdefault(arm, Tally(SECONDS)).observe(seconds)


def count_shadow(use_case: str, arm: str, outcome: str, rows: int) -> None:
    """Count rows that a shadow scored, failed to score, or that were dropped because it is slow."""
    with _lock:
        _pending.shadow_rows[use_case, arm, outcome] += rows


def count_lookups(use_case: str, entity: str, *, hits: int, misses: int) -> None:
    """Count what was asked of the feature cache: entities read from the store (misses) and all other rows (hits)."""
    with _lock:
        for outcome, rows in (("hit", hits), ("miss", misses)):
            if rows:
                _pending.lookups[use_case, entity, outcome] += rows


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
    for rows, count in counted.arm_rows.items():
        m.arm_rows.labels(*rows).inc(count)
    for part, tally in counted.arm_seconds.items():
        tally.export(m.arm_seconds.labels(*part))
    for shadow, count in counted.shadow_rows.items():
        m.shadow_rows.labels(*shadow).inc(count)
    for lookup, count in counted.lookups.items():
        m.lookups.labels(*lookup).inc(count)
    for histogram, tallies in ((m.seconds, counted.seconds), (m.rows, counted.rows)):
        for use_case, tally in tallies.items():
            tally.export(histogram.labels(use_case))
