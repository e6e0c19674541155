"""The churn service: will this customer stop buying?"""

from typing import Annotated

import bentoml
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from bentos import endpoint, rows

UserId = Annotated[int, Field(strict=True, ge=0, le=2**63 - 1, description="The customer's number.", examples=[17])]
Number = Annotated[float, Field(strict=True)]


class ChurnRequest(BaseModel):
    """One customer; what is known about them is read from the feature store unless `features` brings it."""

    model_config = ConfigDict(extra="forbid")

    user_id: UserId
    features: dict[str, Number | None] | None = Field(
        None, description="All of the model's features by name, null where missing, instead of the stored ones."
    )


class ChurnAnswer(BaseModel):
    """The probability that a customer buys nothing in the coming months, and what it was computed from."""

    request_id: str = Field(description="Unique; the journal and later labels are joined by it.")
    user_id: UserId
    probability: float = Field(ge=0, le=1, description="Of no purchase within the horizon.", examples=[0.83])
    risk: str = Field(description="Whether the probability reaches the release's threshold.", examples=["High"])
    features: dict[str, float | None] = Field(description="The values used, null where missing.")
    event_time: str | None = Field(description="Of the stored values.", examples=["1998-06-01T00:00:00+00:00"])
    stale: bool = Field(description="Whether medians stood in for values missing or older than their ttl.")
    model_version: str = Field(examples=["3"])
    release: str
    arm: str = Field(examples=["champion"])


ChurnRequests = rows.one_or_many(ChurnRequest, example={"user_id": 17})
ChurnAnswers = rows.one_or_many_answers(ChurnAnswer)


@bentoml.service(name="churn", **endpoint.SERVICE)
class Churn(endpoint.Answering):
    """Probability of churn for one customer or a list of up to 10,000."""

    use_case = "churn"

    @bentoml.api(input_spec=ChurnRequests, output_spec=ChurnAnswers)
    async def predict(self, body: rows.Rows, /, ctx: bentoml.Context) -> Response:
        """Post `{"user_id": 17}` or a list of such objects; a list's bad rows get their own status (207)."""
        return await endpoint.reply(self.predictor, body, ctx)


Churn.add_asgi_middleware(endpoint.Probes)
Churn.entity = "user_id"
