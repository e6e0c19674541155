"""The service that is measured: churn's own, or one whose rows may bring texts where the artefact has categories."""

from typing import Annotated

import bentoml
from pydantic import Field
from starlette.responses import Response

from bentos import endpoint, rows
from bentos.churn import Churn, ChurnAnswers, ChurnRequest, Number
from tests.bench.serving.artefact import CATEGORIES


class MixedRequest(ChurnRequest):
    """One customer, whose features are numbers and texts."""

    features: dict[str, Number | Annotated[str, Field(strict=True)] | None] | None = None


MixedRequests = rows.one_or_many(MixedRequest, example={"user_id": 17})


@bentoml.service(name="churn", **endpoint.SERVICE)
class Mixed(endpoint.Answering):
    """Probability of churn for one customer or a list of them."""

    use_case = "churn"

    @bentoml.api(input_spec=MixedRequests, output_spec=ChurnAnswers)
    async def predict(self, body: rows.Rows, /, ctx: bentoml.Context) -> Response:
        """One row or a list of rows."""
        return await endpoint.reply(self.predictor, body, ctx)


Mixed.add_asgi_middleware(endpoint.Probes)
Mixed.entity = "user_id"
Service = Mixed if CATEGORIES else Churn
