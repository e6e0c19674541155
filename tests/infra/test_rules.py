"""The rules across fields: each finds nothing in the manifests as they are, and the error planted for it."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import orjson
import pytest
import yaml

from tests.infra import custom, rules
from tests.infra.rendered import KUBERNETES, NOTHING, SECRETS, everything, misshapen, problems

FILES = (
    "base/release/deployment.yaml",
    "base/release/service.yaml",
    "base/serviceaccount.yaml",
    "base/rollout.yaml",
    "base/autoscaler.yaml",
    "base/disruption.yaml",
    "base/network.yaml",
    "stack/volumes.yaml",
    "components/route/route.yaml",
    "components/monitoring/servicemonitor.yaml",
    "components/monitoring-worker/podmonitor.yaml",
    "stack/worker.yaml",
)
EXTERNAL = (*SECRETS, ("ConfigMap", "settings"))  # settings are generated
Objects = dict[str, Any]


def sound() -> Objects:
    """The manifests' own files, as one use case's objects by kind and name."""
    read = [item for name in FILES for item in yaml.safe_load_all((KUBERNETES / name).read_text())]
    found = orjson.loads(orjson.dumps(read))  # without YAML's aliases: an error is planted in one place
    objects = {rules.label(item): item for item in found}
    for made in rules.pods(list(objects.values())):
        for running in made.containers:
            put(running, "image", f"registry.example.org/churn@{NOTHING}")  # as `images` of an overlay does
    objects["Service/service"]["metadata"]["labels"] = objects["Service/service"]["spec"]["selector"]
    return objects


def pod(objects: Objects) -> Any:
    return objects["Deployment/service"]["spec"]["template"]["spec"]


def container(objects: Objects) -> Any:
    return pod(objects)["containers"][0]


def put(target: Any, key: Any, value: Any) -> None:
    target[key] = value


def spec(objects: Objects, name: str) -> Any:
    return objects[name]["spec"]


def labels(objects: Objects) -> Any:
    return spec(objects, "Deployment/service")["template"]["metadata"]["labels"]


def monitored(objects: Objects) -> Any:
    return spec(objects, "ServiceMonitor/service")


def routed(objects: Objects) -> Any:
    return spec(objects, "HTTPRoute/service")["rules"][0]


def twin(objects: Objects) -> None:
    """A second Deployment with the first one's labels."""
    objects["twin"] = deepcopy(objects["Deployment/service"])
    objects["twin"]["metadata"]["name"] = "twin"


PLANTED: list[tuple[str, Callable[[Objects], Any], str]] = [
    (
        "selectors_match_their_own_pods",
        lambda o: put(spec(o, "Deployment/service")["selector"]["matchLabels"], "app.kubernetes.io/name", "other"),
        "Deployment/service selects the pods of nobody",
    ),
    ("selectors_match_their_own_pods", twin, "['Deployment/service', 'Deployment/twin']"),
    ("mounts_have_volumes", lambda o: pod(o)["volumes"].pop(0), "mount of 'tmp' has no volume"),
    ("mounts_have_volumes", lambda o: container(o)["volumeMounts"].pop(1), "volume 'rollout' is mounted nowhere"),
    (
        "mounts_have_volumes",
        lambda o: put(container(o)["volumeMounts"][2], "mountPath", "/tmp"),
        "/tmp is mounted twice",
    ),
    (
        "services_reach_pods",
        lambda o: put(spec(o, "Service/service")["ports"][0], "targetPort", "grpc"),
        "Deployment/service has no port 'grpc'",
    ),
    (
        "services_reach_pods",
        lambda o: put(spec(o, "Service/service")["ports"][0], "targetPort", 8080),
        "Deployment/service has no port 8080",
    ),
    (
        "services_reach_pods",
        lambda o: put(spec(o, "Service/service"), "selector", {"bentoflow/track": "canary"}),
        "selects the pods of nobody",
    ),
    (
        "probes_ask_a_port",
        lambda o: put(container(o)["readinessProbe"]["httpGet"], "port", "web"),
        "readinessProbe asks port 'web', declared are ['3000', 'http']",
    ),
    ("probes_ask_a_port", lambda o: container(o).pop("startupProbe"), "startupProbe asks port None"),
    (
        "requests_are_within_limits",
        lambda o: put(container(o)["resources"]["requests"], "memory", "2Gi"),
        "requests 2Gi of memory, above its limit 1Gi",
    ),
    (
        "requests_are_within_limits",
        lambda o: put(container(o)["resources"]["limits"], "cpu", "400m"),
        "requests 500m of cpu, above its limit 400m",
    ),
    (
        "requests_are_within_limits",
        lambda o: container(o)["resources"]["limits"].pop("memory"),
        "memory has no request or no limit",
    ),
    (
        "selectors_find_pods",
        lambda o: put(spec(o, "PodDisruptionBudget/service")["selector"]["matchLabels"], "bentoflow/track", "old"),
        "PodDisruptionBudget/service selects no pod",
    ),
    (
        "selectors_find_pods",
        lambda o: put(spec(o, "NetworkPolicy/service")["podSelector"]["matchLabels"], "app", "churn"),
        "NetworkPolicy/service selects no pod",
    ),
    (
        "selectors_find_pods",
        lambda o: put(spec(o, "NetworkPolicy/service")["ingress"][0]["ports"][0], "port", "web"),
        "NetworkPolicy/service: Deployment/service has no port 'web'",
    ),
    (
        "selectors_find_pods",
        lambda o: put(pod(o)["topologySpreadConstraints"][0], "labelSelector", {"matchLabels": {"app": "x"}}),
        "spreads other pods than its own",
    ),
    (
        "selectors_find_pods",
        lambda o: put(monitored(o)["selector"]["matchLabels"], "app.kubernetes.io/component", "worker"),
        "ServiceMonitor/service selects no Service",
    ),
    (
        "selectors_find_pods",
        lambda o: put(monitored(o)["endpoints"][0], "port", "web"),
        "ServiceMonitor/service: no Service has a port 'web'",
    ),
    (
        "selectors_find_pods",
        lambda o: put(spec(o, "PodMonitor/worker")["selector"]["matchLabels"], "app", "flows"),
        "PodMonitor/worker selects no pod",
    ),
    (
        "selectors_find_pods",
        lambda o: put(spec(o, "PodMonitor/worker")["podMetricsEndpoints"][0], "port", "http"),
        "PodMonitor/worker: Deployment/worker has no port 'http'",
    ),
    (
        "scalers_have_targets",
        lambda o: put(spec(o, "HorizontalPodAutoscaler/service")["scaleTargetRef"], "name", "api"),
        "scales Deployment/api, which is not there",
    ),
    (
        "scalers_have_targets",
        lambda o: put(spec(o, "HorizontalPodAutoscaler/service"), "minReplicas", 30),
        "at least 30, at most 10",
    ),
    (
        "scalers_have_targets",
        lambda o: put(spec(o, "Deployment/service"), "replicas", 3),
        "Deployment/service sets its replicas",
    ),
    (
        "images_are_digests",
        lambda o: put(container(o), "image", "registry.example.org/churn:v1"),
        "registry.example.org/churn:v1, which has no digest",
    ),
    ("pods_are_hardened", lambda o: put(pod(o)["securityContext"], "runAsUser", 0), "runs as (True, 0, 10001)"),
    ("pods_are_hardened", lambda o: pod(o)["securityContext"].pop("seccompProfile"), "has no seccomp profile"),
    ("pods_are_hardened", lambda o: pod(o).pop("automountServiceAccountToken"), "is given a token"),
    (
        "pods_are_hardened",
        lambda o: put(container(o)["securityContext"], "readOnlyRootFilesystem", False),
        "root filesystem or privileges are open",
    ),
    (
        "pods_are_hardened",
        lambda o: put(container(o)["securityContext"]["capabilities"], "add", ["NET_ADMIN"]),
        "keeps capabilities",
    ),
    (
        "objects_are_distinct",
        lambda o: o.update(again=deepcopy(o["Service/service"])),
        "Service/service is there 2 times",
    ),
    (
        "objects_are_distinct",
        lambda o: put(o["Service/service"]["metadata"], "namespace", "elsewhere"),
        "objects of several namespaces: ['None', 'elsewhere']",
    ),
    ("references_exist", lambda o: o.pop("ServiceAccount/service"), "refers to ServiceAccount/service"),
    ("references_exist", lambda o: o.pop("ConfigMap/rollout"), "refers to ConfigMap/rollout"),
    ("references_exist", lambda o: o.pop("PersistentVolumeClaim/journal"), "refers to PersistentVolumeClaim/journal"),
    (
        "references_exist",
        lambda o: put(container(o)["env"][-1]["valueFrom"]["secretKeyRef"], "name", "redis"),
        "refers to Secret/redis",
    ),
    (
        "references_exist",
        lambda o: container(o)["env"].append(
            {"name": "X", "valueFrom": {"configMapKeyRef": {"name": "rollout", "key": "x"}}}
        ),
        "refers to 'x' of ConfigMap/rollout, which has no such key",
    ),
    (
        "references_exist",
        lambda o: put(container(o), "envFrom", [{"configMapRef": {"name": "tuning"}}]),
        "refers to ConfigMap/tuning",
    ),
    ("updates_lose_no_request", lambda o: container(o).pop("lifecycle"), "ends 0 s after it is told to"),
    (
        "updates_lose_no_request",
        lambda o: put(pod(o), "terminationGracePeriodSeconds", 46),
        "is killed after 46 s; preStop and drain take up to 46.5 s",
    ),
    (
        "updates_lose_no_request",
        lambda o: put(spec(o, "Deployment/service")["strategy"]["rollingUpdate"], "maxUnavailable", 1),
        "may take pods away before others are ready",
    ),
    (
        "custom_resources_have_shape",
        lambda o: put(routed(o)["backendRefs"][0], "wieght", 10),
        "spec.rules[0].backendRefs[0] has an unknown field 'wieght'",
    ),
    (
        "custom_resources_have_shape",
        lambda o: put(routed(o)["backendRefs"][0], "weight", "10"),
        "spec.rules[0].backendRefs[0].weight is '10'",
    ),
    (
        "custom_resources_have_shape",
        lambda o: put(o["HTTPRoute/service"], "apiVersion", "gateway.networking.k8s.io/v1beta1"),
        "is of gateway.networking.k8s.io/v1beta1",
    ),
    (
        "custom_resources_have_shape",
        lambda o: put(monitored(o), "endpoints", []),
        "spec.endpoints is no list of something: []",
    ),
    (
        "routes_reach_services",
        lambda o: put(routed(o)["backendRefs"][0], "name", "api"),
        "no Service api with port 80",
    ),
    (
        "routes_reach_services",
        lambda o: put(routed(o)["backendRefs"][0], "port", 3000),
        "no Service service with port 3000",
    ),
    ("routes_reach_services", lambda o: put(routed(o)["backendRefs"][0], "weight", 0), "sends nobody anywhere"),
    (
        "routes_reach_services",
        lambda o: put(routed(o)["matches"][0]["path"], "value", "/"),
        "/ leads to /metrics",
    ),
]


def test_the_manifests_own_files_break_no_rule() -> None:
    """What errors are planted in is sound."""
    assert problems(list(sound().values()), EXTERNAL) == []


@pytest.mark.parametrize(("rule", "plant", "told"), PLANTED, ids=[f"{rule}: {told}" for rule, _, told in PLANTED])
def test_a_planted_error_is_found(rule: str, plant: Callable[[Objects], Any], told: str) -> None:
    """The rule that is meant for it says what is wrong and where."""
    objects = sound()
    plant(objects)
    found = everything(EXTERNAL)[rule](list(objects.values()))
    assert [text for text in found if told in text], found


def test_every_rule_has_an_error_planted_for_it() -> None:
    """No rule goes unproven."""
    assert {rule for rule, _, _ in PLANTED} == set(everything())


def test_an_optional_secret_may_be_missing() -> None:
    """What a pod starts without is not asked for."""
    (worker,) = rules.pods(list(yaml.safe_load_all((KUBERNETES / "stack/worker.yaml").read_text())))
    asked = [name for kind, name, _ in rules.references(worker) if kind == "Secret"]
    assert set(asked) == {"online-store"}
    assert "flows" in {source.get("secretRef", {}).get("name") for source in worker.containers[0]["envFrom"]}


@pytest.mark.parametrize(
    ("text", "number"), [("500m", 0.5), ("2", 2), (3, 3), ("1.5Gi", 1.5 * 2**30), ("64Mi", 2**26), ("1G", 10**9)]
)
def test_quantities_are_compared_as_numbers(text: str | int, number: float) -> None:
    """Milli, decimal and binary units."""
    assert rules.amount(text) == number


def test_what_is_no_quantity_is_named() -> None:
    """A unit that Kubernetes does not have."""
    with pytest.raises(ValueError, match="'2GB' is no quantity"):
        rules.amount("2GB")


@pytest.mark.parametrize(
    ("plant", "told"),
    [
        (lambda o: put(container(o), "imagePolicy", "Always"), "Deployment/service: Additional properties"),
        (lambda o: put(spec(o, "HorizontalPodAutoscaler/service"), "minReplicas", "two"), "'two' is not of type"),
        (lambda o: put(pod(o)["volumes"][0], "emptyDir", "tmp"), "'tmp' is not of type"),
    ],
    ids=["unknown field", "type", "nested type"],
)
def test_the_schemas_refuse_what_is_no_such_object(plant: Callable[[Objects], Any], told: str) -> None:
    """The current version's schemas find what our rules do not look at; they know the manifests' own files as sound."""
    objects = sound()
    assert misshapen(list(objects.values())) == []
    plant(objects)
    (found,) = misshapen(list(objects.values()))
    assert told in found


def test_the_schemas_of_pods_are_used_on_predictors() -> None:
    """An InferenceService's pod is checked as a Pod, KServe's own fields apart."""
    (item,) = yaml.safe_load_all((KUBERNETES / "components/kserve/inferenceservice.yaml").read_text())
    (found,) = custom.as_pods([item])
    assert (found["kind"], found["spec"]["containers"][0]["name"]) == ("Pod", "kserve-container")
    assert "minReplicas" not in found["spec"]
