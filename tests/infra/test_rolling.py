"""What a pod lives through, on real servers: a ConfigMap that is replaced under it, and an update that replaces it."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from bentos.runtime import journal
from bentos.runtime.rollouts.rollout import Arm, Rollout
from bentos.runtime.rollouts.rollout import write as write_rollout
from tests.bentos.conftest import (
    GIVEN,
    Server,
    answers,
    fill_store,
    fit,
    make_release,
    save_release,
    serving,
    set_clock,
    wait_for,
)
from tests.bentos.test_swap import Load

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

V1, V2 = "churn:v1", "churn:v2"
BODY = json.dumps([{"user_id": i, "features": GIVEN} for i in range(20)])
_turns = count(1)


def mount(folder: Path, files: dict[str, str]) -> None:
    """Put files into a mounted ConfigMap as kubelet's AtomicWriter does: one link is renamed, and all change at once.

    Each file is a link into `..data`, itself a link to a folder of this turn; the folder of the turn before goes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    turn = folder / f"..2026_11_27_{next(_turns)}"
    turn.mkdir()
    for name, text in files.items():
        (turn / name).write_text(text)
    data, fresh = folder / "..data", folder / "..data_tmp"
    before = data.resolve() if data.is_symlink() else None
    fresh.symlink_to(turn.name)
    fresh.rename(data)
    for name in files:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(Path("..data") / name)
    for link in folder.iterdir():
        if not link.name.startswith("..") and link.name not in files:
            link.unlink()
    if before is not None:
        for old in before.iterdir():
            old.unlink()
        before.rmdir()


def rollout(canary: float = 0.0, champion: str = V1) -> dict[str, str]:
    """The rollout file of a ConfigMap."""
    arms = [{"name": "champion", "release": champion, "weight": 1.0 - canary}]
    arms += [{"name": "canary", "release": V2, "weight": canary}] if canary else []
    return {"churn.json": json.dumps({"arms": arms, "salt": "s"})}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BentoML home with two releases, and a prepared feature store beside it."""
    folder = tmp_path_factory.mktemp("pods")
    save_release(folder / "bentoml", make_release(folder / "a", version="1"), V1)
    save_release(folder / "bentoml", make_release(folder / "b", version="2", model=fit(seed=4)), V2)
    fill_store(folder / "home")
    return folder


def pod_home(models: Path, folder: Path) -> Path:
    """A home as a pod has it: the feature store's and the journal's volumes are shared, the rest is its own."""
    folder.mkdir()
    (models / "home" / "journal").mkdir(exist_ok=True)
    for shared in ("feast", "journal"):
        (folder / shared).symlink_to(models / "home" / shared)
    set_clock(folder)
    return folder


def following(server: Server) -> dict[str, tuple[str, float]]:
    """Version and share of each arm that answers, and none while a problem is told."""
    told = httpx.get(f"{server.url}/health", timeout=30).json()
    return {name: (arm["version"], round(arm["weight"], 6)) for name, arm in told["arms"].items()}


def test_a_mounted_configmap_is_followed_under_load(models: Path, tmp_path: Path) -> None:
    """Empty, filled, changed, broken, emptied again: no request fails, and each sound state is followed."""
    home = pod_home(models, tmp_path / "pod")
    mounted = home / "rollout"
    mount(mounted, {})
    env = {"BENTOFLOW_RELEASE": V1}  # as BentoML writes it into the image
    with serving(home, models / "bentoml", log=tmp_path / "log", env=env) as server, Load(server.url) as load:
        wait_for(lambda: answers(server.url, "/readyz"), what="readiness")
        assert following(server) == {"champion": ("1", 1.0)}, "the image's release, without a file"
        for canary, champion, expected in (
            (0.1, V1, {"champion": ("1", 0.9), "canary": ("2", 0.1)}),
            (0.5, V1, {"champion": ("1", 0.5), "canary": ("2", 0.5)}),
            (0.0, V2, {"champion": ("2", 1.0)}),
        ):
            mount(mounted, rollout(canary, champion))
            wait_for(lambda wanted=expected: following(server) == wanted, what=f"{expected}")  # type: ignore[misc]
            assert load.since(time.monotonic()) == {(name, version) for name, (version, _) in expected.items()}
        mount(mounted, {"churn.json": '{"arms": ['})
        wait_for(
            lambda: "churn.json" in (httpx.get(f"{server.url}/readyz").json()["problem"] or ""), what="the problem"
        )
        assert load.since(time.monotonic()) == {("champion", "2")}, "the last sound one goes on"
        mount(mounted, {})
        wait_for(lambda: following(server) == {"champion": ("1", 1.0)}, what="the image's release again")
        assert httpx.get(f"{server.url}/readyz").json()["problem"] is None
    assert load.failures == []
    written = {r["request_id"]: r["arm"] for r in journal.scan(models / "home" / "journal" / "churn")}
    assert all(written[name] == arm for _, arm, _, name in load.answers)


class Callers:
    """Clients with a connection each, as a gateway keeps them: opened to an address that they believe in.

    Half of them look the addresses up anew each time, half only when told, as one that hears late of a pod's end.
    """

    def __init__(self, addresses: list[str], clients: int = 8) -> None:
        self.addresses, self.late = list(addresses), list(addresses)
        self.ids: list[tuple[str, str]] = []
        self.opened: list[str] = []
        self.failures: list[str] = []
        self.over = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(k,)) for k in range(clients)]

    def hear(self) -> None:
        """Those who hear late have heard."""
        self.late = list(self.addresses)

    def answered(self, more: int) -> None:
        """Wait for so many more answers."""
        wanted = len(self.ids) + more
        wait_for(lambda: len(self.ids) >= wanted or bool(self.failures), what=f"{more} answers")

    def _call(self, k: int) -> None:
        for turn in count(k):
            if self.over.is_set():
                return
            known = self.late if k % 2 else self.addresses
            address = known[turn % len(known)]
            connection = HTTPConnection(address.removeprefix("http://"), timeout=30)
            self.opened.append(address)
            try:
                self._keep(connection)
            except (OSError, HTTPException) as error:
                self.failures.append(f"{address}: {error!r}")
                self.over.wait(0.05)
            finally:
                connection.close()

    def _keep(self, connection: HTTPConnection) -> None:
        """Ten requests on one connection, or fewer if the server says that it closes it."""
        for _ in range(10):
            connection.request("POST", "/predict", BODY, {"content-type": "application/json"})
            reply = connection.getresponse()
            rows: Any = json.loads(reply.read())
            if reply.status != 200:
                self.failures.append(f"{reply.status}: {rows}")
                return
            self.ids += [(row["request_id"], row["model_version"]) for row in rows]
            if reply.will_close or self.over.is_set():
                return

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Call until the block's end."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self.over.set()
            for thread in self._threads:
                thread.join()


def test_an_update_loses_no_request(models: Path, tmp_path: Path) -> None:
    """The new pod is ready before the old is told to end, and that hears of it after all who call: nothing fails.

    Without the pause of preStop those who hear late find nobody, which shows that this test can fail.
    """
    homes = [pod_home(models, tmp_path / name) for name in ("old", "new")]
    for home, tag in zip(homes, (V1, V2), strict=True):
        write_rollout(home / "rollout" / "churn.json", Rollout((Arm("champion", tag, 1.0),)))
    store = tmp_path / "bentoml-new"  # BentoML empties the metrics of every server that shares its home
    store.mkdir()
    (store / "models").symlink_to(models / "bentoml" / "models")
    with serving(homes[0], models / "bentoml", log=tmp_path / "old.log") as old:
        wait_for(lambda: httpx.get(f"{old.url}/readyz").status_code == 200, what="readiness")
        callers = Callers([old.url])
        with serving(homes[1], store, log=tmp_path / "new.log") as new, callers.calling():
            callers.answered(200)
            wait_for(lambda: httpx.get(f"{new.url}/readyz").status_code == 200, what="readiness")
            callers.addresses = [old.url, new.url]
            callers.hear()
            callers.answered(400)
            callers.addresses = [new.url]  # the old pod ends: preStop waits, and some have not heard of it
            callers.answered(400)
            callers.hear()
            heard = len(callers.opened)
            wait_for(lambda: len(callers.opened) > heard + 16, what="connections of all who have heard")
            old.process.terminate()
            assert old.process.wait(30) == 0
            callers.answered(400)
            assert callers.failures == []
            assert {version for _, version in callers.ids} == {"1", "2"}
            assert callers.opened[-1] == new.url
            new.process.terminate()  # at once, while all still call
            assert new.process.wait(30) == 0
            wait_for(lambda: any("refused" in told for told in callers.failures), what="a refused connection")
    written = {record["request_id"] for record in journal.scan(models / "home" / "journal" / "churn")}
    assert {name for name, _ in callers.ids} <= written, "on the volume that both pods wrote to"
