"""The Open Inference Protocol v2 (KServe, Triton, MLServer), in JSON and with binary tensors.

A request has a tensor [rows] or [rows, 1] per feature, by name and in any order, or one tensor [rows, features] of any
other name with the features in the model's order; and the entity's tensor with them or alone. NaN and null are missing.
"""

from typing import Any

import bentoml
import orjson
from starlette.responses import Response

from bentos.protocols import tensors
from bentos.protocols.columns import Columns, Layout, Refused, Rows
from bentos.protocols.events import layout
from bentos.protocols.exchange import CURL, Call, aside, json_response, parse_json, request_id
from bentos.protocols.tensors import Binary, Tensor
from bentos.runtime.answers import Results, column

BINARY = "application/octet-stream"
HEADER = "inference-header-content-length"
OUTPUTS = {"probability": "FP64", "risk": "BYTES", "stale": "BOOL", "model_version": "BYTES", "request_id": "BYTES"}


async def server(call: Call) -> Response:
    """GET /v2: what this server is."""
    return json_response({"name": "bentoml", "version": bentoml.__version__, "extensions": ["binary_tensor_data"]})


async def live(call: Call) -> Response:
    """GET /v2/health/live."""
    return json_response({"live": True})


async def ready(call: Call) -> Response:
    """GET /v2/health/ready: 503 while no release answers."""
    is_ready = call.predictor.ready()[0]
    return json_response({"ready": is_ready}, 200 if is_ready else 503)


async def model(call: Call) -> Response:
    """GET /v2/models/{name}, also with /versions/{version}: its versions, inputs and outputs."""
    name, release = call.named(), call.asked()[1]
    bundle = call.predictor.watcher.bundle
    versions = {r.model_version for r in bundle.arms.values()} if bundle is not None else {release.model_version}
    known = layout(release.manifest, call.fields)
    own = {n: "BYTES" if field.text else "INT64" if field.whole else "FP64" for n, field in known.fields.items()}
    features = {n: "BYTES" if n in known.categorical else "FP64" for n in known.names}
    inputs = [{"name": n, "datatype": datatype, "shape": [-1]} for n, datatype in (features | own).items()]
    outputs = [{"name": n, "datatype": datatype, "shape": [-1]} for n, datatype in OUTPUTS.items()]
    platform = f"{release.manifest.engine}_{release.manifest.estimator}"
    about = {"name": name, "versions": sorted(versions), "platform": platform}
    return json_response(about | {"inputs": inputs, "outputs": outputs})


async def model_ready(call: Call) -> Response:
    """GET /v2/models/{name}/ready, also with /versions/{version}: 503 while no release answers."""
    name = call.named()
    call.asked()
    return json_response({"name": name, "ready": True})


async def infer(call: Call) -> Response:
    """POST /v2/models/{name}/infer, also with /versions/{version}."""
    name = call.named()
    call.takes(CURL, BINARY)
    head, raw = _parts(call.body, call.request.headers.get(HEADER))
    request = parse_json(head)
    if not isinstance(request, dict) or not isinstance(inputs := request.get("inputs"), list) or not inputs:
        raise Refused(400, "the body must be an object with a list of inputs")
    if not isinstance(asked_id := request.get("id", ""), str):
        raise Refused(400, "the id must be a text")
    wanted = wanted_outputs(request)

    def rows(layout: Layout) -> Rows:
        if len(inputs) > len(layout.known):
            own = ", ".join(layout.fields)
            raise Refused(400, f"{len(inputs)} inputs; there are {len(layout.names)} features and {own}")
        binary = Binary(raw)
        given = [tensors.read(tensor, binary) for tensor in inputs]
        if binary.left:
            raise Refused(400, f"{binary.left} bytes follow that no input's binary_data_size accounts for")
        return layout.rows(columns(given, layout))

    answers = await call.answers(rows)
    version = column(answers, "model_version")[0] if answers else call.asked()[1].model_version
    about = {"model_name": name, "model_version": version} | ({"id": asked_id} if asked_id else {})
    return await aside(len(call.body), compose, about, answers, wanted)


def wanted_outputs(request: dict[str, Any]) -> dict[str, bool]:
    """The outputs that a request asks for, all if it names none, and whether each is to be binary."""
    parameters = request.get("parameters")
    everywhere = isinstance(parameters, dict) and parameters.get("binary_data_output") is True
    asked = request.get("outputs")
    if not asked:
        return dict.fromkeys(OUTPUTS, everywhere)
    if not isinstance(asked, list) or len(asked) > len(OUTPUTS):
        raise Refused(400, f"outputs must be a list of some of {', '.join(OUTPUTS)}, each one once")
    wanted: dict[str, bool] = {}
    for output in asked:
        name = output.get("name") if isinstance(output, dict) else None
        if not isinstance(name, str) or name not in OUTPUTS:
            raise Refused(400, f"no output {name!r:.60}; there are {', '.join(OUTPUTS)}")
        own = output.get("parameters")
        own = own if isinstance(own, dict) else {}
        if own.get("classification"):
            raise Refused(400, "the classification extension is not supported", field=name)
        wanted[name] = own.get("binary_data", everywhere) is True
    return wanted


def columns(given: list[Tensor], layout: Layout) -> Columns:
    """The columns of a request's tensors."""
    found: Columns = {}
    for tensor in given:
        values = tensor.values
        known = tensor.name in layout.known
        if not known and values.ndim == 2:
            parts = layout.matrix(values)
        elif values.ndim == 1 or values.shape[1] == 1:
            parts = {tensor.name: values.reshape(-1)}
        else:
            raise Refused(400, f"has shape {list(values.shape)}; it must be [rows]", field=tensor.name)
        if twice := [name for name in parts if name in found]:
            raise Refused(400, "is there twice", field=twice[0])
        found |= parts
    return found


def compose(about: dict[str, Any], answers: Results, wanted: dict[str, bool]) -> Response:
    """The response: JSON, and behind it the outputs that were asked for in binary."""
    written = [
        tensors.write(name, OUTPUTS[name], column(answers, name), binary=binary) for name, binary in wanted.items()
    ]
    if answers:
        about = about | {"parameters": {name: column(answers, name)[0] for name in ("release", "arm")}}
    head = orjson.dumps(about | {"outputs": [output for output, _ in written]})
    headers = request_id(answers)
    if not any(wanted.values()):
        return Response(head, headers=headers, media_type="application/json")
    headers["Inference-Header-Content-Length"] = str(len(head))
    raw = b"".join([tail for _, tail in written])
    return Response(head + raw, headers=headers, media_type=BINARY)


def _parts(body: bytes, length: str | None) -> tuple[bytes, bytes]:
    """A request's JSON and the bytes behind it."""
    if length is None:
        return body, b""
    if not length.isascii() or not length.isdigit() or int(length[:12]) > len(body):
        raise Refused(400, f"Inference-Header-Content-Length {length!r:.20} is not within the body's {len(body)} bytes")
    return body[: int(length)], body[int(length) :]
