"""SageMaker and Vertex as targets: a candidate is asked, takes charge or goes; again is the same; faults are named."""

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from bentos.runtime.scoring import manifest
from bentos.runtime.scoring.manifest import GOLDEN
from flows.errors import ReleaseError
from flows.settings import Settings
from flows.stores.transaction import Transaction
from flows.targets import hosting, sagemaker, vertex
from flows.walk import Plan
from tests import servers
from tests.bentos.conftest import answers, make_release, save_release, serving, set_clock, wait_for
from tests.flows.targets import hosts

pytestmark = pytest.mark.integration

REGISTRY = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/bentoflow/churn"
FIRST = Transaction(
    use_case="churn",
    action="promoted",
    release="churn:v1-27aa8dce",
    version="1",
    reason="better",
    at="2024-06-01T00:00:00+00:00",
    aliases={},
    aliases_before={},
    champion_before=None,
    image=f"{REGISTRY}@sha256:{'1' * 64}",
)
SECOND = replace(FIRST, release="churn:v2-7a5861c7", version="2", image=f"{REGISTRY}@sha256:{'2' * 64}")
ENV = {"AIP_PREDICT_ROUTE": "/hosted/predict", "AIP_HEALTH_ROUTE": "/hosted/health"}
SETTINGS = Settings(
    sagemaker_role="arn:aws:iam::123456789012:role/endpoints",
    vertex_project="shop",
    vertex_region="europe-west3",
    vertex_token=SecretStr("token"),
    hosted_online_store=SecretStr("redis://features:6379"),
)


@dataclass
class Hosted:
    """A place, its host, the folder of the release that its containers answer with, and what stands in for the host."""

    place: hosting.Place
    host: Any
    folder: Path
    stand_in: Any
    said: list[str]

    def stage(self, pending: Transaction) -> str:
        return self.place.stage(SETTINGS, pending, self.folder, say=self.said.append)

    def switch(self, pending: Transaction) -> None:
        self.place.switch(SETTINGS, pending, say=self.said.append)

    def revert(self, pending: Transaction) -> None:
        self.place.revert(SETTINGS, pending, say=self.said.append)

    def in_charge(self, pending: Transaction, at: str = "bentoflow-churn") -> bool:
        return bool(self.host.runs(at, hosting.model(pending)))


def altered(folder: Path, **changes: Any) -> Path:
    """A release folder with other golden rows, which its manifest knows."""
    golden, found = json.loads((folder / GOLDEN).read_text()), manifest.load(folder)
    (folder / GOLDEN).write_text(json.dumps(golden | changes))
    files = {**found.files, GOLDEN: manifest.sha256(folder / GOLDEN)}
    (folder / manifest.MANIFEST).write_text(replace(found, files=files).dump())
    return folder


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A real service, with a host's routes in its environment, and the folder of its release with golden rows."""
    folder = tmp_path_factory.mktemp("hosted")
    release = make_release(folder / "release")
    tag = save_release(folder / "bentoml", release, "churn:v1")
    (folder / "home").mkdir()
    set_clock(folder / "home")
    env = ENV | {"BENTOFLOW_RELEASE": tag, "BENTOFLOW_ONLINE_STORE": "none"}
    with serving(folder / "home", folder / "bentoml", log=folder / "log", env=env) as server:
        wait_for(lambda: answers(server.url, "/readyz"), what="readiness")
        yield server.url, altered(release, entities=[1, 2])


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """moto's server."""
    with servers.s3() as url:
        yield url


@pytest.fixture(params=["sagemaker", "vertex"])
def hosted(
    request: pytest.FixtureRequest, container: tuple[str, Path], moto: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Hosted]:
    """Each of the two, with nothing on it."""
    monkeypatch.setattr(hosting, "POLL_S", 0.01)
    url, folder = container
    if request.param == "vertex":
        stand_in: Any = hosts.Vertex(url)
        with hosts.listening(stand_in) as at:
            host: Any = vertex.Vertex(SETTINGS, vertex.client(at, "token"))
            yield Hosted(hosting.Place(lambda _: host), host, folder, stand_in, [])
        return
    httpx.post(f"{moto}/moto-api/reset", timeout=30).raise_for_status()
    stand_in = hosts.SageMaker(moto, url)
    with hosts.listening(stand_in) as at:
        keys = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "eu-central-1"}
        for name, value in {**keys, "AWS_ENDPOINT_URL": at}.items():
            monkeypatch.setenv(name, value)
        yield Hosted(sagemaker.PLACE, sagemaker.connect(SETTINGS), folder, stand_in, [])


def test_a_release_is_asked_as_candidate_and_takes_charge(hosted: Hosted) -> None:
    """Golden rows through the host; then one endpoint, all of it the release's; a second one takes its place."""
    assert hosted.stage(FIRST) == f"2 golden rows answered exactly by {FIRST.image} at bentoflow-churn-candidate"
    assert not hosted.in_charge(FIRST)
    hosted.switch(FIRST)
    assert hosted.in_charge(FIRST)
    hosted.stage(SECOND)
    assert hosted.in_charge(FIRST), "the first one answers while the second one is asked"
    hosted.switch(SECOND)
    assert hosted.in_charge(SECOND)
    assert not hosted.in_charge(SECOND, "bentoflow-churn-candidate")


def test_a_refused_release_leaves_what_was_in_charge(hosted: Hosted, tmp_path: Path) -> None:
    """A golden row that is answered otherwise is named; after the revert there is no candidate."""
    hosted.stage(FIRST)
    hosted.switch(FIRST)
    scores = json.loads((hosted.folder / GOLDEN).read_text())["scores"]
    other = altered(shutil.copytree(hosted.folder, tmp_path / "other"), scores=[scores[0], 0.123])
    with pytest.raises(ReleaseError, match=r"golden row 1 of churn:v2-7a5861c7: .* training said 0.123"):
        replace(hosted, folder=other).stage(SECOND)
    hosted.revert(SECOND)
    assert hosted.in_charge(FIRST)
    with pytest.raises(ReleaseError, match="candidate"):
        hosted.host.ask("bentoflow-churn-candidate", [{}])


def test_every_step_may_be_done_again(hosted: Hosted) -> None:
    """As after a kill: nothing is made twice, and taking away what is not there is no fault."""
    hosted.revert(FIRST)
    for _ in range(2):
        hosted.stage(FIRST)
    for _ in range(2):
        hosted.switch(FIRST)
    assert hosted.place.runs(SETTINGS, FIRST)
    assert not hosted.place.runs(SETTINGS, SECOND)
    made = [call for call in hosted.stand_in.calls if call in ("CreateModel", "upload_model")]
    assert len(made) == 1
    hosted.stage(SECOND)
    hosted.switch(SECOND)
    hosted.stage(FIRST)  # a rollback finds the model of before
    hosted.switch(FIRST)
    assert hosted.in_charge(FIRST)
    made = [call for call in hosted.stand_in.calls if call in ("CreateModel", "upload_model")]
    assert len(made) == 2


def test_a_canary_is_refused(hosted: Hosted) -> None:
    """Before anything is built or moved; without steps there is nothing to refuse, and nothing that revert is told."""
    with pytest.raises(ReleaseError, match="take no canary"):
        hosted.place.check(SETTINGS, "churn", Plan(steps=(10, 100)))
    assert hosted.place.check(SETTINGS, "churn", Plan()) is None  # type: ignore[func-returns-value]
    assert hosted.stand_in.calls == []


@pytest.mark.parametrize("hosted", ["sagemaker"], indirect=True)
def test_an_update_that_sagemaker_takes_back_is_an_error(hosted: Hosted) -> None:
    """The endpoint is in service, but as it was before."""
    hosted.stage(FIRST)
    hosted.switch(FIRST)
    hosted.stage(SECOND)
    hosted.stand_in.broken.add("bentoflow-churn")
    with pytest.raises(ReleaseError, match="bentoflow-churn went back to what it was before"):
        hosted.switch(SECOND)
    assert hosted.in_charge(FIRST)


@pytest.mark.parametrize("hosted", ["vertex"], indirect=True)
def test_an_operation_that_fails_is_named_with_its_reason(hosted: Hosted) -> None:
    """As where no machine can be had."""
    hosted.stand_in.failing = "deploy"
    with pytest.raises(ReleaseError, match=r"Vertex, projects/shop/.*/operations/3: no machines"):
        hosted.stage(FIRST)


@pytest.mark.parametrize("hosted", ["vertex"], indirect=True)
def test_a_wrong_token_is_said(hosted: Hosted) -> None:
    """And the token is not."""
    hosted.host.client.headers["authorization"] = "Bearer secret"
    with pytest.raises(ReleaseError, match="401") as caught:
        hosted.stage(FIRST)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("hosted", ["vertex"], indirect=True)
def test_the_container_is_told_its_port_and_store(hosted: Hosted) -> None:
    """By the model's environment; routes are those that every service has."""
    hosted.stage(FIRST)
    (model,) = (r for name, r in hosted.stand_in.resources.items() if "/models/" in name)
    spec = model["containerSpec"]
    assert spec["imageUri"] == FIRST.image
    assert {one["name"]: one["value"] for one in spec["env"]} == {
        "PORT": "8080",
        "BENTOML_HOME": "/tmp/bentoml",
        "BENTOFLOW_ONLINE_STORE": "redis://features:6379",
    }


def test_a_service_answers_at_the_routes_that_a_host_names(container: tuple[str, Path]) -> None:
    """Vertex's own defaults among them; the answer is that of /invocations and /ping."""
    url, _ = container
    assert httpx.get(url + ENV["AIP_HEALTH_ROUTE"], timeout=30).status_code == 200
    body = {"instances": [{"user_id": 1, "recency": 10.0, "spend": 100.0, "visits": None}]}
    told = [httpx.post(url + at, json=body, timeout=30).json() for at in ("/invocations", ENV["AIP_PREDICT_ROUTE"])]
    first, second = (answer["predictions"][0]["probability"] for answer in told)
    assert first == second


def test_missing_settings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Role, region, project and login, and boto3 where it is not installed."""
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("PATH", "/nonexistent")
    role = SETTINGS.model_copy(update={"sagemaker_role": ""})
    login = SETTINGS.model_copy(update={"vertex_token": SecretStr("")})
    for place, chosen, named in (
        (sagemaker.PLACE, role, "BENTOFLOW_SAGEMAKER_ROLE"),
        (sagemaker.PLACE, SETTINGS, "region"),
        (vertex.PLACE, Settings(), "BENTOFLOW_VERTEX_PROJECT"),
        (vertex.PLACE, login, "gcloud"),
    ):
        with pytest.raises(ReleaseError, match=named):
            place.check(chosen, "churn", Plan())
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ReleaseError, match=r"pip install '\.\[sagemaker\]'"):
        sagemaker.PLACE.check(SETTINGS, "churn", Plan())
