"""The loop's state at /metrics: what Prometheus cannot learn from the services, since flows come and go.

One process beside the flows' home, `bentoflow exporter`. It only reads, anew at every scrape, and knows every use case
that left a history; one whose records cannot be read is told by `bentoflow_state_readable` 0 and hides no other.
"""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from prometheus_client import CollectorRegistry, Metric, start_http_server
from prometheus_client.registry import Collector

from bentos.runtime import clock, journal
from flows import usecases
from flows.errors import BentoflowError
from flows.settings import Settings
from flows.steps.monitoring import figures
from flows.steps.monitoring.figures import Figure
from flows.stores import answers, history, prepared, verdicts

READABLE = "bentoflow_state_readable"
COUNTERS = ("candidates", "releases")


class State(Collector):
    """What is below a home, as gauges and counters named `bentoflow_…`, each with its use case."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def collect(self) -> Iterator[Metric]:
        """Every figure of every use case, read now."""
        readable = Metric(READABLE, "1 if the use case's records could be read", "gauge")
        found: dict[str, Metric] = {}
        for name in usecases.known():
            if not history.path(self.home, name).exists():
                continue
            try:
                listed = state(self.home, name)
            except (OSError, ValueError, KeyError, BentoflowError):
                logging.getLogger(__name__).exception("the state of %s below %s cannot be read", name, self.home)
                readable.add_sample(READABLE, {"use_case": name}, 0.0)
                continue
            readable.add_sample(READABLE, {"use_case": name}, 1.0)
            for figure in listed:
                _add(found, name, figure)
        yield readable
        yield from found.values()


def _add(found: dict[str, Metric], use_case: str, figure: Figure) -> None:
    kind, name = ("counter", f"bentoflow_{figure.name}") if figure.name in COUNTERS else ("gauge", "")
    name = name or f"bentoflow_{figure.name}"
    metric = found.setdefault(name, Metric(name, figures.HELP[figure.name], kind))
    sample = f"{name}_total" if kind == "counter" else name
    metric.add_sample(sample, {"use_case": use_case, **dict(figure.labels)}, figure.value)


def state(home: Path, use_case: str) -> list[Figure]:
    """The figures of one use case as its records stand now."""
    lines, now = history.read(home, use_case), clock.now(home, use_case)
    segments = journal.segments(answers.folder(home, use_case))
    found = [
        *figures.of_history(usecases.load(use_case), lines, now, datetime.now(UTC)),
        *figures.of_quality(_newest_month(home, use_case)),
        Figure(name="journal_bytes", value=float(sum(_size(path) for path in segments))),
        Figure(name="journal_segments", value=float(len(segments))),
    ]
    if (moment := _prepared(home, use_case)) is not None:
        found.append(Figure(name="prepared_seconds", value=moment.timestamp()))
    return found


def _prepared(home: Path, use_case: str) -> pd.Timestamp | None:
    """As of when the newest complete prepare was; None before the first and while one is under way."""
    try:
        return prepared.latest(home, use_case)[1]
    except BentoflowError:
        return None


def _newest_month(home: Path, use_case: str) -> dict[str, Any]:
    months = verdicts.feedback(home, use_case).get("months", [])
    return months[-1] if months else {}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # closed, and so renamed, since it was listed: counted at the next scrape
        return 0


def serve(chosen: Settings, say: Callable[[str], None]) -> None:
    """Answer at /metrics until SIGTERM or Ctrl-C."""
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    registry = CollectorRegistry()
    registry.register(State(chosen.home))
    try:
        server, thread = start_http_server(chosen.exporter_port, addr=chosen.host, registry=registry)
    except OSError as error:
        raise BentoflowError(
            f"cannot listen on {chosen.host}:{chosen.exporter_port}: {error.strerror}; set BENTOFLOW_EXPORTER_PORT"
        ) from error
    say(f"http://{chosen.host}:{chosen.exporter_port}/metrics shows the state below {chosen.home}")
    over.wait()
    server.shutdown()
    thread.join()
