"""The feature cache: fewer reads, no answer older than its time, and the same verdict on age as without it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import fields
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from bentos.runtime import clock, metrics
from bentos.runtime.answers import Answer, RowError
from bentos.runtime.features.cache import SETTING, CachedReader, cached, figures, lifetime
from bentos.runtime.features.joined import JoinedReader, caches, open_reader
from bentos.runtime.features.online import FeatureReader
from bentos.runtime.features.rows import FeatureRows
from bentos.runtime.features.store import OnlineError
from bentos.runtime.predictor import Predictor
from bentos.runtime.rollouts import rollout
from bentos.runtime.rollouts.rollout import Arm, Rollout

from . import test_packed
from .conftest import FRESH, NAMES, NOW, OLD, UNKNOWN, fit, make_manifest, make_release

root = test_packed.root  # a project root with a materialised store, once of SQLite and once of Redis
KEPT_S = 1.0
PEOPLE = [FRESH, 60, 10_001]  # the last one is unknown until somebody writes about them
written_at = count(1)  # event times that only rise, so that both stores take every write


class Ticks:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture(scope="module")
def stored(root: Path) -> FeatureReader:
    """The reader behind every cache, over packed vectors."""
    test_packed.pack(root)
    return test_packed.open_reader(root)


@pytest.fixture
def reads(stored: FeatureReader, monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """The ids of each call that reached the store."""
    calls, real = [], FeatureReader.vectors
    monkeypatch.setattr(FeatureReader, "vectors", lambda self, ids: calls.append(list(ids)) or real(self, ids))
    return calls


def opened(stored: FeatureReader, ticks: Ticks | None = None, **how: Any) -> CachedReader:
    return CachedReader(stored, **{"seconds": KEPT_S, "use_case": "churn", "clock": ticks or Ticks()} | how)


def write(stored: FeatureReader, user: int, spend: float) -> None:
    """Change what the store knows about somebody, by Feast's own hand."""
    test_packed.written(stored._store, spend, user=user, hours=next(written_at) * 0.01)


def row(rows: FeatureRows, at: int) -> list[str]:
    """One row of an answer in full, NaN equal to itself."""
    columns = {f.name: getattr(rows, f.name) for f in fields(rows)}
    columns |= columns.pop("texts")
    return [repr(column[at]) for column in columns.values()]


def ages(days: Any, n: int, *, own_times: bool) -> Any:
    """A time of the domain `days` after NOW, for all rows or for each."""
    now = NOW + timedelta(days=days)
    return np.full(n, now.timestamp()) if own_times else now


READ = st.tuples(
    st.just("read"),
    st.lists(st.sampled_from(PEOPLE), min_size=1, max_size=5),
    st.sampled_from([-3, -1, 0, 1, 29, 30, 90, 200]),
    st.booleans(),
)
OPERATIONS = st.lists(
    st.one_of(
        READ,
        READ,
        st.tuples(st.just("write"), st.sampled_from(PEOPLE), st.integers(0, 10**6)),
        st.tuples(st.just("wait"), st.sampled_from([0.5, KEPT_S, 3.0])),
        st.tuples(st.just("pack")),
    ),
    min_size=12,
    max_size=30,
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(operations=OPERATIONS)
def test_every_answer_is_the_stores_own_of_a_moment_within_the_caches_time(root, stored, operations):
    """In any order of reads, writes, packings and waits, at any age and with rows' own times, on both stores.

    An answer equals what the store itself would have given at some moment less than the cache's time ago, entity by
    entity and in full: so where nobody wrote within that time, it is equal to the answer without a cache.
    """
    ticks = Ticks()
    cache = opened(stored, ticks)
    held = {i: [(0.0, stored.vectors([i]))] for i in PEOPLE}  # since when the store has held which vector
    for name, *how in operations:
        if name == "wait":
            ticks.s += how[0]
        elif name == "pack":
            test_packed.pack(root, PEOPLE)
        elif name == "write":
            write(stored, how[0], float(how[1]))
            held[how[0]].append((ticks.s, stored.vectors([how[0]])))
        else:
            ids, days, own_times = how
            answer = cache.read(ids, ages(days, len(ids), own_times=own_times))
            for at, i in enumerate(ids):
                after = [since for since, _ in held[i][1:]] + [np.inf]
                possible = [v for (_, v), until in zip(held[i], after, strict=True) if until > ticks.s - KEPT_S]
                one = ages(days, 1, own_times=own_times)
                assert row(answer, at) in [row(stored.rows(vector, one), 0) for vector in possible]


def test_only_what_is_not_kept_is_read_each_once_in_one_call(stored, reads):
    """A batch of kept, new and repeated entities is one call for the new ones; a batch of kept ones is none."""
    cache = opened(stored)
    expected = stored.read([50, 51, 52, 51, UNKNOWN, 50], NOW)
    reads.clear()
    cache.read([50, UNKNOWN], NOW)
    answer = cache.read([50, 51, 52, 51, UNKNOWN, 50], NOW)
    test_packed.same(answer, expected)
    test_packed.same(cache.read([50, 51, 52, 51, UNKNOWN, 50], NOW), expected)
    assert reads == [[50, UNKNOWN], [51, 52]]
    assert (cache.hits, cache.misses) == (4 + 6, 2 + 2)
    assert cache.read([], NOW).values.shape == (0, len(NAMES))


def test_values_and_unknown_entities_are_kept_for_the_same_time_and_no_longer(stored, reads):
    """A write is seen once the cache's time is over, to the moment, and not before; also who was unknown."""
    ticks, new = Ticks(), 20_000 + next(written_at)
    cache = opened(stored, ticks)
    before = cache.read([70, new], NOW)
    assert before.found.tolist() == [True, False]
    write(stored, 70, 4321.0)
    write(stored, new, 1234.0)
    ticks.s += KEPT_S - 0.001
    test_packed.same(cache.read([70, new], NOW), before)
    ticks.s += 0.001
    after = cache.read([70, new], NOW)
    assert after.values[:, NAMES.index("spend")].tolist() == [4321.0, 1234.0]
    assert after.found.all()
    assert reads == [[70, new], [70, new]]


def test_an_error_is_not_kept(stored, monkeypatch):
    """A store that cannot be read raises through the cache, and is asked again at once."""
    cache = opened(stored)
    with monkeypatch.context() as patch:
        patch.setattr(FeatureReader, "_vectors", lambda self, ids: 1 / 0)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                cache.read([50], NOW)
    assert len(cache) == 0
    assert cache.read([50], NOW).found.all()


def test_the_bound_holds_and_what_was_read_first_goes_first(stored, reads):
    """However many entities come, also more in one batch than are kept, no more stay, and answers are right."""
    ticks = Ticks()
    cache = opened(stored, ticks, entities=3)
    cache.read([50, 51, 52], NOW)
    ticks.s += 0.1
    cache.read([50, 53], NOW)  # 50 was read first and goes, although it was just asked for
    assert len(cache) == 3
    reads.clear()
    cache.read([51, 52, 53], NOW)
    assert reads == []
    many = [*range(50, 60), 50]
    test_packed.same(cache.read(many, NOW), stored.read(many, NOW))
    assert len(cache) == 3
    ticks.s += KEPT_S
    cache.read([77], NOW)
    assert len(cache) == 1, "what has expired makes room"


def test_what_is_read_again_goes_to_the_back(stored, reads):
    """An entity that expired and was read anew is not the first to go."""
    ticks = Ticks()
    cache = opened(stored, ticks, entities=2)
    for i, later in ((50, 0.5), (51, 0.6), (50, 0.1), (52, 0.0)):
        cache.read([i], NOW)
        ticks.s += later * KEPT_S
    reads.clear()
    cache.read([50], NOW)
    assert reads == []


def test_a_cache_behind_each_entitys_reader_is_joined_as_the_readers_are(stored, reads):
    """Rows about several entities keep each entity's values apart, and ask for what is new of each."""
    parts = [opened(stored), opened(stored)]
    joined = JoinedReader(parts, NAMES)
    now = np.array([NOW.timestamp()] * 2)
    joined.read([(50, 60), (51, 60)], now)
    joined.read([(50, 60), (60, 61)], now)
    assert reads == [[50, 51], [60], [60], [61]]
    assert caches([joined, stored, parts[0]]) == [*parts, parts[0]]


@pytest.mark.parametrize("policy", ["reject", "default", "flag"])
def test_ttl_and_the_declared_policy_apply_to_kept_values(stored, reads, tmp_path, model, policy):
    """The domain's clock passes the ttl between two requests; the second reads nothing and is judged as too old."""
    make_release(tmp_path / "v1", model=model, stale=policy)
    rollout.write(rollout.rollout_path(tmp_path, "churn"), Rollout((Arm("champion", "v1", 1.0),)))
    cache = opened(stored)
    predictor = Predictor("churn", tmp_path, lambda tag: tmp_path / tag, open_reader=lambda _: cache)

    async def run() -> list[Answer | RowError]:
        found = []
        async with running(predictor):
            for days in (0, 40):
                clock.write(tmp_path, "churn", NOW + timedelta(days=days))
                found += await predictor.answer([{"user_id": 55}])
        return found

    fresh, late = asyncio.run(run())
    assert isinstance(fresh, Answer)
    assert not fresh.stale
    if policy == "reject":
        assert isinstance(late, RowError)
        assert late.status == 409
        assert "30 days" in late.error
    else:
        assert isinstance(late, Answer)
        assert late.stale == (policy == "flag")
        assert late.probability != fresh.probability
    assert reads == [[55]]
    assert predictor.health()["feature_cache"] == {"hits": 1, "misses": 1, "hit_rate": 0.5, "entities": 1}


@asynccontextmanager
async def running(predictor: Predictor) -> AsyncIterator[None]:
    """A predictor started, and stopped at the end."""
    await predictor.start()
    try:
        yield
    finally:
        await predictor.stop()


def test_a_release_that_swaps_in_reads_for_itself(root, stored, tmp_path, model, monkeypatch):
    """What one release keeps is not handed on: a swap right after a write answers with what was written."""
    monkeypatch.setenv(SETTING, "600")
    for tag, content in (("v1", model), ("v2", fit(seed=4))):
        make_release(tmp_path / tag, version=tag[1:], model=content)
    path = rollout.rollout_path(tmp_path, "churn")
    rollout.write(path, Rollout((Arm("champion", "v1", 1.0),)))
    clock.write(tmp_path, "churn", NOW)
    predictor = Predictor(
        "churn",
        tmp_path,
        lambda tag: tmp_path / tag,
        open_reader=lambda manifest: open_reader(root / ".bentoflow", manifest, root=root),
    )

    async def spend() -> float | None:
        [found] = await predictor.answer([{"user_id": 80}])
        return float(orjson.loads(found.encoded)["features"]["spend"])

    async def run() -> list[float | None]:
        async with running(predictor):
            spent = [await spend()]
            write(stored, 80, 999.0)
            spent.append(await spend())
            rollout.write(path, Rollout((Arm("champion", "v2", 1.0),)))
            while predictor.health()["version"] != "2":
                await asyncio.sleep(0.05)
            return [*spent, await spend()]

    assert asyncio.run(asyncio.wait_for(run(), 60)) == [80.0, 80.0, 999.0]


@pytest.mark.parametrize("off", ["", "0", " 0.0 "])
def test_it_is_off_unless_the_setting_asks_for_it(root, stored, monkeypatch, off):
    """Without the setting nothing is wrapped; with seconds every reader of a release is."""
    manifest = make_manifest()
    monkeypatch.setenv(SETTING, off)
    assert cached(stored, "churn") is stored
    assert isinstance(open_reader(root / ".bentoflow", manifest, root=root), FeatureReader)
    monkeypatch.setenv(SETTING, "2.5")
    assert lifetime() == 2.5
    found = open_reader(root / ".bentoflow", manifest, root=root)
    assert isinstance(found, CachedReader)
    test_packed.same(found.read([FRESH, OLD, UNKNOWN], NOW), stored.read([FRESH, OLD, UNKNOWN], NOW))


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf", "5s"])
def test_a_setting_that_is_no_time_is_refused_by_name(monkeypatch, text):
    """The error says which variable, its value and what to write."""
    monkeypatch.setenv(SETTING, text)
    with pytest.raises(OnlineError, match=rf"{SETTING} is '{text}'; give seconds such as 5, or 0"):
        lifetime()


@pytest.fixture
def lookups() -> Callable[[str], float]:
    """Reads a counter of lookups by outcome, from what this process exports."""

    def count_of(outcome: str) -> float:
        metrics.export()
        labels = {"use_case": "churn", "entity": "user_id", "outcome": outcome}
        return REGISTRY.get_sample_value("bentoflow_feature_lookups_total", labels) or 0.0

    return count_of


def test_hits_and_misses_are_counted(stored, lookups):
    """A miss is an entity that was read, a hit any other row; both together are the rows."""
    metrics.metrics()
    before = lookups("hit"), lookups("miss")
    cache = opened(stored)
    cache.read([50, 51, 50], NOW)
    cache.read([50, 51, 50, 52], NOW)
    assert (lookups("hit") - before[0], lookups("miss") - before[1]) == (4, 3)
    assert figures([]) is None
    assert figures([cache]) == {"hits": 4, "misses": 3, "hit_rate": 0.5714, "entities": 3}
