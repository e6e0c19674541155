"""Retraining on request: starts a use case's `train` deployment through Prefect's API; an admin route."""

import asyncio
import os
from contextlib import suppress
from typing import Annotated, Any
from urllib.parse import quote
from uuid import uuid4

import bentoml
import httpx
import orjson
from pydantic import BaseModel, Field
from starlette.responses import Response

CLOUD_API, CLOUD_PAGES = "https://api.prefect.cloud/api/accounts/", "https://app.prefect.cloud/account/"
WAIT_S = 10.0
PAUSES_S = (0.2, 0.5, 1.0, 2.0)  # between attempts: Prefect answers 503 while its database is locked
TRANSIENT = frozenset({429, 502, 503, 504})

Reason = Annotated[str, Field(min_length=1, max_length=200, description="Why; kept in the history.")]


class Retraining(BaseModel):
    """A run that was started: train, and release if the gates find it better."""

    flow_run_id: str
    name: str = Field(examples=["winged-mole"])
    page: str = Field(description="Where the run can be watched.")


async def start(use_case: str, reason: str, ctx: bentoml.Context) -> Response:
    """202 with the run that was started; 503 while Prefect cannot be asked."""
    api = os.environ.get("PREFECT_API_URL", "").strip().rstrip("/")
    if not api:
        return _reply(ctx, 503, {"error": "PREFECT_API_URL is not set where the service is started"})
    try:
        async with asyncio.timeout(WAIT_S):
            status, content = await _create(api, use_case, reason)
    except (httpx.HTTPError, TimeoutError, ValueError) as error:
        told = type(error).__name__
        if isinstance(error, httpx.HTTPStatusError):
            told = f"HTTP {error.response.status_code}"
        status, content = 503, {"error": f"Prefect does not answer at {api}: {told}; retry later"}
    return _reply(ctx, status, content)


async def _create(api: str, use_case: str, reason: str) -> tuple[int, dict[str, Any]]:
    async with httpx.AsyncClient(headers=_credentials(), timeout=WAIT_S) as client:
        found = await _asked(client, "GET", f"{api}/deployments/name/train/{quote(use_case)}")
        if found.status_code == 404:
            return 503, {"error": f"Prefect has no deployment train/{use_case}; run `prefect deploy --all`"}
        found.raise_for_status()
        asked = {"parameters": {"reason": reason}, "idempotency_key": f"retrain-{uuid4()}"}  # one run, if asked again
        made = await _asked(client, "POST", f"{api}/deployments/{found.json()['id']}/create_flow_run", json=asked)
        made.raise_for_status()
    run = made.json()
    page = f"{pages(api)}/runs/flow-run/{run['id']}"
    return 202, Retraining(flow_run_id=run["id"], name=run["name"], page=page).model_dump()


async def _asked(client: httpx.AsyncClient, method: str, url: str, **content: Any) -> httpx.Response:
    """Prefect's reply, asked again while it is busy or does not answer."""
    for pause in PAUSES_S:
        with suppress(httpx.TransportError):
            response = await client.request(method, url, **content)
            if response.status_code not in TRANSIENT:
                return response
        await asyncio.sleep(pause)
    return await client.request(method, url, **content)


def pages(api: str) -> str:
    """Where Prefect's pages are: PREFECT_UI_URL, else beside its API, a server's own or Prefect Cloud's."""
    if named := os.environ.get("PREFECT_UI_URL", "").strip():
        return named.rstrip("/")
    if api.startswith(CLOUD_API):
        return CLOUD_PAGES + api.removeprefix(CLOUD_API).replace("/workspaces/", "/workspace/")
    return api.removesuffix("/api")


def _credentials() -> dict[str, str]:
    key = os.environ.get("PREFECT_API_KEY", "").strip()
    return {"authorization": f"Bearer {key}"} if key else {}


def _reply(ctx: bentoml.Context, status: int, content: dict[str, Any]) -> Response:
    ctx.response.status_code = status
    if status == 503:
        ctx.response.headers["retry-after"] = "5"
    return Response(orjson.dumps(content), status_code=status, media_type="application/json")
