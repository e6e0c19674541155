"""POST /drift-check: a table beside the reference of the release in charge; nothing is scored, journalled or kept."""

import asyncio
from collections.abc import Callable, Set
from typing import Any, ClassVar, Literal

import bentoml
import orjson
from pydantic import BaseModel, Field, RootModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from bentos.protocols import arrow, invocations
from bentos.protocols.columns import Columns, Refused, by_name
from bentos.runtime import metrics
from bentos.runtime.predictor import Predictor
from bentos.runtime.scoring.inputs import MAX_ROWS

NO_SCIPY = "drift checks need scipy, which images leave out for its size; add it to bentofile.yaml to have them there"

Cell = float | int | str | bool | None
Decode = Callable[[Set[str]], Columns]  # the table's columns, given the names of those that hold numbers


class Table(RootModel[list[dict[str, Cell]]]):
    """Rows as objects, all with the same columns: any of the model's features, and `score`; null is a gap."""

    __root_input__: ClassVar[bool] = True  # how BentoML marks that the body itself is the value
    root: list[dict[str, Cell]] = Field(
        min_length=1, max_length=MAX_ROWS, json_schema_extra={"example": [{"score": 0.31}, {"score": 0.74}]}
    )


class Effect(BaseModel):
    """The size of a difference, and the use case's limit for it; of PSI with what chance explains."""

    value: float
    limit: float


class ColumnCheck(BaseModel):
    """One column: drifted if an effect is above its limit and beyond chance, the number of columns accounted for."""

    name: str
    type: Literal["numeric", "categorical"]
    rows: int
    drifted: bool
    reason: str | None
    chance: float = Field(description="Of effects as large without drift.")
    effects: dict[str, Effect] = Field(description="psi, ks, shift (in deviations), missing_change, unseen_share.")
    jensen_shannon: float


class Sign(BaseModel):
    """A sign of broken data, such as another unit."""

    name: str
    column: str | None
    text: str


class DriftCheck(BaseModel):
    """The verdict on a posted table."""

    use_case: str
    release: str
    model_version: str
    rows: int
    min_rows: int = Field(description="With fewer nothing is decided.")
    state: Literal["drift", "none", "not_enough_data"]
    kind: Literal["none", "data_bug", "not_enough_data"] | None = Field(
        description="Null for drift that is no broken pipe: benign or harmful, which only quality can tell."
    )
    reasons: list[str]
    signatures: list[Sign]
    columns: list[ColumnCheck]
    absent: list[str] = Field(description="Columns of the reference that the table does not have.")


class Tables:
    """ASGI: answers tables in CSV or as an Arrow stream that are posted to the route, and hands on the rest.

    `service` gives the running service, None before it has started.
    """

    forms = frozenset({invocations.CSV, arrow.STREAM})

    def __init__(self, app: ASGIApp, route: str, service: Callable[[], Any]) -> None:
        self.app, self._route, self._service = app, route, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (scope["method"], scope["path"]) != ("POST", self._route):
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        form = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if form not in self.forms or (service := self._service()) is None:
            await self.app(scope, receive, send)
            return
        body = await request.body()

        def decode(numbers: Set[str]) -> Columns:
            return arrow.from_stream(body) if form == arrow.STREAM else invocations.read_csv(body, numbers)

        response = await reply(service.predictor, decode)
        await response(scope, receive, send)


async def check(predictor: Predictor, rows: list[dict[str, Any]], ctx: bentoml.Context) -> Response:
    """The verdict on rows that BentoML has read."""
    response = await reply(predictor, lambda numbers: by_name(rows))
    ctx.response.status_code = response.status_code
    if retry := response.headers.get("retry-after"):
        ctx.response.headers["retry-after"] = retry
    return response


async def reply(predictor: Predictor, decode: Decode) -> Response:
    """The verdict, made in a thread.

    400 for what is no table or has unknown columns, 404 without a reference, 501 without scipy, 503 without a release.
    """
    try:
        status, content = 200, await asyncio.to_thread(_checked, predictor, decode)
    except Refused as error:
        metrics.count_errors(predictor.use_case, [error.status])
        status, content = error.status, error.dump()
    headers = {"retry-after": "1"} if status == 503 else None
    return Response(orjson.dumps(content), status, headers, media_type="application/json")


def _checked(predictor: Predictor, decode: Decode) -> dict[str, Any]:
    try:
        from bentos.runtime.monitoring import posted  # brings scipy, which no answer needs
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] != "scipy":
            raise
        raise Refused(501, NO_SCIPY) from None
    champion = predictor.champion()
    if champion is None:
        raise Refused(503, predictor.ready()[1])
    served, folder = champion
    try:
        standard = posted.standard(folder)
    except posted.NoReference as error:
        raise Refused(404, str(error)) from None
    columns = decode({sketch.name for sketch in standard.reference if sketch.kind == "numeric"})
    columns.pop("", None)  # the index, as pandas' `to_csv` writes it
    if not any(map(len, columns.values())):
        raise Refused(400, "the table has no rows")
    names = [sketch.name for sketch in standard.reference]
    if unknown := [name for name in columns if name not in names]:
        raise Refused(400, f"unknown; there are {', '.join(names)}", field=f"{unknown[0]:.80}")
    told = {"use_case": predictor.use_case, "release": served.release, "model_version": served.model_version}
    return told | posted.compared({name: list(values) for name, values in columns.items()}, standard)
