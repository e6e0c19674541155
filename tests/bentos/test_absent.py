"""A service without an online store: rows that bring their features are answered, all others are refused."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bentos.runtime.answers import Answer, RowError
from bentos.runtime.features.absent import AbsentReader
from bentos.runtime.features.joined import JoinedReader, open_reader
from bentos.runtime.features.store import OnlineError, settings
from bentos.runtime.home import ROOT
from bentos.runtime.predictor import Predictor

from .conftest import make_manifest, make_release, set_clock

GIVEN = {"recency": 12.0, "spend": 80.0, "visits": 3.0}


def test_a_release_answers_what_needs_no_store(tmp_path: Path, model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is below the home, no registry either: one row is answered, the other gets a 503 of its own."""
    monkeypatch.setenv("BENTOFLOW_ONLINE_STORE", "none")
    folder = make_release(tmp_path / "release", model=model)
    predictor = Predictor("churn", tmp_path / "home", lambda tag: folder, release="churn:v1")
    set_clock(tmp_path / "home")

    async def ask() -> list[Answer | RowError]:
        await predictor.start()
        try:
            return await predictor.answer([{"user_id": 1, "features": GIVEN}, {"user_id": 1, "features": None}])
        finally:
            await predictor.stop()

    given, stored = asyncio.run(asyncio.wait_for(ask(), 60))
    assert isinstance(given, Answer)
    assert isinstance(stored, RowError)
    assert (stored.status, "online store" in stored.error) == (503, True)


def test_each_entity_of_an_event_has_its_own_absent_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A use case of several entities gets the reader that it expects, and that reader says what is missing."""
    monkeypatch.setenv("BENTOFLOW_ONLINE_STORE", " none ")
    assert isinstance(open_reader(tmp_path, make_manifest()), AbsentReader)
    reader = open_reader(tmp_path, make_manifest(time="at", others=("shop_id",)))
    assert isinstance(reader, JoinedReader)
    with pytest.raises(OnlineError, match="BENTOFLOW_ONLINE_STORE is none"):
        reader.readers[0].read([1], datetime.now(UTC))


def test_the_registry_can_lie_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """BENTOFLOW_FEATURE_REGISTRY replaces the registry's path alone."""
    before = settings(tmp_path, ROOT)
    monkeypatch.setenv("BENTOFLOW_FEATURE_REGISTRY", "/models/feature_registry.db")
    after = settings(tmp_path, ROOT)
    assert after["registry"] == before["registry"] | {"path": "/models/feature_registry.db"}
    assert {k: v for k, v in after.items() if k != "registry"} == {k: v for k, v in before.items() if k != "registry"}


def test_the_registry_can_be_a_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its URL is told to Feast with the driver that is installed; a restarted server's old connections are not used."""
    for scheme in ("postgresql", "postgres", "postgresql+psycopg2"):
        monkeypatch.setenv("BENTOFLOW_FEATURE_REGISTRY", f"{scheme}://me:pw@db:5432/feast")
        found = settings(tmp_path, ROOT)["registry"]
        assert (found["registry_type"], found["path"]) == ("sql", "postgresql+psycopg2://me:pw@db:5432/feast")
        assert found["sqlalchemy_config_kwargs"]["pool_pre_ping"]


def test_a_container_reads_online_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its image has nothing that the offline store needs; everywhere else the offline store stays what it is."""
    assert settings(tmp_path, ROOT)["offline_store"] == {"type": "duckdb"}
    monkeypatch.setenv("BENTOML_CONTAINERIZED", "true")
    assert "offline_store" not in settings(tmp_path, ROOT)
