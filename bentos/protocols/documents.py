"""The protocols' routes as an OpenAPI document has them."""

from typing import Any

OBJECT = {"type": "object"}
TEXT = {"type": "string"}
ERROR = {"type": "object", "properties": {"error": TEXT}}
REFUSED = {"anyOf": [{**ERROR, "required": ["error"]}, {"type": "array", "items": {"type": "object"}}]}  # or by row
MLFLOW_ERROR = {"type": "object", "properties": {"error_code": TEXT, "message": TEXT}}
LIMITS = {
    408: "The body does not arrive in time",
    413: "The body is too large",
    415: "The body is of another media type, charset or encoding",
    503: "Nothing can answer now; Retry-After says when to come back",
}
WRONG = {400: "The body or a row is not as it must be", 404: "There is no such row or route"}
ADMIN = {401: "Without the admin token"}
BEGUN = {202: "Begun"}
ROWS = {
    207: "Some rows of a list are answered",
    409: "Stored features are too old",
    422: "A value that the model cannot take",
}
VERSION = "/versions/{version}"
PLACE = {"name": "version", "in": "path", "required": True, "schema": TEXT}


def documented(name: str, row: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Each path's operations, for a model of this name and such a row that brings no features."""
    model = f"/models/{name}"
    kinds = {int: "INT64", float: "FP64", str: "BYTES"}
    tensors = [{"name": n, "datatype": kinds[type(value)], "shape": [1], "data": [value]} for n, value in row.items()]
    frame = {"dataframe_split": {"columns": [*row], "data": [[*row.values()]]}}
    table = "\n".join(",".join(map(str, line)) for line in (row, row.values())) + "\n"
    paths = {
        "/invocations": _post(
            "MLflow: score dataframe_split, dataframe_records, inputs or instances",
            {"application/json": frame, "text/csv": table, "application/vnd.apache.parquet": None},
            {200: ("application/json", OBJECT), 415: ("text/plain", TEXT)},
            error=MLFLOW_ERROR,
        ),
        "/ping": _get("MLflow: whether a release answers", {200: None, 404: None}),
        "/version": _get("MLflow: the version whose protocol is spoken", {200: None}),
        "/v1/models": _get("TensorFlow Serving: the models"),
        "/v2": _get("Open Inference: the server"),
        "/v2/health/live": _get("Open Inference: whether the server runs"),
        "/v2/health/ready": _get("Open Inference: whether a release answers"),
    }
    for at in ("", VERSION):
        given: dict[str, Any] = {"parameters": [PLACE]} if at else {}
        paths[f"/v1{model}{at}"] = _get("TensorFlow Serving: the model's state", **given)
        paths[f"/v1{model}{at}:predict"] = _post(
            "TensorFlow Serving: a probability per instance", {"application/json": {"instances": [row]}}, **given
        )
        paths[f"/v2{model}{at}"] = _get("Open Inference: the model's inputs and outputs", **given)
        paths[f"/v2{model}{at}/ready"] = _get("Open Inference: whether the model answers", **given)
        paths[f"/v2{model}{at}/infer"] = _post(
            "Open Inference: infer, in JSON or with binary tensors",
            {"application/json": {"inputs": tensors}, "application/octet-stream": None},
            {200: ("application/json", OBJECT)},
            **given,
        )
    return paths


def own(*, admin: bool, begins: bool = False) -> dict[int, Any]:
    """The statuses of a service's own route beside BentoML's; one that `begins` something has 202."""
    answers = (ADMIN | (BEGUN if begins else {})) if admin else ROWS
    return {
        status: {"description": text, "content": {"application/json": {"schema": {} if status < 300 else REFUSED}}}
        for status, text in {**answers, **WRONG, **LIMITS}.items()
    }


def _get(summary: str, answers: dict[int, Any] | None = None, **more: Any) -> dict[str, Any]:
    found = {str(status): {"description": summary} for status in answers or (200, 404, 503)}
    return {"get": {"summary": summary, "tags": ["Protocols"], "responses": found, **more}}


def _post(
    summary: str,
    bodies: dict[str, Any],
    answers: dict[int, tuple[str, Any]] | None = None,
    *,
    error: Any = ERROR,
    **more: Any,
) -> dict[str, Any]:
    content = {
        kind: {"schema": OBJECT if kind.endswith("json") else TEXT} | ({} if example is None else {"example": example})
        for kind, example in bodies.items()
    }
    answers = {200: ("application/json", OBJECT)} | (answers or {})
    for status in (400, 404, 408, 413, 415, 500, 503):
        answers.setdefault(status, ("application/json", error))
    responses = {
        str(status): {"description": summary if status == 200 else "Refused", "content": {kind: {"schema": schema}}}
        for status, (kind, schema) in sorted(answers.items())
    }
    body = {"required": True, "content": content}
    return {"post": {"summary": summary, "tags": ["Protocols"], "requestBody": body, "responses": responses, **more}}
