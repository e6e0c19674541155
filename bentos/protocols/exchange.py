"""One call of any protocol: which release it asks for, its rows through the predictor, its errors in its own shape."""

import asyncio
import json
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from bentos.protocols.columns import Field, Layout, Refused, Rows
from bentos.protocols.events import layout
from bentos.runtime import metrics
from bentos.runtime.answers import Results, RowError, column, errors
from bentos.runtime.batcher import Overloaded
from bentos.runtime.predictor import Predictor
from bentos.runtime.rollouts.rollout import CHAMPION
from bentos.runtime.scoring.inputs import MAX_ROWS
from bentos.runtime.scoring.release import Release
from bentos.runtime.together import Together

T = TypeVar("T")
JSON = "application/json"
CURL = "application/x-www-form-urlencoded"  # what curl says of any body; the examples of TensorFlow Serving send it
MAX_PARTS = 100 * MAX_ROWS  # objects and lists in a body: each costs many times its bytes once it is decoded
MAX_COMMAS = 800 * MAX_ROWS
SMALL = 300_000  # bytes that take a millisecond or three to decode: less than a thread that waits for its turn does
log = logging.getLogger("bentoflow.protocols")


@dataclass(frozen=True)
class Call:
    """One request, and what answers it."""

    request: Request
    predictor: Predictor
    fields: Mapping[str, Field]  # of a row's own
    body: bytes = b""

    @property
    def media_type(self) -> str:
        """The content type without its parameters, in lower case."""
        return self.request.headers.get("content-type", "").partition(";")[0].strip().lower()

    def takes(self, *others: str) -> None:
        """Refused with 415 unless the body is JSON, of one of the other media types, or says nothing of itself."""
        given = self.request.headers.get("content-type", JSON)
        if self.media_type not in (*others, "") and not is_json(given):
            taken = ", ".join((JSON, *others))
            raise Refused(415, f"content type {given!r:.80} is not supported; send {taken} in UTF-8")

    @property
    def chosen(self) -> bool:
        """Whether the caller chose who answers, by version or arm; else the rollout does."""
        return bool(self.request.path_params.get("version") or self.request.headers.get("x-bentoflow-arm"))

    def named(self) -> str:
        """The model's name in the path; Refused with 404 unless it is the one that this service has."""
        name: str = self.request.path_params["name"]
        if name != self.predictor.use_case:
            raise Refused(404, f"no model {name!r:.80} here; there is {self.predictor.use_case!r}")
        return name

    def asked(self) -> tuple[str, Release]:
        """The arm that is to answer and its release: by the path's version, by x-bentoflow-arm, or the champion."""
        version = self.request.path_params.get("version")
        arm = self.request.headers.get("x-bentoflow-arm") or None
        bundle = self.predictor.watcher.bundle
        if bundle is None or CHAMPION not in bundle.arms:
            raise Refused(503, self.predictor.ready()[1])
        if arm is not None and arm not in bundle.arms:
            raise Refused(400, f"no arm {arm!r:.60}; there are {', '.join(bundle.arms)}", field="x-bentoflow-arm")
        for name in [CHAMPION, *bundle.arms]:
            if arm in (None, name) and version in (None, bundle.arms[name].model_version):
                return name, bundle.arms[name]
        known = ", ".join(release.model_version for release in bundle.arms.values())
        raise Refused(404, f"no version {version!r:.40} of {self.predictor.use_case!r} answers; there is {known}")

    async def answers(self, decode: Callable[[Layout], Rows]) -> Results:
        """The answers to the rows that `decode` gives, all of them; Refused, with nothing journalled, if one has none.

        A row's own 4xx is a 400 here: these protocols use 404 and 409 for other things than rows.
        """
        arm, served = self.asked()
        manifest = served.manifest
        rows = await aside(len(self.body), decode, layout(manifest, self.fields))
        results = await self.predictor.answer(
            rows,
            arm=arm if self.chosen else None,
            smoke=self.request.headers.get("x-bentoflow-smoke") == "1",
            together=Together(len(rows), version=self.request.path_params.get("version")),
        )
        if failed := errors(results):
            raise _of_row(first := min(failed), failed[first], manifest.entity)
        return results


def _of_row(i: int, error: RowError, entity: str) -> Refused:
    if error.status >= 500:
        refused = Refused(error.status, error.error)
    else:
        refused = Refused(400, error.error, row=i, field=error.detail.get("field", entity))
    refused.counted = True
    return refused


Handler = Callable[[Call], Awaitable[Response]]
Shape = Callable[[Refused], Response]


async def exchange(call: Callable[[], Awaitable[Call]], handler: Handler, shape: Shape) -> Response:
    """A handler's response, or its error in the protocol's shape."""
    started, made = time.perf_counter(), None
    try:
        made = await call()
        response = await handler(made)
    except ClientDisconnect:
        return Response(status_code=400)  # nobody reads it
    except (Refused, Overloaded) as error:
        refused = error if isinstance(error, Refused) else Refused(503, str(error))
        if made is not None and isinstance(error, Refused) and not error.counted:
            metrics.count_errors(made.predictor.use_case, [error.status])
        response = shape(refused)
    except Exception:
        log.exception("a call failed")
        response = shape(Refused(500, "an unexpected error, see the server's log"))
    if response.status_code == 503:
        response.headers["retry-after"] = "1"
    if made is not None and made.request.method == "POST":
        metrics.count_request(made.predictor.use_case, time.perf_counter() - started)
    return response


async def aside(size: int, work: Callable[..., T], *arguments: Any) -> T:
    """What `work` gives; in a thread if it has much to do, so that other requests are answered meanwhile."""
    return await asyncio.to_thread(work, *arguments) if size > SMALL else work(*arguments)


def is_json(content_type: str) -> bool:
    """Whether a content type is JSON's, or one of RFC 6839's kinds of it, in UTF-8."""
    kind, *parameters = (part.strip().lower() for part in content_type.split(";"))
    charsets = [value.strip('" ') for name, _, value in (p.partition("=") for p in parameters) if name == "charset"]
    return (kind == JSON or (kind.startswith("application/") and kind.endswith("+json"))) and set(charsets) <= {"utf-8"}


def check_parts(body: bytes, most: int) -> None:
    """Refused if JSON has more objects and lists than `most`, or more values than any table of a call."""
    if len(body) <= most:
        return
    signs = np.frombuffer(body, dtype=np.uint8)
    if (parts := np.count_nonzero(signs == ord("{")) + np.count_nonzero(signs == ord("["))) > most:
        raise Refused(400, f"the body has {parts} objects and lists, more than the {most} of a call; send fewer rows")
    if len(body) > MAX_COMMAS and (commas := np.count_nonzero(signs == ord(","))) > MAX_COMMAS:
        raise Refused(400, f"the body has {commas} values, more than the {MAX_COMMAS} of a call; send fewer rows")


def parse_json(body: bytes) -> Any:
    """A JSON value in UTF-8; of a name that stands twice in an object the last counts, as in every parser here.

    NaN as Python and JavaScript clients write it is accepted, since tables mark gaps with it.
    """
    check_parts(body, MAX_PARTS)
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        first = error
    try:
        value = json.loads(text := body.decode())  # json.loads would guess another encoding
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode()  # which half a surrogate pair cannot be
    except (ValueError, RecursionError):
        raise Refused(400, f"the body is not JSON in UTF-8: {first}") from None
    return value


def json_response(content: Any, status: int = 200, *, answers: Results | None = None) -> Response:
    """A response in JSON; of a single answer the request id is also a header, as /predict has it."""
    encoded = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(encoded, status, headers=request_id(answers), media_type="application/json")


def request_id(answers: Results | None) -> dict[str, str]:
    """The x-request-id header: the answer's own if there is one alone."""
    alone = column(answers, "request_id") if answers and len(answers) == 1 else ()
    return {"x-request-id": alone[0] if alone else os.urandom(16).hex()}


def plain_error(refused: Refused) -> Response:
    """An error as the Open Inference Protocol and TensorFlow Serving give it."""
    return json_response({"error": refused.error}, refused.status)
