"""Decided rows: by column and by row they are the same."""

from datetime import timedelta

import numpy as np
import orjson
import pytest

from bentos.runtime.answers import Answer, Parts, RowError, column, encoded, errors, join
from bentos.runtime.scoring.decided import Decided
from bentos.runtime.scoring.decisions import Decider
from bentos.runtime.scoring.release import load_release
from bentos.runtime.scoring.table import Table
from bentos.runtime.scoring.wire import Order

from .conftest import FRESH, GIVEN, HALF, NAMES, NOW, OLD, UNKNOWN, StoredReader, make_release, records

FIELDS = Answer._fields[:-1]


@pytest.fixture(scope="module")
def decider(tmp_path_factory, model):
    """Who decides for a release."""
    folder = make_release(tmp_path_factory.mktemp("release") / "v1", model=model)
    return Decider("champion", load_release(folder, "churn", lambda manifest: StoredReader()))


def mixed(n: int) -> list:
    """Good rows of all kinds and bad ones between them."""
    kinds = [
        {"user_id": FRESH},
        {"user_id": UNKNOWN},
        {"user_id": 5, "features": GIVEN},
        {"user_id": OLD},
        {"user_id": -1},
        {"user_id": None, "features": GIVEN | {"visits": None}},
        {"user_id": HALF},
    ]
    return [kinds[i % len(kinds)] for i in range(n)]


def decided(decider: Decider, rows, **how) -> Decided:
    return decider.decide(rows, [i % 3 == 0 for i in range(len(rows))], NOW, **how)


@pytest.mark.parametrize("n", [1, 7, 200])
def test_columns_have_what_the_rows_have(decider, n):
    """Every field, the JSON and the errors, of all rows."""
    found = decided(decider, mixed(n))
    rows = list(found)
    assert len(rows) == len(found) == n
    answers = [row for row in rows if isinstance(row, Answer)]
    for name in FIELDS:
        assert list(column(found, name)) == [getattr(a, name) for a in answers] == list(column(rows, name))
    assert encoded(found) == b"[%b]" % b",".join([a.encoded for a in answers]) == encoded(rows)
    assert errors(found) == {i: row for i, row in enumerate(rows) if isinstance(row, RowError)} == errors(rows)


def test_any_part_has_its_own_rows_and_records(decider):
    """A slice is decided rows again, with the same answers, JSON, errors and records; so is what is joined of them."""
    found = decided(decider, mixed(40))
    rows, each = list(found), {r["request_id"]: r for r in records(found)}
    assert len(each) == len(rows) - len(found.errors)
    for start in range(40):
        for stop in (start, start + 1, start + 9, 40):
            part = found[start:stop]
            assert list(part) == rows[start:stop]
            assert records(part) == [each[a.request_id] for a in part if isinstance(a, Answer)]
    assert [found[i] for i in range(-40, 40)] == rows + rows
    parts = join([found[:3], rows[3:20], found[20:]])
    assert isinstance(parts, Parts)
    assert list(parts) == rows
    assert errors(parts) == errors(found)
    assert encoded(parts) == encoded(found)
    assert list(column(parts, "key")) == list(column(found, "key"))


def test_a_record_says_what_the_answer_says(decider):
    """Alone or in a block: values, score, decision, time, state and smoke of the very row."""
    found = decided(decider, mixed(30))
    answers = [a for a in found if isinstance(a, Answer)]
    for answer, record in zip(answers, records(found), strict=True):
        assert record["request_id"] == answer.request_id
        assert record["entity"] == answer.key
        assert (record["score"], record["decision"]) == (answer.probability, answer.risk)
        assert record["features"] == answer.features
        assert (record["state"] != "ok") == answer.stale
        assert record["event_time"] == (answer.event_time and answer.event_time.isoformat())
        assert record["time"] == NOW.isoformat()
    smoke = {r["request_id"]: r["smoke"] for r in records(found)}
    assert [smoke[a.request_id] for i, a in enumerate(found) if isinstance(a, Answer)] == [
        i % 3 == 0 for i, a in enumerate(found) if isinstance(a, Answer)
    ]


def test_a_table_is_decided_as_its_rows_are(decider):
    """The same values as columns and as rows give the same bytes, gaps and large numbers included."""
    rng = np.random.default_rng(0)
    x = np.where(rng.random((300, 3)) < 0.1, np.nan, rng.normal(50, 30, (300, 3)).round(2))
    x[7, 1] = 1e12
    given = Table("user_id", list(range(300)), Order(NAMES), list(np.ascontiguousarray(x.T)))
    rows = [
        {"user_id": i, "features": {n: None if v != v else v for n, v in zip(NAMES, row, strict=True)}}
        for i, row in enumerate(x.tolist())
    ]
    ids = [f"{i:032x}" for i in range(300)]
    assert [(row.user_id, orjson.loads(orjson.dumps(row.features.v0))) for row in given[5:7]] == [
        (i, rows[i]["features"][NAMES[0]]) for i in (5, 6)
    ]
    by_column, by_row = decided(decider, given, ids=ids), decided(decider, rows, ids=ids)
    assert by_column.encoded() == by_row.encoded()
    assert [r | {"wall": ""} for r in records(by_column)] == [r | {"wall": ""} for r in records(by_row)]
    [one] = decided(decider, given[11:12], ids=ids[11:12])
    assert one == list(by_row)[11]


def test_a_table_with_an_impossible_value_refuses_that_row_alone(decider):
    """Beyond float32 or infinite: that row's own error, as by row."""
    x = np.tile([12.0, 80.0, 3.0], (100, 1))
    x[3, 0], x[5, 2] = 1e200, np.inf
    found = decided(decider, Table("user_id", [1] * 100, Order(NAMES), list(x.T)))
    assert {i: (e.status, e.detail["field"]) for i, e in found.errors.items()} == {
        3: (422, "features.recency"),
        5: (422, "features.visits"),
    }


def test_expired_values_differ_within_a_block(decider):
    """States, event times and staleness are each row's own where they differ."""
    found = decider.decide([{"user_id": u} for u in (FRESH, OLD, HALF)], [False] * 3, NOW)
    assert [r["state"] for r in records(found)] == ["ok", "expired", "missing"]
    assert [a.stale for a in found] == [False, True, True]
    assert [NOW - a.event_time > timedelta(days=30) for a in found] == [False, True, False]
