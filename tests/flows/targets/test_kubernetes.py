"""The kubernetes target: the real kubectl with a small API server, from a first release to a canary that reverts."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bentos.runtime.scoring.manifest import GOLDEN, MANIFEST
from flows.errors import ClusterError, ReleaseError
from flows.settings import Settings
from flows.steps.rollouts import workload
from flows.steps.rollouts.workload import Deployed
from flows.stores.transaction import Transaction
from flows.targets import kubernetes, local
from flows.walk import Plan
from tests import servers
from tests.bentos.conftest import make_manifest
from tests.flows.targets import cluster
from tests.infra import rendered

pytestmark = pytest.mark.integration

OVERLAY = rendered.KUBERNETES / "overlays" / "production"
FIRST, SECOND = (
    Deployed(image=f"registry.example.org/churn@sha256:{digit * 64}", release=f"churn:v{digit}-{digit * 8}")
    for digit in "12"
)
SMOKE = local.smoke  # as it is before the homes of other tests are made, which ask nobody for the rest of the session
AT_ONCE, QUICK = Plan(), Plan(steps=(10, 100), min_answers=100, max_minutes=0.1, poll_s=0.05)
SCORES = {FIRST: [0.25, 0.5], SECOND: [0.125, 0.75]}


def quiet(line: str) -> None:
    """Progress that nobody reads."""


@dataclass
class Pods:
    """What answers in an image's pods: the scores of its release, and counters that rise with every look at them."""

    deployed: Deployed
    scores: list[float]
    failing: int = 0  # of the 100 rows that came since the last look
    smoked: list[dict[str, str]] = field(default_factory=list)
    looks: int = 0

    def answer(self, path: str, headers: dict[str, str]) -> servers.Answer:
        """/predict and /metrics as a service answers them."""
        if path == "/predict":
            self.smoked.append(headers)
            found = [{"release": self.deployed.release, "probability": score} for score in self.scores]
            return 200, json.dumps(found)
        self.looks += 1
        counts = {
            'bentoflow_predictions_total{use_case="churn",model_version="1",risk="low"}': 100 - self.failing,
            'bentoflow_prediction_errors_total{use_case="churn",status="503"}': self.failing,
            'bentoflow_prediction_errors_total{use_case="churn",status="422"}': 50,
            'bentoflow_request_seconds_bucket{use_case="churn",le="0.005"}': 100,
            'bentoflow_request_seconds_bucket{use_case="churn",le="+Inf"}': 100,
            'bentoflow_request_seconds_sum{use_case="churn"}': 0.2,
            'bentoflow_request_seconds_count{use_case="churn"}': 100,
        }
        return 200, "".join(f"{name} {value * self.looks}\n" for name, value in counts.items())


@dataclass(frozen=True)
class Site:
    """A cluster and what its pods are."""

    cluster: cluster.Cluster
    pods: dict[Deployed, Pods]
    folders: dict[Deployed, Path]
    chosen: Settings

    def pending(self, wanted: Deployed, plan: Plan = AT_ONCE) -> Transaction:
        """A release on its way there, from what runs there now."""
        return Transaction(
            use_case="churn",
            action="promoted",
            release=wanted.release,
            version=wanted.release[7],
            reason="better",
            at="2024-06-01T00:00:00+00:00",
            aliases={},
            aliases_before={},
            champion_before=None,
            image=wanted.image,
            target="kubernetes",
            deployed_before=kubernetes.check(self.chosen, "churn", plan),
        )

    def deployed(self) -> Deployed | None:
        """What the cluster is to run, in its own words."""
        return kubernetes.current(kubernetes.objects(self.chosen, "churn"))

    def stage(self, pending: Transaction) -> str:
        """Its folder is that of its release."""
        folder = next(folder for wanted, folder in self.folders.items() if wanted.release == pending.release)
        return kubernetes.stage(self.chosen, pending, folder, say=quiet)

    def walk(self, pending: Transaction, plan: Plan = AT_ONCE, checkpoint: Callable[[str], None] = quiet) -> None:
        """As a transaction does."""
        kubernetes.walk(self.chosen, pending, plan, say=quiet, checkpoint=checkpoint)

    def switch(self, pending: Transaction) -> None:
        """As a transaction does."""
        kubernetes.switch(self.chosen, pending, say=quiet)

    def revert(self, pending: Transaction) -> None:
        """As a transaction does."""
        kubernetes.revert(self.chosen, pending, say=quiet)

    def release(self, wanted: Deployed) -> None:
        """All of it, at once."""
        pending = self.pending(wanted)
        self.stage(pending)
        self.walk(pending)
        self.switch(pending)

    def shares(self) -> dict[str, int]:
        """What the route gives to whom."""
        rule = self.cluster.objects["httproutes", "churn-service"]["spec"]["rules"][0]
        return {end["name"]: end["weight"] for end in rule["backendRefs"]}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """An empty cluster that kubectl knows, and the pods of two images."""
    monkeypatch.setattr(local, "smoke", SMOKE)
    with ExitStack() as stack:
        pods = {wanted: Pods(wanted, scores) for wanted, scores in SCORES.items()}
        urls = {wanted.image: stack.enter_context(servers.http(pod.answer)) for wanted, pod in pods.items()}
        ports = {image: int(url.rpartition(":")[2]) for image, url in urls.items()}
        folders = {}
        for wanted, scores in SCORES.items():
            folders[wanted] = tmp_path / wanted.release.replace(":", "-")
            folders[wanted].mkdir()
            golden = {"entities": [1, 2], "rows": [{"x": 0.0}, {"x": 1.0}], "scores": scores}
            (folders[wanted] / GOLDEN).write_text(json.dumps(golden))
            (folders[wanted] / MANIFEST).write_text(make_manifest().dump())
        made = stack.enter_context(cluster.running(cluster.Cluster(ports.__getitem__), tmp_path, monkeypatch))
        yield Site(made, pods, folders, Settings(kubernetes_overlay=str(OVERLAY)))


def test_a_release_is_applied_awaited_and_asked(site: Site) -> None:
    """One pod answers its golden rows; then the Deployment has digest and rollout file; then the route leads there."""
    assert site.deployed() is None
    pending = site.pending(FIRST)
    assert site.stage(pending) == "2 golden rows answered exactly by Deployment/churn-service-canary"
    assert {headers["x-bentoflow-smoke"] for headers in site.pods[FIRST].smoked} == {"1"}
    assert site.cluster.image("churn-service") is None
    site.walk(pending)
    assert site.cluster.image("churn-service") == FIRST.image
    assert kubernetes.runs(site.chosen, pending)
    config = site.cluster.objects["configmaps", "churn-rollout-v1-11111111"]
    assert json.loads(config["data"]["churn.json"])["arms"][0]["release"] == FIRST.release
    assert ("httproutes", "churn-service") not in site.cluster.objects, "the way there comes last"
    site.switch(pending)
    assert ("httproutes", "churn-service") in site.cluster.objects
    applied = {key[1] for key in site.cluster.objects if key[0] != "pods"}
    assert not [name for name in applied if not name.startswith("churn")], "what is shared is not a release's"
    assert not [name for name in applied if name.endswith("-canary")]


def test_another_release_takes_its_place_and_gives_it_back(site: Site) -> None:
    """Back is the earlier digest with the earlier rollout file; nothing else differs from before."""
    site.release(FIRST)
    before = site.cluster.specs()
    pending = site.pending(SECOND)
    site.stage(pending)
    assert site.cluster.image("churn-service") == FIRST.image, "it answers while the other one is asked"
    site.walk(pending)
    assert site.cluster.image("churn-service") == SECOND.image
    site.revert(pending)
    assert site.cluster.image("churn-service") == FIRST.image
    assert site.deployed() == FIRST
    assert site.cluster.specs() == before


def test_every_step_may_be_done_again(site: Site) -> None:
    """As after a kill: before the commit all goes back, after it all is completed."""
    site.release(FIRST)
    before, pending = site.cluster.specs(), site.pending(SECOND)
    for step in (site.revert, site.stage, site.revert, site.revert):
        step(pending)
    assert site.cluster.specs() == before
    for step in (site.stage, site.stage, site.walk, site.walk, site.switch, site.switch):
        step(pending)
    assert site.deployed() == SECOND
    assert site.cluster.image("churn-service-canary") is None


def test_what_answers_otherwise_or_never_gets_ready_is_an_error(site: Site) -> None:
    """One score that differs; pods that do not come up; and a first release that is taken back leaves no pods."""
    site.pods[FIRST].scores[1] += 1e-9
    first, second = site.pending(FIRST), site.pending(SECOND)
    with pytest.raises(ReleaseError, match="golden row 1 of churn:v1"):
        site.stage(first)
    site.revert(first)
    assert site.cluster.image("churn-service") is site.cluster.image("churn-service-canary") is None
    site.cluster.broken.add(SECOND.image)
    with pytest.raises(ClusterError, match="exceeded its progress deadline"):
        site.stage(second)
    with pytest.raises(ClusterError, match="exceeded its progress deadline"):
        site.walk(second)
    site.revert(second)
    assert site.deployed() is None


def test_a_canary_is_given_more_and_then_everything(site: Site) -> None:
    """It answers its golden rows before it is given requests; in the end the Deployment is of it, the canary gone."""
    site.release(FIRST)
    pending, seen = site.pending(SECOND, QUICK), list[Any]()
    site.stage(pending)
    assert site.cluster.image("churn-service-canary") == SECOND.image
    assert site.shares() == {"churn-service": 1}

    def checkpoint(name: str) -> None:
        running = site.cluster.image("churn-service")
        seen.append((name, len(site.pods[SECOND].smoked), site.shares(), running))

    site.walk(pending, QUICK, checkpoint)
    assert seen == [
        ("canary_10", 1, {"churn-service": 90, "churn-service-canary": 10}, FIRST.image),
        ("canary_100", 1, {"churn-service": 0, "churn-service-canary": 100}, FIRST.image),
    ]
    assert site.cluster.image("churn-service") == SECOND.image
    site.switch(pending)
    assert site.shares() == {"churn-service": 1}
    assert site.cluster.image("churn-service-canary") is None
    assert ("services", "churn-service-canary") not in site.cluster.objects


@pytest.mark.parametrize(
    ("failing", "plan", "reason"),
    [
        (20, QUICK, r"stopped at 10 %: errors: \d+ of \d+ rows failed"),
        (0, Plan(steps=(10,), min_answers=10**9, max_minutes=0.005, poll_s=0.05), "rows within 0.005 minutes"),
    ],
)
def test_a_canary_that_fails_is_stopped_and_goes(site: Site, failing: int, plan: Plan, reason: str) -> None:
    """Failed rows beyond the champion's, or too few to judge: after the revert all is as it was before."""
    site.release(FIRST)
    before, pending = site.cluster.specs(), site.pending(SECOND, plan)
    site.pods[SECOND].failing = failing
    site.stage(pending)
    with pytest.raises(ReleaseError, match=reason):
        site.walk(pending, plan)
    assert site.shares()["churn-service-canary"] == 10
    site.revert(pending)
    assert site.deployed() == FIRST
    assert site.cluster.specs() == before


def test_what_is_missing_is_named(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No overlay, an overlay of other use cases, no kubectl, no server: the error says which and what to do."""
    with pytest.raises(ReleaseError, match="BENTOFLOW_KUBERNETES_OVERLAY is not set"):
        kubernetes.check(Settings(), "churn", AT_ONCE)
    with pytest.raises(ReleaseError, match=r"production has 0 Deployments with the label .*: card-fraud"):
        kubernetes.check(site.chosen, "card_fraud", AT_ONCE)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(ClusterError, match="was refused"):
        kubernetes.check(site.chosen, "churn", AT_ONCE)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match="no kubectl found: install it"):
        kubernetes.check(site.chosen, "churn", AT_ONCE)


def test_a_canary_is_the_one_of_the_component(tmp_path: Path) -> None:
    """Its Deployment, Service and shares are those that components/canary makes of the same base."""
    parts, alone = tmp_path / "parts", tmp_path / "alone"
    for folder in (parts, alone):
        folder.mkdir()
    expected = rendered.kustomized(rendered.overlay(parts, "route", "canary", images=("service", "canary")))
    given = rendered.kustomized(rendered.overlay(alone, "route"))
    zeros = workload.runs(workload.deployment(given))
    made = [*workload.canary(given, "churn", zeros), *workload.routes(given, 10)]
    for item in made:
        item["metadata"].get("annotations", {}).pop(workload.RELEASE, None)
        (same,) = (other for other in expected if workload.label(other) == workload.label(item))
        assert item == same
    assert len(made) == 3


def test_a_canary_needs_a_route(tmp_path: Path) -> None:
    """Without one nothing could be shared: so it says before anything is built, or the cluster asked."""
    chosen = Settings(kubernetes_overlay=str(rendered.overlay(tmp_path)))
    with pytest.raises(ReleaseError, match="has no HTTPRoute to the service alone"):
        kubernetes.check(chosen, "churn", QUICK)


def test_a_rollout_file_of_the_overlay_is_kept(tmp_path: Path) -> None:
    """An image of several releases takes its arms from it, so that a release does not replace it."""
    given = rendered.kustomized(rendered.overlay(tmp_path, "rollout"))
    made = workload.released(given, "churn", FIRST)
    configs = [[item for item in objects if item["kind"] == "ConfigMap"] for objects in (given, made)]
    assert configs[0] == configs[1]
