"""A release to a cluster changes it together with everything else, or not at all; a rollback goes back there too."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.errors import ClusterError, ReleaseError
from flows.release import release, settle
from flows.rollback import rollback
from flows.stores import history, registry, transaction
from tests import servers
from tests.flows.targets import cluster
from tests.flows.test_release import another, image_of, state, verified  # noqa: F401  # one of them is a fixture
from tests.infra import rendered

pytestmark = pytest.mark.integration


@pytest.fixture
def running(
    released: Path,
    verified: list[str],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[cluster.Cluster]:
    """An empty cluster, and a home whose champion was released on this machine."""
    monkeypatch.setenv("BENTOFLOW_KUBERNETES_OVERLAY", str(rendered.KUBERNETES / "overlays" / "staging"))
    with servers.http(lambda path, headers: (200, "")) as url:
        port = int(url.rpartition(":")[2])
        with cluster.running(cluster.Cluster(lambda image: port), tmp_path, monkeypatch) as found:
            yield found


def test_cluster_and_champion_move_together(released: Path, running: cluster.Cluster) -> None:
    """A champion is brought there, a better version takes its place, a broken one reverts, a rollback goes back."""
    first = release("churn", "1", target="kubernetes")
    assert (first["action"], running.image("churn-service")) == ("imaged", first["image"])
    assert release("churn", "1", target="kubernetes")["action"] == "unchanged"
    second = release("churn", another().number, target="kubernetes")
    assert (second["target"], running.image("churn-service")) == ("kubernetes", second["image"])
    before, third = state(released), another(judged_against="2")
    running.broken.add(image_of(f"churn:v{third.number}-{second['release'][-8:]}"))
    with pytest.raises(ClusterError, match="exceeded its progress deadline"):
        release("churn", third.number, target="kubernetes")
    assert (state(released), running.image("churn-service")) == (before, second["image"])
    (container,) = running.objects["deployments", "churn-service"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == second["image"]
    assert history.read(released, "churn")[-1]["action"] == "reverted"
    back = rollback("churn")
    assert (back["target"], running.image("churn-service")) == ("kubernetes", first["image"])
    assert registry.aliases("churn")["champion"] == "1"


def test_what_was_killed_on_its_way_is_taken_back(
    released: Path, running: cluster.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next start restores the cluster, and goes on trying while it cannot be reached."""
    release("churn", "1", target="kubernetes")
    before, image = state(released), running.image("churn-service")

    def killed(home: Path, pending: transaction.Transaction) -> None:
        raise SystemExit(137)

    version = another().number
    with monkeypatch.context() as patch:
        patch.setattr(transaction, "commit", killed)
        with pytest.raises(SystemExit):
            release("churn", version, target="kubernetes")
    assert running.image("churn-service") != image
    with monkeypatch.context() as patch:
        patch.setenv("KUBECONFIG", str(released / "none"))
        with pytest.raises(ReleaseError, match="the next `bentoflow release` tries again"):
            settle(released, "churn")
        assert state(released)["pending"] is not None
    assert (settle(released, "churn") or "").startswith("reverted")
    assert (state(released), running.image("churn-service")) == (before, image)
