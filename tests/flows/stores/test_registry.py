"""Registry: versions carry their verdict from the first moment, aliases move as told, what is missing is an error."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows import environment
from flows.errors import StoreError
from flows.stores import registry
from flows.stores.registry import Version


def more(**tags: str) -> Version:
    """One more version with the files of the first."""
    first = registry.client().get_model_version("churn", "1")
    return registry.register(str(first.source), "churn", str(first.run_id), tags)


def test_a_version_is_registered_with_its_tags(released: Path) -> None:
    """Number, run and verdict are there at once; a version that nothing judged has no verdict."""
    version = more(verdict="HOLD", snapshot="ab12")
    assert (version.number, version.verdict, version.aliases) == ("2", "HOLD", ())
    assert registry.get("churn", "2") == version
    assert more().verdict is None
    assert [v.number for v in registry.versions("churn")] == ["3", "2", "1"]


def test_versions_are_numbers_and_not_text(released: Path) -> None:
    """Version 10 is newer than version 9."""
    for _ in range(9):
        more()
    assert [v.number for v in registry.versions("churn")][:2] == ["10", "9"]


def test_an_unknown_version_is_an_error_that_says_what_to_do(released: Path) -> None:
    """A number that there is not, or no number at all, is named."""
    for number in ("7", "first"):
        with pytest.raises(StoreError, match=f"no version '{number}' of churn in the registry: run `bentoflow train`"):
            registry.get("churn", number)
    with pytest.raises(StoreError, match="no version '1' of fraud"):
        registry.get("fraud", "1")


def test_a_registry_without_the_model_has_no_aliases(prepared: Path) -> None:
    """Before the first training nobody is champion, which is no error."""
    registry.connect("churn", prepared)
    assert registry.aliases("churn") == {}
    assert registry.by_alias("churn", "champion") is None
    assert registry.versions("churn") == []


def test_aliases_are_set_moved_and_removed(released: Path) -> None:
    """The wanted state is reached from any other, and asking for it again changes nothing."""
    more()
    for wanted in (
        {"champion": "2", "previous": "1", "challenger": None},
        {"champion": "2", "previous": "1", "challenger": None},
        {"champion": "1", "previous": None, "challenger": "2"},
    ):
        registry.set_aliases("churn", wanted)
        assert registry.aliases("churn") == {k: v for k, v in wanted.items() if v is not None}
    champion = registry.by_alias("churn", "champion")
    assert champion is not None
    assert champion.number == "1"


def test_a_registry_that_does_not_answer_is_no_missing_champion(
    released: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only "there is none" is None; any other failure is raised, or a broken registry would let anything pass."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INTERNAL_ERROR

    class Broken:
        def get_model_version_by_alias(self, *args: str) -> None:
            raise MlflowException("the database is locked", error_code=INTERNAL_ERROR)

    monkeypatch.setattr(registry, "client", Broken)
    with pytest.raises(MlflowException, match="the database is locked"):
        registry.by_alias("churn", "champion")


def test_tags_are_text_or_json(released: Path) -> None:
    """A tag's text is kept as it is, anything else as JSON."""
    registry.tag("churn", "1", note="checked", numbers=[1, 2])
    tags = registry.get("churn", "1").tags
    assert tags["note"] == "checked"
    assert json.loads(tags["numbers"]) == [1, 2]


def test_the_files_of_a_version_are_downloaded_whole(released: Path, tmp_path: Path) -> None:
    """Manifest, model, golden rows and reference are in one folder; a version whose run lost them says so."""
    import shutil

    version = registry.get("churn", "1")
    folder = registry.release_files(version, tmp_path / "a")
    assert {"manifest.json", "model.onnx", "golden.json", "reference.json"} <= {p.name for p in folder.iterdir()}
    shutil.rmtree(released / "mlflow" / "artifacts" / "churn" / version.run_id)
    with pytest.raises(StoreError, match=r"version 1 has no release folder in run .* Train it again"):
        registry.release_files(version, tmp_path / "b")


def test_a_run_that_raises_is_failed(prepared: Path) -> None:
    """The experiment shows what went wrong, and no run stays open."""
    import mlflow

    experiment = registry.connect("churn", prepared)
    with pytest.raises(ValueError, match="no"), registry.run(experiment, "broken", tags={"kind": "test"}):
        raise ValueError("no")
    assert mlflow.active_run() is None
    (found,) = registry.client().search_runs([experiment], "tags.kind = 'test'")
    assert found.info.status == "FAILED"


def test_the_experiment_lies_below_the_home(prepared: Path) -> None:
    """One experiment per use case, made once, with its artefacts in the home."""
    first = registry.connect("churn", prepared)
    assert registry.connect("churn", prepared) == first
    location = registry.client().get_experiment(first).artifact_location
    assert location == (prepared / "mlflow" / "artifacts" / "churn").as_uri()


def first_command(home: Path) -> "subprocess.Popen[bytes]":
    """The first use of a registry in a home, in a process of its own."""
    code = "from flows.stores import registry; print(registry.aliases('churn'))"
    env = {**os.environ, **environment.defaults(home)}
    return subprocess.Popen([sys.executable, "-c", code], cwd=environment.ROOT, env=env, stdout=subprocess.PIPE)


@pytest.mark.integration
def test_a_killed_first_command_leaves_a_home_that_works(home: Path) -> None:
    """MLflow's database is put in its place when it is whole: killed while it was made, it is made again."""
    killed = first_command(home)
    deadline = time.monotonic() + 120
    while not any(file.stat().st_size > 50_000 for file in (home / "mlflow").glob("*mlflow.db*")):
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.5)  # into the middle of MLflow's steps
    killed.kill()
    killed.communicate()
    assert not (home / "mlflow" / "mlflow.db").exists()
    assert registry.aliases("churn") == {}
    assert [path.name for path in (home / "mlflow").glob("*mlflow.db*")] == ["mlflow.db"]


@pytest.mark.integration
def test_two_first_commands_do_not_make_the_database_twice(home: Path) -> None:
    """Side by side in a fresh home, both find a registry without versions."""
    both = [first_command(home), first_command(home)]
    assert [process.communicate(timeout=240)[0].strip() for process in both] == [b"{}", b"{}"]
