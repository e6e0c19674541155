"""One Prefect API and one small trained home for all flow tests; each test works in a copy of its own."""

import os
import pickle
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bentos.runtime.features.online import FeatureReader
from bentos.runtime.journal import Journal
from bentos.runtime.rollouts import rollout
from bentos.runtime.scoring.decisions import Decider
from bentos.runtime.scoring.release import Release, load_release
from flows import environment
from flows.stores import locks
from flows.usecases import churn
from tests.bentos.conftest import records
from tests.conftest import SHARED

CUSTOMERS = 2_000
AS_OF = datetime(1998, 1, 1, tzinfo=UTC)
NAMES = [  # churn's features, in their order
    "total_purchases",
    "avg_purchase_amount",
    "avg_items",
    "tenure_months",
    "recency_days",
    "purchase_frequency",
    "purchases_90d",
    "spend_90d",
]
SMALL = replace(
    churn.USE_CASE,
    estimators=("logistic_regression",),
    trials=1,
    max_search_rows=2_000,
    gates=replace(churn.USE_CASE.gates, bootstrap=100),
)
BENTOML_STORES = (
    "bentoml_home",
    "bento_store_dir",
    "model_store_dir",
    "tmp_bento_store_dir",
    "bento_store",
    "model_store",
    "tmp_bento_store",
)
MLFLOW_PATHS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)


@contextmanager
def at_home(home: Path) -> Iterator[Path]:
    """The environment points to that home, also for BentoML, which remembers the first one that it saw."""
    before = dict(os.environ)
    os.environ.update({k: v for k, v in environment.defaults(home).items() if k != "PREFECT_HOME"})
    for folder in ("mlflow", "prefect", "bentoml"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    _forget_stores()
    try:
        yield home
    finally:
        os.environ.clear()
        os.environ.update(before)
        _forget_stores()


def _forget_stores() -> None:
    from bentoml._internal.configuration.containers import BentoMLContainer
    from simple_di import sentinel

    for name in BENTOML_STORES:
        getattr(BentoMLContainer, name)._cache = sentinel


def copied(source: Path, target: Path, origin: Path) -> Path:
    """A copy of a home made at `origin`, with the absolute paths in MLflow's database following."""
    shutil.copytree(source, target)
    database = target / "mlflow" / "mlflow.db"
    if database.exists():
        with closing(sqlite3.connect(database)) as db, db:
            for table, column in MLFLOW_PATHS:
                db.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (str(origin), str(target)))
    return target


def without_servers(patch: pytest.MonkeyPatch) -> None:
    """Releases start no service and ask it nothing: `test_loop` does the real thing."""
    from flows.processes import Process
    from flows.targets import local

    service = Process(name="service-churn", pid=0, started=0, url="http://service.invalid", log="")
    patch.setattr(local, "ensure", lambda *args, **more: service)
    patch.setattr(local, "smoke", lambda *args, **more: 32)


def use(patch: pytest.MonkeyPatch, **changes: Any) -> None:
    """The small use case with changes is what the flows load as churn."""
    patch.setattr(churn, "USE_CASE", replace(SMALL, **changes))


@pytest.fixture(scope="session")
def prefect_api() -> Iterator[None]:
    """One Prefect API for every flow of the session."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """A folder of all processes of this run, removed when the first of them ends."""
    return Path(os.environ[SHARED])


@pytest.fixture(scope="session")
def feed(shared: Path) -> dict[str, str]:
    """Every purchase of 2,000 customers, as a csv source."""
    from flows.stores import tables

    path = shared / "purchases.csv"
    with locks.held(shared, "feed", wait=True):
        if not path.exists():
            raw = tables.read(churn.USE_CASE.source)
            chosen = raw["user_id"].drop_duplicates().sort_values().sample(CUSTOMERS, random_state=7)
            raw[raw["user_id"].isin(chosen)].to_csv(path, index=False)
    return {"url": str(path), "format": "csv"}


@dataclass(frozen=True)
class Bases:
    """Homes to copy: prepared as of 1998-01-01, then also trained, then also released; and what train answered."""

    origin: Path
    prepared: Path
    released: Path
    prepare: dict[str, Any]
    train: dict[str, Any]
    release: dict[str, Any]
    joined: pd.DataFrame


@pytest.fixture(scope="session")
def bases(prefect_api: None, feed: dict[str, str], shared: Path) -> Bases:
    """Prepared, trained and released by the first process that asks; tests take copies."""
    kept = shared / "bases.pickle"
    with locks.held(shared, "bases", wait=True):
        if not kept.exists():
            made = _bases(Path(tempfile.mkdtemp(dir=shared)), feed)
            kept.write_bytes(pickle.dumps(made))
        found: Bases = pickle.loads(kept.read_bytes())
    return found


def _bases(folder: Path, feed: dict[str, str]) -> Bases:
    from flows.prepare import prepare
    from flows.release import release
    from flows.stores import features, tables
    from flows.train import train

    with at_home(folder / "origin") as home, pytest.MonkeyPatch.context() as patch:
        use(patch, estimators=churn.USE_CASE.estimators, trials=3)
        without_servers(patch)
        prepared = prepare("churn", AS_OF, feed)
        shutil.copytree(home, folder / "prepared")
        trained = train("churn", reason="first version")
        assert trained["verdict"] == "PROMOTE", trained["reasons"]
        released = release("churn", reason="first version")
        shutil.copytree(home, folder / "released")
        events = tables.read_snapshot(home / "snapshots" / "churn", prepared["snapshot"])
        joined = features.training_frame(features.open_store(home), churn.USE_CASE, events, pd.Timestamp(AS_OF))
        return Bases(home, folder / "prepared", folder / "released", prepared, trained, released, joined)


@contextmanager
def _own(source: Path, target: Path, bases: Bases, patch: pytest.MonkeyPatch) -> Iterator[Path]:
    from flows.stores import features

    with at_home(copied(source, target, bases.origin)) as home:
        use(patch)
        without_servers(patch)
        features.apply(features.open_store(home))  # its registry holds absolute paths
        yield home


@pytest.fixture
def prepared(bases: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home prepared as of 1998-01-01, nothing trained."""
    with _own(bases.prepared, tmp_path / "prepared", bases, monkeypatch) as home:
        yield home


@pytest.fixture
def released(bases: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home whose version 1 is champion."""
    with _own(bases.released, tmp_path / "released", bases, monkeypatch) as home:
        yield home


@pytest.fixture
def empty(prefect_api: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home without anything in it."""
    with at_home(tmp_path / "empty") as home:
        use(monkeypatch)
        yield home


def champion(home: Path) -> Release:
    """The release in charge, loaded as the service loads it."""
    from flows.stores import bentos

    found = rollout.read(rollout.rollout_path(home, "churn"))
    assert found is not None

    def reader(m: Any) -> FeatureReader:
        return FeatureReader.open(home, entity=m.entity, feature_service=m.feature_service, names=m.names)

    return load_release(bentos.model_folder(found.arms[0].release), "churn", reader)


def holdout(bases: Bases) -> pd.DataFrame:
    """The rows that version 1 was tested on, with their features and labels."""
    return bases.joined[bases.joined["event_timestamp"] == pd.Timestamp(bases.train["test_cutoff"], tz="UTC")]


def answers_of(
    served: Release, rows: pd.DataFrame, moment: datetime, *, smoke: bool = False, arm: str = "champion"
) -> list[dict[str, Any]]:
    """The journal records with which the service answers rows that bring their features."""
    names = served.manifest.names
    values = rows[names].to_numpy(dtype=np.float64)
    asked = [
        {
            "user_id": int(entity),
            "features": {n: None if np.isnan(v) else float(v) for n, v in zip(names, row, strict=True)},
        }
        for entity, row in zip(rows["user_id"], values, strict=True)
    ]
    return decided(served, asked, moment, smoke=smoke, arm=arm)


def decided(
    served: Release, rows: Sequence[dict[str, Any]], moment: datetime, *, smoke: bool = False, arm: str = "champion"
) -> list[dict[str, Any]]:
    """The journal records with which the service answers rows."""
    return records(Decider(arm, served).decide(rows, [smoke] * len(rows), moment))


def journalled(home: Path, records: Sequence[dict[str, Any]], segments: int = 1) -> None:
    """Write records to the journal, in so many segments."""
    for part in np.array_split(np.arange(len(records)), segments):
        log = Journal(home / "journal" / "churn")
        log.append([records[i] for i in part])
        log.close()
