"""demo: the closed loop on real purchases, from an empty home to a page that shows every step.

Months of 1998 are replayed one after the other: the clock of the use case moves with them. Another use case has a
shorter demo, on simulated payments, in `flows/demos/episodes.py`.
"""

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd

from flows import environment, processes, stack
from flows.demos.story import Story, drill
from flows.errors import BentoflowError
from flows.settings import Settings, settings
from flows.stores import history, locks

USE_CASE = "churn"
START = datetime(1998, 1, 1, tzinfo=UTC)
MONTHS = (START, *(datetime(1998, m, 1, tzinfo=UTC) for m in (2, 3, 4)))
INJECTED = datetime(1998, 5, 1, tzinfo=UTC)
END = datetime(1998, 7, 1, tzinfo=UTC)
WORK = ("snapshots", "features", "history", "journal", "mlflow/artifacts", "releases", "scores", "feedback")
STATE = (
    *("snapshots", "quarantine", "features", "feast", "mlflow", "bentoml", "prefect", "journal", "profiles", "reports"),
    *("history", "alerts", "rollout", "clock", "releases", "feedback", "scores", "run", "logs", "demo"),
)
MARKER = "demo.json"


def foreign(home: Path) -> bool:
    """Whether the home holds work that a demo did not make, or that was added after the demo ended."""
    kept = [name for name in WORK if any((home / name).rglob("*"))]
    if not kept:
        return False
    try:
        found = json.loads((home / MARKER).read_text())
    except (OSError, ValueError):
        return True
    kept_history = len(history.read(home, found.get("use_case", USE_CASE)))
    return bool(found.get("state") == "done" and found.get("history") != kept_history)


def fresh(chosen: Settings, *, reset: bool, use_case: str = USE_CASE) -> None:
    """Empty the home of an earlier demo; work that is not a demo's is only removed when asked."""
    home = chosen.home
    if not reset and foreign(home):
        raise BentoflowError(
            f"{home} holds work that no demo made. Run the demo elsewhere, BENTOFLOW_HOME=/some/folder bentoflow demo, "
            "or remove that work and start over with bentoflow demo --reset"
        )
    for name in (stack.WORKER, *processes.names(home)):
        processes.stop(home, name)
    for path in (p for name in STATE for p in (home / name).glob("*")):
        if path.name == "profiles.toml":  # a Prefect Cloud login
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    home.mkdir(parents=True, exist_ok=True)
    mark(home, "running", use_case)
    environment.apply(home)


def mark(home: Path, state: str, use_case: str = USE_CASE) -> None:
    """Remember that the home is a demo's, and how much history it had when the demo ended."""
    found = {"state": state, "history": len(history.read(home, use_case)), "use_case": use_case}
    (home / MARKER).write_text(json.dumps(found))


def demo(
    chosen: Settings, *, customers: int, reset: bool, say: Callable[[str], None], use_case: str = USE_CASE
) -> Path:
    """Run a use case's loop; the page's path. Everything that it started is stopped, also on an error or Ctrl-C."""
    loop = _player(use_case)
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("BENTOFLOW_PREFECT_PORT", "0")  # any free one
    os.environ.setdefault("BENTOFLOW_SERVICE_PORT", "0")
    os.environ.pop("BENTOFLOW_BUCKET", None)  # replayed answers are no part of a journal that others read
    chosen = Settings()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped then too
    with locks.held(chosen.home, "demo") as alone:
        if not alone:
            raise BentoflowError(
                f"another demo is running in {chosen.home}; wait for it, or use another BENTOFLOW_HOME"
            )
        fresh(chosen, reset=reset, use_case=use_case)
        story = Story(say=say, home=chosen.home, use_case=use_case)
        try:
            with _deployed(chosen, story) as api:
                return loop(settings(), story, customers, api)
        finally:
            for name in (stack.WORKER, *processes.names(chosen.home)):
                processes.stop(chosen.home, name)


class _deployed:
    """A Prefect server for the demo, and in the background its deployments and worker."""

    def __init__(self, chosen: Settings, story: Story) -> None:
        self.chosen, self.story = chosen, story

    def __enter__(self) -> "Api":
        stack.start_server(self.chosen)
        self.story.tell("start", "a Prefect server of its own; the first start makes its database")
        _prepared(self.chosen, self.story.use_case)
        url = stack.wait_server(self.chosen)
        os.environ["PREFECT_API_URL"] = url
        self.pool = ThreadPoolExecutor(1)
        return Api(url, self.pool.submit(self._deploy, url))

    def _deploy(self, url: str) -> None:
        stack.deploy(self.chosen, url)
        stack.schedules(url, active=False)  # the months are replayed here; the wall clock must not join in
        stack.start_worker(self.chosen, url)

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(wait=True)
        os.environ.pop("PREFECT_API_URL", None)


def _player(use_case: str) -> "Callable[[Settings, Story, int, Api], Path]":
    """What plays a use case's demo; BentoflowError if it has none."""
    from flows.demos import episodes

    players = {USE_CASE: _loop, episodes.USE_CASE: episodes.loop}
    if use_case not in players:
        raise BentoflowError(f"no demo of {use_case!r}; there are those of {', '.join(players)}")
    return players[use_case]


def _prepared(chosen: Settings, use_case: str) -> None:
    """What takes seconds and needs no Prefect server, while that starts: imports, and MLflow's database."""
    from bentos.runtime.features import online
    from flows.demos import chapters  # noqa: F401
    from flows.stores import registry

    online.warm()
    registry.connect(use_case, chosen.home)


class Api:
    """The little of Prefect's API that the demo reads: the runs that an automation started."""

    def __init__(self, url: str, deployed: Any) -> None:
        self.url, self.deployed = url, deployed

    def automated_train(self, *, seconds: float = 150) -> dict[str, Any]:
        """Wait for the run that the drift automation starts, until it has ended."""
        deadline, found = time.monotonic() + seconds, {}
        query = {
            "flows": {"name": {"any_": ["train"]}},
            "sort": "START_TIME_DESC",
            "flow_runs": {"deployment_id": {"is_null_": False}},
        }
        while time.monotonic() < deadline:
            runs = httpx.post(f"{self.url}/flow_runs/filter", json=query, timeout=10).json()
            found = next((r for r in runs if r["parameters"].get("reason") == "drift"), {})
            if found.get("state_type") in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}:
                return found
            time.sleep(0.5)
        raise BentoflowError(
            f"the drift event started no training within {seconds:.0f} s (last seen: "
            f"{found.get('state_name', 'no run')}); see {stack.WORKER}.log and {stack.SERVER}.log"
        )


def replay(url: str, customers: list[int], batch: int = 100) -> list[dict[str, Any]]:
    """Ask the service about every customer over HTTP, four requests at a time."""
    with httpx.Client(base_url=url, timeout=30) as client, ThreadPoolExecutor(4) as pool:

        def ask(chunk: list[int]) -> list[dict[str, Any]]:
            response = client.post("/predict", json=[{"user_id": int(c)} for c in chunk])
            if response.status_code != 200:
                raise BentoflowError(f"the service answered {response.status_code}: {response.text[:300]}")
            found: list[dict[str, Any]] = response.json()
            return found

        chunks = [customers[i : i + batch] for i in range(0, len(customers), batch)]
        return [answer for part in pool.map(ask, chunks) for answer in part]


def sample(home: Path, moment: datetime, n: int) -> list[int]:
    """`n` customers known at that moment, the same ones in every run."""
    known = pd.read_parquet(home / "features" / USE_CASE / f"as_of={moment:%Y-%m-%d}.parquet", columns=["user_id"])
    rng = np.random.default_rng(moment.year * 100 + moment.month)
    return [int(u) for u in rng.choice(known["user_id"].to_numpy(), size=min(n, len(known)), replace=False)]


def _loop(chosen: Settings, story: Story, customers: int, api: Api) -> Path:
    from flows.demos import chapters

    chapters.first_release(chosen, story)
    for moment in MONTHS:
        if moment != START:
            chapters.prepare_month(story, moment)
        checked = chapters.month(chosen, story, moment, customers)
        if checked["event"]:
            api.deployed.result(timeout=240)
            chapters.retrained(chosen, story, moment, api.automated_train(), customers)
    drill(story)
    chapters.injected(chosen, story, INJECTED, customers)
    chapters.matured(story, END)
    chapters.rolled_back(chosen, story)
    api.deployed.result(timeout=240)
    page = chapters.page(chosen, story)
    mark(chosen.home, "done")
    story.say(
        f"\nThe page: {page}\nGo on:    make up, bentoflow status, "
        f"{Path(sys.executable).parent}/mlflow ui, prefect deploy --all, bentoml serve"
    )
    return page
