"""Packed vectors: equal to Feast's own answer on SQLite and Redis, and never older than it."""

import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bentos.runtime.features import online
from bentos.runtime.features.online import FeatureReader
from tests import servers

from .conftest import FRESH, HALF, NAMES, NOW, NULLS, OLD, ROOT, UNKNOWN, fill_store

ASKED = [FRESH, OLD, HALF, NULLS, UNKNOWN, 50, 51, FRESH, 399]


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def root(request, tmp_path_factory) -> Iterator[Path]:
    """A project root with a materialised store of either kind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("BENTOFLOW_ONLINE_STORE", raising=False)
        folder = tmp_path_factory.mktemp(request.param)
        (folder / "feature_repo").mkdir()
        text = (ROOT / "feature_repo/feature_store.yaml").read_text()
        (folder / "feature_repo/feature_store.yaml").write_text(text)
        if request.param == "sqlite":
            fill_store(folder / ".bentoflow")
            yield folder
            return
        with servers.redis() as url:
            patch.setenv("BENTOFLOW_ONLINE_STORE", url)
            fill_store(folder / ".bentoflow")
            yield folder


def open_reader(root: Path) -> FeatureReader:
    return FeatureReader.open(root / ".bentoflow", entity="user_id", feature_service="test_v1", names=NAMES, root=root)


def pack(root: Path, ids=range(1, 400)) -> int:
    return online.pack(root / ".bentoflow", entity="user_id", feature_service="test_v1", ids=list(ids), root=root)


@pytest.fixture
def feast_calls(monkeypatch) -> list[list[int]]:
    """The ids of each read that reached Feast itself."""
    calls, real = [], FeatureReader._ask
    monkeypatch.setattr(FeatureReader, "_ask", lambda self, ids: calls.append(list(ids)) or real(self, ids))
    return calls


def same(a: online.FeatureRows, b: online.FeatureRows) -> None:
    """Every part of two answers is equal."""
    np.testing.assert_array_equal(a.values, b.values)
    for name in ("found", "expired", "missing", "event_times", "ttls"):
        assert list(getattr(a, name)) == list(getattr(b, name)), name


@pytest.mark.parametrize("age", [0, 28, 29, 30, 60, 89, 90, 200])
def test_packed_vectors_answer_as_feast_does_at_every_age(root, feast_calls, age):
    """Values, event times, unknown, missing and expired are Feast's own, and only unknown entities are asked of it."""
    now = NOW + timedelta(days=age)
    pack(root)
    reader = open_reader(root)
    feast = FeatureReader(reader._store, reader._service, entity=reader.entity, names=reader.names, views=reader.views)
    feast._pack = None
    expected = feast.read(ASKED, now)
    feast_calls.clear()
    same(reader.read(ASKED, now), expected)
    assert feast_calls == [[UNKNOWN]]
    feast_calls.clear()
    reader.read([FRESH, OLD, 50], now)
    assert feast_calls == []


def test_packing_says_how_many_entities_are_known(root):
    """Entities that the store does not know are not packed."""
    assert pack(root, [FRESH, OLD, UNKNOWN]) == 2


def written(store, spend: float, *, user: int = FRESH, hours: int = 0) -> None:
    """Write one entity's features into the online store the way flows and pushes do, past the packing."""
    row = {"user_id": [user], "recency": [1.0], "spend": [spend]}
    row |= {"event_timestamp": [pd.Timestamp(NOW) - pd.Timedelta(days=1) + pd.Timedelta(hours=hours)]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        store.write_to_online_store("behaviour", df=pd.DataFrame(row).assign(created=pd.Timestamp(NOW)))


def test_a_write_past_the_packing_is_seen_at_once_by_a_reader_that_is_open(root, feast_calls):
    """Whoever writes into Feast's store, the next read has it, and packing again makes it fast again."""
    pack(root)
    reader, other = open_reader(root), open_reader(root)._store
    assert reader.read([FRESH, 50], NOW).values[0].tolist() == open_reader(root).read([FRESH], NOW).values[0].tolist()
    feast_calls.clear()
    written(other, 12345.0, hours=1)
    assert reader.read([50, FRESH], NOW).values[1].tolist() == [1.0, 12345.0, 3.0]
    assert feast_calls == [[FRESH]]
    assert pack(root, [FRESH]) == 1
    feast_calls.clear()
    assert reader.read([FRESH], NOW).values[0].tolist() == [1.0, 12345.0, 3.0]
    assert feast_calls == []


def test_a_write_with_the_same_event_time_is_seen_if_feast_takes_it(root):
    """SQLite overwrites a row of the same time and Redis refuses to: the packed answer is Feast's in both."""
    pack(root)
    reader = open_reader(root)
    written(open_reader(root)._store, 777.0, user=60)
    seen = reader.read([60], NOW).values[0].tolist()
    reader._pack = None
    assert seen == reader.read([60], NOW).values[0].tolist()


def test_a_reader_that_was_open_before_the_first_packing_uses_it(root, feast_calls):
    """A service does not have to be restarted for the packed vectors."""
    reader = open_reader(root)
    pack(root, [70, 71])
    feast_calls.clear()
    reader.read([70, 71], NOW)
    assert feast_calls == []


def test_a_table_that_was_made_anew_invalidates_every_vector(tmp_path, monkeypatch):
    """Dropping a view's table takes its triggers with it; from then on Feast is asked until somebody packs again."""
    monkeypatch.delenv("BENTOFLOW_ONLINE_STORE", raising=False)
    (tmp_path / "feature_repo").mkdir()
    text = (ROOT / "feature_repo/feature_store.yaml").read_text()
    (tmp_path / "feature_repo/feature_store.yaml").write_text(text)
    fill_store(tmp_path / ".bentoflow", extra=range(5, 20))
    pack(tmp_path, range(1, 20))
    reader = open_reader(tmp_path)
    assert reader.local
    with closing(sqlite3.connect(tmp_path / ".bentoflow/feast/online.db")) as other:
        definition = "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = 'bentoflow_visits'"
        (sql,) = other.execute(definition).fetchone()
        other.execute("DROP TABLE bentoflow_visits")
        other.execute(sql)
        other.commit()
    assert reader.read([FRESH], NOW).missing.tolist() == [True]
    assert not reader.local
    assert pack(tmp_path, [FRESH]) == 1
    assert reader.read([FRESH], NOW).missing.tolist() == [True]
    assert reader.local
