"""The whole composed stack as containers: what compose.yaml declares runs, is healthy, and closes the loop.

Flows run as Prefect deployments in the stack's worker, then in a worker on the host, which has the engine. The public
images are stand-ins, without Grafana; see standins.py. The tests run in order and share one stack.
"""

import json
import re
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import mlflow
import pytest

from flows.stores import composition, containers
from tests import loop
from tests.bentos.conftest import wait_for
from tests.conftest import Tell
from tests.container import standins, whole
from tests.container.conftest import ENGINE
from tests.container.machine import Machine, require
from tests.container.whole import Whole
from tests.infra.gateway import init

pytestmark = [pytest.mark.stack, pytest.mark.integration, pytest.mark.timeout(900)]

REJECTED = """
from datetime import UTC, datetime
from flows.settings import settings
from flows.stores import history
for number in ("91", "92", "93"):
    history.append(settings().home, "churn", "trained: REJECT", at=datetime.now(UTC), version=number, reason="drift")
"""


@pytest.fixture(scope="module")
def stack(
    served: Machine, flows_image: str, feed: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Whole]:
    """All containers but Grafana and a release, healthy, and a small file of events."""
    require("podman-compose", *standins.TOOLS)
    with whole.running(tmp_path_factory.mktemp("whole"), served, flows_image) as found:
        whole.give(found, feed["url"])
        yield found


def deployed(env: dict[str, str], stack: Whole, name: str, **parameters: Any) -> None:
    """Run a deployment as README.md of the stack says, to its end; it must complete."""
    given = [f"--param={key}={json.dumps(value)}" for key, value in parameters.items()]
    command = ["prefect", "deployment", "run", name, "--watch", *given]
    done = loop.run(stack.home, *command, check=False, **env)
    if done.returncode:
        said = stack.machine.podman("logs", "--tail=60", stack.container("worker").name, check=False)
        raise AssertionError(f"{name}: {done.stdout[-2000:]}{done.stderr[-2000:]}\n{said}")


def query(stack: Whole, text: str) -> dict[str, str]:
    """What Prometheus' API gives for a query: instance to value."""
    url = f"http://127.0.0.1:9090/api/v1/query?query={quote(text)}"
    answer = json.loads(stack.inside("prometheus", "wget", "-q", "-O", "-", url))
    assert answer["status"] == "success", answer
    return {sample["metric"]["instance"]: sample["value"][1] for sample in answer["data"]["result"]}


def client(stack: Whole) -> mlflow.MlflowClient:
    """A client of the stack's MLflow on the host."""
    return mlflow.MlflowClient(stack.env["MLFLOW_TRACKING_URI"])


def test_init_keeps_the_digests_of_the_public_tags(stack: Whole) -> None:
    """Each image that the stack runs is known by repository and digest, looked up in the registry."""
    for name, tag in init().IMAGES.items():
        if name not in standins.WITHOUT:
            repository = tag.rpartition(":")[0]
            assert re.fullmatch(rf"{repository}@sha256:[0-9a-f]{{64}}", stack.stack.variables[name])


def test_every_container_runs_with_nothing_that_it_could_do_without(stack: Whole) -> None:
    """Uid 10001, no capability and none to be gained, a read-only root, and the declared limits, in each of them."""
    for name in whole.services():
        containers.check_hardened(ENGINE, stack.container(name))
        status = stack.inside(name, "cat", "/proc/1/status")
        assert "CapBnd:\t0000000000000000" in status
        assert "Seccomp:\t2" in status
        (found,) = json.loads(stack.machine.podman("inspect", stack.container(name).name))
        assert found["HostConfig"]["ReadonlyRootfs"]
        assert found["HostConfig"]["Memory"] > 0
        assert found["HostConfig"]["PidsLimit"] in (256, 1024)


def test_a_refusal_is_not_taken_for_health(stack: Whole) -> None:
    """The store's declared check passes with its password, and fails where Valkey answers that it wants one."""
    (_, *check) = whole.services()["valkey"]["healthcheck"]["test"]
    name = stack.container("valkey").name
    assert stack.machine.podman("exec", name, *check) == "PONG\n"
    with pytest.raises(AssertionError, match="NOAUTH"):
        stack.machine.podman("exec", "--env=REDISCLI_AUTH=", name, *check)


def test_flows_run_as_deployments_in_the_worker(stack: Whole, tmp_path: Path) -> None:
    """Prepare and train: features in Valkey, runs in PostgreSQL, a version and its files in MLflow."""
    source = {"url": "/var/lib/bentoflow/purchases.csv", "format": "csv"}
    deployed(stack.env, stack, "prepare/churn", as_of="1998-01-01T00:00:00Z", source=source)
    deployed(stack.env, stack, "train/churn", release_if_better=False)
    assert int(stack.inside("valkey", "valkey-cli", "dbsize")) >= 1_000
    ask = ["psql", "--username=postgres", "--dbname=prefect", "--tuples-only", "--no-align"]
    runs = stack.inside("postgres", *ask, "--command=select state_type from flow_run where deployment_id is not null")
    assert runs.split().count("COMPLETED") == 2
    version = client(stack).get_model_version("churn", "1")
    assert version.tags["verdict"] == "PROMOTE", version.tags["reasons"]
    assert Path(client(stack).download_artifacts(version.run_id, "release/manifest.json", str(tmp_path))).exists()
    assert list((stack.stack.data / "mlflow" / "artifacts").rglob("release/manifest.json"))


def test_prometheus_has_what_the_flows_left_behind(stack: Whole) -> None:
    """The exporter is scraped by the declared targets, and its figures answer a query."""
    trained = 'bentoflow_candidates_total{verdict="PROMOTE"}'
    wait_for(lambda: query(stack, trained) == {"exporter:9105": "1"}, seconds=60, what="a scrape after the training")
    assert query(stack, "up") == {"exporter:9105": "1"}
    assert query(stack, "bentoflow_prepared_seconds")


def test_a_worker_on_the_host_closes_the_loop(stack: Whole, tell: Tell) -> None:
    """It prepares the next month and releases: the gateway's service answers with that release and those features."""
    values = stack.stack.variables
    more = {
        "BENTOFLOW_TARGET": "compose",
        "BENTOFLOW_COMPOSE": str(stack.stack.folder),
        "BENTOFLOW_REGISTRY": f"{stack.machine.host}/shop",
        "BENTOFLOW_REGISTRY_PLAIN_HTTP": "true",
        "BENTOFLOW_ONLINE_STORE": f"redis://:{values['VALKEY_PASSWORD']}@{values['SERVING_NETWORK']}.249:6379",
    }
    begun = time.monotonic()
    with whole.worker_on_host(stack, **more) as env:
        source = {"url": str(stack.home / "purchases.csv"), "format": "csv"}
        deployed(env, stack, "prepare/churn", as_of="1998-02-01T00:00:00Z", source=source)
        deployed(env, stack, "release/churn")
    tell(f"prepared and released from the host in {time.monotonic() - begun:.0f} s")
    champion = client(stack).get_model_version_by_alias("churn", "champion")
    assert composition.read(stack.stack.folder / ".env")["SERVICE_IMAGE"] == champion.tags["image"]
    assert stack.healthy("service")
    containers.check_hardened(ENGINE, stack.container("service"))
    answer = asked(stack, {"user_id": somebody(stack)})
    assert answer.status_code == 200, answer.text
    assert answer.json()["release"] == champion.tags["release"]
    assert answer.json()["event_time"].startswith("1998-02-01")


def asked(stack: Whole, row: dict[str, Any]) -> httpx.Response:
    """The gateway's answer to the client that init.py gave a key."""
    gateway = stack.stack.data / "gateway"
    (key,) = re.findall(r'"(Bearer [0-9a-f]{64})"', (gateway / "keys.conf").read_text())
    trust = ssl.create_default_context(cafile=str(gateway / "tls" / "tls.crt"))
    url = f"https://{stack.stack.variables['HTTPS_PORT']}/predict"
    return httpx.post(url, json=row, headers={"authorization": key}, verify=trust, timeout=30)


def somebody(stack: Whole) -> int:
    """A customer of the file of events."""
    lines = (stack.home / "purchases.csv").read_text().splitlines()
    return int(lines[1].split(",")[lines[0].split(",").index("user_id")])


def test_an_alert_reaches_alertmanager(stack: Whole) -> None:
    """Three rejected candidates in a row are told to who is paged, and the release that answers is scraped."""
    stack.inside("exporter", "python", "-c", REJECTED)

    def alerts() -> dict[str, list[str]]:
        url = "http://127.0.0.1:9093/api/v2/alerts"
        found = json.loads(stack.inside("alertmanager", "wget", "-q", "-O", "-", url))
        return {a["labels"]["alertname"]: sorted(r["name"] for r in a["receivers"]) for a in found}

    wait_for(lambda: "BentoflowBreakerOpen" in alerts(), seconds=90, what="the alert")
    assert alerts()["BentoflowBreakerOpen"] == ["pagerduty", "slack"]
    wait_for(lambda: query(stack, "up").get("service:3000") == "1", seconds=60, what="a scrape of the service")
