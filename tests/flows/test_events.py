"""Event rows through the flows, on a small simulation: no look ahead, batch and service agree, labels join.

The tests share one home as of 2024-03-01; only the last one moves it on.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from bentos.runtime import clock
from bentos.runtime.features.joined import JoinedReader, open_reader
from bentos.runtime.journal import Journal
from bentos.runtime.rollouts import rollout
from bentos.runtime.scoring import manifest
from bentos.runtime.scoring.decisions import Decider
from bentos.runtime.scoring.release import load_release
from flows.check_drift import check_drift
from flows.errors import ContractError
from flows.explain import explain, reproduce
from flows.feedback import feedback
from flows.prepare import prepare
from flows.release import release
from flows.score import score
from flows.steps.data import cohorts
from flows.stores import bentos, features, tables
from flows.stores import prepared as pointer
from flows.train import train
from flows.usecases import fraud
from tests.bentos.conftest import records
from tests.flows.conftest import at_home, without_servers

DAY = timedelta(days=1)
AS_OF = datetime(2024, 3, 1, tzinfo=UTC)
SETTINGS = (("cards", 400), ("terminals", 800), ("days", 70))
SMALL = replace(
    fraud.USE_CASE,
    source=replace(fraud.USE_CASE.source, settings=SETTINGS),  # type: ignore[type-var]
    estimators=("hist_gradient_boosting",),
    trials=1,
    max_search_rows=6_000,
    gates=replace(fraud.USE_CASE.gates, bootstrap=100),
)


@dataclass(frozen=True)
class Site:
    """A home with a released champion, what the flows answered, and the whole simulated log."""

    home: Path
    prepared: dict[str, Any]
    trained: dict[str, Any]
    log: pd.DataFrame

    @property
    def events(self) -> pd.DataFrame:
        return tables.read_snapshot(self.home / "snapshots" / "fraud", pointer.latest(self.home, "fraud")[0])

    def decider(self) -> Decider:
        """The champion as the service loads it."""
        found = rollout.read(rollout.rollout_path(self.home, "fraud"))
        assert found is not None
        folder = bentos.model_folder(found.arms[0].release)
        return Decider("champion", load_release(folder, "fraud", lambda m: open_reader(self.home, m)))

    def of_day(self, day: datetime) -> pd.DataFrame:
        return self.log[(self.log["time"] >= day) & (self.log["time"] < day + DAY)].reset_index(drop=True)


@pytest.fixture(scope="module")
def site(prefect_api: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with at_home(tmp_path_factory.mktemp("fraud") / "home") as home, pytest.MonkeyPatch.context() as patch:
        patch.setattr(fraud, "USE_CASE", SMALL)
        without_servers(patch)
        prepared = prepare("fraud", AS_OF)
        trained = train("fraud", reason="first version")
        assert trained["verdict"] == "PROMOTE", trained["reasons"]
        release("fraud", reason="first version")
        yield Site(home, prepared, trained, fraud.payments(**dict(SETTINGS)))


def test_a_simulation_can_be_set_otherwise_or_give_way_to_a_file(
    prefect_api: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For one run its settings are replaced one by one, or a file with the same columns takes its place."""
    monkeypatch.setattr(fraud, "USE_CASE", SMALL)
    moment, few = datetime(2024, 1, 20, tzinfo=UTC), {**dict(SETTINGS), "cards": 200.0}
    log = fraud.payments(**few)
    rows = int((log["time"] < moment).sum())
    log.to_csv(tmp_path / "payments.csv", index=False)
    changes = ({"settings": {"cards": 200.0}}, {"url": str(tmp_path / "payments.csv"), "format": "csv"})
    with at_home(tmp_path / "home"):
        made = [prepare("fraud", moment, change) for change in changes]
    assert [m["rows"] for m in made] == [rows, rows]
    assert made[0]["snapshot"] == made[1]["snapshot"]


def asked(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Payments as requests bring them."""
    keys = ("card_id", "terminal_id")
    return [
        {
            **{k: int(getattr(r, k)) for k in keys},
            "amount": float(r.amount),
            "time": pd.Timestamp(r.time).to_pydatetime(),
        }
        for r in rows.itertuples()
    ]


def answered(site: Site, rows: pd.DataFrame, now: datetime = AS_OF) -> list[dict[str, Any]]:
    """The journal records with which the service answers payments."""
    return records(site.decider().decide(asked(rows), [False] * len(rows), now))


def frame_of(site: Site, events: pd.DataFrame) -> pd.DataFrame:
    return features.training_frame(features.open_store(site.home), SMALL, events, pd.Timestamp(AS_OF))


def test_labels_that_are_not_known_yet_are_not_in_the_snapshot(site: Site) -> None:
    """The snapshot ends at its moment, and the labels of its last week are missing."""
    events = site.events
    assert events["time"].max() < pd.Timestamp(AS_OF)
    young = events["time"] > pd.Timestamp(AS_OF) - pd.Timedelta(days=7)
    assert events["fraud"].isna().equals(young)
    assert site.prepared["rows"] == len(events) == (site.log["time"] < AS_OF).sum()


def test_every_day_has_a_partition_of_each_entity(site: Site) -> None:
    """From the day before the first row on, one file of cards and one of terminals."""
    folder = site.home / "features" / "fraud"
    days = [f"as_of={d:%Y-%m-%d}.parquet" for d in pd.date_range("2024-01-15", AS_OF.date())]
    assert sorted(p.name for p in folder.glob("*.parquet")) == days
    assert sorted(p.name for p in (folder / "terminal_id").glob("*.parquet")) == days


def test_a_planted_future_row_does_not_change_the_training_frame(site: Site) -> None:
    """Absurd features from one second after each payment on, for its card and its terminal, reach no row (rule 3)."""
    frame = frame_of(site, site.events)
    planted = []
    for key in SMALL.keys:
        example = pd.read_parquet(features.partition(site.home, SMALL, key, pd.Timestamp(AS_OF)))
        rows = frame[[key]].assign(**dict.fromkeys(example.columns.difference([key, "event_timestamp"]), 1000000000.0))
        rows["event_timestamp"] = frame["event_timestamp"] + pd.Timedelta(seconds=1)
        # what is planted for one payment lies in the past of the next: keep each entity's last payment only
        last = frame.groupby(key)["event_timestamp"].transform("max") == frame["event_timestamp"]
        path = features.partition(site.home, SMALL, key, pd.Timestamp(AS_OF)).with_name("planted.parquet")
        rows[last][example.columns].drop_duplicates(key).to_parquet(path, coerce_timestamps="us")
        planted.append(path)
    try:
        pd.testing.assert_frame_equal(frame_of(site, site.events), frame)
    finally:
        for path in planted:
            path.unlink()


def test_later_events_and_labels_do_not_change_the_training_frame(site: Site) -> None:
    """The whole log, with its future and every label turned round that was not known, gives the same frame."""
    young = site.log["time"] > pd.Timestamp(AS_OF) - pd.Timedelta(days=7)
    forged = site.log.assign(fraud=site.log["fraud"].where(~young, 1 - site.log["fraud"]))
    forged["time"] = forged["time"].astype("datetime64[us, UTC]")
    pd.testing.assert_frame_equal(frame_of(site, forged), frame_of(site, site.events), check_dtype=False)


def test_the_release_has_its_risks_costs_and_request(site: Site) -> None:
    """Two rising thresholds, the dearer one decides; the request's inputs come last, with their ranges."""
    found = site.decider().served.manifest
    assert len(found.cuts) == 2
    assert found.cuts[0] < found.cuts[1] == found.threshold
    assert found.names[-2:] == ["amount", "hour"] == [f.name for f in found.request]
    assert (found.keys, found.time) == (("card_id", "terminal_id"), "time")
    golden = json.loads((bentos.model_folder(site.decider().served.release) / manifest.GOLDEN).read_text())
    assert len(golden["others"]["terminal_id"]) == len(golden["entities"]) == len(golden["rows"])


def test_the_version_can_be_reproduced(site: Site) -> None:
    """From its snapshot alone the same frame, thresholds and scores come out."""
    found = reproduce("fraud", site.trained["version"])
    assert found["equal"], found


def test_shuffled_labels_are_rejected(site: Site) -> None:
    """The gates see that a model has learned nothing (rule 1)."""
    drilled = train("fraud", reason="drill", drill="shuffled_labels")
    assert drilled["verdict"] == "REJECT"
    assert "better_than_dummy" in drilled["failed"]


def test_online_equals_offline(site: Site) -> None:
    """What the service reads for a payment is what the point-in-time join gives for its time, bit for bit (rule 5)."""
    rows = site.of_day(AS_OF)
    records = answered(site, rows)
    found = site.decider().served.manifest
    joined = features.point_in_time(
        features.open_store(site.home), cohorts.asked(SMALL, rows, pd.Timestamp(AS_OF)), SMALL.feature_service
    )
    online = np.array([[r["features"][n] for n in found.names] for r in records], dtype=np.float64)
    np.testing.assert_array_equal(online, joined[found.names].to_numpy(dtype=np.float64))
    assert len(records) == len(rows) > 400


def test_reads_come_from_packed_vectors(site: Site) -> None:
    """Both entities' vectors were packed when they were materialised."""
    reader = site.decider().served.reader
    assert isinstance(reader, JoinedReader)
    now = np.array([(AS_OF + DAY / 2).timestamp()])
    reader.read([(1, 1)], now)
    assert reader.local


def test_the_batch_equals_the_service(site: Site, tmp_path: Path) -> None:
    """Score, decision and state of every payment of a table are the service's (rule 4), unknown ones included."""
    rows = site.of_day(AS_OF)
    rows.loc[0, "card_id"] = 10**6
    rows.loc[1, ["card_id", "terminal_id"]] = 10**6
    path = tmp_path / "payments.parquet"
    rows[["card_id", "terminal_id", "time", "amount"]].to_parquet(path)
    done = score("fraud", str(path), out=str(tmp_path / "out"), partition_rows=300)
    found = pd.concat([pd.read_parquet(Path(done["out"]) / name) for name in done["files"]], ignore_index=True)
    records = answered(site, rows.drop(index=1))
    assert found["event_timestamp"].tolist() == rows["time"].tolist()
    assert found["features"].tolist()[:2] == ["missing", "unknown"]
    assert found.loc[1, ["score", "decision"]].isna().all()
    served = found.drop(index=1)
    assert [r["score"] for r in records] == served["score"].tolist()
    assert [r["decision"] for r in records] == served["decision"].tolist()
    assert [r["state"] for r in records] == served["features"].tolist()


def test_without_a_table_the_day_before_is_scored(site: Site) -> None:
    """The events of the last day of the snapshot, each once."""
    done = score("fraud")
    assert done["rows"] == len(site.of_day(AS_OF - DAY))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"amount": -1.0}, "amount: below minimum"),
        ({"amount": None}, "amount"),
        ({"terminal_id": "x"}, "terminal_id"),
    ],
)
def test_a_table_with_a_bad_row_is_refused(site: Site, tmp_path: Path, change: dict[str, Any], match: str) -> None:
    """What the service refuses the batch refuses too, and says which column."""
    rows = site.of_day(AS_OF).head(3)[["card_id", "terminal_id", "time", "amount"]].astype(object)
    for name, value in change.items():
        rows.loc[1, name] = value
    path = tmp_path / "bad.csv"
    rows.to_csv(path, index=False)
    with pytest.raises(ContractError, match=match):
        score("fraud", str(path), out=str(tmp_path / "out"))
    rows.drop(columns="terminal_id").to_csv(path, index=False)
    with pytest.raises(ContractError, match="no column 'terminal_id'"):
        score("fraud", str(path), out=str(tmp_path / "out"))


def test_answers_are_watched_labelled_and_explained(site: Site) -> None:
    """A day without drift is none, amounts in cents are; a week later each answer has the label of its own payment."""
    rows = site.of_day(AS_OF)
    journal = Journal(site.home / "journal" / "fraud")
    journal.append(records := answered(site, rows))
    calm = check_drift("fraud", since=AS_OF, until=AS_OF + DAY, emit=False)
    assert (calm["state"], calm["rows"]) == ("none", len(rows))
    prepare("fraud", AS_OF + 9 * DAY)
    assert clock.now(site.home, "fraud") == AS_OF + 9 * DAY
    later = site.of_day(AS_OF + 9 * DAY)
    cents = later.assign(amount=np.minimum(later["amount"] * 100, 10_000.0))
    journal.append(answered(site, cents, AS_OF + 9 * DAY))
    journal.close()
    moved = check_drift("fraud", since=AS_OF + 9 * DAY, until=AS_OF + 10 * DAY, emit=False)
    assert (moved["state"], moved["kind"]) == ("drift", "data_bug")
    assert "amount" in moved["drifted"]
    measured = feedback("fraud", min_labels=100)
    assert (measured["answers"], measured["labels"]) == (len(rows) + len(later), len(rows))
    (month,) = measured["months"]
    assert month["base_rate"] == pytest.approx(rows["fraud"].mean())
    assert month["roc_auc"]["value"] == pytest.approx(roc_auc_score(rows["fraud"], [r["score"] for r in records]))
    assert explain(records[0]["request_id"], "fraud")["equal"]
