"""Hosts to release to, on the loopback interface: what they are asked is checked, a real service answers rows.

SageMaker is moto, with the two calls that moto lacks: UpdateEndpoint, and an invocation that reaches a container.
Vertex is its contract (vertex.json, from the public definitions of its v1 API): calls, fields, what they do.
"""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

Reply = tuple[int, dict[str, str], bytes]
JSON = {"content-type": "application/json"}
HOP = ("host", "content-length", "connection", "accept-encoding", "transfer-encoding")
TARGET = "x-amz-target"


@dataclass
class Asked:
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """The body, an object."""
        found: dict[str, Any] = json.loads(self.body or b"{}")
        return found


@contextmanager
def listening(answer: Callable[[Asked], Reply]) -> Iterator[str]:
    """The base URL of an HTTP server that answers every request by a function."""

    class Handler(BaseHTTPRequestHandler):
        def do_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            asked = Asked(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body)
            status, headers, content = answer(asked)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = do_PATCH = do_any

        def log_message(self, format: str, *args: object) -> None:
            """Nothing on standard error."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


@dataclass
class SageMaker:
    """moto behind its missing calls; `broken` endpoints do not take an update, as when containers fail their ping."""

    moto: str
    service: str
    broken: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)

    def __call__(self, asked: Asked) -> Reply:
        if (found := re.fullmatch(r"/endpoints/([^/]+)/invocations", asked.path)) is not None:
            if self.moto_says(asked, "DescribeEndpoint", found[1])[0] != 200:
                return 400, JSON, b'{"message": "Endpoint not found"}'
            kind = {"content-type": asked.headers["content-type"]}
            answered = httpx.post(f"{self.service}/invocations", content=asked.body, headers=kind, timeout=30)
            return answered.status_code, JSON, answered.content
        call = asked.headers.get(TARGET, "").rpartition(".")[2]
        self.calls.append(call)
        if call == "UpdateEndpoint":
            return self.update(asked)
        return self.forward(asked, asked.headers.get(TARGET, ""), asked.body)

    def update(self, asked: Asked) -> Reply:
        """A new configuration that is there, for an endpoint that is there."""
        name, config = asked.json["EndpointName"], asked.json["EndpointConfigName"]
        for call, key, value in (("Endpoint", "EndpointName", name), ("EndpointConfig", "EndpointConfigName", config)):
            if (said := self.moto_says(asked, f"Describe{call}", value, key))[0] != 200:
                return said
        if name not in self.broken:
            self.moto_says(asked, "DeleteEndpoint", name)
            body = json.dumps({"EndpointName": name, "EndpointConfigName": config}).encode()
            self.forward(asked, "SageMaker.CreateEndpoint", body)
        return 200, JSON, b'{"EndpointArn": "arn:aws:sagemaker:eu-central-1:123456789012:endpoint/updated"}'

    def moto_says(self, asked: Asked, call: str, value: str, key: str = "EndpointName") -> Reply:
        """What moto answers to a call with one name."""
        return self.forward(asked, f"SageMaker.{call}", json.dumps({key: value}).encode())

    def forward(self, asked: Asked, target: str, body: bytes) -> Reply:
        """moto's reply."""
        headers = {k: v for k, v in asked.headers.items() if k not in HOP} | {TARGET: target}
        headers["content-type"] = "application/x-amz-json-1.1"
        headers["authorization"] = headers["authorization"].replace("/sagemaker-runtime/", "/sagemaker/")
        reply = httpx.post(self.moto, content=body, headers=headers, timeout=30)
        return reply.status_code, {"content-type": reply.headers.get("content-type", "text/plain")}, reply.content


@dataclass
class Vertex:
    """Models, endpoints and operations of one location, with the rules that the API's definitions state."""

    service: str
    failing: str = ""  # part of a call whose operation ends with an error
    contract: dict[str, Any] = field(
        default_factory=lambda: json.loads((Path(__file__).with_name("vertex.json")).read_text())
    )
    resources: dict[str, dict[str, Any]] = field(default_factory=dict)
    operations: dict[str, dict[str, Any]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    def __call__(self, asked: Asked) -> Reply:
        url = urlsplit(asked.path)
        for call in self.contract["calls"]:
            match = re.fullmatch(call["path"], url.path)
            if call["method"] != asked.method or match is None:
                continue
            self.calls.append(call["name"])
            if asked.headers.get("authorization") != "Bearer token":
                return self.refuse(401, "no token")
            if wrong := unlike(asked.json, call.get("body", {})):
                return self.refuse(400, wrong)
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            if unknown := query.keys() - set(call.get("query", ())):
                return self.refuse(400, f"unknown parameters {unknown}")
            try:
                said = getattr(self, call["name"])(match.groupdict(), asked.json, query)
            except Refusal as refusal:
                return self.refuse(400, str(refusal))
            return 200, JSON, json.dumps(said).encode()
        return self.refuse(404, f"no call {asked.method} {url.path}")

    def refuse(self, status: int, why: str) -> Reply:
        """An error as Google's APIs have it."""
        return status, JSON, json.dumps({"error": {"code": status, "message": why}}).encode()

    def later(self, what: str, response: dict[str, Any]) -> dict[str, Any]:
        """An operation that is done at the second look."""
        name = f"projects/shop/locations/europe-west3/operations/{len(self.operations) + 1}"
        ended = {"error": {"code": 9, "message": "no machines"}} if self.failing == what else {"response": response}
        self.operations[name] = {"looks": 0, "ended": ended}
        return {"name": name}

    def operation(self, at: dict[str, str], body: dict[str, Any], query: dict[str, str]) -> dict[str, Any]:
        kept = self.operations[at["name"]]
        kept["looks"] += 1
        return {"name": at["name"], **({"done": True, **kept["ended"]} if kept["looks"] > 1 else {})}

    def _listed(self, kind: str, query: dict[str, str]) -> dict[str, Any]:
        found = re.fullmatch(r'display_name="([^"]+)"', query["filter"])
        if found is None:
            raise Refusal(f"filter {query['filter']}")
        named = [r for name, r in self.resources.items() if f"/{kind}/" in name and r["displayName"] == found[1]]
        return {kind: named} if named else {}

    def list_models(self, at: dict[str, str], body: dict[str, Any], query: dict[str, str]) -> dict[str, Any]:
        return self._listed("models", query)

    def list_endpoints(self, at: dict[str, str], body: dict[str, Any], query: dict[str, str]) -> dict[str, Any]:
        return self._listed("endpoints", query)

    def _make(self, at: dict[str, str], kind: str, resource: dict[str, Any]) -> dict[str, Any]:
        name = f"{at['parent']}/{kind}/{100 + len(self.resources)}"
        self.resources[name] = resource | {"name": name}
        return self.resources[name]

    def upload_model(self, at: dict[str, str], body: dict[str, Any], query: dict[str, str]) -> dict[str, Any]:
        return self.later("upload", {"model": self._make(at, "models", body["model"])["name"]})

    def create_endpoint(self, at: dict[str, str], body: dict[str, Any], query: dict[str, str]) -> dict[str, Any]:
        empty: dict[str, Any] = {"deployedModels": [], "trafficSplit": {}}
        return self.later("create", self._make(at, "endpoints", body | empty))

    def deploy_model(self, at: dict[str, str], body: dict[str, Any], query: dict[str, str]) -> dict[str, Any]:
        if body["deployedModel"]["model"] not in self.resources:
            raise Refusal("no such model")
        if sum(body["trafficSplit"].values()) != 100:
            raise Refusal("the traffic must add up to 100")
        endpoint = self.resources[at["name"]]
        new = body["deployedModel"] | {"id": str(7000 + len(self.operations))}
        if self.failing != "deploy":
            endpoint["deployedModels"].append(new)
            endpoint["trafficSplit"] = {new["id"] if k == "0" else k: v for k, v in body["trafficSplit"].items()}
        return self.later("deploy", {"deployedModel": new})

    def undeploy_model(self, at: dict[str, str], body: dict[str, Any], query: dict[str, str]) -> dict[str, Any]:
        endpoint, name = self.resources[at["name"]], body["deployedModelId"]
        if endpoint["trafficSplit"].get(name) and len(endpoint["deployedModels"]) > 1:
            raise Refusal("it has traffic")
        endpoint["deployedModels"] = [one for one in endpoint["deployedModels"] if one["id"] != name]
        endpoint["trafficSplit"].pop(name, None)
        return self.later("undeploy", {})

    def delete_endpoint(self, at: dict[str, str], body: dict[str, Any], query: dict[str, str]) -> dict[str, Any]:
        if self.resources[at["name"]]["deployedModels"]:
            raise Refusal("models are deployed")
        del self.resources[at["name"]]
        return self.later("delete", {})

    def predict(self, at: dict[str, str], body: dict[str, Any], query: dict[str, str]) -> dict[str, Any]:
        """Through the routes of the model that has the traffic; numbers are doubles, as in Google's Value."""
        endpoint = self.resources[at["name"]]
        (chosen,) = (one for one in endpoint["deployedModels"] if endpoint["trafficSplit"].get(one["id"]) == 100)
        container = self.resources[chosen["model"]]["containerSpec"]
        if httpx.get(self.service + container["healthRoute"], timeout=10).status_code != 200:
            raise Refusal("unhealthy")
        doubles = [{k: float(v) if isinstance(v, int) else v for k, v in row.items()} for row in body["instances"]]
        answer = httpx.post(self.service + container["predictRoute"], json={"instances": doubles}, timeout=30)
        if answer.status_code != 200:
            raise Refusal(answer.text)
        return {"predictions": answer.json()["predictions"], "deployedModelId": chosen["id"]}


class Refusal(Exception):
    """A call that breaks a rule of the API."""


def unlike(value: Any, shape: Any, where: str = "body") -> str:
    """What of a value is not as the contract has it, "" if all is: fields ending in ! must be there, * is any name."""
    if isinstance(shape, str):
        kinds: dict[str, Any] = {"string": str, "integer": int, "any": object}
        return "" if isinstance(value, kinds[shape]) else f"{where} is {value!r}, no {shape}"
    if isinstance(shape, list):
        items = value if isinstance(value, list) else [value]
        return next((text for item in items if (text := unlike(item, shape[0], where))), "")
    fields = {name.rstrip("!"): inner for name, inner in shape.items()}
    if "*" in fields:
        fields = dict.fromkeys(value, fields["*"])
    lacking = [name for name in shape if name.endswith("!") and name[:-1] not in value]
    if lacking or value.keys() - fields.keys():
        return f"{where} lacks {lacking} or has unknown {sorted(value.keys() - fields.keys())}"
    return next((text for k, v in value.items() if (text := unlike(v, fields[k], f"{where}.{k}"))), "")
