"""A use case's Kubernetes objects: which are its own, a release put into them, a canary beside it, and its share.

All functions take objects as `kubectl kustomize` renders them and give changed copies.
"""

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any

from bentos.runtime.rollouts.rollout import CHAMPION, Arm, Rollout

Object = dict[str, Any]
INSTANCE = "app.kubernetes.io/instance"
TRACK = "bentoflow/track"
RELEASE = "bentoflow/release"  # annotation of a Deployment: the release's tag
CANARY = "-canary"


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """What a Deployment runs: the image, `repository@sha256:…`, and the release that it says it is."""

    image: str
    release: str


def own(objects: Sequence[Object], use_case: str) -> list[Object]:
    """The objects with the use case's instance label, whose `_` is a `-`; ValueError unless it has one Deployment."""
    instance = use_case.replace("_", "-")
    found = [deepcopy(item) for item in objects if item["metadata"].get("labels", {}).get(INSTANCE) == instance]
    made = [item for item in found if item["kind"] == "Deployment"]
    if len(made) != 1:
        raise ValueError(f"has {len(made)} Deployments with the label {INSTANCE}: {instance}, and must have one")
    if any(len(item["spec"]["template"]["spec"]["containers"]) != 1 for item in made):
        raise ValueError(f"{label(made[0])} must have one container, the service")
    return found


def label(item: Object) -> str:
    """Kind and name of an object."""
    return f"{item['kind']}/{item['metadata']['name']}"


def deployment(objects: Sequence[Object]) -> Object:
    """The use case's Deployment."""
    return next(item for item in objects if item["kind"] == "Deployment")


def runs(item: Object) -> Deployed:
    """What a Deployment runs."""
    container = item["spec"]["template"]["spec"]["containers"][0]
    return Deployed(image=container["image"], release=item["metadata"].get("annotations", {}).get(RELEASE, ""))


def released(objects: Sequence[Object], use_case: str, wanted: Deployed) -> list[Object]:
    """The objects with the release's image, and its rollout file in a ConfigMap of its own where the given is empty.

    The name of that ConfigMap is part of the pods' template: pods of the earlier release keep the file that names it,
    and whoever goes back goes back to both.
    """
    made = deepcopy(list(objects))
    target = deployment(made)
    _put(target, wanted)
    mounted = {v["configMap"]["name"]: v["configMap"] for v in _volumes(target) if "configMap" in v}
    for config in [item for item in made if item["kind"] == "ConfigMap" and item["metadata"]["name"] in mounted]:
        name = config["metadata"]["name"]
        if wanted.release and not config.get("data"):
            config["metadata"]["name"] = f"{name}-{wanted.release.partition(':')[2]}"
            mounted[name]["name"] = config["metadata"]["name"]
            config["data"] = {f"{use_case}.json": _rollout(wanted.release)}
    return made


def canary(objects: Sequence[Object], use_case: str, wanted: Deployed) -> list[Object]:
    """What runs a release beside the objects: one pod like theirs, its rollout file, and a Service to it alone."""
    given = {label(item) for item in objects}
    made = released(objects, use_case, wanted)
    pods = [_canary(item) for item in made if item["kind"] in ("Service", "Deployment")]
    return [*(item for item in made if item["kind"] == "ConfigMap" and label(item) not in given), *pods]


def routes(objects: Sequence[Object], percent: int | None = None) -> list[Object]:
    """The HTTPRoutes as they are, or with so many percent of the requests given to the canary's Service.

    ValueError where a share is wanted and no route leads to the Service.
    """
    services = {item["metadata"]["name"] for item in objects if item["kind"] == "Service"}
    made = [deepcopy(item) for item in objects if item["kind"] == "HTTPRoute"]
    if percent is None:
        return made
    rules = [rule for item in made for rule in item["spec"]["rules"]]
    led = [rule for rule in rules if [end["name"] for end in rule["backendRefs"]] == [*services]]
    if not led:
        raise ValueError("has no HTTPRoute to the service alone, by whose weights a canary is given requests")
    for rule in led:
        (end,) = rule["backendRefs"]
        shares = ((end["name"], 100 - percent), (end["name"] + CANARY, percent))
        rule["backendRefs"] = [{**end, "name": name, "weight": weight} for name, weight in shares]
    return made


def _rollout(release: str) -> str:
    return json.dumps(asdict(Rollout((Arm(CHAMPION, release, 1.0),))), indent=1)


def _volumes(item: Object) -> list[Object]:
    found: list[Object] = item["spec"]["template"]["spec"].get("volumes", [])
    return found


def _put(item: Object, wanted: Deployed) -> None:
    item["spec"]["template"]["spec"]["containers"][0]["image"] = wanted.image
    item["metadata"].setdefault("annotations", {})[RELEASE] = wanted.release


def _canary(item: Object) -> Object:
    """A Service or Deployment once more, under the canary's name, with pods of its own."""
    made = deepcopy(item)
    made["metadata"]["name"] += CANARY
    labelled = [made["metadata"]["labels"]]
    if item["kind"] == "Service":
        labelled.append(made["spec"]["selector"])
    else:
        made["spec"]["replicas"] = 1
        pod = made["spec"]["template"]
        spread = [c["labelSelector"]["matchLabels"] for c in pod["spec"].get("topologySpreadConstraints", ())]
        labelled += [made["spec"]["selector"]["matchLabels"], pod["metadata"]["labels"], *spread]
    for labels in labelled:
        labels[TRACK] = "canary"
    return made
