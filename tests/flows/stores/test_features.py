"""Features: Feast's offline side keeps every row, the newest value within its ttl, and the order of the service."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from flows.errors import StoreError
from flows.stores import features
from flows.stores.tables import write_table
from tests import backends
from tests.flows.conftest import NAMES

BEFORE = pd.Timestamp("1997-12-31", tz="UTC")
JANUARY, FEBRUARY = pd.Timestamp("1998-01-01", tz="UTC"), pd.Timestamp("1998-02-01", tz="UTC")


def rows(at: pd.Timestamp, value: float, ids: tuple[int, ...] = (1, 2)) -> pd.DataFrame:
    times = pd.Series(at, index=range(len(ids))).astype("datetime64[us, UTC]")
    return pd.DataFrame({"user_id": ids, **dict.fromkeys(NAMES, value), "event_timestamp": times})


@pytest.fixture
def store(home: Path) -> Any:
    """A store that knows customers 1 and 2 in January, and customer 1 in February."""
    folder = home / "features" / "churn"
    write_table(rows(JANUARY, 1.0), folder / "as_of=1998-01-01.parquet")
    write_table(rows(FEBRUARY, 2.0, (1,)), folder / "as_of=1998-02-01.parquet")
    found = features.open_store(home)
    features.apply(found)
    return found


def asked(*pairs: tuple[int, pd.Timestamp], **columns: Any) -> pd.DataFrame:
    times = pd.Series([t for _, t in pairs]).dt.as_unit("us")
    return pd.DataFrame({"user_id": [u for u, _ in pairs], "event_timestamp": times, **columns})


def first(frame: pd.DataFrame) -> list[float | None]:
    return [None if np.isnan(v) else float(v) for v in frame["total_purchases"]]


def test_apply_registers_every_definition_and_may_be_repeated(store: Any) -> None:
    """The services of all files are there, in the order of their definition, and a second apply changes nothing."""
    assert "churn_v1" in features.apply(store)
    assert features.feature_names(store, "churn_v1") == NAMES
    assert [v.name for v in features.service_views(store, "churn_v1")] == ["churn_purchase_behaviour"]


def test_an_unknown_service_names_the_known_ones(store: Any, tmp_path: Path) -> None:
    """The error says which there are; a store that nothing was applied to says what to run."""
    with pytest.raises(StoreError, match=r"no feature service 'churn_v9' in Feast; known: .*churn_v1"):
        features.feature_names(store, "churn_v9")
    with pytest.raises(StoreError, match=r"known: none\. Run `bentoflow prepare`"):
        features.feature_names(features.open_store(tmp_path / "new"), "churn_v1")


def test_the_newest_value_at_or_before_the_moment(store: Any) -> None:
    """The exact moment counts, a second earlier it is the older row, and the future is not there."""
    second = pd.Timedelta(seconds=1)
    entities = asked((1, FEBRUARY), (1, FEBRUARY - second), (1, JANUARY), (1, JANUARY - second))
    assert first(features.point_in_time(store, entities, "churn_v1")) == [2.0, 1.0, 1.0, None]


def test_a_value_older_than_its_ttl_is_missing(store: Any) -> None:
    """After 45 days a value is still there, a second later it is not, and its row stays."""
    end = JANUARY + pd.Timedelta(days=45)
    entities = asked((2, end), (2, end + pd.Timedelta(seconds=1)))
    assert first(features.point_in_time(store, entities, "churn_v1")) == [1.0, None]


def test_rows_their_order_and_their_columns_are_kept(store: Any) -> None:
    """Unknown entities, repeated rows and other columns come back as they were given."""
    entities = asked((9, JANUARY), (2, JANUARY), (1, FEBRUARY), (2, JANUARY), label=[1, 0, 1, 1])
    entities.index = pd.Index([7, 3, 5, 1])
    found = features.point_in_time(store, entities, "churn_v1")
    assert found["user_id"].tolist() == [9, 2, 1, 2]
    assert found["label"].tolist() == [1, 0, 1, 1]
    assert first(found) == [None, 1.0, 2.0, 1.0]
    assert list(found.columns) == ["user_id", "event_timestamp", "label", *NAMES]


def test_materialised_values_can_be_read_online(store: Any, home: Path) -> None:
    """Up to an end the online store holds the newest row of each entity, and a later write replaces it."""
    features.materialise(store, ["churn_purchase_behaviour"], start=BEFORE, end=FEBRUARY)
    assert online(store) == [2.0, 1.0]
    features.write_online(store, "churn_purchase_behaviour", rows(FEBRUARY, 7.0, (2,)))
    assert online(store) == [2.0, 7.0]


def test_only_what_lies_between_start_and_end_is_materialised(store: Any, home: Path) -> None:
    """What is newer than the end is not served yet, and what is there already stays."""
    features.materialise(store, ["churn_purchase_behaviour"], start=BEFORE, end=JANUARY)
    assert online(store) == [1.0, 1.0]
    features.materialise(store, ["churn_purchase_behaviour"], start=JANUARY + pd.Timedelta(seconds=1), end=FEBRUARY)
    assert online(store) == [2.0, 1.0]


def test_what_the_online_store_holds_is_remembered_by_store_and_file(store: Any, home: Path) -> None:
    """A partition that was written again, another partition and another online store are to be materialised anew."""
    january, february = (home / "features" / "churn" / f"as_of=1998-0{m}-01.parquet" for m in (1, 2))
    assert not features.holds(store, home, "churn", february)
    features.remember_online(store, home, "churn", february)
    assert features.holds(store, home, "churn", february)
    assert not features.holds(store, home, "churn", january)
    write_table(rows(FEBRUARY, 3.0, (1,)), february)
    assert not features.holds(store, home, "churn", february)
    features.remember_online(store, home, "churn", february)
    features.materialise(store, ["churn_purchase_behaviour"], start=BEFORE, end=FEBRUARY)
    online_file = Path(store.config.online_store.path)
    for path in online_file.parent.glob(f"{online_file.name}*"):
        path.unlink()
    assert not features.holds(store, home, "churn", february)


def online(store: Any) -> list[float]:
    with features.quiet():
        found = store.get_online_features(
            features=store.get_feature_service("churn_v1"), entity_rows=[{"user_id": 1}, {"user_id": 2}]
        ).to_dict()
    values: list[float] = found["total_purchases"]
    return values


def test_a_file_that_cannot_be_loaded_is_an_error(tmp_path: Path) -> None:
    """A broken feature file stops the run with its own error, and nothing is registered silently without it."""
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(ModuleNotFoundError, match="nothing_of_that_name"):
        features.definitions(tmp_path)


def test_a_redis_that_was_restarted_is_written_to_again(
    store: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have come back empty, so what it held before is not believed."""
    (home / "valkey").mkdir()
    server, env = backends.valkey(home / "valkey")
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    partition = home / "features" / "churn" / "as_of=1998-02-01.parquet"
    server.start()
    try:
        features.remember_online(features.open_store(home), home, "churn", partition)
        assert features.holds(features.open_store(home), home, "churn", partition)
        server.kill()
        server.start()
        assert not features.holds(features.open_store(home), home, "churn", partition)
    finally:
        server.kill()
