"""The closed loop: the demo's path, judged by what it stored, then the tools' own commands in the same home.

The tests of this module run in order and share one home.
"""

import json
import random
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psutil
import pytest

from bentos.runtime import clock, journal
from bentos.runtime.rollouts import rollout
from flows import exporter, processes
from flows.stack import schedules, start_server, start_worker, wait_server
from flows.steps.monitoring import figures
from flows.stores import answers, locks, transaction
from tests import loop
from tests.browser import assert_page_ok
from tests.servers import free_port
from tests.test_readme import commands

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with loop.demo_home(tmp_path_factory.mktemp("demo")) as found:
        yield found


def test_the_history_tells_the_whole_loop(home: Path) -> None:
    """First release, drift, a retraining by event, its promotion, a refused drill, a rollback: in that order."""
    actions = [line["action"] for line in loop.lines(home)]
    expected = [
        "trained: PROMOTE",
        "promoted",
        "drift: benign",
        "trained: PROMOTE",
        "promoted",
        "trained: REJECT",
        "drift: data_bug",
        "feedback",
        "rolled back",
    ]
    rest = iter(actions)
    assert all(step in rest for step in expected), actions


def test_the_retraining_was_started_by_the_drift_event(home: Path) -> None:
    """Exactly one check asked for a training: benign drift that lasted; one training says that drift was its reason."""
    events = [line for line in loop.lines(home) if line["action"].startswith("drift: ") and line["event"]]
    assert [line["action"] for line in events] == ["drift: benign"]
    trained = [line for line in loop.lines(home, "trained: PROMOTE") if line["reason"] == "drift"]
    assert len(events) == 1
    assert len(trained) == 1


def test_every_month_is_benign_and_amounts_in_cents_are_broken_data(home: Path) -> None:
    """On real purchases inputs move and quality holds; the injected fault is named and alerts, and trains nothing."""
    checks = [line for line in loop.lines(home) if line["action"].startswith("drift: ")]
    months = [
        line for line in checks[:-1] if line["rows"] == loop.CUSTOMERS
    ]  # half a month after the rollout is too few
    assert [line["action"] for line in months] == ["drift: benign"] * 4
    assert all("quality did not fall: estimated ROC AUC" in line["reason"] for line in months)
    assert checks[-1]["action"] == "drift: data_bug"
    assert "100 times what they were" in checks[-1]["reason"]
    assert checks[-1]["alert"]
    assert [line["alert"] for line in checks[:-1]] == [None] * (len(checks) - 1)


def test_live_quality_is_what_the_acceptance_asks(home: Path) -> None:
    """Mature labels give a live ROC AUC with an interval for four months, 0.78 within or below each interval."""
    months = json.loads((home / "feedback" / "churn.json").read_text())["months"]
    assert [m["month"] for m in months] == ["1998-01", "1998-02", "1998-03", "1998-04"]
    for m in months:
        assert m["roc_auc"]["low"] < m["roc_auc"]["value"] < m["roc_auc"]["high"]
        assert m["roc_auc"]["high"] >= 0.78
    total = sum(m["labels"] for m in months)
    assert sum(m["roc_auc"]["value"] * m["labels"] for m in months) / total >= 0.78


def test_every_replayed_answer_is_in_the_journal(home: Path) -> None:
    """Five months of customers, half a month again after the rollout, and the one after the rollback."""
    found = list(journal.scan(answers.folder(home, "churn")))
    assert len(found) == 5 * loop.CUSTOMERS + loop.CUSTOMERS // 2 + 1
    assert len({r["request_id"] for r in found}) == len(found)


def test_the_refused_candidate_is_released_by_no_path(home: Path) -> None:
    """A REJECT is refused by the command, and the registry says why."""
    version = loop.lines(home, "trained: REJECT")[0]["version"]
    done = loop.run(home, "bentoflow", "release", "--version", version, check=False)
    assert done.returncode == 1
    assert "GateError" in done.stderr
    assert "REJECT" in done.stderr


def test_the_home_is_consistent_after_the_rollback(home: Path) -> None:
    """Alias, rollout file and history name the same release, and nothing is under way."""
    from flows.stores import registry

    with loop.inside(home):
        champion = registry.by_alias("churn", "champion")
    served = rollout.read(rollout.rollout_path(home, "churn"))
    last = loop.lines(home, "rolled back")[-1]
    assert champion is not None
    assert served is not None
    assert champion.tags["release"] == served.arms[0].release == last["release"]
    assert transaction.read(home, "churn") is None


@pytest.mark.browser
def test_the_page_opens_in_a_browser(home: Path) -> None:
    """The demo's page: no console error, every picture drawn, readable at 390 pixels."""
    assert_page_ok(home / "demo" / "index.html")


@pytest.mark.browser
def test_every_drift_report_that_the_page_links_opens_in_a_browser(home: Path) -> None:
    """Each link of the page leads to a report that a phone can show."""
    links = re.findall(r'href="(\.\./[^"]+\.html)"', (home / "demo" / "index.html").read_text())
    assert len(links) >= 5
    for link in dict.fromkeys(links):
        assert (home / "demo" / link).resolve().exists()
    assert_page_ok((home / "demo" / links[0]).resolve())


def test_the_exporter_has_every_figure_of_the_home(home: Path) -> None:
    """What Prometheus scrapes is what the loop's own records say: nothing is missing, the champion is the one."""
    found = exporter.state(home, "churn")
    assert {f.name for f in found} == figures.HELP.keys()
    champion = next(dict(f.labels) for f in found if f.name == "champion_info")
    served = rollout.read(rollout.rollout_path(home, "churn"))
    assert served is not None
    assert champion["release"] == served.arms[0].release


def test_any_answer_explains_itself(home: Path) -> None:
    """Random requests of both releases are scored again to the same number, with their whole origin."""
    from flows.explain import explain

    records = list(journal.scan(answers.folder(home, "churn")))
    with loop.inside(home):
        for record in random.Random(7).sample(records, 40):
            found = explain(record["request_id"], "churn")
            assert found["equal"]
            assert found["score_again"] == record["score"]
            assert found["snapshot"]
    assert len({r["release"] for r in records}) == 2


def test_a_version_is_reproduced_from_its_snapshot(home: Path) -> None:
    """Training again from snapshot, parameters and seed gives the same frame and the same scores."""
    done = loop.run(home, "bentoflow", "reproduce", "1")
    assert re.search(r"same_frame +True", done.stdout)
    assert re.search(r"equal +True", done.stdout)


def test_bentoml_builds_and_serves_as_documented(home: Path) -> None:
    """`bentoml build` makes a bento; `bentoml serve` in the repository answers for the champion."""
    assert "Successfully built Bento" in loop.run(home, "bentoml", "build").stdout
    port = free_port()
    with serving(home, "serve", port) as url:
        answer = httpx.post(f"{url}/predict", json={"user_id": 17}, timeout=20).json()
    assert answer["model_version"] == "1"
    assert 0 < answer["probability"] < 1


@contextmanager
def serving(home: Path, name: str, port: int) -> Iterator[str]:
    """`bentoml serve` on a port, stopped afterwards."""
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "bentoml", "serve", "--port", str(port), "--host", "127.0.0.1"]
    processes.start(home, name, command, url=url, env=loop.env(home), cwd=loop.ROOT)
    try:
        processes.wait(home, name, lambda: processes.answers(f"{url}/readyz"), seconds=120)
        yield url
    finally:
        processes.stop(home, name)


def test_feast_applies_as_documented(home: Path) -> None:
    """`feast -c feature_repo apply` registers the definitions without a change of the files."""
    done = loop.run(home, "feast", "-c", "feature_repo", "apply")
    assert "churn_purchase_behaviour" in done.stdout + done.stderr or "No changes" in done.stdout


def test_mlflow_ui_shows_the_runs(home: Path) -> None:
    """`mlflow ui`, without options but a port, serves the registry that the demo filled."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    processes.start(
        home,
        "ui",
        [sys.executable, "-m", "mlflow", "ui", "--port", str(port), "--workers", "1"],
        url=url,
        env=loop.env(home),
        cwd=loop.ROOT,
    )
    try:
        processes.wait(home, "ui", lambda: processes.answers(f"{url}/health"), seconds=120)
        found = httpx.get(f"{url}/api/2.0/mlflow/registered-models/get", params={"name": "churn"}, timeout=20).json()
    finally:
        processes.stop(home, "ui")
    assert "champion" in {a["alias"] for a in found["registered_model"]["aliases"]}


@pytest.fixture(scope="module")
def stack(home: Path) -> Iterator[dict[str, str]]:
    """`make up`, with the addresses that it printed; `make down` afterwards leaves nothing running."""
    printed = loop.shell(home, "make up")
    yield dict(re.findall(r"^(Prefect|MLflow|service) +(http\S+)", printed, flags=re.M))
    assert "stopped" in loop.shell(home, "make down")
    assert not [name for name in processes.names(home) if processes.running(home, name)]


def test_up_starts_everything_healthy_and_scheduled(home: Path, stack: dict[str, str]) -> None:
    """Prefect, MLflow and the service answer at the printed addresses, and cron schedules have made runs."""
    assert set(stack) == {"Prefect", "MLflow", "service"}
    assert httpx.get(f"{stack['service']}/readyz", timeout=10).status_code == 200
    assert httpx.get(f"{stack['MLflow']}/health", timeout=10).status_code == 200
    scheduled = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
    url = f"{stack['Prefect']}/api/flow_runs/count"
    assert eventually(lambda: httpx.post(url, json=scheduled, timeout=10).json() > 0, seconds=60)
    schedules(f"{stack['Prefect']}/api", active=False)  # the tests that follow must not depend on the hour


def test_every_command_of_the_readme_runs(home: Path, stack: dict[str, str]) -> None:
    """What the README shows, in its order, in the home that the demo left; `make test` has a test of its own."""
    shown = [c for c in commands() if not c.startswith(("make", "."))]
    assert [c.split()[0] for c in shown] == ["bentoflow"] * 4 + ["curl"]
    for line in shown:
        printed = loop.shell(home, line.replace("localhost:3000", stack["service"].removeprefix("http://")))
        assert printed.strip(), line
    assert '"probability"' in printed


@pytest.mark.parametrize(
    ("step", "outcome"),
    [
        ("intent", "reverted"),
        ("staged", "reverted"),
        ("smoked", "reverted"),
        ("walked", "reverted"),
        ("committed", "completed"),
        ("switched", "completed"),
    ],
)
def test_a_release_killed_after_any_step_is_settled_by_the_next_start(
    home: Path, stack: dict[str, str], step: str, outcome: str
) -> None:
    """Killed before the commit it reverts, killed after it completes; rollout, aliases and history agree."""
    from flows.stores import registry

    version = next(line["version"] for line in loop.lines(home, "promoted") if line["version"] != "1")
    with loop.inside(home):
        before = registry.aliases("churn")
    done = loop.run(
        home, "bentoflow", "release", "--version", version, "--reason", step, check=False, BENTOFLOW_KILL_AFTER=step
    )
    assert done.returncode == 137, done.stderr[-2000:]
    assert transaction.read(home, "churn") is not None
    with loop.inside(home):
        assert (transaction.recover(home, "churn") or "").startswith(outcome)
        assert transaction.read(home, "churn") is None
        after = registry.aliases("churn")
        served = rollout.read(rollout.rollout_path(home, "churn"))
        assert served is not None
        assert served.arms[0].release == registry.get("churn", after["champion"]).tags["release"]
        assert after == (before if outcome == "reverted" else {"champion": version, "previous": before["champion"]})
        if outcome == "completed":
            back = loop.run(home, "bentoflow", "rollback")
            assert "rolled back" in back.stdout
            assert registry.aliases("churn")["champion"] == "1"


def test_a_storm_of_drift_events_starts_one_training(home: Path, stack: dict[str, str]) -> None:
    """A hundred events within a minute, on a real server with a real worker: one run, one version."""
    api = f"{stack['Prefect']}/api"
    schedules(api, active=False)
    clock.write(home, "churn", datetime(1998, 10, 15, tzinfo=UTC))  # beyond the cooldown of the last training
    before, ran = [line for line in loop.lines(home) if line["action"].startswith("trained")], trainings(api)
    storm(home, api, events=100, until=lambda: trainings(api) > ran)
    assert trainings(api) == ran + 1
    after = [line for line in loop.lines(home) if line["action"].startswith("trained")]
    assert [line["reason"] for line in after[len(before) :]] == ["drift"]


def test_a_killed_worker_and_server_leave_no_lock_behind(home: Path, stack: dict[str, str]) -> None:
    """SIGKILL to both in the middle of a training: its lock is free at once, its place on the server as soon as the
    lease ends that nobody renews any more, five minutes at the most, and the next event trains."""
    api = f"{stack['Prefect']}/api"
    clock.write(home, "churn", datetime(1999, 2, 15, tzinfo=UTC))  # beyond the cooldown again
    begun = len(loop.lines(home, "training started"))
    emit(home, api, events=1, name="bentoflow.quality.degraded")  # the storm's automation takes no event for a minute
    assert eventually(lambda: len(loop.lines(home, "training started")) > begun, seconds=120)
    for name in ("worker", "prefect"):
        kill(home, name)
    with locks.held(home, "train-churn") as free:
        assert free
    with loop.inside(home) as chosen:
        start_server(chosen.model_copy(update={"prefect_port": int(api.split(":")[-1].removesuffix("/api"))}))
        assert wait_server(chosen) == api
        assert occupied(api) == 1
        (lease,) = (path.stem for path in (home / "prefect" / "concurrency_leases").glob("*-*.json"))
        sooner = httpx.post(
            f"{api}/v2/concurrency_limits/leases/{lease}/renew", json={"lease_duration": 60}, timeout=60
        )
        assert sooner.is_success, sooner.text  # instead of waiting for what is left of the five minutes
        assert eventually(lambda: occupied(api) == 0, seconds=150)
        start_worker(chosen, api)
    clock.write(home, "churn", datetime(1999, 2, 17, tzinfo=UTC))
    judged = len([line for line in loop.lines(home) if line["action"].startswith("trained")])
    emit(home, api, events=1)
    assert eventually(
        lambda: len([line for line in loop.lines(home) if line["action"].startswith("trained")]) == judged + 1,
        seconds=180,
    )


def kill(home: Path, name: str) -> None:
    """SIGKILL to one of the stack's processes and all of its descendants: none can tidy up."""
    process = processes.running(home, name)
    assert process is not None
    leader = psutil.Process(process.pid)
    family = [leader, *leader.children(recursive=True)]
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(family, timeout=20)


def occupied(api: str) -> int:
    """Places of the deployment `train/churn` that runs hold on the server."""
    deployment = httpx.get(f"{api}/deployments/name/train/churn", timeout=60).raise_for_status().json()
    return int(deployment["global_concurrency_limit"]["active_slots"])


def eventually(condition: Callable[[], bool], *, seconds: float) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.5)
    return False


def storm(home: Path, api: str, *, events: int, until: Callable[[], bool]) -> None:
    """Emit drift events within a minute, wait `until` a run started, then until the worker has nothing more to do."""
    emit(home, api, events=events)
    # the worker's runs only: a release that a test killed stays "running" on the server
    active = {"flow_runs": {"state": {"type": {"any_": ["PENDING", "RUNNING"]}}, "deployment_id": {"is_null_": False}}}
    assert eventually(until, seconds=180)
    assert eventually(lambda: not httpx.post(f"{api}/flow_runs/count", json=active, timeout=60).json(), seconds=240)
    time.sleep(5)  # a second run would have been started by now: the worker polls every two seconds


def emit(home: Path, api: str, *, events: int, name: str = "bentoflow.drift.detected") -> None:
    """Events that ask for a training, from a process that ends at once."""
    code = (
        "from prefect.events import emit_event\n"
        f"for i in range({events}):\n"
        f"    emit_event({name!r}, {{'prefect.resource.id': 'bentoflow.churn'}}, payload={{'i': i}})\n"
    )
    loop.run(home, "python", "-c", code, PREFECT_API_URL=api)


def trainings(api: str) -> int:
    """Runs of `train` that drift started and that got to run."""
    query = {
        "flows": {"name": {"any_": ["train"]}},
        "flow_runs": {"state": {"type": {"any_": ["RUNNING", "COMPLETED", "FAILED"]}}},
    }
    runs = httpx.post(f"{api}/flow_runs/filter", json=query, timeout=60).json()
    return len([r for r in runs if r["parameters"].get("reason") == "drift" and r["start_time"]])
