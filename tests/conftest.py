"""Fixtures for the whole suite: no test touches the project's own state."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import environment


@pytest.fixture(scope="session", autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Every tool's state lies in a temporary home, and no outside Prefect server is spoken to."""
    before = dict(os.environ)
    os.environ.pop("PREFECT_API_URL", None)
    environment.apply(tmp_path_factory.mktemp("home"))
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh home that the environment points to."""
    for name, value in environment.defaults(tmp_path / "home").items():
        if name != "PREFECT_HOME":
            monkeypatch.setenv(name, value)
    for folder in ("mlflow", "prefect", "bentoml"):
        (tmp_path / "home" / folder).mkdir(parents=True)
    return tmp_path / "home"
