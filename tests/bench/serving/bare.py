"""Our service without journal and metrics, to see what they cost; nothing outside the benchmarks may do this."""

from typing import Any

from bentos.runtime import metrics
from bentos.runtime.answers import Form
from bentos.runtime.journal import Journal
from bentos.runtime.scoring.decisions import Decider
from tests.bench.serving.service import Service as Service


class Unwritten(Form):
    """Lines that nobody composes."""

    def fill(self, columns: Any) -> bytes:
        """Nothing."""
        return b""


def _made(decider: Decider, *given: Any) -> None:
    _make(decider, *given)
    decider._record.__class__ = Unwritten


_make, Decider.__init__ = Decider.__init__, _made  # type: ignore[method-assign,assignment]
Journal.append = lambda self, records: None  # type: ignore[method-assign,assignment,misc]
for _name in ("count_answers", "count_errors", "count_request", "count_batch"):
    assert hasattr(metrics, _name), _name
    setattr(metrics, _name, lambda *_, **__: None)
