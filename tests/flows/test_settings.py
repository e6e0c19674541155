"""Settings: from the environment as it stands, typed, and the same home for flows and services."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import ValidationError

from bentos.runtime import home as runtime
from flows import environment
from flows.errors import StoreError
from flows.runner import task_runner
from flows.settings import Settings, settings


def test_the_environment_is_read_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each call sees the variables as they are now."""
    monkeypatch.setenv("BENTOFLOW_HOME", str(tmp_path / "a"))
    assert settings().home == tmp_path / "a"
    monkeypatch.setenv("BENTOFLOW_HOME", str(tmp_path / "b"))
    assert settings().home == tmp_path / "b"


def test_values_are_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port is a number and a task runner one of the known ones; anything else is refused by name."""
    monkeypatch.setenv("BENTOFLOW_SERVICE_PORT", "3100")
    assert settings().service_port == 3100
    monkeypatch.setenv("BENTOFLOW_SERVICE_PORT", "high")
    with pytest.raises(ValidationError, match="service_port"):
        settings()
    monkeypatch.delenv("BENTOFLOW_SERVICE_PORT")
    monkeypatch.setenv("BENTOFLOW_TASK_RUNNER", "spark")
    with pytest.raises(ValidationError, match="'threads' or 'dask'"):
        settings()


def test_settings_do_not_change() -> None:
    """A setting cannot be assigned."""
    with pytest.raises(ValidationError, match="frozen"):
        settings().host = "0.0.0.0"


@pytest.mark.parametrize("given", ["", "relative/home", "~/bentoflow-test"])
def test_flows_and_services_agree_on_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str) -> None:
    """However the variable is written, flows write where services read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BENTOFLOW_HOME", given)
    assert settings().home.resolve() == runtime.home().resolve()


def test_the_masking_key_is_made_once_and_private(tmp_path: Path) -> None:
    """Without a key one is generated, kept readable for its owner only, and the same ever after."""
    chosen = Settings(home=tmp_path / "home")
    key = chosen.key()
    assert len(key) == 64
    assert Settings(home=tmp_path / "home").key() == key
    assert stat.S_IMODE((tmp_path / "home" / "mask.key").stat().st_mode) == 0o600
    assert Settings(home=tmp_path / "other").key() != key


def test_an_empty_masking_key_masks_nothing(tmp_path: Path) -> None:
    """One that lost its content is refused: with it as the key anybody could undo the masks."""
    (tmp_path / "mask.key").touch()
    with pytest.raises(StoreError, match=r"mask\.key is empty"):
        Settings(home=tmp_path).key()


def test_first_commands_at_once_share_one_masking_key(tmp_path: Path) -> None:
    """Whoever was slower takes the key that is there."""
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda _: Settings(home=tmp_path).key(), range(32)))
    assert len(set(keys)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mask.key"]


def test_a_given_masking_key_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key from the environment is used and none is written."""
    monkeypatch.setenv("BENTOFLOW_MASK_KEY", "0123456789abcdef")
    assert Settings(home=tmp_path).key() == b"0123456789abcdef"
    assert not (tmp_path / "mask.key").exists()


def test_the_task_runner_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads without a setting; with one Dask, at an address or with a cluster of its own."""
    from prefect_dask import DaskTaskRunner

    monkeypatch.delenv("BENTOFLOW_TASK_RUNNER", raising=False)
    assert isinstance(task_runner(), ThreadPoolTaskRunner)
    monkeypatch.setenv("BENTOFLOW_TASK_RUNNER", "dask")
    monkeypatch.setenv("BENTOFLOW_DASK_WORKERS", "3")
    own = task_runner()
    assert isinstance(own, DaskTaskRunner)
    assert own.cluster_kwargs["n_workers"] == 3
    monkeypatch.setenv("BENTOFLOW_DASK_ADDRESS", "tcp://scheduler:8786")
    there = task_runner()
    assert isinstance(there, DaskTaskRunner)
    assert there.address == "tcp://scheduler:8786"


def test_every_tools_state_lies_below_the_home(tmp_path: Path) -> None:
    """No default points outside the home, and no tool reports to its makers."""
    found = environment.defaults(tmp_path)
    for name in ("PREFECT_HOME", "BENTOML_HOME", "MLFLOW_TRACKING_URI", "MLFLOW_DEFAULT_ARTIFACT_ROOT"):
        assert str(tmp_path) in found[name], name
    assert found["DO_NOT_TRACK"] == "true"
    assert found["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"


def test_what_the_user_has_set_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`apply` sets only what is unset, and makes the folders that tools expect."""
    for name in environment.defaults(tmp_path):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BENTOFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example")
    environment.apply()
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://mlflow.example"
    assert os.environ["BENTOML_HOME"] == str(tmp_path / "home" / "bentoml")
    assert (tmp_path / "home" / "mlflow").is_dir()
    for name in environment.defaults(tmp_path):
        monkeypatch.setenv(name, os.environ[name])  # so that all of them are undone


def test_what_is_started_from_here_keeps_what_the_user_has_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A database or bucket that a variable names is not replaced by a home's default; what is a default moves along."""
    before = environment.defaults(Path(os.environ[environment.APPLIED]))
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "postgresql://db.example/mlflow")
    found = environment.unset_defaults(tmp_path)
    assert "MLFLOW_BACKEND_STORE_URI" not in found
    assert found["BENTOFLOW_HOME"] == str(tmp_path)
    assert found["BENTOML_HOME"] == str(tmp_path / "bentoml")
