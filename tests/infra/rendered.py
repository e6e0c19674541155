"""Manifests as they would be applied: kustomize builds and the chart's templates, and everything that must hold."""

import os
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import orjson
import yaml

from bentos import drain
from bentos.endpoint import SERVICE
from bentos.runtime.rollouts import shadow
from tests.infra import custom, rules, tools
from tests.infra.rules import Object, Rule

KUBERNETES = tools.ROOT / "infra" / "kubernetes"
CHART = KUBERNETES / "chart"
VERSION = "1.37"
NOTHING = "sha256:" + 64 * "0"
# What a worker may take from SIGTERM to its end: the drain, the longest request, and what shadows have left to score.
DRAIN_S = drain.LINGER_S + SERVICE["traffic"]["timeout"] + 2 * shadow.PATIENCE_S
SECRETS = (("Secret", "online-store"),)  # made by hand, see infra/kubernetes/README.md
SHARED = (*SECRETS, ("PersistentVolumeClaim", "journal"), ("PersistentVolumeClaim", "feast"))
INSIDE = ("/metrics", "/retrain", "/health", "/readyz", "/livez", "/docs.json", "/schema.json")


def everything(external: Iterable[tuple[str, str]] = SECRETS) -> dict[str, Rule]:
    """Every rule by name."""
    made: list[Rule] = [
        rules.selectors_match_their_own_pods,
        rules.mounts_have_volumes,
        rules.services_reach_pods,
        rules.probes_ask_a_port,
        rules.requests_are_within_limits,
        rules.selectors_find_pods,
        rules.scalers_have_targets,
        rules.images_are_digests,
        rules.pods_are_hardened,
        rules.objects_are_distinct,
        custom.custom_resources_have_shape,
    ]
    named = {rule.__name__: rule for rule in made}
    named["references_exist"] = rules.references_exist(external)
    named["updates_lose_no_request"] = rules.updates_lose_no_request(DRAIN_S)
    named["routes_reach_services"] = custom.routes_reach_services(INSIDE)
    return named


def problems(objects: Sequence[Object], external: Iterable[tuple[str, str]] = SECRETS) -> list[str]:
    """What any rule finds wrong, with its name."""
    return [f"{name}: {text}" for name, rule in everything(external).items() for text in rule(objects)]


def misshapen(objects: Sequence[Object]) -> list[str]:
    """What the current version's own schemas refuse, unknown fields included; custom resources have none here."""
    known = [*(item for item in objects if item["kind"] not in custom.SHAPES), *custom.as_pods(objects)]
    return [text for item in known if (text := _refused(orjson.dumps(item, option=orjson.OPT_SORT_KEYS)))]


@cache
def _refused(item: bytes) -> str | None:
    """Why the schema refuses an object, None if it does not; most are alike in many renderings."""
    read = orjson.loads(item)
    try:
        kubernetes_validate.validate(read, VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{rules.label(read)}: {error.message} at {list(error.path)}"
    return None


def kustomized(folder: Path) -> list[Any]:
    """The objects of a kustomization."""
    return list(yaml.safe_load_all(tools.run(tools.layer() / "kubectl", "kustomize", folder)))


def overlay(folder: Path, *components: str, images: Sequence[str] = ("service",)) -> Path:
    """A kustomization in an empty folder: the base as churn with some components, its images of a digest of zeros."""
    above = Path(os.path.relpath(KUBERNETES, folder.resolve()))
    made = {
        "namePrefix": "churn-",
        "labels": [{"pairs": {"app.kubernetes.io/instance": "churn"}, "includeSelectors": True}],
        "resources": [str(above / "base")],
        "components": [str(above / "components" / name) for name in components],
        "images": [
            {"name": f"bentoflow-{name}", "newName": "registry.example.org/churn", "digest": NOTHING} for name in images
        ],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(made))
    return folder


def charted(values: dict[str, Any]) -> list[Any]:
    """The objects of the chart installed as churn; CalledProcessError if its schema refuses the values."""
    image = {"image": {"repository": "registry.example.org/churn", "digest": NOTHING}}
    text = yaml.safe_dump(image | values)
    rendered = tools.run(tools.layer() / "helm", "template", "churn", CHART, "--values", "-", text=text)
    return [item for item in yaml.safe_load_all(rendered) if item]
