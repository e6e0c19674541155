"""Rules for custom resources, whose schemas are on a cluster alone: the fields that we use, and where they point to.

Not the schemas of Gateway API, the Prometheus operator or KServe: a field outside these lists may be one of theirs.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tests.infra.rules import PREDICTOR, Object, Rule, label, of, pods

SCRAPED = {
    "port": str,
    "path": str,
    "interval": str,
    "scrapeTimeout": str,
    "relabelings": [{"targetLabel": str, "replacement": str}],
}
SHAPES: Mapping[str, Mapping[str, Any]] = {  # kind: API version and its spec; a list has the shape of its items
    "HTTPRoute": {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "spec": {
            "hostnames": [str],
            "parentRefs": [{"name": str, "namespace": str}],
            "rules": [
                {
                    "matches": [{"path": {"type": str, "value": str}}],
                    "timeouts": {"request": str},
                    "backendRefs": [{"name": str, "port": int, "weight": int}],
                }
            ],
        },
    },
    "ServiceMonitor": {
        "apiVersion": "monitoring.coreos.com/v1",
        "spec": {
            "selector": {"matchLabels": dict},
            "endpoints": [SCRAPED],
        },
    },
    "PodMonitor": {
        "apiVersion": "monitoring.coreos.com/v1",
        "spec": {
            "selector": {"matchLabels": dict},
            "podMetricsEndpoints": [SCRAPED],
        },
    },
    "InferenceService": {
        "apiVersion": "serving.kserve.io/v1beta1",
        "spec": {"predictor": dict},
    },
}


def shaped(value: Any, shape: Any, where: str) -> list[str]:
    """What of a value is not as its shape says."""
    if isinstance(shape, type):
        return [] if isinstance(value, shape) and not isinstance(value, bool) else [f"{where} is {value!r}"]
    if isinstance(shape, list):
        if not isinstance(value, list) or not value:
            return [f"{where} is no list of something: {value!r}"]
        return [text for n, item in enumerate(value) for text in shaped(item, shape[0], f"{where}[{n}]")]
    if not isinstance(value, Mapping):
        return [f"{where} is {value!r}"]
    wrong = [f"{where} has an unknown field {key!r}" for key in value if key not in shape]
    return wrong + [t for k, v in value.items() if k in shape for t in shaped(v, shape[k], f"{where}.{k}")]


def custom_resources_have_shape(objects: Sequence[Object]) -> list[str]:
    """Only known fields, of the right types and of the API version that is meant."""
    wrong = []
    for item in of(objects, *SHAPES):
        expected = SHAPES[item["kind"]]
        if item["apiVersion"] != expected["apiVersion"]:
            wrong.append(f"{label(item)} is of {item['apiVersion']}, not {expected['apiVersion']}")
        wrong += [f"{label(item)}: {text}" for text in shaped(item["spec"], expected["spec"], "spec")]
    return wrong


def routes_reach_services(inside: Iterable[str]) -> Rule:
    """A route's backends are Services with that port, some share is above zero, and no path leads to what is inside."""
    hidden = tuple(inside)

    def rule(objects: Sequence[Object]) -> list[str]:
        ports = {i["metadata"]["name"]: {p["port"] for p in i["spec"]["ports"]} for i in of(objects, "Service")}
        wrong = []
        for item in of(objects, "HTTPRoute"):
            for part in item["spec"]["rules"]:
                for backend in part["backendRefs"]:
                    if backend["port"] not in ports.get(backend["name"], set()):
                        wrong.append(f"{label(item)}: no Service {backend['name']} with port {backend['port']}")
                if not sum(backend["weight"] for backend in part["backendRefs"]):
                    wrong.append(f"{label(item)} sends nobody anywhere")
                open_ = [match["path"]["value"].rstrip("/") for match in part["matches"]]
                wrong += [
                    f"{label(item)}: {prefix or '/'} leads to {path}"
                    for prefix in open_
                    for path in hidden
                    if f"{path}/".startswith(f"{prefix}/")
                ]
        return wrong

    return rule


def as_pods(objects: Sequence[Object]) -> list[Object]:
    """The pods of InferenceServices as objects of their own, for the schema that a Pod has."""
    found = []
    for item, pod in zip(of(objects, "InferenceService"), pods(of(objects, "InferenceService")), strict=True):
        assert not PREDICTOR & pod.spec.keys()
        found.append({"apiVersion": "v1", "kind": "Pod", "metadata": item["metadata"], "spec": pod.spec})
    return found
