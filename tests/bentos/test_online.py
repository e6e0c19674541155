"""Online features, read from a real Feast store on SQLite."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from bentos.runtime.features.online import FeatureReader, repo_config
from bentos.runtime.features.store import OnlineError, redis_store

from .conftest import FRESH, HALF, NAMES, NOW, NULLS, OLD, ROOT, UNKNOWN


@pytest.fixture(scope="module")
def reader(feast_root):
    """A reader of the test store in an order of names that is not Feast's."""
    return FeatureReader.open(
        feast_root / ".bentoflow", entity="user_id", feature_service="test_v1", names=NAMES, root=feast_root
    )


def test_values_come_in_the_order_of_names_and_of_entities(reader):
    """Columns follow `names`, rows follow the ids, repeated ids included; the event time is the oldest view's."""
    rows = reader.read([110, FRESH, 110], NOW)
    np.testing.assert_array_equal(rows.values, [[20, 110, 2], [12, 80, 3], [20, 110, 2]])
    assert rows.values.dtype == np.float64
    assert rows.event_times[1] == NOW - timedelta(days=2)
    assert rows.found.all()
    assert not rows.expired.any()
    assert not rows.missing.any()


def test_an_entity_that_no_view_knows_is_not_found(reader):
    """An unknown entity has no values, no time, and is neither expired nor missing."""
    rows = reader.read([UNKNOWN, FRESH], NOW)
    assert rows.found.tolist() == [False, True]
    assert rows.event_times[0] is None
    assert np.isnan(rows.values[0]).all()
    assert not rows.expired[0]
    assert not rows.missing[0]


def test_a_null_value_of_a_known_entity_is_not_missing(reader):
    """Null is a value that the views know to be absent; only a view without a row counts as missing."""
    rows = reader.read([NULLS, HALF], NOW)
    assert rows.found.all()
    assert rows.missing.tolist() == [False, True]
    assert np.isnan(rows.values[0]).all()
    np.testing.assert_array_equal(rows.values[1], [33, 20, np.nan])


def test_a_value_older_than_its_views_ttl_is_missing_online(reader):
    """Feast hands out values of any age; what is older than its own view's ttl is dropped, the rest stays."""
    rows = reader.read([OLD, FRESH], NOW)
    assert rows.expired.tolist() == [True, False]
    np.testing.assert_array_equal(rows.values[0], [np.nan, np.nan, 1])
    assert rows.ttls == [timedelta(days=30), None]
    assert rows.event_times[0] == NOW - timedelta(days=41)


def test_a_value_exactly_as_old_as_its_ttl_is_kept(reader):
    """The bound is inclusive, as in the offline join."""
    edge = NOW - timedelta(days=1) + timedelta(days=30)
    assert not reader.read([FRESH], edge).expired[0]
    assert reader.read([FRESH], edge + timedelta(seconds=1)).expired[0]


def test_online_equals_the_offline_join_at_any_time(reader, feast_root):
    """At every age from fresh to expired the online values are those of the point-in-time join."""
    import warnings

    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from feast import FeatureStore

        store = FeatureStore(config=repo_config(feast_root / ".bentoflow", root=feast_root))
        for age in (0, 29, 30, 60, 89, 90, 200):
            now = NOW + timedelta(days=age)
            ids = [FRESH, OLD, HALF, NULLS, 50]
            joined = (
                store.get_historical_features(
                    entity_df=pd.DataFrame({"user_id": ids, "event_timestamp": pd.Timestamp(now)}),
                    features=store.get_feature_service("test_v1"),
                )
                .to_df()
                .set_index("user_id")
                .loc[ids, list(NAMES)]
            )
            np.testing.assert_array_equal(reader.read(ids, now).values, joined.to_numpy(dtype=float))


def test_a_batch_is_one_call(reader, monkeypatch):
    """However many entities, the store is asked once."""
    calls, real = [], reader._store.get_online_features
    monkeypatch.setattr(reader._store, "get_online_features", lambda **k: calls.append(k) or real(**k))
    reader.read(list(range(100, 300)), NOW)
    assert len(calls) == 1


def test_no_entities_are_no_rows(reader):
    """An empty batch has the right shape."""
    assert reader.read([], NOW).values.shape == (0, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ("recency", "age")}, "has no age; it has"),
        ({"feature_service": "nope"}, "feature service 'nope'"),
        ({"entity": "card_id"}, "join key 'card_id'"),
    ],
)
def test_what_the_store_lacks_is_named(feast_root, changes, message):
    """A release that reads what is not there is refused when it is opened, not at the first request."""
    asked = {"entity": "user_id", "feature_service": "test_v1", "names": NAMES} | changes
    with pytest.raises(OnlineError, match=message):
        FeatureReader.open(feast_root / ".bentoflow", root=feast_root, **asked)


def test_an_empty_home_says_what_to_run(feast_root, tmp_path):
    """Without a registry the error names the home and the command."""
    with pytest.raises(OnlineError, match="run `bentoflow prepare`"):
        FeatureReader.open(tmp_path, entity="user_id", feature_service="test_v1", names=NAMES, root=feast_root)


def test_the_repositorys_configuration_moves_to_the_home(tmp_path, monkeypatch):
    """feature_store.yaml's paths under .bentoflow follow the home; the engine stays as written."""
    monkeypatch.delenv("BENTOFLOW_ONLINE_STORE", raising=False)
    config = repo_config(tmp_path, root=ROOT)
    assert config.project == "bentoflow"
    assert config.registry.path == str(tmp_path / "feast/registry.db")
    assert config.online_store.path == str(tmp_path / "feast/online.db")
    assert config.offline_store.type == "duckdb"


def test_a_redis_url_replaces_the_online_store(tmp_path, monkeypatch):
    """BENTOFLOW_ONLINE_STORE=redis://… becomes Feast's Redis settings, and nothing else is taken for one."""
    monkeypatch.setenv("BENTOFLOW_ONLINE_STORE", "redis://:pw@cache:6380/2")
    config = repo_config(tmp_path, root=ROOT)
    assert config.online_store.type == "redis"
    assert config.online_store.connection_string == "cache:6380,password=pw,db=2"
    assert redis_store("rediss://cache")["connection_string"] == "cache:6379,ssl=true"
    with pytest.raises(OnlineError, match="must be redis://"):
        redis_store("http://cache")


def test_a_redis_password_is_decoded_and_never_told():
    """Percent codes are the characters they stand for; what cannot be used is refused without repeating the URL."""
    assert redis_store("redis://me:p%40ss%2F@cache")["connection_string"] == "cache:6379,username=me,password=p@ss/"
    for wrong in (
        "redis://:secret@cache:port",
        "http://:secret@cache",
        "redis://:secret/x@cache",
        "redis://:secret%2C@c",
    ):
        with pytest.raises(OnlineError) as caught:
            redis_store(wrong)
        assert "secret" not in str(caught.value)


def test_times_are_utc(reader):
    """Event times carry UTC."""
    time = reader.read([FRESH], datetime.now(UTC)).event_times[0]
    assert time is not None
    assert time.tzinfo is UTC
