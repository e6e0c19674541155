"""What every service's HTTP side has in common: its settings, its predictor, the reply to rows, and the probes."""

import gc
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import bentoml
import orjson
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from bentos import comparison, drain
from bentos.hot import HotService, compose, refuse
from bentos.rows import Rows
from bentos.runtime import metrics
from bentos.runtime.answers import RowError
from bentos.runtime.batcher import Overloaded
from bentos.runtime.features.store import CARRIED, containerized
from bentos.runtime.home import home
from bentos.runtime.predictor import Predictor


def workers() -> int:
    """Processes that answer, by `BENTOFLOW_WORKERS` (default 1); ValueError for what is no number of them."""
    text = os.environ.get("BENTOFLOW_WORKERS", "").strip()
    if not text.isdecimal() and text:
        raise ValueError(f"BENTOFLOW_WORKERS is {text!r:.40}; give a whole number, such as that of your cores")
    return int(text or 1) or 1


def image() -> Any:
    """The image of a container: Python on Debian, without the compilers that BentoML adds for the distros it knows."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return bentoml.images.Image(base_image=f"docker.io/library/python:{python}-slim", distro="without compilers")


SERVICE: dict[str, Any] = {
    "image": image(),
    "service_class": HotService,
    "workers": workers(),
    "threads": 8,
    "traffic": {"timeout": 30},
    "logging": {"access": {"enabled": False}},  # the journal has every answer; the access log halves the throughput
}


def open_predictor(use_case: str) -> Predictor:
    """The predictor of a use case whose releases are BentoML models; a container answers with the one that it carries.

    `BENTOFLOW_RELEASE` names another one of the store.
    """
    own = os.environ.get("BENTOFLOW_RELEASE", "").strip() or carried()
    return Predictor(
        use_case,
        home(),
        lambda tag: Path(bentoml.models.get(tag).path),
        release=own,
        settle=settle,
    )


def carried() -> str | None:
    """Tag of a container's one model; Feast's registry in its folder is the one to read by, unless another is named."""
    found = bentoml.models.list() if containerized() else []
    if len(found) != 1:
        return None
    if (registry := Path(found[0].path) / CARRIED).is_file():
        os.environ.setdefault("BENTOFLOW_FEATURE_REGISTRY", str(registry))
    return str(found[0].tag)


class Answering:
    """What all services have: the predictor of their `use_case`, started and stopped with each worker."""

    use_case: ClassVar[str]

    def __init__(self) -> None:
        self.predictor = open_predictor(self.use_case)

    @bentoml.api(route="/drift-check", input_spec=comparison.Table, output_spec=comparison.DriftCheck)
    async def drift_check(self, body: comparison.Table, /, ctx: bentoml.Context) -> Response:
        """Compare a table with the reference of the release in charge: read-only; needs the admin token."""
        return await comparison.check(self.predictor, body.root, ctx)

    @bentoml.on_startup
    async def start(self) -> None:
        """Begin to answer."""
        await start(self.predictor)

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """Answer what waits, and close the journal."""
        await self.predictor.stop()


async def start(predictor: Predictor) -> None:
    """Start a service's predictor, and keep the collector and uvicorn from working on every request."""
    drain.install()
    await predictor.start()
    access = logging.getLogger("uvicorn.access")
    if not access.isEnabledFor(logging.INFO):  # as BentoML sets it; uvicorn still composes each line if it has handlers
        access.handlers, access.propagate = [], False
    gc.set_threshold(20_000, 10, 10)  # rows make no cycles: a batch's thousands of short-lived values are no reason


def settle() -> None:
    """Take what loading a release built out of the garbage collector's way: walking it stops every request."""
    gc.collect()
    gc.freeze()


async def reply(predictor: Predictor, body: Rows, ctx: bentoml.Context) -> Response:
    """Answer what the hot route left to BentoML: 200, 207 if some rows of a list failed, else the row's own status."""
    started = time.perf_counter()
    headers = ctx.request.headers
    rows = [body.root] if body.single else body.root
    set_aside = [row.status for row in rows if isinstance(row, RowError)]
    try:
        answered = iter(
            await predictor.answer(
                [vars(row) for row in rows if not isinstance(row, RowError)],
                arm=headers.get("x-bentoflow-arm") or None,
                smoke=headers.get("x-bentoflow-smoke") == "1",
            )
        )
        results = [row if isinstance(row, RowError) else next(answered) for row in rows]
        status, name, content = compose(results, single=body.single)
        metrics.count_errors(predictor.use_case, set_aside)
    except Overloaded as error:
        status, name, content = refuse(error)
    ctx.response.status_code = status
    ctx.response.headers["x-request-id"] = name
    if status == 503:
        ctx.response.headers["retry-after"] = "1"
    metrics.count_request(predictor.use_case, time.perf_counter() - started)
    return Response(content, status_code=status, media_type="application/json")


class Probes:
    """ASGI middleware: GET /health says what answers, GET /readyz is 503 with the reason while nothing can.

    A ready service's `problem` says why it does not follow the rollout file, such as a broken artefact.
    """

    sees_no_predictions = True

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path") if scope["type"] == "http" else None
        if drain.begun():
            send = drain.closing(send)
        if path == "/metrics":
            metrics.export()
        if path not in ("/health", "/readyz") or scope["method"] not in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        predictor: Predictor = bentoml.get_current_service().predictor
        ready, reason = predictor.ready()
        if path == "/health":
            await _json(200, predictor.health())(scope, receive, send)
        elif not ready:
            await _json(503, {"error": reason})(scope, receive, send)
        else:
            health = predictor.health()
            await _json(200, {k: health[k] for k in ("status", "release", "arms", "problem")})(scope, receive, send)


def _json(status: int, content: Any) -> Response:
    headers = {"retry-after": "1"} if status == 503 else None
    return Response(orjson.dumps(content), status_code=status, headers=headers, media_type="application/json")
