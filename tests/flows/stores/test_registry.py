"""Registry: versions carry their verdict from the first moment, aliases move as told, what is missing is an error."""

import json
from pathlib import Path

import pytest

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
