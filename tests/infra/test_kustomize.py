"""Kustomize: base, overlays and components build, fit the current schemas and break none of our rules."""

from pathlib import Path

import pytest
import yaml

from bentos.runtime import metrics
from bentos.runtime.rollouts import rollout
from tests.infra import rules
from tests.infra.rendered import KUBERNETES, NOTHING, SHARED, kustomized, misshapen, overlay, problems

OVERLAYS = ["staging", "production"]
COMPONENTS = [
    (),
    ("route",),
    ("route", "canary"),
    ("in-flight", "monitoring"),
    ("rollout",),
    ("kserve",),
    ("kserve", "rollout"),
    ("route", "canary", "in-flight", "monitoring"),
]


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_can_be_applied(name: str) -> None:
    """What an overlay applies is valid and whole but for the secrets, which nothing in the repository holds."""
    objects = kustomized(KUBERNETES / "overlays" / name)
    assert misshapen(objects) == []
    assert problems(objects) == []
    assert not rules.of(objects, "Secret")
    assert {"Namespace", "Deployment", "HTTPRoute", "PodDisruptionBudget"} <= {item["kind"] for item in objects}


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_as_it_is_deploys_nothing(name: str) -> None:
    """Its images have a digest that exists nowhere, so that one has to be named."""
    images = {c["image"] for pod in rules.pods(kustomized(KUBERNETES / "overlays" / name)) for c in pod.containers}
    assert {image.partition("@")[2] for image in images} == {NOTHING}


@pytest.mark.parametrize("components", COMPONENTS, ids="+".join)
def test_components_go_together(components: tuple[str, ...], tmp_path: Path) -> None:
    """The base with a choice of components is valid, and names point to each other under an overlay's prefix."""
    images = ("service", "canary") if "canary" in components else ("service",)
    objects = kustomized(overlay(tmp_path, *components, images=images))
    assert misshapen(objects) == []
    assert problems(objects, SHARED) == []
    assert {item["metadata"]["name"] for item in objects} <= {"churn-service", "churn-service-canary", "churn-rollout"}


def test_a_canary_is_reached_apart(tmp_path: Path) -> None:
    """The two releases have Services of their own, to which the route gives the shares; the budget keeps the first."""
    objects = kustomized(overlay(tmp_path, "route", "canary", images=("service", "canary")))
    reached = {
        service["metadata"]["name"]: [
            pod.owner for pod in rules.chosen({"matchLabels": service["spec"]["selector"]}, rules.pods(objects))
        ]
        for service in rules.of(objects, "Service")
    }
    assert reached == {
        "churn-service": ["Deployment/churn-service"],
        "churn-service-canary": ["Deployment/churn-service-canary"],
    }
    (route,) = rules.of(objects, "HTTPRoute")
    assert {b["name"]: b["weight"] for b in route["spec"]["rules"][0]["backendRefs"]} == {
        "churn-service": 90,
        "churn-service-canary": 10,
    }


def test_kserve_takes_the_deployments_place(tmp_path: Path) -> None:
    """Its predictor is the same pod as the Deployment's, apart from the container's name."""
    (deployed,) = rules.pods(kustomized(overlay(tmp_path)))
    objects = kustomized(overlay(tmp_path, "kserve"))
    (served,) = rules.pods(objects)
    assert not {"Deployment", "Service", "HorizontalPodAutoscaler"} & {item["kind"] for item in objects}
    container, expected = served.spec["containers"][0], deployed.spec["containers"][0]
    assert container == expected | {"name": "kserve-container"}
    theirs = {"topologySpreadConstraints", "containers"}
    assert {k: v for k, v in served.spec.items() if k not in theirs} == {
        k: v for k, v in deployed.spec.items() if k not in theirs
    }
    assert served.labels == deployed.labels


def test_what_is_scaled_on_is_what_the_adapter_makes_of_our_metrics() -> None:
    """The autoscaler's metric has the name that the adapter gives, and comes from a histogram that the service has."""
    (rule,) = yaml.safe_load((KUBERNETES / "components/in-flight/adapter-values.yaml").read_text())["rules"]["custom"]
    (scaler,) = rules.of(kustomized(KUBERNETES / "overlays" / "production"), "HorizontalPodAutoscaler")
    asked = [metric["pods"]["metric"]["name"] for metric in scaler["spec"]["metrics"] if metric["type"] == "Pods"]
    assert asked == [rule["name"]["as"]]
    (known,) = metrics.metrics().seconds.collect()
    assert rule["seriesQuery"].partition("{")[0] == f"{known.name}_sum"


def test_the_rollout_file_of_the_component_is_one(tmp_path: Path) -> None:
    """What it puts into the ConfigMap is what a service reads there."""
    (config,) = rules.of(kustomized(overlay(tmp_path, "rollout")), "ConfigMap")
    path = rollout.rollout_path(tmp_path, "churn")
    path.parent.mkdir()
    path.write_text(config["data"][path.name])
    read = rollout.read(path)
    assert read is not None
    assert [arm.kind for arm in read.arms] == ["champion", "canary"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_what_is_scraped_has_the_jobs_of_our_alerts(name: str) -> None:
    """The operator's monitors name jobs as infra/monitoring's own configuration does."""
    objects = kustomized(KUBERNETES / "overlays" / name)
    ends = [part for item in rules.of(objects, "ServiceMonitor") for part in item["spec"]["endpoints"]]
    ends += [part for item in rules.of(objects, "PodMonitor") for part in item["spec"]["podMetricsEndpoints"]]
    ours = yaml.safe_load((KUBERNETES.parent / "monitoring" / "prometheus.yml").read_text())
    jobs = {job["job_name"] for job in ours["scrape_configs"]}
    assert {relabel["replacement"] for part in ends for relabel in part["relabelings"]} == jobs


def test_the_stack_stands_alone() -> None:
    """Namespace, volumes and worker hold without a service; only the images are left to the overlay."""
    objects = kustomized(KUBERNETES / "stack")
    assert misshapen(objects) == []
    left = [text for text in problems(objects) if "which has no digest" not in text]
    assert left == []
