"""Fixtures for the whole suite: no test touches the project's own state."""

import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flows import environment

Tell = Callable[[str], None]
TOLD = "told"
STATE = pytest.StashKey[Path]()
SHARED = "TESTS_SHARED"  # names a folder for what one process of the tests makes for all of them
# What `make test ARGS=...` hands down to every make below it: a test's own `make up` would take pytest's options.
OF_MAKE = ("ARGS", "ONLY", "WORKERS", "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES")
# What takes minutes to build or start; test_transaction.py makes the trained home that two mutations take.
LONGEST = [
    "test_images",
    "test_stack",
    "test_play",
    "test_loop",
    "test_event_loop",
    "test_transaction",
    "test_backends",
    "test_terraform",
    "test_mutations",
    "test_readme",
    "test_backtest",
]


def pytest_configure(config: pytest.Config) -> None:
    """Before any tool is imported, move all of their state to a temporary home; speak to no outside Prefect server."""
    config.stash[STATE] = Path(tempfile.mkdtemp(prefix="bentoflow-tests-"))
    os.environ.setdefault(SHARED, str(config.stash[STATE] / "shared"))  # workers and mutated copies inherit it
    for name in ("PREFECT_API_URL", *OF_MAKE):
        os.environ.pop(name, None)
    environment.apply(config.stash[STATE])


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove that home."""
    shutil.rmtree(config.stash[STATE], ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files whose servers take minutes go first: with several workers none of them must be the last to start."""
    place = {name: at for at, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file goes to one worker; all container tests are one file, since they share what takes minutes to build."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "tests/container" if nodeid.startswith("tests/container/") else super()._split_scope(nodeid)

    return Scheduling(config, log)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What tests told is printed at the end, which no worker can do while it runs."""
    for report in [report for reports in terminalreporter.stats.values() for report in reports]:
        told = [text for name, text in getattr(report, "user_properties", ()) if name == TOLD]
        if told and report.when == "call":
            terminalreporter.section(report.nodeid, sep="-")
            terminalreporter.line("\n".join(told))


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Tell:
    """Print a text at the end of the run."""
    return partial(record_property, TOLD)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh home that the environment points to, Prefect's apart."""
    for name, value in environment.defaults(tmp_path / "home").items():
        if name != "PREFECT_HOME":
            monkeypatch.setenv(name, value)
    for folder in ("mlflow", "bentoml"):
        (tmp_path / "home" / folder).mkdir(parents=True)
    return tmp_path / "home"
