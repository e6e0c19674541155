"""Our service without journal and metrics, to see what they cost; nothing outside the benchmarks may do this."""

from bentos.runtime import metrics
from bentos.runtime.journal import Journal
from bentos.runtime.scoring.decided import Decided
from tests.bench.serving.service import Service as Service

Decided.record = lambda self: b""  # type: ignore[method-assign]
Journal.append = lambda self, records: None  # type: ignore[method-assign,assignment,misc]
for _name in ("count_answers", "count_errors", "count_request", "count_batch"):
    assert hasattr(metrics, _name), _name
    setattr(metrics, _name, lambda *_, **__: 0)
