"""Our service with accounts of the CPU time that its parts take, told at /accounts; only benchmarks serve this."""

from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from bentos import hot
from bentos.runtime import metrics
from bentos.runtime.features.online import FeatureReader
from bentos.runtime.journal import Journal
from bentos.runtime.predictor import Predictor
from bentos.runtime.scoring.decided import Decided
from bentos.runtime.scoring.scorer import Preprocessor, Scorer
from tests.bench.serving.accounts import balance, charged, counted
from tests.bench.serving.service import Service as Service


class Accounts:
    """ASGI middleware: GET /accounts."""

    sees_no_predictions = True

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/accounts":
            await self.app(scope, receive, send)
            return
        await Response(orjson.dumps(balance()))(scope, receive, send)


CHARGED: tuple[tuple[str, Any, str], ...] = (
    ("model", Scorer, "score_inputs"),
    ("model", Preprocessor, "__call__"),
    ("feature_read", FeatureReader, "read"),
    ("journal", Journal, "append"),
    ("json", hot.Hot, "rows"),
    ("json", hot, "compose"),
    ("json", Decided, "answers"),
    ("json", Decided, "encoded"),
    ("journal", Decided, "record"),
    ("batch", Predictor, "_decide"),  # what is left of it: rows to inputs, columns of answers and lines
    *(("metrics", metrics, f"count_{what}") for what in ("answers", "errors", "request", "batch")),
    ("metrics", metrics, "export"),
)
for _part, _owner, _name in CHARGED:
    setattr(_owner, _name, charged(_part, getattr(_owner, _name)))
metrics.count_request = counted(metrics.count_request)
Service.add_asgi_middleware(Accounts)
