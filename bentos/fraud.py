"""The fraud service: how risky is this card payment?"""

from typing import Annotated

import bentoml
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from starlette.responses import Response

from bentos import endpoint, retraining, rows

Key = Annotated[int, Field(strict=True, ge=0, le=2**63 - 1)]
Number = Annotated[float, Field(strict=True)]
EXAMPLE = {"card_id": 17, "terminal_id": 42, "amount": 61.5, "time": "2024-03-01T12:30:00Z"}


class FraudRequest(BaseModel):
    """One payment; what is known about its card and terminal is read from the feature store."""

    model_config = ConfigDict(extra="forbid")

    card_id: Key
    terminal_id: Key
    amount: Number | None = Field(None, description="Dollars; needed unless `features` brings it.", examples=[61.5])
    time: AwareDatetime | None = Field(None, description="Of the payment, within a day of now; needed like the amount.")
    features: dict[str, Number | None] | None = Field(
        None, description="All of the model's inputs by name, null where missing, instead of the stored ones."
    )


class FraudAnswer(BaseModel):
    """The probability that a payment is fraudulent, and what it was computed from."""

    request_id: str = Field(description="Unique; the journal and later labels are joined by it.")
    card_id: Key
    terminal_id: Key
    probability: float = Field(ge=0, le=1, examples=[0.04])
    risk: str = Field(description="By the release's thresholds: LOW, MEDIUM or HIGH.", examples=["LOW"])
    features: dict[str, float | None] = Field(description="The values used, null where missing.")
    event_time: str | None = Field(description="Of the stored values.", examples=["2024-03-01T00:00:00+00:00"])
    stale: bool = Field(description="Whether medians stood in for values missing, expired or younger than the payment.")
    model_version: str = Field(examples=["3"])
    release: str
    arm: str = Field(examples=["champion"])


FraudRequests = rows.one_or_many(FraudRequest, example=EXAMPLE)
FraudRequestList = rows.many(FraudRequest, example=EXAMPLE)
FraudAnswers = rows.one_or_many_answers(FraudAnswer)


@bentoml.service(name="fraud", **endpoint.SERVICE)
class Fraud(endpoint.Answering):
    """Risk of fraud for one payment or a list of up to 10,000, and retraining on request."""

    use_case = "fraud"

    @bentoml.api(input_spec=FraudRequests, output_spec=FraudAnswers)
    async def predict(self, body: rows.Rows, /, ctx: bentoml.Context) -> Response:
        """Post one payment or a list; a list's bad rows get their own status (207)."""
        return await endpoint.reply(self.predictor, body, ctx)

    @bentoml.api(route="/predict/batch", input_spec=FraudRequestList, output_spec=FraudAnswers)
    async def predict_batch(self, body: rows.Rows, /, ctx: bentoml.Context) -> Response:
        """Post a list of payments; the answers come in its order, a bad row's with its own status (207)."""
        return await endpoint.reply(self.predictor, body, ctx)

    @bentoml.api(route="/retrain", output_spec=retraining.Retraining)
    async def retrain(self, ctx: bentoml.Context, reason: retraining.Reason = "asked for") -> Response:
        """Start a training, released if it is better; needs a token, and answers 202 with the run and its page."""
        return await retraining.start("fraud", reason, ctx)


Fraud.add_asgi_middleware(endpoint.Probes)
Fraud.entity = "card_id"
