"""The predictor, with a stand-in for the feature store only."""

import asyncio
import json
import math
from pathlib import Path

import numpy as np
import pytest

from bentos.runtime import journal
from bentos.runtime.answers import Answer, RowError
from bentos.runtime.journal import JournalError
from bentos.runtime.predictor import Predictor
from bentos.runtime.rollouts import rollout
from bentos.runtime.rollouts.rollout import Arm, Rollout
from bentos.runtime.scoring.manifest import GOLDEN, MANIFEST, sha256

from .conftest import FRESH, HALF, NOW, NULLS, OLD, UNKNOWN, StoredReader, fit, make_release, set_clock

GIVEN = {"recency": 12.0, "spend": 80.0, "visits": 3.0}


class Desk:
    """A home with releases and a predictor over it."""

    def __init__(self, home: Path, model: bytes) -> None:
        self.home, self.model, self.reader = home, model, StoredReader()
        self.predictor = Predictor(
            "churn",
            home,
            lambda tag: home / "releases" / tag.replace(":", "-"),
            open_reader=lambda manifest: self.reader,
        )
        set_clock(home)

    def release(self, tag: str = "churn:v1", **changes) -> Path:
        return make_release(self.home / "releases" / tag.replace(":", "-"), **({"model": self.model} | changes))

    def put(self, **arms: str) -> None:
        rollout.write(
            rollout.rollout_path(self.home, "churn"),
            Rollout(tuple(Arm(n, tag, rollout.WEIGHTS[n]) for n, tag in arms.items())),
        )

    def ask(self, *rows, **how):
        async def main():
            await self.predictor.start()
            try:
                return await self.predictor.answer(rows, **how)
            finally:
                await self.predictor.stop()

        return asyncio.run(asyncio.wait_for(main(), 60))

    def journalled(self) -> list[dict]:
        return list(journal.scan(self.home / "journal" / "churn", include_smoke=True))


@pytest.fixture
def desk(tmp_path, model):
    """A desk without a release."""
    return Desk(tmp_path, model)


@pytest.fixture
def champion(desk):
    """A desk with a champion in charge."""
    desk.release()
    desk.put(champion="churn:v1")
    return desk


def test_an_answer_says_what_it_was_decided_on_and_is_in_the_journal(champion):
    """The journal's record has everything of the answer, the threshold, both times and where the values came from."""
    [answer] = champion.ask({"user_id": FRESH})
    assert answer.dump().keys() == {
        "request_id",
        "user_id",
        "probability",
        "risk",
        "features",
        "event_time",
        "stale",
        "model_version",
        "release",
        "arm",
    }
    assert (answer.features, answer.stale, answer.model_version, answer.arm) == (GIVEN, False, "1", "champion")
    [record] = champion.journalled()
    assert record == {
        "request_id": answer.request_id,
        "time": NOW.isoformat(),
        "wall": record["wall"],
        "entity": FRESH,
        "features": GIVEN,
        "event_time": "2024-06-08T00:00:00+00:00",
        "source": "online",
        "state": "ok",
        "score": answer.probability,
        "decision": answer.risk,
        "threshold": 0.5,
        "arm": "champion",
        "release": "v1-churn-v1",
        "model_version": "1",
        "smoke": False,
    }


def test_given_features_answer_exactly_as_stored_ones(champion):
    """The same values give the same bits, wherever they come from and in whatever batch."""
    (single,) = champion.ask({"user_id": FRESH})
    champion.predictor = Desk(champion.home, champion.model).predictor
    given, stored, _ = champion.ask({"user_id": 5, "features": GIVEN}, {"user_id": FRESH}, {"user_id": OLD})
    assert given.probability == single.probability == stored.probability
    assert {r["source"] for r in champion.journalled()} == {"online", "request"}


@pytest.mark.parametrize(("policy", "stale"), [("default", False), ("flag", True)])
@pytest.mark.parametrize(("user", "state"), [(OLD, "expired"), (HALF, "missing")])
def test_stale_features_are_filled_and_flagged_by_policy(desk, policy, stale, user, state):
    """`default` fills medians and notes it in the journal only; `flag` says so in the answer too."""
    desk.release(stale=policy)
    desk.put(champion="churn:v1")
    answer, filled = desk.ask(
        {"user_id": user},
        {
            "user_id": 5,
            "features": {
                "recency": 33.0 if user == HALF else None,
                "spend": 20.0 if user == HALF else None,
                "visits": None if user == HALF else 1.0,
            },
        },
    )
    assert answer.stale is stale
    assert answer.probability == filled.probability
    assert desk.journalled()[0]["state"] == state


@pytest.mark.parametrize("user", [OLD, HALF])
def test_stale_features_are_refused_where_the_policy_is_reject(desk, user):
    """`reject` answers 409 with entity, event time and, if expired, the ttl; nothing is journalled."""
    desk.release(stale="reject")
    desk.put(champion="churn:v1")
    error, good = desk.ask({"user_id": user}, {"user_id": FRESH})
    assert error.status == 409
    assert error.detail["user_id"] == user
    assert error.detail["event_time"] in error.error
    assert ("ttl_seconds" in error.detail) is (user == OLD)
    assert isinstance(good, Answer)
    assert len(desk.journalled()) == 1


def test_a_null_that_the_store_knows_is_filled_without_a_flag(champion):
    """A value that is absent by nature is no staleness."""
    [answer] = champion.ask({"user_id": NULLS})
    assert (answer.stale, answer.features) == (False, dict.fromkeys(GIVEN))
    assert champion.journalled()[0]["state"] == "ok"


@pytest.mark.parametrize(
    ("row", "status", "field", "says"),
    [
        ({"user_id": UNKNOWN}, 404, None, "no user_id 999 in the feature store"),
        ({"user_id": -1}, 422, "user_id", "user_id is -1"),
        ({"user_id": True}, 422, "user_id", "user_id is True"),
        ({"user_id": 2**63}, 422, "user_id", "whole number"),
        ({}, 422, "user_id", "user_id is None"),
        ({"user_id": 1, "features": {**GIVEN, "visits": math.nan}}, 422, "features.visits", "visits is nan"),
        ({"user_id": 1, "features": {**GIVEN, "spend": math.inf}}, 422, "features.spend", "spend is inf"),
        (
            {"user_id": 1, "features": {**GIVEN, "recency": 1e300}},
            422,
            "features.recency",
            "recency is 1e+300: too large",
        ),
        ({"user_id": 1, "features": {**GIVEN, "recency": 10**400}}, 422, "features.recency", "too large"),
        ({"user_id": 1, "features": {**GIVEN, "recency": "x"}}, 422, "features.recency", "recency is 'x'"),
        ({"user_id": 1, "features": {**GIVEN, "recency": True}}, 422, "features.recency", "recency is True"),
        ({"user_id": 1, "features": {**GIVEN, "age": 3}}, 422, "features.age", "unknown: age"),
        ({"user_id": 1, "features": {"recency": 1}}, 422, "features.spend", "missing: spend, visits"),
    ],
)
def test_one_bad_row_gets_its_own_error_and_its_neighbours_their_answers(champion, row, status, field, says):
    """Each kind of bad row names its field, and the rows around it are answered as if it were not there."""
    before, error, after = champion.ask({"user_id": FRESH}, row, {"user_id": 5, "features": GIVEN})
    assert isinstance(error, RowError)
    assert (error.status, error.detail.get("field")) == (status, field)
    assert says in error.error
    assert before.probability == after.probability
    assert len(champion.journalled()) == 2


def test_a_batch_and_arm_is_one_feature_read_and_one_journal_write(champion, monkeypatch):
    """A hundred rows are read together and written together."""
    appended = []
    real = champion.predictor._journal.append
    monkeypatch.setattr(champion.predictor._journal, "append", lambda r: appended.append(len(r)) or real(r))
    champion.ask(*[{"user_id": FRESH}] * 100)
    assert [len(r) for r in champion.reader.reads] == [100]
    assert appended == [1]
    assert len(champion.journalled()) == 100


def test_nothing_is_answered_that_cannot_be_journalled(champion, monkeypatch):
    """If the journal cannot be written every row of the batch is 503."""

    def full(records):
        raise JournalError("cannot append: disk full")

    monkeypatch.setattr(champion.predictor._journal, "append", full)
    results = champion.ask({"user_id": FRESH}, {"user_id": 5, "features": GIVEN})
    assert [r.status for r in results] == [503, 503]
    assert "journal" in results[0].error


def test_a_score_that_is_no_probability_is_never_an_answer(champion, monkeypatch):
    """NaN or a value outside 0 to 1 is that row's 500, and is not journalled."""
    scores = iter([np.array([math.nan, 0.25, 1.5])])

    async def main():
        await champion.predictor.start()
        scorer = champion.predictor.watcher.bundle.arms["champion"].scorer
        monkeypatch.setattr(scorer, "score_inputs", lambda z: next(scores))
        try:
            return await champion.predictor.answer([{"user_id": FRESH}] * 3)
        finally:
            await champion.predictor.stop()

    monkeypatch.setattr("bentos.runtime.scoring.release.check_golden", lambda *_: None)
    nan, good, above = asyncio.run(main())
    assert (nan.status, good.probability, above.status) == (500, 0.25, 500)
    assert len(champion.journalled()) == 1


def test_a_challenger_answers_only_those_who_name_it(champion):
    """Weight 0 means staged: unnamed requests go to the champion, a named arm that is not there is a 400."""
    champion.release("churn:v2", version="2", model=fit(seed=1, sign=-1.0))
    champion.put(champion="churn:v1", challenger="churn:v2")
    [unnamed] = champion.ask({"user_id": FRESH})
    other = Desk(champion.home, champion.model)
    [named] = other.ask({"user_id": FRESH}, arm="challenger", smoke=True)
    assert (unnamed.model_version, named.model_version, named.arm) == ("1", "2", "challenger")
    assert unnamed.probability != named.probability
    assert [(r["arm"], r["smoke"]) for r in other.journalled()] == [("champion", False), ("challenger", True)]
    [absent] = Desk(champion.home, champion.model).ask({"user_id": FRESH}, arm="shadow")
    assert (absent.status, absent.error) == (400, "no arm 'shadow' in the rollout; known: champion, challenger")


def test_without_a_release_every_row_is_503_with_the_reason(desk):
    """No rollout, no answers, and the reason says what to run."""
    [error] = desk.ask({"user_id": FRESH})
    assert (error.status, desk.predictor.ready()[0]) == (503, False)
    assert "bentoflow release" in error.error


@pytest.mark.parametrize("verdict", ["REJECT", "HOLD", "", "promote"])
def test_a_release_without_a_promote_verdict_never_answers(desk, verdict):
    """Only the exact verdict PROMOTE may answer; anything else fails closed with its reasons."""
    desk.release(verdict=verdict, reasons=("too slow",))
    desk.put(champion="churn:v1")
    [error] = desk.ask({"user_id": FRESH})
    assert error.status == 503
    assert f"has the verdict {verdict!r} (too slow): only PROMOTE may answer" in desk.predictor.ready()[1]


def _without_golden(folder: Path) -> None:
    (folder / GOLDEN).unlink()


def _moved_golden(folder: Path) -> None:
    golden = json.loads((folder / GOLDEN).read_text())
    golden["scores"][0] += 0.001
    (folder / GOLDEN).write_text(json.dumps(golden))
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][GOLDEN] = sha256(folder / GOLDEN)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def _nan_golden(folder: Path) -> None:
    _moved_golden(folder)
    golden = json.loads((folder / GOLDEN).read_text())
    golden["scores"] = [math.nan, math.nan]
    (folder / GOLDEN).write_text(json.dumps(golden))
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][GOLDEN] = sha256(folder / GOLDEN)
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("ruin", "says"),
    [
        (_without_golden, "golden.json"),
        (_moved_golden, "scores its golden rows differently by 0.001"),
        (_nan_golden, "scores its golden rows differently by nan"),
        (lambda folder: (folder / "release.json").unlink(), "no release.json"),
        (lambda folder: (folder / "model.onnx").write_bytes(b"x"), "altered"),
        (lambda folder: (folder / "manifest.json").unlink(), "no manifest.json"),
    ],
)
def test_a_ruined_release_never_answers(desk, ruin, says):
    """Whatever is missing, altered or scores differently keeps the release out, and the reason names it."""
    ruin(desk.release())
    desk.put(champion="churn:v1")
    [error] = desk.ask({"user_id": FRESH})
    assert error.status == 503
    assert says in desk.predictor.ready()[1]


def test_a_release_of_another_use_case_is_refused(desk):
    """A fraud model never answers for churn."""
    desk.release(use_case="fraud")
    desk.put(champion="churn:v1")
    assert desk.ask({"user_id": FRESH})[0].status == 503
    assert "release of 'fraud', this service answers for 'churn'" in desk.predictor.ready()[1]


def test_an_online_store_that_fails_costs_only_the_rows_that_need_it(champion, monkeypatch):
    """Rows with given features are answered while the store is down; the others are 503."""

    def down(ids, now):
        raise ConnectionError("redis is down")

    monkeypatch.setattr(champion.reader, "read", down)
    online, given = champion.ask({"user_id": FRESH}, {"user_id": 5, "features": GIVEN})
    assert (online.status, isinstance(given, Answer)) == (503, True)


def test_health_names_the_release_in_charge_and_counts_answers(champion):
    """Health says version, release and how many rows were answered, smoke tests left out."""
    champion.ask({"user_id": FRESH}, {"user_id": UNKNOWN})
    health = champion.predictor.health()
    assert (health["version"], health["release"]) == ("1", "v1-churn-v1")
    assert (health["answered"], health["problem"]) == (1, None)
