"""One machine, and one home with two versions of a model, for all container tests."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bentos.runtime.scoring import manifest
from flows.release import release
from flows.settings import Settings
from flows.stores import bentos, images, lineage, registry, tables, transaction
from flows.stores.engines import Engine
from tests import loop, servers
from tests.container.machine import Machine, machine, require
from tests.flows.conftest import at_home, feed, prefect_api, shared, use  # noqa: F401  # three of them are fixtures
from tests.infra import tools

AS_OF = datetime(1998, 1, 1, tzinfo=UTC)
ENGINE = Engine(builder="podman", runner="podman")
PLANTED = "opensesame-42"  # the password of a package index, which must get nowhere
INDEX = f"https://builder:{PLANTED}@packages.invalid/simple"


@pytest.fixture(scope="package")
def served() -> Iterator[Machine]:
    """The engine and the registry."""
    require()
    tools.layer()  # which cannot be fetched once the index that nobody answers is named
    with machine(Path(tempfile.mkdtemp(prefix="bentoflow-container-"))) as found:
        yield found


@pytest.fixture(scope="package")
def flows_image(served: Machine) -> str:
    """The image of the flows, built from this checkout as infra/images says; it is pushed nowhere."""
    name = "localhost/bentoflow-flows:tests"
    file = ["--file", str(loop.ROOT / "infra" / "images" / "flows.Containerfile"), "--tls-verify=false"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UV_EXTRA_INDEX_URL", INDEX)
        served.podman(
            "build", "--layers=false", *file, f"--build-arg=REVISION={lineage.commit()}", "--tag", name, str(loop.ROOT)
        )
    return name


@dataclass(frozen=True)
class Shipped:
    """A home whose two versions were released as images, one after the other; the second is champion."""

    home: Path
    machine: Machine
    redis: str
    first: dict[str, Any]
    second: dict[str, Any]
    killed: dict[str, Any]
    built_once: bool

    def somebody(self) -> int:
        """A customer whose features are known."""
        snapshot = manifest.load(bentos.model_folder(self.second["release"])).snapshot
        return int(tables.read_snapshot(self.home / "snapshots" / "churn", snapshot)["user_id"].iloc[0])


@pytest.fixture(scope="package")
def patch() -> Iterator[pytest.MonkeyPatch]:
    """Changes that last as long as the home does."""
    with pytest.MonkeyPatch.context() as found:
        yield found


@pytest.fixture(scope="package")
def trained(
    served: Machine,
    prefect_api: None,  # noqa: F811
    feed: dict[str, str],  # noqa: F811
    patch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Path, str]]:
    """Two versions that the gates promoted, of another seed each; features are in a Valkey. Home, and its URL."""
    from flows.prepare import prepare
    from flows.train import train

    folder = tmp_path_factory.mktemp("shipping")
    with servers.redis() as url, at_home(folder / "home") as home:
        patch.setenv("BENTOFLOW_ONLINE_STORE", url)
        patch.setenv("BENTOFLOW_REGISTRY", f"{served.host}/shop")
        patch.setenv("BENTOFLOW_REGISTRY_PLAIN_HTTP", "true")
        patch.setenv("BENTOFLOW_IMAGE_BACKEND", "podman")
        patch.setenv("UV_EXTRA_INDEX_URL", INDEX)
        use(patch)
        prepare("churn", AS_OF, feed)
        for seed in (1, 2):
            use(patch, max_search_rows=1_000 * seed, trials=seed)
            assert train("churn")["verdict"] == "PROMOTE"
        registry.tag("churn", "2", judged_against="1")  # as if the first had been champion when it was trained
        yield home, url


@pytest.fixture(scope="package")
def shipped(trained: tuple[Path, str], served: Machine) -> Shipped:
    """Both versions released to the registry, the second after a first attempt that was killed as it had pushed."""
    home, url = trained
    first = release("churn", "1", target="registry", reason="first")
    command = ["bentoflow", "release", "--version", "2", "--target", "registry"]
    done = loop.run(home, *command, check=False, BENTOFLOW_KILL_AFTER="image_pushed")
    killed = {
        "code": done.returncode,
        "pending": transaction.read(home, "churn"),
        "champion": registry.aliases("churn").get("champion"),
        "image": registry.get("churn", "2").tags.get("image"),
    }
    before = made(served)
    second = release("churn", "2", target="registry", reason="better")
    assert done.returncode == 137, done.stderr[-3000:]
    return Shipped(home, served, url, first, second, killed, made(served) == before)


@pytest.fixture(scope="package")
def pulled(shipped: Shipped) -> images.ImageRef:
    """The second release's image, after every local copy was removed, from the registry by its digest."""
    shipped.machine.podman("rmi", "--all", "--force")
    assert shipped.machine.podman("images", "--quiet") == ""
    image = images.parsed(shipped.second["image"])
    images.pull(Settings(), ENGINE, image, say=quiet)
    return image


def quiet(line: str) -> None:
    """Progress that nobody reads."""


def made(served: Machine) -> list[str]:
    """When each image that is here was made."""
    return sorted(served.podman("images", "--no-trunc", "--format", "{{.ID}} {{.CreatedAt}}").splitlines())
