"""A use case with categorical features, as a team would declare its service; served by a test."""

from typing import Annotated

import bentoml
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from bentos import endpoint, rows

UserId = Annotated[int, Field(strict=True, ge=0, le=2**63 - 1)]
Value = Annotated[float, Field(strict=True)] | str | None


class ShopRequest(BaseModel):
    """One customer; `features` brings numbers and texts instead of the stored ones."""

    model_config = ConfigDict(extra="forbid")

    user_id: UserId
    features: dict[str, Value] | None = None


class ShopAnswer(BaseModel):
    """The probability, and what it was computed from."""

    request_id: str
    user_id: UserId
    probability: float
    risk: str
    features: dict[str, Value]
    event_time: str | None
    stale: bool
    model_version: str
    release: str
    arm: str


ShopRequests = rows.one_or_many(ShopRequest, example={"user_id": 17})
ShopAnswers = rows.one_or_many_answers(ShopAnswer)


@bentoml.service(name="shop", **endpoint.SERVICE)
class Shop(endpoint.Answering):
    """Probability for one customer or a list."""

    use_case = "shop"

    @bentoml.api(input_spec=ShopRequests, output_spec=ShopAnswers)
    async def predict(self, body: rows.Rows, /, ctx: bentoml.Context) -> Response:
        """Post `{"user_id": 17}` or a list of such objects."""
        return await endpoint.reply(self.predictor, body, ctx)


Shop.add_asgi_middleware(endpoint.Probes)
Shop.entity = "user_id"
