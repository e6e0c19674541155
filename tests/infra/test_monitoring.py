"""Rules, dashboards and routes of the monitoring, run by a real Prometheus and Alertmanager beside the real service."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import yaml

from bentos.runtime.rollouts import rollout
from bentos.runtime.rollouts.rollout import Arm, Rollout
from flows.steps.monitoring import figures
from flows.stores import history
from tests.bentos.conftest import FRESH, fill_store, fit, make_release, save_release, serving, set_clock, wait_for
from tests.servers import free_port

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "infra" / "monitoring"
NAME = re.compile(r"bentoflow_[a-z_]+")


def tool(*names: str) -> str:
    """The first of the commands that is there; without any, a failure in CI and a skip on a laptop."""
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        missing = f"{names[0]} is not installed (Debian: apt-get install prometheus prometheus-alertmanager)"
        assert not os.environ.get("CI"), missing
        pytest.skip(missing)
    return found


def run(*command: str | Path, cwd: Path = MONITORING) -> str:
    """What a command printed; it must succeed."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def boards() -> ModuleType:
    """The dashboards' code, which is a script and no package's module."""
    spec = importlib.util.spec_from_file_location("dashboards", MONITORING / "dashboards.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["dashboards"] = module
    spec.loader.exec_module(module)
    return module


def rules(kind: str) -> list[dict[str, Any]]:
    """Every rule of a kind, `alert` or `record`."""
    files = [yaml.safe_load(path.read_text()) for path in sorted((MONITORING / "rules").glob("*.yml"))]
    return [rule for file in files for group in file.get("groups", []) for rule in group["rules"] if kind in rule]


def test_rules_pass_their_unit_tests() -> None:
    """Each alert fires on the series that it is for and on no other."""
    assert "SUCCESS" in run(tool("promtool"), "test", "rules", "tests.yml", cwd=MONITORING / "rules")


def test_every_alert_has_a_unit_test() -> None:
    """No alert is shipped untested."""
    tests = yaml.safe_load((MONITORING / "rules" / "tests.yml").read_text())["tests"]
    tried = [case for test in tests for case in test["alert_rule_test"]]
    assert {rule["alert"] for rule in rules("alert")} == {case["alertname"] for case in tried if case["exp_alerts"]}


def test_a_loosened_alert_fails_its_unit_test(tmp_path: Path) -> None:
    """The unit tests notice a limit that is ten times too large."""
    for path in (MONITORING / "rules").glob("*.yml"):
        shutil.copy(path, tmp_path)
    alerts = tmp_path / "alerts.yml"
    for limit, loose in (("> 0.1\n", "> 1.0\n"), ("> 0.01\n", "> 0.1\n"), ("> 60 * 86400", "> 600 * 86400")):
        text = (MONITORING / "rules" / "alerts.yml").read_text()
        assert limit in text
        alerts.write_text(text.replace(limit, loose))
        command = [tool("promtool"), "test", "rules", "tests.yml"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1, f"{limit} -> {loose}: {done.stdout}"


def test_configurations_are_valid() -> None:
    """Prometheus and Alertmanager read theirs."""
    run(tool("promtool"), "check", "config", "prometheus.yml")
    run(tool("amtool"), "check-config", "alertmanager.yml")


def test_dashboards_are_what_their_code_says() -> None:
    """The files that Grafana provisions were written by `dashboards.py` as it is now."""
    code = boards()
    written = {path.stem: path.read_text() for path in code.FOLDER.glob("*.json")}
    assert written == {board.name: code.as_json(board) + "\n" for board in code.BOARDS}
    for board in code.BOARDS:
        panels = json.loads(written[board.name])["panels"]
        places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels]
        assert len(set(places)) == len(places)


class Receiver(ThreadingHTTPServer):
    """A webhook that keeps the alerts that were posted to it, by name."""

    def __init__(self) -> None:
        self.seen: dict[str, dict[str, Any]] = {}
        super().__init__(("127.0.0.1", 0), Posted)


class Posted(BaseHTTPRequestHandler):
    """One notification."""

    server: Receiver

    def do_POST(self) -> None:
        content = json.loads(self.rfile.read(int(self.headers["content-length"])))
        for alert in content["alerts"]:
            self.server.seen[alert["labels"]["alertname"]] = {**alert, "receiver": content["receiver"]}
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def receiver() -> Iterator[Receiver]:
    """A running webhook."""
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def started(log: Path, *command: str | Path, ready: str, env: dict[str, str] | None = None) -> Iterator[None]:
    """A process that answers at `ready`, ended by its pid."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(part) for part in command], cwd=log.parent, stdout=out, stderr=out, env={**os.environ, **(env or {})}
        )

    def up() -> bool:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            return httpx.get(ready, timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_for(up, seconds=60, what=f"start of {command[0]}")
        yield
    finally:
        process.terminate()
        process.wait(timeout=20)


def loop_state(home: Path) -> None:
    """What flows leave: a champion, a month of labels, a check that found broken data, three rejected candidates."""
    now = datetime(2024, 6, 10, tzinfo=UTC)
    cause = {"version": "1", "release": "churn:v1", "reason": "manual"}
    history.append(home, "churn", "trained: PROMOTE", at=now - timedelta(days=9), **cause)
    history.append(home, "churn", "promoted", at=now - timedelta(days=9), **cause)
    for version in "234":
        history.append(home, "churn", "trained: REJECT", at=now - timedelta(days=2), version=version, reason="drift")
    history.append(home, "churn", "drift: data_bug", at=now - timedelta(hours=1), rows=900, reason="cents")
    level = {"value": 0.78, "low": 0.76, "high": 0.8}
    months = [{"month": "2024-05", "labels": 900, "roc_auc": level, "releases": ["churn:v1"]}]
    for name, content in (
        ("feedback/churn.json", {"months": months}),
        ("snapshots/churn/latest.json", {"snapshot": "s", "as_of": now.isoformat(), "complete": True}),
    ):
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))


@dataclass(frozen=True)
class Watched:
    """A service under load and the loop's exporter, scraped by a Prometheus that speaks to an Alertmanager."""

    prometheus: str
    service: str
    received: Receiver

    def query(self, text: str) -> list[dict[str, Any]]:
        """The samples that a query gives now."""
        answer = httpx.get(f"{self.prometheus}/api/v1/query", params={"query": text}, timeout=10).json()
        assert answer["status"] == "success", (text, answer)
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found


def watching(folder: Path, targets: dict[str, str], webhook: str) -> None:
    """The shipped configuration, with these targets, every second, and the webhook in the place of each receiver."""
    shutil.copytree(MONITORING, folder)
    for name, target in targets.items():
        (folder / "targets" / f"{name}.json").write_text(json.dumps([{"targets": [target]}]))
    config = yaml.safe_load((folder / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    routes = yaml.safe_load((folder / "alertmanager.yml").read_text())
    routes["route"]["group_wait"] = "1s"
    routes["receivers"] = [{"name": r["name"], "webhook_configs": [{"url": webhook}]} for r in routes["receivers"]]
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(routes))


@contextmanager
def answering(folder: Path) -> Iterator[str]:
    """A service with a champion, a canary, a shadow, a feature cache and a bucket; its address."""
    home, bentoml = folder / "home", folder / "bentoml"
    fill_store(home)
    set_clock(home)
    loop_state(home)
    tags = [
        save_release(bentoml, make_release(folder / f"v{n}", version=str(n), model=fit(seed=n)), f"churn:v{n}")
        for n in (1, 2, 3)
    ]
    arms = (Arm("champion", tags[0], 0.5), Arm("canary", tags[1], 0.5), Arm("shadow", tags[2], 0.0))
    rollout.write(rollout.rollout_path(home, "churn"), Rollout(arms, salt="s"))
    bucket = (folder / "bucket").as_uri()
    settings = {"BENTOFLOW_FEATURE_CACHE_S": "60", "BENTOFLOW_BUCKET": bucket}
    with serving(home, bentoml, log=folder / "log", env=settings) as server:
        yield server.url


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """All of it, running."""
    prometheus, alertmanager = tool("prometheus"), tool("alertmanager", "prometheus-alertmanager")
    folder = tmp_path_factory.mktemp("watched")
    metrics, alerts, exporter = (f"127.0.0.1:{free_port()}" for _ in range(3))
    shipped = folder / "monitoring"
    with ExitStack() as stack:
        service = stack.enter_context(answering(folder))
        received = stack.enter_context(receiver())
        targets = {"service": service.removeprefix("http://"), "loop": exporter, "alertmanager": alerts}
        watching(shipped, targets, f"http://127.0.0.1:{received.server_address[1]}")
        port = {"BENTOFLOW_HOME": str(folder / "home"), "BENTOFLOW_EXPORTER_PORT": exporter.rpartition(":")[2]}
        bentoflow = Path(sys.executable).with_name("bentoflow")
        wanted = (
            (folder / "exporter.log", [bentoflow, "exporter"], f"http://{exporter}/metrics"),
            (
                shipped / "alertmanager.log",
                [
                    alertmanager,
                    "--config.file=alertmanager.yml",
                    "--storage.path=kept",
                    "--cluster.listen-address=",
                    f"--web.listen-address={alerts}",
                ],
                f"http://{alerts}/-/ready",
            ),
            (
                shipped / "prometheus.log",
                [
                    prometheus,
                    "--config.file=prometheus.yml",
                    "--storage.tsdb.path=series",
                    f"--web.listen-address={metrics}",
                ],
                f"http://{metrics}/-/ready",
            ),
        )
        for log, command, ready in wanted:
            stack.enter_context(started(log, *command, ready=ready, env=port))
        yield Watched(f"http://{metrics}", service, received)


@pytest.mark.integration
@pytest.mark.timeout(300)
def test_every_query_of_every_dashboard_returns_data(watched: Watched) -> None:
    """Under load, with a canary, a shadow and bad rows, no panel stays empty; nor does a recorded rule."""
    asked = [query for board in boards().BOARDS for query in boards().queries(board)]
    assert len(asked) > 25
    recorded = [rule["record"] for rule in rules("record") if "failures" not in rule["record"]]  # none failed
    empty: set[str] = {*asked, *recorded}

    def answered() -> bool:
        rows = [{"user_id": entity} for entity in range(FRESH, 60)]
        assert httpx.post(f"{watched.service}/predict", json=rows, timeout=30).status_code == 200
        assert httpx.post(f"{watched.service}/predict", json={"user_id": "x"}, timeout=30).status_code == 400
        empty.difference_update([query for query in empty if watched.query(query)])
        return not empty

    try:
        wait_for(answered, seconds=90)
    except AssertionError:
        pytest.fail(f"no data: {sorted(empty)}")


@pytest.mark.integration
@pytest.mark.timeout(300)
def test_an_alert_reaches_its_receiver(watched: Watched) -> None:
    """Broken data and an open breaker are sent to who is paged, with a sentence to act on; a quiet rule is not."""
    seen = watched.received.seen
    wait_for(lambda: {"BentoflowDataBroken", "BentoflowBreakerOpen"} <= set(seen), seconds=90, what="the page")
    alert = seen["BentoflowDataBroken"]
    assert {"use_case": "churn", "severity": "page"}.items() <= alert["labels"].items()
    assert alert["annotations"]["summary"] == "churn: broken data"
    assert "automatic trainings are stopped" in alert["annotations"]["description"]
    assert "BentoflowServiceDown" not in seen


@pytest.mark.integration
def test_rules_ask_for_what_is_exported(watched: Watched) -> None:
    """No rule waits for a metric that nobody exports."""
    names = httpx.get(f"{watched.prometheus}/api/v1/label/__name__/values", timeout=10).json()["data"]
    asked = {name for rule in (*rules("alert"), *rules("record")) for name in NAME.findall(str(rule["expr"]))}
    assert asked <= set(names)
    assert {f"bentoflow_{name}" for name in figures.HELP} <= {n.removesuffix("_total") for n in names}
