"""The vertex target: a release's image as an endpoint of Vertex AI, by the calls of its REST API, version v1.

https://cloud.google.com/vertex-ai/docs/reference/rest. Vertex asks the routes that the model names, /ping and
/invocations. The image must be in Artifact Registry, which `BENTOFLOW_REGISTRY` names.
"""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from flows.errors import ReleaseError
from flows.settings import Settings
from flows.targets import hosting

Found = dict[str, Any]


@dataclass(frozen=True)
class Vertex:
    """Models and endpoints of one project and location; `client` speaks to its service endpoint with a token."""

    chosen: Settings
    client: httpx.Client

    def run(self, endpoint: str, model: str, image: str) -> None:
        """Deploy a model with all of the traffic, then take those that have none left off the endpoint."""
        made = self._model(model) or self._upload(model, image)
        at = self._endpoint(endpoint) or self._done(self._call("POST", "endpoints", json={"displayName": endpoint}))
        if not self.runs(endpoint, model):
            replicas = self.chosen.hosted_instances
            machines = {
                "machineSpec": {"machineType": self.chosen.vertex_machine},
                "minReplicaCount": replicas,
                "maxReplicaCount": replicas,
            }
            deployed = {"model": made["name"], "displayName": model, "dedicatedResources": machines}
            body = {"deployedModel": deployed, "trafficSplit": {"0": 100}}  # 0 is the one that is being deployed
            self._done(self._call("POST", f"{at['name']}:deployModel", json=body))
        if not self.runs(endpoint, model):
            raise ReleaseError(f"{endpoint} does not answer with {model}: see the endpoint's logs")
        self._undeploy(endpoint, idle=True)

    def runs(self, endpoint: str, model: str) -> bool:
        """Whether the model has all of the endpoint's traffic."""
        at = self._endpoint(endpoint) or {}
        ids = {one["id"] for one in at.get("deployedModels", ()) if one["displayName"] == model}
        return any(at.get("trafficSplit", {}).get(name) == 100 for name in ids)

    def ask(self, endpoint: str, rows: Sequence[Found]) -> list[Found]:
        """Predict."""
        if (at := self._endpoint(endpoint)) is None:
            raise ReleaseError(f"Vertex has no endpoint {endpoint}")
        predictions: list[Found] = self._call("POST", f"{at['name']}:predict", json={"instances": list(rows)})[
            "predictions"
        ]
        return predictions

    def remove(self, endpoint: str) -> None:
        """Undeploy its models and delete the endpoint; models without one cost nothing and stay, for a rollback."""
        if (at := self._endpoint(endpoint)) is not None:
            self._undeploy(endpoint, idle=False)
            self._done(self._call("DELETE", at["name"]))

    def _upload(self, model: str, image: str) -> Found:
        container = {
            "imageUri": image,
            "ports": [{"containerPort": hosting.PORT}],
            "healthRoute": "/ping",
            "predictRoute": "/invocations",
            "env": [{"name": name, "value": value} for name, value in hosting.environment(self.chosen).items()],
        }
        body = {"model": {"displayName": model, "containerSpec": container}}
        return {"name": self._done(self._call("POST", "models:upload", json=body))["model"]}

    def _undeploy(self, endpoint: str, *, idle: bool) -> None:
        """Take models off an endpoint: those without traffic, or all, of which the last may have it."""
        at = self._endpoint(endpoint) or {}
        split = at.get("trafficSplit", {})
        for one in sorted(at.get("deployedModels", ()), key=lambda one: split.get(one["id"], 0)):
            if not idle or not split.get(one["id"]):
                body = {"deployedModelId": one["id"]}
                self._done(self._call("POST", f"{at['name']}:undeployModel", json=body))

    def _endpoint(self, name: str) -> Found | None:
        return self._named("endpoints", name)

    def _model(self, name: str) -> Found | None:
        return self._named("models", name)

    def _named(self, kind: str, name: str) -> Found | None:
        listed = self._call("GET", kind, params={"filter": f'display_name="{name}"'})
        return next(iter(listed.get(kind, ())), None)

    def _done(self, operation: Found) -> Found:
        """The response of a long-running operation, once it is done."""
        last = operation

        def done() -> bool:
            nonlocal last
            last = last if last.get("done") else self._call("GET", last["name"])
            return bool(last.get("done"))

        hosting.wait(operation["name"], done)
        if "error" in last:
            raise ReleaseError(f"Vertex, {operation['name']}: {last['error'].get('message', last['error'])}")
        response: Found = last.get("response", {})
        return response

    def _call(self, method: str, path: str, **how: Any) -> Found:
        """The JSON of a call; a path that is no resource's full name is one below the location."""
        parent = f"projects/{self.chosen.vertex_project}/locations/{self.chosen.vertex_region}"
        at = path if path.startswith("projects/") else f"{parent}/{path}"
        try:
            response = self.client.request(method, f"/v1/{at}", **how)
        except httpx.TransportError as error:
            raise ReleaseError(f"Vertex cannot be reached: {error!r}") from error
        if response.is_error:
            raise ReleaseError(f"Vertex, {method} {at}: {response.status_code} {response.text[:300]}")
        said: Found = response.json()
        return said


def connect(chosen: Settings) -> Vertex:
    """Vertex of the settings' project and region; ReleaseError without them, or without a token."""
    if not chosen.vertex_project or not chosen.vertex_region:
        raise ReleaseError("set BENTOFLOW_VERTEX_PROJECT and BENTOFLOW_VERTEX_REGION for the target vertex")
    base = f"https://{chosen.vertex_region}-aiplatform.googleapis.com"
    return Vertex(chosen, client(base, chosen.vertex_token.get_secret_value() or token()))


def client(base: str, bearer: str) -> httpx.Client:
    """A client of one service endpoint."""
    return httpx.Client(base_url=base, headers={"Authorization": f"Bearer {bearer}"}, timeout=60.0)


def token() -> str:
    """An access token of whoever is logged in with gcloud, good for an hour."""
    try:
        asked = ["gcloud", "auth", "print-access-token"]
        return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        raise ReleaseError("no token for Vertex: log in with gcloud, or set BENTOFLOW_VERTEX_TOKEN") from error


PLACE = hosting.Place(connect)
