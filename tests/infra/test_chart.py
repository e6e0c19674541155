"""The Helm chart: every combination of its values renders what may be applied, and the same as the kustomize base."""

import subprocess
from itertools import product
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.infra import tools
from tests.infra.rendered import CHART, KUBERNETES, NOTHING, SHARED, charted, kustomized, misshapen, overlay, problems

IMAGE = {"repository": "registry.example.org/churn", "digest": NOTHING}
CANARY = {"weight": 10, "image": IMAGE}
ROLLOUT = orjson.loads((KUBERNETES / "components/rollout/churn.json").read_bytes())
CHOICES = {
    "route": ({}, {"route": {"enabled": True}}, {"route": {"enabled": True, "hostnames": ["a.example.org"]}}),
    "monitor": ({}, {"serviceMonitor": True}),
    "scale": ({}, {"autoscaling": {"inFlight": 8}}),
    "second": ({}, {"canary": CANARY}, {"rollout": ROLLOUT}),
}
VALUES = [
    {key: value for part in parts for key, value in part.items()}
    for parts in product(*CHOICES.values())
    if "route" in parts[0] or "canary" not in parts[-1]
]


def told(values: dict[str, Any]) -> str:
    """A combination in words."""
    return "+".join([*values, *values.get("route", {}).get("hostnames", ())]) or "defaults"


@pytest.mark.parametrize("values", VALUES, ids=told)
def test_every_combination_of_values_can_be_applied(values: dict[str, Any]) -> None:
    """Whatever is switched on together is valid and breaks no rule."""
    objects = charted(values)
    assert misshapen(objects) == []
    assert problems(objects, SHARED) == []


def test_lint_has_no_complaint() -> None:
    """`helm lint --strict` takes the chart with the values that it requires."""
    chosen = [f"image.{key}={value}" for key, value in IMAGE.items()]
    told = tools.run(tools.layer() / "helm", "lint", "--strict", CHART, "--set", ",".join(chosen))
    assert "1 chart(s) linted, 0 chart(s) failed" in told


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"image": {"repository": "r", "digest": "latest"}}, "'/image/digest'"),
        ({"image": {"repository": "", "digest": NOTHING}}, "'/image/repository'"),
        ({"replicas": 3}, "additional properties 'replicas' not allowed"),
        ({"canary": {"weight": 10}, "route": {"enabled": True}}, "'/canary/image/digest'"),
        ({"canary": CANARY}, "'/route/enabled'"),
        ({"canary": CANARY, "route": {"enabled": True}, "rollout": ROLLOUT}, "'/rollout'"),
        ({"canary": {"weight": 101, "image": IMAGE}, "route": {"enabled": True}}, "'/canary/weight'"),
        ({"autoscaling": {"cpu": 0}}, "'/autoscaling/cpu'"),
        ({"rollout": {"arms": [{"name": "boss", "release": "churn:v1", "weight": 1}]}}, "'/rollout/arms/0/name'"),
        ({"network": {"from": []}}, "'/network/from'"),
        ({"resources": {"limits": {"cpu": None}}}, "'/resources/limits'"),
    ],
    ids=lambda value: value.strip("'").replace("/", " ").strip() if isinstance(value, str) else "",
)
def test_wrong_values_are_refused_by_name(values: dict[str, Any], complaint: str) -> None:
    """The schema names the value: a tag in place of a digest, an unknown key, a canary that nothing leads to."""
    with pytest.raises(subprocess.CalledProcessError) as refused:
        charted(values)
    assert complaint in refused.value.stderr


def comparable(objects: list[Any]) -> dict[tuple[str, str], Any]:
    """Objects by kind and name, with JSON in ConfigMaps as what it says."""
    found = {}
    for item in objects:
        if item["kind"] == "ConfigMap":
            item = item | {"data": {name: orjson.loads(text) for name, text in item.get("data", {}).items()}}
        found[item["kind"], item["metadata"]["name"]] = item
    return found


@pytest.mark.parametrize(
    ("components", "values"),
    [
        ((), {}),
        (("rollout",), {"rollout": ROLLOUT}),
        (
            ("route", "canary", "in-flight", "monitoring"),
            {"route": {"enabled": True}, "canary": CANARY, "autoscaling": {"inFlight": 8}, "serviceMonitor": True},
        ),
    ],
    ids=lambda value: "+".join(value) or "base" if isinstance(value, tuple) else "",
)
def test_chart_and_kustomize_say_the_same(components: tuple[str, ...], values: dict[str, Any], tmp_path: Path) -> None:
    """With equivalent values both render the same objects, field by field."""
    images = ("service", "canary") if "canary" in components else ("service",)
    built = comparable(kustomized(overlay(tmp_path, *components, images=images)))
    assert comparable(charted(values)) == built


def test_the_chart_can_say_what_production_says() -> None:
    """The values of its overlay give the production service."""
    values = {
        "autoscaling": {"minReplicas": 3, "maxReplicas": 20, "inFlight": 8},
        "route": {"enabled": True, "hostnames": ["churn.example.org"]},
        "serviceMonitor": True,
    }
    assert comparable(charted(values)) == comparable(kustomized(KUBERNETES / "overlays" / "production" / "churn"))
