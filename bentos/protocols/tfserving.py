"""The v1 protocol of TensorFlow Serving and KServe: /v1/models, /v1/models/{name} and /v1/models/{name}:predict.

A prediction is the probability, nothing else: the protocol has no room for more.
"""

from typing import Any

from starlette.responses import Response

from bentos.protocols.columns import Columns, Layout, Refused, Rows, by_name
from bentos.protocols.exchange import CURL, Call, json_response, parse_json
from bentos.runtime.answers import column


async def models(call: Call) -> Response:
    """GET /v1/models."""
    return json_response({"models": [call.predictor.use_case]})


async def model(call: Call) -> Response:
    """GET /v1/models/{name}, also with /versions/{version}: KServe's readiness and TensorFlow Serving's status."""
    name = call.named()
    version = call.asked()[1].model_version
    status = {"version": version, "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    return json_response({"name": name, "ready": True, "model_version_status": [status]})


async def predict(call: Call) -> Response:
    """POST /v1/models/{name}:predict: a prediction per instance, or outputs for inputs by column."""
    call.named()
    call.takes(CURL)
    value = parse_json(call.body)
    given = [name for name in ("instances", "inputs") if isinstance(value, dict) and name in value]
    if len(given) != 1:
        raise Refused(400, 'the body must be an object with either "instances" or "inputs"')
    if given == ["instances"] and not isinstance(value["instances"], list):
        raise Refused(400, '"instances" must be a list with an object, or the list of its features, per row')

    def rows(layout: Layout) -> Rows:
        return layout.rows(named_or_placed(value[given[0]], layout))

    answers = await call.answers(rows)
    probabilities = column(answers, "probability")
    return json_response({"predictions" if given == ["instances"] else "outputs": probabilities}, answers=answers)


def named_or_placed(data: Any, layout: Layout) -> Columns:
    """The columns of a list of objects, of values by name, or of rows that have the features in the model's order."""
    if isinstance(data, dict):
        lists = {name: isinstance(values, list) for name, values in data.items()}
        if not any(lists.values()):
            return {name: [value] for name, value in data.items()}
        if not all(lists.values()):
            raise Refused(400, "must be a list as others are", field=next(n for n, many in lists.items() if not many))
        return {name: flat(values, name) for name, values in data.items()}
    if isinstance(data, list) and data and isinstance(data[0], list):
        return layout.matrix(data)
    return by_name(data)


def flat(values: list[Any], field: str) -> list[Any]:
    """The values of a column that may come as [[1], [2]]."""
    if not values or not isinstance(values[0], list):
        return values
    for i, row in enumerate(values):
        if not isinstance(row, list) or len(row) != 1:
            raise Refused(400, "must be one value in a list, as others are", row=i, field=field)
    return [row[0] for row in values]
