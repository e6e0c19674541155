"""A small API server that kubectl really speaks to: discovery, server-side apply, watches, deletes, port-forward.

It keeps what is applied without checking it, and stands in for the controllers: a Deployment's pods are new ones a
moment after it was applied, unless their image is one of `broken`. There is no scheduler, gateway or network.
"""

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from tests.flows.targets import spdy
from tests.infra import tools
from tests.servers import served

Object = dict[str, Any]
RESOURCES = {
    "v1": {"services": "Service", "configmaps": "ConfigMap", "serviceaccounts": "ServiceAccount", "pods": "Pod"},
    "apps/v1": {"deployments": "Deployment"},
    "policy/v1": {"poddisruptionbudgets": "PodDisruptionBudget"},
    "autoscaling/v2": {"horizontalpodautoscalers": "HorizontalPodAutoscaler"},
    "networking.k8s.io/v1": {"networkpolicies": "NetworkPolicy"},
    "gateway.networking.k8s.io/v1": {"httproutes": "HTTPRoute"},
    "monitoring.coreos.com/v1": {"servicemonitors": "ServiceMonitor"},
}
ROLLOUT_S = 0.3  # until an applied Deployment has its pods


class Cluster:
    """What was applied, by resource and name, and what happens to it; `log` has a line for each change."""

    def __init__(self, port_of: Callable[[str], int]) -> None:
        self.port_of = port_of  # of what answers in an image's pod
        self.broken: set[str] = set()
        self.objects: dict[tuple[str, str], Object] = {}
        self.log: list[str] = []
        self.changed = threading.Condition()
        self.version = 0
        self.over = False

    def image(self, name: str) -> str | None:
        """The image that a Deployment's pods have, None if there is no pod."""
        pod = self.objects.get(("pods", f"{name}-pod"))
        return pod["spec"]["containers"][0]["image"] if pod else None

    def specs(self) -> dict[tuple[str, str], Object]:
        """What all objects are to be; a ConfigMap has none."""
        return {key: item["spec"] for key, item in self.objects.items() if "spec" in item}

    def put(self, resource: str, item: Object) -> tuple[int, Object]:
        """Apply an object: its status, and what is stored."""
        with self.changed:
            key = (resource, item["metadata"]["name"])
            before = self.objects.get(key)
            known = before["metadata"] if before else {"generation": 0, "uid": f"uid-{len(self.log)}"}
            same = before is not None and before.get("spec") == item.get("spec")
            item["metadata"] |= {"generation": known["generation"] + (not same), "uid": known["uid"]}
            item["status"] = before.get("status", {}) if before else {}
            self._store(key, item)
            self.log.append(f"{'create' if before is None else 'same' if same else 'change'} {'/'.join(key)}")
        if resource == "deployments":
            threading.Timer(ROLLOUT_S, self.reconcile, [key[1], item["metadata"]["generation"]]).start()
        return (200 if before else 201), item

    def _store(self, key: tuple[str, str], item: Object) -> None:
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)
        self.objects[key] = item
        self.changed.notify_all()

    def reconcile(self, name: str, generation: int) -> None:
        """What the Deployment's controller and the nodes do: other pods, or none."""
        with self.changed:
            item = self.objects.get(("deployments", name))
            if item is None or item["metadata"]["generation"] != generation:
                return
            template = item["spec"]["template"]
            if template["spec"]["containers"][0]["image"] in self.broken:
                stuck = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
                status = {"replicas": 2, "updatedReplicas": 1, "availableReplicas": 1, "conditions": [stuck]}
            else:
                ready = {"type": "Ready", "status": "True"}
                metadata = {**template["metadata"], "name": f"{name}-pod", "namespace": item["metadata"]["namespace"]}
                pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
                self._store(("pods", f"{name}-pod"), pod | {"status": {"phase": "Running", "conditions": [ready]}})
                status = {"replicas": 1, "updatedReplicas": 1, "availableReplicas": 1, "readyReplicas": 1}
            self._store(("deployments", name), item | {"status": {**status, "observedGeneration": generation}})

    def remove(self, resource: str, name: str) -> Object | None:
        """Delete an object, and a Deployment's pod with it."""
        with self.changed:
            if (resource, name) in self.objects:
                self.log.append(f"delete {resource}/{name}")
            if resource == "deployments":
                self.objects.pop(("pods", f"{name}-pod"), None)
            return self.objects.pop((resource, name), None)

    def listed(self, resource: str, query: dict[str, list[str]]) -> list[Object]:
        """The objects of a resource that a query selects by name or labels."""
        found = [item for (kind, _), item in self.objects.items() if kind == resource]
        for term in ",".join(query.get("fieldSelector", [])).split(","):
            found = [o for o in found if not term or o["metadata"]["name"] == term.partition("=")[2]]
        wanted = [term.split("=") for term in ",".join(query.get("labelSelector", [])).split(",") if term]
        return [o for o in found if all(o["metadata"].get("labels", {}).get(k) == v for k, v in wanted)]


def handler(cluster: Cluster) -> type[BaseHTTPRequestHandler]:
    """What answers kubectl for a cluster."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, status: int, body: Object) -> None:
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def refuse(self, status: int, reason: str) -> None:
            said = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": status}
            self.answer(status, said | {"message": f"{self.path}: {reason}"})

        def parts(self) -> tuple[str, str, str, dict[str, list[str]]]:
            """API version, resource, name and query of the request."""
            url = urlsplit(self.path)
            words = url.path.strip("/").split("/")
            version, rest = ("v1", words[2:]) if words[0] == "api" else ("/".join(words[1:3]), words[3:])
            rest = rest[2:] if rest[:1] == ["namespaces"] and len(rest) > 2 else rest
            return version, (rest or [""])[0], "/".join(rest[1:]), parse_qs(url.query)

        def do_GET(self) -> None:
            version, resource, name, query = self.parts()
            path = urlsplit(self.path).path
            if path in ("/api", "/apis"):
                self.answer(200, discovered(path))
            elif path.startswith("/openapi/v3"):
                self.answer(200, validated(path.removeprefix("/openapi/v3").strip("/")))
            elif name.endswith("/portforward"):
                self.refuse(400, "no websockets here")  # kubectl goes on with SPDY
            elif not resource and version in RESOURCES:
                self.answer(200, resources(version))
            elif resource not in RESOURCES.get(version, {}):
                self.refuse(404, "NotFound")
            elif name:
                item = cluster.objects.get((resource, name))
                self.answer(200, item) if item else self.refuse(404, "NotFound")
            elif "watch" in query:
                self.watch(resource, query)
            else:
                items = cluster.listed(resource, query)
                metadata = {"resourceVersion": str(cluster.version)}
                kind = f"{RESOURCES[version][resource]}List"
                self.answer(200, {"apiVersion": version, "kind": kind, "metadata": metadata, "items": items})

        def watch(self, resource: str, query: dict[str, list[str]]) -> None:
            """Each state of the objects from the given version on, until the client has seen enough."""
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            seen, first = int(query.get("resourceVersion", ["0"])[0] or 0), "sendInitialEvents" in query
            while not cluster.over:
                with cluster.changed:
                    new = [o for o in cluster.listed(resource, query) if int(o["metadata"]["resourceVersion"]) > seen]
                    events = [{"type": "ADDED" if first else "MODIFIED", "object": item} for item in new]
                    if first:
                        events.append({"type": "BOOKMARK", "object": listed_all(new[0], cluster.version)})
                    elif not new:
                        cluster.changed.wait(0.2)
                first, seen = False, max([seen, *(int(o["metadata"]["resourceVersion"]) for o in new)])
                with suppress(OSError):  # the client has seen enough
                    self.wfile.write(b"".join(json.dumps(event).encode() + b"\n" for event in events))
                    self.wfile.flush()

        def do_PATCH(self) -> None:
            _, resource, _, query = self.parts()
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.headers["Content-Type"].startswith("application/apply-patch+yaml"), "only server-side apply"
            assert (query["fieldManager"], query["fieldValidation"]) == (["bentoflow"], ["Strict"])
            self.answer(*cluster.put(resource, yaml.safe_load(body)))

        def do_DELETE(self) -> None:
            _, resource, name, _ = self.parts()
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            gone = cluster.remove(resource, name)
            self.answer(200, {"kind": "Status", "status": "Success"}) if gone else self.refuse(404, "NotFound")

        def do_POST(self) -> None:
            _, _, name, _ = self.parts()
            pod = cluster.objects.get(("pods", name.partition("/")[0]))
            if pod is None or self.headers.get("Upgrade") != "SPDY/3.1":
                self.refuse(404, "NotFound")
                return
            self.send_response(101)
            self.send_header("Upgrade", "SPDY/3.1")
            self.send_header("Connection", "Upgrade")
            self.send_header("X-Stream-Protocol-Version", "portforward.k8s.io")
            self.end_headers()
            self.wfile.flush()
            self.close_connection = True
            image = pod["spec"]["containers"][0]["image"]
            spdy.serve(self.rfile, lambda data: (self.wfile.write(data), self.wfile.flush()), cluster.port_of(image))

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def discovered(path: str) -> Object:
    """The versions or groups of the API."""
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    groups = []
    for version in [version for version in RESOURCES if "/" in version]:
        known = {"groupVersion": version, "version": version.partition("/")[2]}
        groups.append({"name": version.partition("/")[0], "versions": [known], "preferredVersion": known})
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def resources(version: str) -> Object:
    """The resources of a version of the API."""
    verbs = ["create", "delete", "get", "list", "patch", "watch"]
    named = [
        {"name": plural, "singularName": kind.lower(), "namespaced": True, "kind": kind, "verbs": verbs}
        for plural, kind in RESOURCES[version].items()
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": named}


def validated(path: str) -> Object:
    """OpenAPI's list of documents, or one of them: that a PATCH may ask for unknown fields to be refused."""
    if not path:
        names = [f"{'apis' if '/' in version else 'api'}/{version}" for version in RESOURCES]
        return {"paths": {name: {"serverRelativeURL": f"/openapi/v3/{name}"} for name in names}}
    version = path.partition("/")[2]
    group, _, number = version.rpartition("/")
    paths = {
        f"/{path}/namespaces/{{namespace}}/{plural}/{{name}}": {
            "patch": {
                "parameters": [{"name": "fieldValidation", "in": "query"}],
                "x-kubernetes-group-version-kind": {"group": group, "version": number, "kind": kind},
            }
        }
        for plural, kind in RESOURCES[version].items()
    }
    return {"openapi": "3.0.0", "info": {"title": path, "version": "1"}, "paths": paths}


def listed_all(item: Object, version: int) -> Object:
    """What tells a watcher that every object that there was has been sent."""
    metadata = {"resourceVersion": str(version), "annotations": {"k8s.io/initial-events-end": "true"}}
    return {"apiVersion": item["apiVersion"], "kind": item["kind"], "metadata": metadata}


@contextmanager
def running(cluster: Cluster, folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The cluster's API answers, and kubectl is there and finds it, while this lasts; the folder has its files."""
    patch.setenv("KUBECONFIG", str(folder / "kubeconfig"))
    patch.setenv("KUBECACHEDIR", str(folder))  # what kubectl knows of a server
    patch.setenv("PATH", f"{tools.layer()}{os.pathsep}{os.environ['PATH']}")
    with served(handler(cluster)) as address:
        (folder / "kubeconfig").write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "test", "cluster": {"server": address}}],
                    "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
                    "users": [{"name": "test", "user": {}}],
                    "current-context": "test",
                }
            )
        )
        try:
            yield cluster
        finally:
            cluster.over = True
