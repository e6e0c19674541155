"""A use case's Kubernetes objects: a release is put into its own ones, and only a route can be shared."""

from typing import Any

import pytest

from flows.steps.rollouts import workload
from flows.steps.rollouts.workload import Deployed

WANTED = Deployed(image="registry.example.org/card@sha256:" + "ab" * 32, release="card_fraud:v2-12345678")


def item(kind: str, name: str, instance: str = "card-fraud", **more: Any) -> dict[str, Any]:
    """An object of a use case."""
    return {"kind": kind, "metadata": {"name": name, "labels": {workload.INSTANCE: instance}}, **more}


def deployment(instance: str = "card-fraud", containers: int = 1) -> dict[str, Any]:
    """A Deployment whose pods have a rollout file."""
    volumes = [{"name": "tmp", "emptyDir": {}}, {"name": "rollout", "configMap": {"name": "rollout"}}]
    pod = {"containers": [{"name": f"c{i}", "image": "none"} for i in range(containers)], "volumes": volumes}
    return item("Deployment", "service", instance, spec={"template": {"spec": pod}})


def test_only_its_own_objects_are_a_use_cases() -> None:
    """The namespace, volumes and other use cases are not a release's to change; what is given stays as it is."""
    given = [deployment(), deployment("churn"), item("ConfigMap", "rollout"), {"kind": "Namespace", "metadata": {}}]
    found = workload.own(given, "card_fraud")
    assert [workload.label(o) for o in found] == ["Deployment/service", "ConfigMap/rollout"]
    workload.deployment(found)["spec"]["template"]["spec"]["containers"][0]["image"] = "other"
    assert workload.runs(given[0]).image == "none"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([], "has 0 Deployments"),
        ([deployment()] * 2, "has 2 Deployments"),
        ([deployment(containers=2)], "one container"),
    ],
)
def test_what_cannot_be_released_into_is_refused(given: list[dict[str, Any]], reason: str) -> None:
    """No Deployment, several, or one with containers beside the service."""
    with pytest.raises(ValueError, match=reason):
        workload.own(given, "card_fraud")


def test_a_release_is_image_and_rollout_file(tmp_path: Any) -> None:
    """Both are in the pods' template, so that going back goes back to both; the file is one that a service reads."""
    from bentos.runtime.rollouts import rollout

    given = [deployment(), item("ConfigMap", "rollout")]
    made, config = workload.released(given, "card_fraud", WANTED)
    assert workload.runs(made) == WANTED
    (_, volume) = made["spec"]["template"]["spec"]["volumes"]
    assert volume["configMap"]["name"] == config["metadata"]["name"] == "rollout-v2-12345678"
    path = rollout.rollout_path(tmp_path, "card_fraud")
    path.parent.mkdir()
    path.write_text(config["data"][path.name])
    read = rollout.read(path)
    assert read is not None
    assert [(arm.kind, arm.release) for arm in read.arms] == [("champion", WANTED.release)]
    assert given == [deployment(), item("ConfigMap", "rollout")]


def test_only_a_route_to_the_service_alone_can_be_shared() -> None:
    """A rule to somewhere else is left as it is; without one to the service there is nothing to share."""
    ours = {"matches": [1], "backendRefs": [{"name": "service", "port": 80}]}
    other = {"backendRefs": [{"name": "elsewhere", "port": 80}]}
    given = [item("Service", "service"), item("HTTPRoute", "route", spec={"rules": [ours, other]})]
    (route,) = workload.routes(given, 30)
    assert route["spec"]["rules"] == [
        {
            "matches": [1],
            "backendRefs": [
                {"name": "service", "port": 80, "weight": 70},
                {"name": "service-canary", "port": 80, "weight": 30},
            ],
        },
        other,
    ]
    assert workload.routes(given) == given[1:]
    with pytest.raises(ValueError, match="no HTTPRoute to the service alone"):
        workload.routes([given[0], item("HTTPRoute", "route", spec={"rules": [other]})], 30)
