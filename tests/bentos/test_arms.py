"""The arms of a service: canaries answer their entities, and no arm harms another's rows."""

import numpy as np
import pytest

from bentos.runtime import metrics
from bentos.runtime.answers import Answer
from bentos.runtime.rollouts import rollout
from bentos.runtime.rollouts.rollout import Arm, Rollout

from .conftest import FRESH, GIVEN, UNKNOWN, fit
from .test_predictor import Desk

PEOPLE = range(300)


@pytest.fixture
def desk(tmp_path, model):
    """A desk with a champion v1 and another release v2."""
    found = Desk(tmp_path, model)
    found.release()
    found.release("churn:v2", version="2", model=fit(seed=1, sign=-1.0))
    return found


def share(desk: Desk, weight: float, salt: str = "s") -> None:
    """Give v2 a share of the entities."""
    arms = (Arm("champion", "churn:v1", 1.0 - weight), Arm("canary", "churn:v2", weight))
    rollout.write(rollout.rollout_path(desk.home, "churn"), Rollout(arms, salt))


def ask(desk: Desk, **how) -> list:
    return Desk(desk.home, desk.model).ask(*[{"user_id": i, "features": GIVEN} for i in PEOPLE], **how)


def test_answer_and_journal_carry_the_arm_and_an_entity_keeps_it(desk):
    """Each row is scored by its own arm's release, in the order asked, the same way after a restart."""
    share(desk, 0.4)
    first, again = ask(desk), ask(desk)
    assert [a.arm for a in first] == [a.arm for a in again]
    assert [a.key for a in first] == list(PEOPLE)
    assert {(a.arm, a.model_version, a.probability) for a in first} == {
        ("champion", "1", desk.ask({"user_id": 1, "features": GIVEN}, arm="champion")[0].probability),
        (
            "canary",
            "2",
            Desk(desk.home, desk.model).ask({"user_id": 1, "features": GIVEN}, arm="canary")[0].probability,
        ),
    }
    written = {r["request_id"]: (r["arm"], r["release"], r["score"]) for r in desk.journalled()}
    assert all(written[a.request_id] == (a.arm, a.release, a.probability) for a in first)
    assert 70 < sum(a.arm == "canary" for a in first) < 170


def test_a_named_arm_is_forced_on_every_entity(desk):
    """Whoever names champion or canary gets it, whatever the draw says."""
    share(desk, 0.5)
    for arm in ("champion", "canary"):
        assert {a.arm for a in ask(desk, arm=arm)} == {arm}


def test_growing_the_canary_takes_nobody_out_of_it(desk):
    """From step to step the canary's entities are a growing set."""
    inside: set[int] = set()
    for weight in (0.1, 0.5, 1.0):
        share(desk, weight)
        now = {a.key for a in ask(desk) if a.arm == "canary"}
        assert inside < now
        inside = now
    assert inside == set(PEOPLE)


def test_a_canary_that_raises_fails_its_own_rows_only(desk, monkeypatch):
    """The champion's rows of the same batch are answered, and the failures are counted for the canary."""
    share(desk, 0.5)
    real = metrics.count_part
    counted: list[tuple[str, int]] = []
    monkeypatch.setattr(
        metrics,
        "count_part",
        lambda arm, s, r: counted.append((arm[1], sum(not isinstance(x, Answer) for x in r))) or real(arm, s, r),
    )

    def load(tag):
        served = predictor_load(tag)
        if tag == "churn:v2":
            monkeypatch.setattr(served.scorer, "score_inputs", lambda z: 1 / 0)
        return served

    predictor_load = desk.predictor.watcher._load
    desk.predictor.watcher._load = load
    results = desk.ask(*[{"user_id": i, "features": GIVEN} for i in PEOPLE])
    failed = [r for r in results if not isinstance(r, Answer)]
    assert {r.status for r in failed} == {500}
    assert {a.arm for a in results if isinstance(a, Answer)} == {"champion"}
    assert 100 < len(failed) < 200
    assert sum(n for arm, n in counted if arm == "canary") == len(failed)
    assert sum(n for arm, n in counted if arm == "champion") == 0


def test_a_row_without_an_entity_gets_its_own_refusal_beside_a_canary(desk):
    """Neither a missing key nor one that cannot be hashed breaks the draw for the others."""
    share(desk, 1.0)
    results = desk.ask({}, {"user_id": [1]}, {"user_id": UNKNOWN}, {"user_id": FRESH})
    assert [getattr(r, "status", 200) for r in results] == [422, 422, 404, 200]
    assert results[3].arm == "canary"


def test_with_only_a_champion_nothing_is_drawn(desk, monkeypatch):
    """Without a canary there is no split, and rows are neither hashed nor timed."""
    desk.put(champion="churn:v1", challenger="churn:v2")
    monkeypatch.setattr("bentos.runtime.rollouts.split.blake2b", lambda *a, **k: 1 / 0)
    monkeypatch.setattr(metrics, "count_part", lambda *a: 1 / 0)
    assert {a.arm for a in ask(desk)} == {"champion"}


def test_health_names_every_loaded_arm_with_its_share(desk):
    """Release, version and share of champion and canary."""
    share(desk, 0.25)
    desk.ask({"user_id": FRESH})
    assert desk.predictor.health()["arms"] == {
        "champion": {"release": "v1-churn-v1", "version": "1", "weight": 0.75},
        "canary": {"release": "v2-churn-v2", "version": "2", "weight": 0.25},
    }


def test_a_shadow_cannot_be_named(desk):
    """A shadow answers nobody: naming it is a 400, and others are answered as if it were not there."""
    arms = (Arm("champion", "churn:v1", 1.0), Arm("shadow", "churn:absent", 0.0))
    rollout.write(rollout.rollout_path(desk.home, "churn"), Rollout(arms))
    [error] = desk.ask({"user_id": FRESH}, arm="shadow")
    assert (error.status, error.error) == (400, "no arm 'shadow' in the rollout; known: champion")


def test_a_removed_arms_model_is_let_go(desk):
    """After the canary became champion its decider under the old name, and the old champion's, are gone."""
    share(desk, 0.5)
    watcher, arms = desk.predictor.watcher, desk.predictor._arms
    watcher.poll()
    for name in ("champion", "canary"):
        arms.decider(watcher.bundle, name)
    old = watcher.bundle.arms["canary"]
    desk.put(champion="churn:v2")
    watcher.poll()
    assert watcher.bundle.arms["champion"] is old, "it was loaded already"
    assert set(arms._deciders) == {"champion"}
    assert arms.decider(watcher.bundle, "champion").served is old


def test_the_scores_of_an_arm_do_not_depend_on_the_other_rows(desk):
    """A batch of both arms gives each row the bits that it gets alone."""
    share(desk, 0.5)
    rng = np.random.default_rng(0)
    rows = [
        {"user_id": i, "features": dict(zip(GIVEN, map(float, rng.gamma(2, 20, 3)), strict=True))} for i in range(40)
    ]
    together = desk.ask(*rows)
    alone = [Desk(desk.home, desk.model).ask(row)[0] for row in rows[:6]]
    assert [(a.arm, a.probability) for a in alone] == [(a.arm, a.probability) for a in together[:6]]
    assert {a.arm for a in together} == {"champion", "canary"}
