"""Releases, a feature store and real servers for the tests of the serving side."""

import json
import os
import subprocess
import sys
import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import psutil
import pytest

from bentos.runtime import blocks, clock, journal
from bentos.runtime.features.rows import FeatureRows, View, dated
from bentos.runtime.predictor import Predictor
from bentos.runtime.rollouts import rollout
from bentos.runtime.rollouts.rollout import Arm, Rollout
from bentos.runtime.scoring.decided import Decided
from bentos.runtime.scoring.manifest import (
    GOLDEN,
    MANIFEST,
    MODEL,
    REFERENCE,
    REFERENCE_PROFILE,
    Feature,
    Manifest,
    sha256,
)
from bentos.runtime.scoring.release import RELEASE
from bentos.runtime.scoring.scorer import Scorer
from tests.servers import free_port

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2024, 6, 10, tzinfo=UTC)
NAMES = ("recency", "spend", "visits")
GIVEN = {"recency": 12.0, "spend": 80.0, "visits": 3.0}
FRESH, OLD, HALF, NULLS, UNKNOWN = 1, 2, 3, 4, 999  # entities of the feature store below

os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
os.environ.setdefault("DO_NOT_TRACK", "true")


def to_onnx(model: Any, width: int) -> bytes:
    """A fitted classifier as the training flow exports it."""
    from flows.steps.training import export

    return bytes(export.converted(model, width).SerializeToString())


def fit(*, seed: int = 0, sign: float = 1.0) -> bytes:
    """A small logistic regression on three standardised inputs."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(seed)
    x = rng.normal(size=(400, 3)).astype(np.float32)
    y = (sign * (x[:, 0] - 0.7 * x[:, 1]) + rng.normal(size=400) > 0).astype(int)
    return to_onnx(LogisticRegression().fit(x, y), 3)


def make_manifest(**changes: Any) -> Manifest:
    """A promoted manifest over the three features of the test feature store."""
    given: dict[str, Any] = {
        "use_case": "churn",
        "entity": "user_id",
        "feature_service": "test_v1",
        "features": (
            Feature(name="recency", fill=30.0, mean=40.0, scale=20.0),
            Feature(name="spend", fill=50.0, mean=3.5, scale=1.2, log=True),
            Feature(name="visits", fill=2.0, mean=2.5, scale=1.5),
        ),
        "threshold": 0.5,
        "risks": ("Low", "High"),
        "stale": "flag",
        "engine": "onnx",
        "estimator": "logistic_regression",
        "run_id": "r",
        "as_of": "2024-06-01",
        "snapshot": "s",
        "commit": "c",
        "lock": "l",
        "seed": 7,
        "verdict": "PROMOTE",
    }
    return Manifest(**(given | changes))


def make_release(folder: Path, *, version: str = "1", model: bytes | None = None, **changes: Any) -> Path:
    """A whole release folder; `changes` go into its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = make_manifest(**changes)
    content = model or fit()
    (folder / MODEL).write_bytes(content)
    rows = [dict(zip(manifest.names, values, strict=True)) for values in ((10.0, 100.0, None), (90.0, 0.0, 7.0))]
    x = np.array([[np.nan if v is None else v for v in row.values()] for row in rows])
    (folder / GOLDEN).write_text(json.dumps({"rows": rows, "scores": Scorer(manifest, content).score(x).tolist()}))
    (folder / REFERENCE).write_text("{}")
    (folder / REFERENCE_PROFILE).write_bytes(b"")
    (folder / RELEASE).write_text(json.dumps({"release": f"v{version}-{folder.name}", "model_version": version}))
    files = {name: sha256(folder / name) for name in (MODEL, GOLDEN, REFERENCE, REFERENCE_PROFILE)}
    (folder / MANIFEST).write_text(replace(manifest, files=files).dump())
    return folder


def records(decided: Decided) -> list[dict[str, Any]]:
    """The journal's records of decided rows, as a reader gets them."""
    return [record for line in decided.record().splitlines() for record in blocks.expand(json.loads(line))]


class StoredReader:
    """Stands in for the feature store: values by entity, dated like Feast's, and a count of the reads."""

    local = True  # reads wait for nothing
    views = (View("behaviour", timedelta(days=30), (0, 1)), View("visits", timedelta(days=90), (2,)))

    def __init__(self) -> None:
        self.reads: list[list[Any]] = []
        day = int(NOW.timestamp()) - 86_400
        self.rows: dict[int, tuple[list[float], list[int]]] = {
            FRESH: ([12.0, 80.0, 3.0], [day, day - 86_400]),
            OLD: ([200.0, 5.0, 1.0], [day - 40 * 86_400, day - 40 * 86_400]),
            HALF: ([33.0, 20.0, np.nan], [day, 0]),
            NULLS: ([np.nan, np.nan, np.nan], [day, day]),
        }

    def read(self, ids: Any, now: datetime) -> FeatureRows:
        """The stored rows at `now`."""
        self.reads.append(list(ids))
        nothing = ([np.nan] * 3, [0, 0])
        values = np.array([self.rows.get(i, nothing)[0] for i in ids], dtype=np.float64)
        times = np.array([self.rows.get(i, nothing)[1] for i in ids], dtype=np.int64).T
        return dated(values, times, self.views, now)


@pytest.fixture(scope="session", autouse=True)
def _metrics_in_process(tmp_path_factory: pytest.TempPathFactory) -> None:
    """BentoML's /metrics under a test client hangs without a folder for shared metrics."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(tmp_path_factory.mktemp("metrics"))
    os.environ["BENTOML_HOME"] = str(tmp_path_factory.mktemp("bentoml"))


@pytest.fixture(scope="session")
def model() -> bytes:
    """One fitted model for all tests that do not care which."""
    return fit()


@pytest.fixture(scope="session")
def site(tmp_path_factory, model):
    """A home with a champion."""
    home = tmp_path_factory.mktemp("home")
    make_release(home / "v1", model=model)
    rollout.write(rollout.rollout_path(home, "churn"), Rollout((Arm("champion", "v1", 1.0),)))
    set_clock(home)
    return home


@pytest.fixture(scope="session")
def http(site):
    """A client of the churn service with a stand-in for the feature store."""
    from starlette.testclient import TestClient

    from bentos import endpoint
    from bentos.churn import Churn

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            endpoint,
            "open_predictor",
            lambda name: Predictor(
                name, site, lambda tag: site / tag, open_reader=lambda m: StoredReader(), max_queued=10_000
            ),
        )
        with TestClient(app=Churn.to_asgi()) as client:
            yield client


@pytest.fixture(scope="session")
def feast_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project root with a feature_store.yaml like ours and a materialised home beside it."""
    root = tmp_path_factory.mktemp("root")
    (root / "feature_repo").mkdir()
    (root / "feature_repo" / "feature_store.yaml").write_text((ROOT / "feature_repo/feature_store.yaml").read_text())
    fill_store(root / ".bentoflow")
    return root


def fill_store(home: Path, *, extra: range = range(5, 400)) -> None:
    """Define, write and materialise two views and the service test_v1 under a home."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType
        from feast.types import Float64, Int64

        from bentos.runtime.features.online import repo_config

        day = pd.Timestamp(NOW) - pd.Timedelta(days=1)
        ids = [FRESH, OLD, HALF, NULLS, *extra]
        old = {OLD: day - pd.Timedelta(days=40)}
        frame = pd.DataFrame(
            {
                "user_id": ids,
                "event_timestamp": [old.get(i, day) for i in ids],
                "recency": [12.0, 200.0, 33.0, None] + [float(i % 90) for i in extra],
                "spend": [80.0, 5.0, 20.0, None] + [float(i) for i in extra],
            }
        )
        visits = pd.DataFrame(
            {
                "user_id": ids,
                "event_timestamp": [old.get(i, day - pd.Timedelta(days=1)) for i in ids],
                "visits": pd.array([3, 1, 0, None] + [i % 9 for i in extra], dtype="Int64"),
            }
        ).query(f"user_id != {HALF}")
        home.mkdir(parents=True, exist_ok=True)
        frame.to_parquet(home / "behaviour.parquet", coerce_timestamps="us")
        visits.to_parquet(home / "visits.parquet", coerce_timestamps="us")
        user = Entity(name="customer", join_keys=["user_id"], value_type=ValueType.INT64)
        views = [
            FeatureView(
                name="behaviour",
                entities=[user],
                ttl=timedelta(days=30),
                schema=[Field(name="spend", dtype=Float64), Field(name="recency", dtype=Float64)],
                source=FileSource(path=str(home / "behaviour.parquet"), timestamp_field="event_timestamp"),
            ),
            FeatureView(
                name="visits",
                entities=[user],
                ttl=timedelta(days=90),
                schema=[Field(name="visits", dtype=Int64)],
                source=FileSource(path=str(home / "visits.parquet"), timestamp_field="event_timestamp"),
            ),
        ]
        (home / "feast").mkdir(exist_ok=True)
        store = FeatureStore(config=repo_config(home))
        store.apply([user, *views, FeatureService(name="test_v1", features=views)])
        store.materialize(NOW - timedelta(days=300), NOW)


@dataclass
class Server:
    """A `bentoml serve` that a test started."""

    url: str
    home: Path
    bentoml_home: Path
    process: "subprocess.Popen[bytes]"
    log: Path
    started_s: float = 0.0

    def family(self) -> list[psutil.Process]:
        """Itself, before it can replace a killed worker, then its workers, which have sessions of their own."""
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def kill(self, family: list[psutil.Process] | None = None) -> None:
        """SIGKILL it and its workers: nothing gets a chance to finish."""
        for process in family or self.family():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()


def wait_for(condition: Callable[[], bool], *, seconds: float = 60.0, what: str = "condition") -> float:
    """Seconds until the condition held; fails the test if it never did."""
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        if condition():
            return time.monotonic() - start
        time.sleep(0.05)
    raise AssertionError(f"{what} did not hold within {seconds} s")


def answers(url: str, path: str = "/livez") -> bool:
    """Whether a server answers at all."""
    try:
        return httpx.get(url + path, timeout=5).status_code < 500
    except httpx.TransportError:
        return False


def save_release(bentoml_home: Path, folder: Path, tag: str) -> str:
    """Put a release folder into a BentoML model store, as the release step does."""
    code = (
        "import bentoml, shutil, sys\n"
        "with bentoml.models.create(sys.argv[1], module='bentoflow') as ref:\n"
        "    shutil.copytree(sys.argv[2], ref.path, dirs_exist_ok=True)\n"
    )
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, tag, str(folder)],
        check=True,
        cwd=ROOT,
        env=server_env(bentoml_home.parent, bentoml_home),
    )
    return tag


def server_env(home: Path, bentoml_home: Path) -> dict[str, str]:
    """The environment of a spawned server."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PROMETHEUS_MULTIPROC_DIR", "BENTOFLOW_RELEASE")}
    return kept | {
        "BENTOFLOW_HOME": str(home),
        "BENTOML_HOME": str(bentoml_home),
        "BENTOML_DO_NOT_TRACK": "True",
        "DO_NOT_TRACK": "true",
    }


class Clients(ABC):
    """Threads that post to a server, each by `post`, from the block's start to its end."""

    def __init__(self, url: str, clients: int) -> None:
        self.url, self.failures = url, []
        self.over = threading.Event()
        self._threads = [threading.Thread(target=self.post, args=(k,)) for k in range(clients)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self._threads:
            thread.join()

    @abstractmethod
    def post(self, k: int) -> None:
        """Client `k`, until `over` is set."""


@contextmanager
def serving(
    home: Path, bentoml_home: Path, *, log: Path, env: dict[str, str] | None = None, service: str = "."
) -> Iterator[Server]:
    """A real `bentoml serve` in the project's root, ended with its workers."""
    port = free_port()
    start = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                str(Path(sys.executable).with_name("bentoml")),
                "serve",
                service,
                "--host",
                "127.0.0.1",
                "--port",
                str(port),
            ],
            cwd=ROOT,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=server_env(home, bentoml_home) | (env or {}),
        )
    server = Server(f"http://127.0.0.1:{port}", home, bentoml_home, process, log)
    try:
        wait_for(lambda: process.poll() is not None or answers(server.url), what=f"server start (log {log})")
        assert process.poll() is None, log.read_text()[-3000:]
        server.started_s = time.monotonic() - start
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                server.kill()


def set_clock(home: Path) -> None:
    """Let the domain's time be NOW."""
    clock.write(home, "churn", NOW)


@dataclass(frozen=True)
class Spoken:
    """A running service, the table that the protocols' tests send, and what /predict itself answers to its rows."""

    url: str
    home: Path
    models: Path
    frame: pd.DataFrame
    scores: list[float]

    @property
    def address(self) -> str:
        """Host and port."""
        return self.url.removeprefix("http://")

    def journalled(self) -> dict[str, dict[str, Any]]:
        """All records of the journal by request id."""
        return {r["request_id"]: r for r in journal.scan(self.home / "journal" / "churn", include_smoke=True)}

    def written(self) -> int:
        """How many bytes the journal has."""
        return sum(path.stat().st_size for path in journal.segments(self.home / "journal" / "churn"))

    def refuses(self, path: str, status: int, **request: Any) -> Any:
        """What a call is refused with, in JSON; nothing of it may be journalled."""
        before = self.written()
        response = httpx.post(self.url + path, timeout=60, **request)
        assert response.status_code == status, response.text
        assert self.written() == before
        return response.json()


def sample(rows: int = 600, seed: int = 3) -> pd.DataFrame:
    """Rows of the test model: keys, and features of which some are missing, in another order than the model's."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "visits": rng.integers(0, 12, rows).astype(np.float64),
            "user_id": rng.integers(0, 2**62, rows),
            "recency": rng.uniform(0, 300, rows),
            "spend": rng.lognormal(3, 2, rows),
        }
    )
    frame.loc[rng.random(rows) < 0.1, "visits"] = np.nan
    frame.loc[rng.random(rows) < 0.1, "spend"] = np.nan
    return frame


def as_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A table as /predict takes it."""
    values = frame[list(NAMES)].astype(object).where(frame[list(NAMES)].notna(), None).to_dict(orient="records")
    return [{"user_id": int(key), "features": given} for key, given in zip(frame["user_id"], values, strict=True)]


@pytest.fixture(scope="session")
def spoken(tmp_path_factory: pytest.TempPathFactory, model: bytes) -> Iterator[Spoken]:
    """A real server with champion 1 and challenger 2 on a real feature store."""
    folder = tmp_path_factory.mktemp("spoken")
    home, frame = folder / "home", sample()
    fill_store(home)
    set_clock(home)
    tags = [
        save_release(folder / "bentoml", make_release(folder / "v1", model=model), "churn:v1"),
        save_release(folder / "bentoml", make_release(folder / "v2", version="2", model=fit(seed=4)), "churn:v2"),
    ]
    arms = (Arm("champion", tags[0], 1.0), Arm("challenger", tags[1], 0.0))
    rollout.write(rollout.rollout_path(home, "churn"), Rollout(arms))
    with serving(home, folder / "bentoml", log=folder / "log") as server:
        wait_for(lambda: answers(server.url, "/readyz"), what="readiness")
        answered = httpx.post(server.url + "/predict", json=as_rows(frame), timeout=60).json()
        yield Spoken(server.url, home, folder / "bentoml", frame, [row["probability"] for row in answered])
