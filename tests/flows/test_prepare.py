"""prepare: the same input gives the same state, bad rows are set apart, and nothing later or personal gets through."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bentos.runtime import clock
from bentos.runtime.features.online import FeatureReader
from flows.errors import ContractError
from flows.prepare import prepare
from flows.stores import features, tables
from flows.stores import prepared as pointer
from flows.usecases.spec import Column
from tests.flows.conftest import NAMES, SMALL, use

EARLY = datetime(1997, 5, 1, tzinfo=UTC)


def files(folder: Path) -> dict[str, tuple[int, int]]:
    return {p.name: (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(folder.rglob("*")) if p.is_file()}


def altered(feed: dict[str, str], folder: Path, change) -> dict[str, str]:  # type: ignore[no-untyped-def]
    """The feed with a change, as another source."""
    path = folder / "altered.csv"
    change(pd.read_csv(feed["url"], dtype=str)).to_csv(path, index=False)
    return {"url": str(path), "format": "csv"}


def quarantined(home: Path) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(p) for p in (home / "quarantine" / "churn").glob("*.parquet")])


def snapshot(home: Path) -> pd.DataFrame:
    return tables.read_snapshot(home / "snapshots" / "churn", pointer.latest(home, "churn")[0])


def test_the_same_input_twice_changes_nothing(prepared: Path, feed: dict[str, str], bases) -> None:  # type: ignore[no-untyped-def]
    """A second prepare gives the same snapshot id, writes no snapshot and no partition again, and says so."""
    before = files(prepared / "snapshots" / "churn") | files(prepared / "features")
    again = prepare("churn", datetime(1998, 1, 1, tzinfo=UTC), feed)
    after = files(prepared / "snapshots" / "churn") | files(prepared / "features")
    assert (again["snapshot"], again["created"]) == (bases.prepare["snapshot"], False)
    assert again["partitions_changed"] == 0
    assert {k: v for k, v in after.items() if k != "latest.json"} == {
        k: v for k, v in before.items() if k != "latest.json"
    }


def test_the_order_of_the_rows_is_no_content(prepared: Path, feed: dict[str, str], bases, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """A feed that delivers the same rows in another order gives the same snapshot."""
    source = altered(feed, tmp_path, lambda f: f.sample(frac=1, random_state=1))
    again = prepare("churn", datetime(1998, 1, 1, tzinfo=UTC), source)
    assert (again["snapshot"], again["partitions_changed"]) == (bases.prepare["snapshot"], 0)


def test_bad_rows_are_quarantined_with_their_reason(empty: Path, feed: dict[str, str], tmp_path: Path) -> None:
    """Rows that break the contract are kept aside with every reason, and the good ones go on."""

    def broken(f: pd.DataFrame) -> pd.DataFrame:
        f.loc[0, "amount"] = "-3"
        f.loc[1, "purchased_at"] = "19971399"
        f.loc[2, ["items", "amount"]] = ["0", "99999"]
        return f

    done = prepare("churn", EARLY, altered(feed, tmp_path, broken))
    bad = quarantined(empty)
    assert done["quarantined"] == len(bad) == 3
    reasons = " | ".join(bad["reason"])
    for part in ("amount: below minimum 0", "purchased_at: not a time", "items: below minimum 1", "above maximum 1500"):
        assert part in reasons
    assert snapshot(empty)["amount"].between(0, 1_500).all()


def test_too_many_bad_rows_stop_the_run_and_are_quarantined_too(
    empty: Path, feed: dict[str, str], tmp_path: Path
) -> None:
    """A feed in cents raises ContractError, leaves no snapshot, no features and no clock, but the bad rows."""
    source = altered(feed, tmp_path, lambda f: f.assign(amount=(f["amount"].astype(float) * 1e4).astype(str)))
    with pytest.raises(ContractError, match="rows are bad"):
        prepare("churn", EARLY, source)
    assert quarantined(empty)["reason"].str.contains("amount: above maximum").all()
    assert not (empty / "snapshots").exists()
    assert not (empty / "features").exists()
    assert not clock.clock_path(empty, "churn").exists()


def test_as_of_hides_later_rows(
    empty: Path, feed: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows at or after `as_of` are in no snapshot and no feature, so that taking them away changes nothing."""
    done = prepare("churn", EARLY, feed)
    assert snapshot(empty)["purchased_at"].max() < pd.Timestamp(EARLY)
    assert clock.now(empty, "churn") == EARLY
    use(monkeypatch, contract=replace(SMALL.contract, max_shrink=1.0))
    without = altered(feed, tmp_path, lambda f: f[f["purchased_at"] < "19970501"])
    again = prepare("churn", EARLY, without)
    assert (again["snapshot"], again["partitions_changed"]) == (done["snapshot"], 0)


def test_a_delivery_that_was_cut_off_stops_the_run(prepared: Path, feed: dict[str, str], tmp_path: Path) -> None:
    """A feed with far fewer rows than the last time changes nothing of what is prepared."""
    before = pointer.latest(prepared, "churn")
    with pytest.raises(ContractError, match="taken for cut off"):
        prepare("churn", datetime(1998, 1, 1, tzinfo=UTC), altered(feed, tmp_path, lambda f: f.head(len(f) // 2)))
    assert pointer.latest(prepared, "churn") == before


def test_too_few_rows_before_as_of_stop_the_run(empty: Path, feed: dict[str, str]) -> None:
    """The contract's least number of rows also holds for what is known at `as_of`."""
    with pytest.raises(ContractError, match="the contract asks for 1000"):
        prepare("churn", datetime(1997, 1, 5, tzinfo=UTC), feed)


def test_personal_columns_are_stored_nowhere(
    empty: Path, feed: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Columns declared mask or drop appear in clear neither in the snapshot nor in the quarantine."""
    pii = (Column(name="email", kind="str", pii="mask"), Column(name="phone", kind="str", pii="drop"))
    use(monkeypatch, contract=replace(SMALL.contract, columns=(*SMALL.contract.columns, *pii)))

    def personal(f: pd.DataFrame) -> pd.DataFrame:
        f = f.assign(email="someone" + f["user_id"] + "@example.com", phone="+49555" + f["user_id"])
        f.loc[0, "amount"] = "-3"
        return f

    prepare("churn", EARLY, altered(feed, tmp_path, personal))
    kept, bad = snapshot(empty), quarantined(empty)
    for frame in (kept, bad):
        assert "phone" not in frame
        assert frame["email"].str.fullmatch("[0-9a-f]{16}").all()
    stored = [p for p in empty.rglob("*") if p.is_file() and p.suffix in {".parquet", ".json"}]
    for path in stored:
        content = path.read_bytes() if path.suffix == ".json" else pd.read_parquet(path).to_csv().encode()
        assert b"@example.com" not in content, path
        assert b"+49555" not in content, path
    assert kept.groupby("user_id")["email"].nunique().max() == 1


def test_a_feature_row_uses_only_events_strictly_before_its_date(prepared: Path) -> None:
    """Features of a date do not change when every event from that date on is replaced, midnight itself included."""
    moment = pd.Timestamp("1997-09-01", tz="UTC")
    events = snapshot(prepared)
    at_midnight = events.groupby("user_id", as_index=False).first().assign(purchased_at=moment, amount=1e6, items=99)
    forged = pd.concat([events[events["purchased_at"] < moment], at_midnight], ignore_index=True)
    stored = pd.read_parquet(prepared / "features" / "churn" / "as_of=1997-09-01.parquet")
    fresh = SMALL.build_features(forged, moment)
    pd.testing.assert_frame_equal(fresh, stored.drop(columns="event_timestamp"), check_dtype=False)
    assert (stored["event_timestamp"] == moment).all()
    assert set(stored["user_id"]) == set(events.loc[events["purchased_at"] < moment, "user_id"])


def online(home: Path, ids: list[int], now: datetime) -> np.ndarray:
    reader = FeatureReader.open(home, entity="user_id", feature_service="churn_v1", names=NAMES)
    return reader.read(ids, now).values


def offline(home: Path, ids: list[int], now: datetime) -> np.ndarray:
    asked = pd.DataFrame({"user_id": ids, "event_timestamp": pd.Timestamp(now).as_unit("us")})
    return features.point_in_time(features.open_store(home), asked, "churn_v1")[NAMES].to_numpy()


@pytest.mark.parametrize("days", [0, 17, 45, 46])
def test_online_equals_offline(prepared: Path, days: int) -> None:
    """For 500 customers the value served at a time is the one that the offline join gives, up to and beyond the ttl."""
    now = datetime(1998, 1, 1, tzinfo=UTC) + timedelta(days=days)
    ids = [int(i) for i in snapshot(prepared)["user_id"].drop_duplicates().sort_values()[:500]]
    served, joined = online(prepared, ids, now), offline(prepared, ids, now)
    np.testing.assert_array_equal(served, joined)
    assert np.isnan(served).all() == (days > 45)


def test_a_later_month_moves_the_online_store(prepared: Path, feed: dict[str, str]) -> None:
    """After the next prepare the online values are those of the new month, equal to the offline join."""
    now = datetime(1998, 2, 1, tzinfo=UTC)
    done = prepare("churn", now, feed)
    ids = [int(i) for i in snapshot(prepared)["user_id"].drop_duplicates()[:300]]
    assert done["partitions_changed"] == 1
    np.testing.assert_array_equal(online(prepared, ids, now), offline(prepared, ids, now))


def test_corrected_events_reach_the_online_store(prepared: Path, feed: dict[str, str], tmp_path: Path) -> None:
    """When the source corrects the past, the changed partitions are rewritten and the online values follow."""
    now = datetime(1998, 1, 1, tzinfo=UTC)
    source = altered(feed, tmp_path, lambda f: f.assign(amount=(f["amount"].astype(float) + 1).astype(str)))
    done = prepare("churn", now, source)
    ids = [int(i) for i in snapshot(prepared)["user_id"].drop_duplicates()[:300]]
    assert done["partitions_changed"] == 11
    np.testing.assert_array_equal(online(prepared, ids, now), offline(prepared, ids, now))


def test_a_prepare_that_stopped_before_the_online_store_is_finished_by_the_next(
    prepared: Path, feed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When materialising fails after the partitions were written, running again brings the online store up to date."""
    now = datetime(1998, 2, 1, tzinfo=UTC)

    def down(*args: object, **more: object) -> None:
        raise ConnectionError("the online store is down")

    with monkeypatch.context() as patch:
        patch.setattr(features, "materialise", down)
        with pytest.raises(ConnectionError):
            prepare("churn", now, feed)
    prepare("churn", now, feed)
    ids = [int(i) for i in snapshot(prepared)["user_id"].drop_duplicates()[:300]]
    np.testing.assert_array_equal(online(prepared, ids, now), offline(prepared, ids, now))


def test_going_back_in_time_takes_the_online_store_along(prepared: Path, feed: dict[str, str]) -> None:
    """Preparing an earlier moment again serves the values of then, not those of the future."""
    ids = [int(i) for i in snapshot(prepared)["user_id"].drop_duplicates()[:300]]
    prepare("churn", datetime(1998, 2, 1, tzinfo=UTC), feed)
    now = datetime(1998, 1, 1, tzinfo=UTC)
    prepare("churn", now, feed)
    assert clock.now(prepared, "churn") == now
    np.testing.assert_array_equal(online(prepared, ids, now), offline(prepared, ids, now))


def test_a_corrupt_mark_of_the_online_store_is_written_again(prepared: Path, feed: dict[str, str]) -> None:
    """What says which partition the online store holds was cut off: it is materialised again and says so again."""
    mark = prepared / "feast" / "online-churn.json"
    prepare("churn", datetime(1998, 1, 1, tzinfo=UTC), feed)
    whole = mark.read_bytes()
    mark.write_bytes(whole[: len(whole) // 2])
    prepare("churn", datetime(1998, 1, 1, tzinfo=UTC), feed)
    assert mark.read_bytes() == whole
