"""Rows that are answered together: all of them or none, however many batches they take."""

import asyncio

import pytest

from bentos.runtime import journal, metrics
from bentos.runtime.answers import Answer, RowError
from bentos.runtime.predictor import Predictor
from bentos.runtime.rollouts.rollout import Arm, Rollout, rollout_path, write
from bentos.runtime.together import Together

from .conftest import FRESH, GIVEN, OLD, UNKNOWN, StoredReader, fit, make_release, set_clock

GOOD = {"user_id": 5, "features": GIVEN}


@pytest.fixture
def predictor(tmp_path, model):
    """A predictor with small batches, a champion and a challenger."""
    make_release(tmp_path / "v1", model=model)
    make_release(tmp_path / "v2", version="2", model=fit(seed=4))
    write(rollout_path(tmp_path, "churn"), Rollout((Arm("champion", "v1", 1.0), Arm("challenger", "v2", 0.0))))
    set_clock(tmp_path)
    return Predictor("churn", tmp_path, lambda tag: tmp_path / tag, open_reader=lambda m: StoredReader(), max_rows=8)


def asked(predictor, *calls):
    """What each call gets, all sent at once; a call is its rows and how to answer them."""

    async def main():
        await predictor.start()
        try:
            return await asyncio.gather(*[predictor.answer(rows, **how) for rows, how in calls])
        finally:
            await predictor.stop()

    return asyncio.run(asyncio.wait_for(main(), 60))


def together(rows, **how):
    """A call whose rows are answered together."""
    version = how.pop("version", None)
    return rows, {"together": Together(len(rows), version=version), **how}


def written(predictor):
    """Request ids in the journal, in order."""
    return [r["request_id"] for r in journal.scan(predictor.home / "journal" / "churn", include_smoke=True)]


def test_a_call_over_many_batches_is_journalled_whole_and_in_order(predictor):
    """Thirty rows in batches of eight are thirty answers and thirty lines, the same scores as without the bond."""
    rows = [GOOD, {"user_id": FRESH}, {"user_id": OLD}] * 10
    [bound, free] = asked(predictor, together(rows), (rows, {}))
    assert [a.probability for a in bound] == [a.probability for a in free]
    ids = [a.request_id for a in bound]
    assert [i for i in written(predictor) if i in set(ids)] == ids
    assert predictor.health()["answered"] == 60


@pytest.mark.parametrize("bad", [0, 7, 8, 29])
def test_one_bad_row_in_any_batch_keeps_the_whole_call_out_of_the_journal(predictor, bad):
    """Neither the rows before nor those after it are journalled or counted; another call in the same batches is."""
    rows = [GOOD] * 30
    rows[bad] = {"user_id": UNKNOWN}
    [bound, free] = asked(predictor, together(rows), ([GOOD] * 30, {}))
    assert [i for i, r in enumerate(bound) if isinstance(r, RowError)] == [bad]
    assert written(predictor) == [a.request_id for a in free]
    assert predictor.health()["answered"] == 30


def test_two_calls_in_one_batch_do_not_touch_each_other(predictor):
    """Of two bound calls in the same batch the one with a bad row fails alone."""
    [good, bad] = asked(predictor, together([GOOD] * 3), together([GOOD, {"user_id": UNKNOWN}]))
    assert all(isinstance(a, Answer) for a in good)
    assert isinstance(bad[1], RowError)
    assert written(predictor) == [a.request_id for a in good]


def test_another_version_than_the_one_asked_for_is_no_answer(predictor):
    """A call for a version that gave way is told to ask again, and nothing of it is journalled."""
    [gone, there] = asked(predictor, together([GOOD] * 3, version="7"), together([GOOD], version="2", arm="challenger"))
    assert [r.status for r in gone] == [503] * 3
    assert "version 7 gave way to 1" in gone[0].error
    assert there[0].model_version == "2"
    assert written(predictor) == [there[0].request_id]


def test_smoke_tests_are_journalled_but_not_counted(predictor):
    """A bound smoke test is in the journal, marked, and not among the answers given."""
    [results] = asked(predictor, together([GOOD] * 9, smoke=True))
    assert written(predictor) == [a.request_id for a in results]
    assert list(journal.scan(predictor.home / "journal" / "churn")) == []
    assert predictor.health()["answered"] == 0


def test_if_the_journal_cannot_be_written_the_call_fails(predictor, monkeypatch):
    """The last batch carries the error, and no row counts as answered."""

    def full(records):
        if b"".join(records):
            raise journal.JournalError("cannot append: disk full")

    monkeypatch.setattr(predictor._journal, "append", full)
    [results] = asked(predictor, together([GOOD] * 9))
    assert [getattr(r, "status", 200) for r in results] == [200] * 8 + [503]
    assert predictor.health()["answered"] == 0


def test_a_row_may_say_that_it_names_no_entity(predictor):
    """A null key with features is answered as any row; a null key without them, or no key at all, is refused."""
    nameless, named, empty, absent = asked(
        predictor,
        ([{"user_id": None, "features": GIVEN}], {}),
        ([GOOD], {}),
        ([{"user_id": None}], {}),
        ([{"features": GIVEN}], {}),
    )
    assert nameless[0].probability == named[0].probability
    assert nameless[0].dump()["user_id"] is None
    assert [r["entity"] for r in journal.scan(predictor.home / "journal" / "churn")] == [None, 5]
    assert (empty[0].status, absent[0].status) == (422, 422)


def test_the_metrics_count_a_bound_call_once_it_is_answered(predictor):
    """Answers of a failed call are in no counter, those of a whole one are in all of them."""
    metrics.export()
    counter = metrics.metrics().predictions.labels("churn", "1", "Low")
    before = counter._value.get()
    asked(predictor, together([GOOD] * 20), together([GOOD] * 20 + [{"user_id": UNKNOWN}]))
    assert counter._value.get() - before == 20
