"""What every service's HTTP side has in common: one row or many in, the same shape out, and the probes."""

import gc
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar

import bentoml
import orjson
from pydantic import BaseModel, Discriminator, Field, RootModel, Tag, ValidationError, WrapValidator
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from bentos import comparison, drain
from bentos.hot import HotService, compose, refuse
from bentos.runtime import metrics
from bentos.runtime.answers import RowError
from bentos.runtime.batcher import Overloaded
from bentos.runtime.features.store import CARRIED, containerized
from bentos.runtime.home import home
from bentos.runtime.predictor import Predictor
from bentos.runtime.scoring.inputs import MAX_ROWS

MAX_VALUES = 10_000  # of one row
TOO_WIDE = f"A row has at most {MAX_VALUES:,} values"


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


class Rows(RootModel[Any]):
    """A request's body: one row, or a list of rows."""

    __root_input__: ClassVar[bool] = True  # how BentoML marks that the body itself is the value
    row: ClassVar[type[BaseModel]]
    takes_one: ClassVar[bool]  # row, not only a list of them

    @property
    def single(self) -> bool:
        """Whether the body is one row, not a list."""
        return not isinstance(self.root, list)


def one_or_many(row: type[BaseModel], *, example: dict[str, Any]) -> type[Rows]:
    """The body model for rows of one kind. A malformed row of a list becomes its own error, a single one a 400."""
    many = Annotated[list[Annotated[row, WrapValidator(_set_aside)]], Field(max_length=MAX_ROWS), Tag("rows")]  # type: ignore[valid-type]
    body: Any = Annotated[
        Annotated[row, Tag("row")] | many,  # type: ignore[valid-type]
        Discriminator(_kind, custom_error_type="too_wide", custom_error_message=TOO_WIDE),
        Field(json_schema_extra={"example": example}),
    ]
    return _rows(f"{row.__name__}s", row, body, takes_one=True)


def many(row: type[BaseModel], *, example: dict[str, Any]) -> type[Rows]:
    """The body model for a list of rows of one kind; a malformed row becomes its own error."""
    rows: Any = list[Annotated[row, WrapValidator(_set_aside)]]  # type: ignore[valid-type]
    schema = {"example": [example]}
    return _rows(
        f"{row.__name__}List",
        row,
        Annotated[rows, Field(max_length=MAX_ROWS, json_schema_extra=schema)],
        takes_one=False,
    )


def _rows(name: str, row: type[BaseModel], body: Any, *, takes_one: bool) -> type[Rows]:
    return type(
        name,
        (Rows,),
        {
            "__annotations__": {"root": body},
            "__module__": row.__module__,
            "__doc__": Rows.__doc__,
            "row": row,
            "takes_one": takes_one,
        },
    )


def one_or_many_answers(answer: type[BaseModel]) -> type[RootModel[Any]]:
    """The response model that documents answers; replies are encoded directly."""
    body = Annotated[
        Annotated[answer, Tag("row")] | Annotated[list[answer], Tag("rows")],  # type: ignore[valid-type]
        Discriminator(lambda value: "rows" if isinstance(value, list) else "row"),
    ]
    return type(
        f"{answer.__name__}s",
        (RootModel,),
        {
            "__annotations__": {"root": body},
            "__module__": answer.__module__,
            "__doc__": "One answer, or a list in the order of the rows.",
        },
    )


def _kind(value: Any) -> str | None:
    """Whether a body is a list of rows or one; neither if the one has absurdly many values."""
    return "rows" if isinstance(value, list) else None if _too_wide(value) else "row"


def _too_wide(value: Any) -> bool:
    """Whether a row has more values than any model: each wrong one would be an error of its own in the reply."""
    if not isinstance(value, dict):
        return False
    return len(value) + sum(len(part) for part in value.values() if isinstance(part, dict | list)) > MAX_VALUES


def _set_aside(value: Any, handler: Callable[[Any], BaseModel]) -> BaseModel | RowError:
    if _too_wide(value):
        return RowError(400, TOO_WIDE)
    try:
        return handler(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        return RowError(400, f"{field or 'row'}: {first['msg']}", {"field": field} if field else {})


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
