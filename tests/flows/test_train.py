"""train: the future does not matter, what cannot be compared stops the run, and the version holds its evidence."""

import json
import shutil
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.errors import StoreError
from flows.stores import features, history, locks, registry, tables
from flows.stores import prepared as pointer
from flows.train import train
from tests.flows.conftest import AS_OF, SMALL, Bases, holdout, use

NOW = pd.Timestamp(AS_OF)


def judged(home: Path) -> list[str]:
    """The verdicts in the history."""
    return [line["action"] for line in history.read(home, "churn") if line["action"].startswith("trained")]


def events_of(home: Path) -> pd.DataFrame:
    return tables.read_snapshot(home / "snapshots" / "churn", pointer.latest(home, "churn")[0])


def frame_of(home: Path, events: pd.DataFrame) -> pd.DataFrame:
    return features.training_frame(features.open_store(home), SMALL, events, NOW)


def test_a_planted_future_feature_row_does_not_change_the_training_frame(prepared: Path, bases: Bases) -> None:
    """A feature row one second after each cut-off, with absurd values, reaches no row of the frame (rule 3)."""
    folder = prepared / "features" / "churn"
    for path in sorted(folder.glob("as_of=*.parquet")):
        rows = pd.read_parquet(path)
        numbers = rows.columns.difference(["user_id", "event_timestamp"])
        later = (rows["event_timestamp"] + pd.Timedelta(seconds=1)).dt.as_unit("us")
        planted = rows.assign(**dict.fromkeys(numbers, 1e9), event_timestamp=later)
        tables.write_table(planted, folder / f"as_of=planted-{path.name}")
    found = frame_of(prepared, events_of(prepared))
    pd.testing.assert_frame_equal(found, bases.joined)
    assert found.select_dtypes("float64").max().max() < 1e9


def test_a_planted_future_event_does_not_change_the_training_frame(prepared: Path, bases: Bases) -> None:
    """Purchases at and after `as_of`, of known and of new customers, change no entity, no label and no feature."""
    events = events_of(prepared)
    known = events.groupby("user_id", as_index=False).first()
    at = known.assign(purchased_at=NOW.as_unit("us"), amount=1e6)
    new = known.assign(user_id=known["user_id"] + 1_000_000, purchased_at=(NOW + pd.Timedelta(days=3)).as_unit("us"))
    found = frame_of(prepared, pd.concat([events, at, new], ignore_index=True))
    pd.testing.assert_frame_equal(found, bases.joined)


def test_labels_are_those_of_the_purchases_in_the_horizon(prepared: Path, bases: Bases) -> None:
    """Counted by hand for every row: 1 where no purchase is in the 90 days from the cut-off on, all of them past."""
    events, found = events_of(prepared), bases.joined
    horizon = pd.Timedelta(days=90)
    assert (found["event_timestamp"] + horizon <= NOW).all()
    pairs = found[["user_id", "event_timestamp"]].merge(events, on="user_id")
    inside = (pairs["purchased_at"] >= pairs["event_timestamp"]) & (
        pairs["purchased_at"] < pairs["event_timestamp"] + horizon
    )
    bought = set(map(tuple, pairs.loc[inside, ["user_id", "event_timestamp"]].to_numpy()))
    expected = [int((u, t) not in bought) for u, t in found[["user_id", "event_timestamp"]].to_numpy()]
    assert found["churned"].tolist() == expected


def test_the_gap_between_training_and_test_is_at_least_the_horizon(bases: Bases) -> None:
    """The newest training cut-off lies 90 days or more before the test cut-off, which is the newest mature one."""
    cutoffs = sorted(bases.joined["event_timestamp"].unique())
    assert cutoffs[-1] == pd.Timestamp(bases.train["test_cutoff"])
    assert cutoffs[-1] - cutoffs[-2] >= pd.Timedelta(days=90)
    assert len(cutoffs) > 3


class Altered:
    """A feature store whose historical rows are altered on their way out."""

    def __init__(self, store: Any, change: Any) -> None:
        self._store, self._change = store, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def get_historical_features(self, **asked: Any) -> Any:
        rows = self._change(self._store.get_historical_features(**asked).to_df())
        return type("Job", (), {"to_df": lambda self: rows})()


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows.iloc[1:],
        lambda rows: pd.concat([rows, rows.iloc[:1]], ignore_index=True),
        lambda rows: pd.concat([rows.iloc[1:], rows.iloc[1:2]], ignore_index=True),
    ],
    ids=["a row fewer", "a row twice", "a row twice instead of another"],
)
def test_other_rows_than_asked_for_stop_the_training(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, change: Any
) -> None:
    """When Feast answers with fewer or duplicated rows the run fails, and no version is registered."""
    opened = features.open_store
    monkeypatch.setattr(features, "open_store", lambda home: Altered(opened(home), change))
    with pytest.raises(StoreError, match=r"asked Feast for \d+ rows of churn_v1, got \d+"):
        train("churn")
    assert judged(prepared) == []


def test_the_verdict_is_a_tag_of_the_version(released: Path, bases: Bases) -> None:
    """Verdict, reasons, manifest digest, snapshot, reason and rival stand on the MLflow version."""
    version = registry.get("churn", "1")
    assert version.verdict == bases.train["verdict"] == "PROMOTE"
    assert json.loads(version.tags["reasons"]) == bases.train["reasons"]
    assert version.tags["snapshot"] == bases.prepare["snapshot"]
    assert version.tags["reason"] == "first version"
    assert version.tags["judged_against"] == version.tags["drill"] == ""
    assert len(version.tags["manifest_sha256"]) == 64


def test_mlflow_loads_the_version_and_predicts_the_stored_scores(
    released: Path, bases: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`models:/churn/1` answers the held-out rows exactly as the predictions that training stored."""
    folder = registry.release_files(registry.get("churn", "1"), tmp_path)
    stored = pd.read_parquet(folder / "predictions.parquet")
    rows = holdout(bases)
    monkeypatch.setattr(sys, "path", list(sys.path))  # MLflow puts the version's own code first, for good
    loaded = mlflow.pyfunc.load_model("models:/churn/1")
    found = loaded.predict(rows[[c.name for c in loaded.metadata.get_input_schema().inputs]])
    assert stored["entity"].tolist() == rows["user_id"].tolist()
    assert found["probability"].tolist() == stored["score"].tolist()


def test_the_run_holds_card_plots_signature_example_and_datasets(released: Path) -> None:
    """Who opens the version in MLflow finds what it is, how good, on which data, and how to call it."""
    version = registry.get("churn", "1")
    run = registry.client().get_run(version.run_id)
    card = CliRunner().invoke(app, ["card", "1"])
    assert card.exit_code == 0
    assert card.output.startswith("# Customer churn")
    assert "**PROMOTE**" in card.output
    pictures = registry.pictures(version)
    assert {"roc.png", "calibration.png", "confusion.png", "importance.png"} <= set(pictures)
    assert all(png.startswith(b"\x89PNG") for png in pictures.values())
    info = mlflow.models.get_model_info("models:/churn/1")
    assert info.signature.inputs.input_names()[0] == "total_purchases"
    assert info.signature.outputs.input_names() == ["probability"]
    assert info.saved_input_example_info is not None
    assert {i.tags[0].value for i in run.inputs.dataset_inputs} == {"training", "holdout"}
    assert {g["name"] for g in registry.gates(version)} >= {"leakage", "champion_gain"}
    assert run.data.params["snapshot"] == version.tags["snapshot"]


@pytest.mark.parametrize("damage", ["gone", "altered"])
def test_a_champion_that_cannot_be_loaded_makes_the_training_fail(released: Path, damage: str) -> None:
    """Without the champion's files nothing can be compared, so nothing is registered as if it were the first."""
    release = released / "mlflow" / "artifacts" / "churn" / registry.get("churn", "1").run_id / "artifacts" / "release"
    if damage == "gone":
        shutil.rmtree(release)
    else:
        (release / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(Exception, match=r"release folder|was altered"):
        train("churn")
    assert [v.number for v in registry.versions("churn")] == ["1"]
    assert judged(released) == ["trained: PROMOTE"]


def test_a_champion_that_the_registry_forgot_makes_the_training_fail(released: Path) -> None:
    """While the rollout names a champion, a registry without that alias is an error and not a first version."""
    registry.set_aliases("churn", {"champion": None})
    with pytest.raises(StoreError):
        train("churn")
    assert [v.number for v in registry.versions("churn")] == ["1"]


def test_a_second_training_while_one_runs_does_nothing(prepared: Path) -> None:
    """The one that finds the lock taken returns at once, and leaves no version and no line of history."""
    with locks.held(prepared, "train-churn") as alone:
        assert alone
        found = train("churn")
    assert found["skipped"] == "another training is running"
    assert history.read(prepared, "churn") == []


def test_a_drift_event_within_the_cooldown_trains_nothing(released: Path) -> None:
    """With reason drift a training is skipped while the last one is younger than the cooldown, and says until when."""
    found = train("churn", reason="drift")
    assert "in cooldown until 1998-04-01" in found["skipped"]
    assert [v.number for v in registry.versions("churn")] == ["1"]


def test_the_same_data_again_is_no_promotion(released: Path) -> None:
    """A candidate that is the champion over again is not a better one: HOLD, and no alias moves."""
    before = registry.aliases("churn")
    found = train("churn")
    assert found["verdict"] == "HOLD"
    assert found["failed"] == ["champion_gain"]
    assert registry.get("churn", found["version"]).tags["judged_against"] == "1"
    assert registry.aliases("churn") == before
    assert history.read(released, "churn")[-1]["action"] == "trained: HOLD"


def test_a_drill_is_rejected_and_says_that_it_was_one(released: Path) -> None:
    """Shuffled labels are refused by the gates; version and history call it a drill, and it starts no cooldown."""
    found = train("churn", reason="drill", drill="shuffled_labels")
    version = registry.get("churn", found["version"])
    assert found["verdict"] == version.verdict == "REJECT"
    assert version.tags["drill"] == "shuffled_labels"
    assert "better_than_dummy" in found["failed"]
    assert "challenger" not in registry.aliases("churn")
    line = history.read(released, "churn")[-1]
    assert (line["action"], line["drill"]) == ("trained: REJECT", "shuffled_labels")


def test_a_threshold_out_of_reach_rejects(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the use case asks of ROC AUC decides: with 0.97 the same training is rejected by that gate."""
    use(monkeypatch, gates=replace(SMALL.gates, min_roc_auc=0.97))
    found = train("churn", as_of=datetime(1998, 1, 1))
    assert found["verdict"] == "REJECT"
    assert found["failed"] == ["floor_roc_auc"]
    assert found["version"] == "1"
    assert registry.aliases("churn") == {}
