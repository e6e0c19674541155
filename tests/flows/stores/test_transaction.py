"""The release transaction: killed anywhere, the next start completes or reverts it, once."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from bentos.runtime.rollouts import rollout
from flows.errors import ReleaseError, StoreError
from flows.steps.rollouts import tenure
from flows.stores import history, registry, transaction
from flows.stores.transaction import Transaction

NEW = "churn:v2-00000000"


def old(home: Path) -> str:
    found = rollout.read(rollout.rollout_path(home, "churn"))
    assert found is not None
    return found.arms[0].release


def begun(home: Path) -> Transaction:
    """A promotion of a second version over the first, recorded but not begun."""
    first = registry.client().get_model_version("churn", "1")
    number = registry.register(str(first.source), "churn", str(first.run_id), {"verdict": "PROMOTE"}).number
    registry.set_aliases("churn", {"challenger": number})
    pending = Transaction(
        use_case="churn",
        action="promoted",
        release=NEW,
        version=number,
        reason="test",
        at="1998-01-01T00:00:00+00:00",
        aliases={"champion": number, "challenger": None, "previous": "1"},
        aliases_before={"champion": "1", "challenger": number, "previous": None},
        champion_before=old(home),
        bento=NEW,
    )
    transaction.write(home, pending)
    return pending


def state(home: Path) -> dict[str, Any]:
    found = rollout.read(rollout.rollout_path(home, "churn"))
    return {
        "arms": [] if found is None else [(arm.name, arm.release) for arm in found.arms],
        "aliases": registry.aliases("churn"),
        "pending": transaction.read(home, "churn"),
        "stack": tenure.stack(history.read(home, "churn")),
    }


def intent(home: Path, pending: Transaction) -> None: ...


def staged(home: Path, pending: Transaction) -> None:
    transaction.stage(home, pending)


def shared(home: Path, pending: Transaction) -> None:
    """Killed between two steps of a canary."""
    staged(home, pending)
    transaction.share(home, pending, 0.1)
    transaction.share(home, pending, 0.5)


def committed(home: Path, pending: Transaction) -> None:
    staged(home, pending)
    transaction.commit(home, pending)


def switched(home: Path, pending: Transaction) -> None:
    staged(home, pending)
    transaction.switch(home, transaction.commit(home, pending))


def half_aliased(home: Path, pending: Transaction) -> None:
    switched(home, pending)
    registry.set_aliases("churn", {"champion": pending.version})


def recorded(home: Path, pending: Transaction) -> None:
    """Everything is done, but the file that says so is still there."""
    switched(home, pending)
    done = transaction.read(home, "churn")
    assert done is not None
    transaction.record(home, done)
    transaction.write(home, done)


def reverted(home: Path, pending: Transaction) -> None:
    """Everything is undone, but the file that says so is still there."""
    staged(home, pending)
    transaction.revert(home, pending, "golden row 3")
    transaction.write(home, pending)


Stage = Callable[[Path, Transaction], None]
BACK: tuple[Stage, ...] = (intent, staged, shared, reverted)
ON: tuple[Stage, ...] = (committed, switched, half_aliased, recorded)


@pytest.mark.parametrize("stage", BACK)
def test_before_the_commit_it_reverts(released: Path, stage: Stage) -> None:
    """Rollout and aliases are as before, one line says that it was reverted, and a second recovery finds nothing."""
    pending = begun(released)
    transaction.path(released, "churn").unlink()
    before = state(released)
    transaction.write(released, pending)
    stage(released, pending)
    assert (transaction.recover(released, "churn") or "").startswith("reverted")
    assert state(released) == before
    assert transaction.recover(released, "churn") is None
    assert state(released) == before
    assert [line["action"] for line in history.read(released, "churn")].count("reverted") == 1


@pytest.mark.parametrize("stage", ON)
def test_from_the_commit_on_it_completes(released: Path, stage: Stage) -> None:
    """All requests go to the release, the aliases say so, one line is added, and a second recovery finds nothing."""
    pending = begun(released)
    stage(released, pending)
    assert (transaction.recover(released, "churn") or "").startswith("completed")
    after = {
        "arms": [("champion", NEW)],
        "aliases": {"champion": "2", "previous": "1"},
        "pending": None,
        "stack": ["1", "2"],
    }
    assert state(released) == after
    assert registry.get("churn", "2").tags["release"] == NEW
    assert transaction.recover(released, "churn") is None
    assert state(released) == after


@pytest.mark.parametrize("stage", [*BACK, *ON])
def test_a_recovery_that_is_killed_at_its_end_is_repeated_without_a_trace(released: Path, stage: Stage) -> None:
    """Recovering what was recovered already gives the same state, and not one more line of history."""
    stage(released, begun(released))
    pending = transaction.read(released, "churn")
    assert pending is not None
    transaction.recover(released, "churn")
    once, lines = state(released), history.read(released, "churn")
    transaction.write(released, pending)
    transaction.recover(released, "churn")
    assert state(released) == once
    assert [line["action"] for line in history.read(released, "churn")] == [line["action"] for line in lines]


def test_the_same_promotion_after_a_rollback_is_another_one(released: Path) -> None:
    """At the same moment of a data clock a version can be promoted, rolled back and promoted again: three lines."""
    pending = begun(released)
    recorded(released, pending)
    transaction.recover(released, "churn")
    back: dict[str, Any] = {
        "action": "rolled back",
        "release": pending.champion_before,
        "version": "1",
        "aliases": {"champion": "1", "challenger": None, "previous": None},
        "champion_before": NEW,
    }
    for changes in (back, {}, back, {}, back):
        change = Transaction(**{k: v for k, v in {**asdict(pending), **changes}.items() if k != "id"})
        transaction.write(released, change)
        transaction.record(released, transaction.commit(released, change))
    actions = [line["action"] for line in history.read(released, "churn") if "transaction" in line]
    assert actions == ["promoted", *["promoted", "rolled back"] * 3]
    assert state(released)["stack"] == [registry.aliases("churn")["champion"]] == ["1"]


def test_nothing_under_way_is_nothing_to_recover(released: Path) -> None:
    """Without a transaction recovery says None and changes nothing."""
    before = state(released)
    assert transaction.recover(released, "churn") is None
    assert state(released) == before


def test_what_was_written_is_read_back(released: Path) -> None:
    """The file holds the whole transaction; a commit changes nothing but that."""
    pending = begun(released)
    assert transaction.read(released, "churn") == pending
    assert transaction.commit(released, pending) == replace(pending, committed=True)
    assert transaction.read(released, "churn") == replace(pending, committed=True)


def test_a_share_grows_under_one_salt(released: Path) -> None:
    """The steps of one walk draw the same entities, another walk draws others; a canary needs a champion beside it."""
    first, other = begun(released), begun(released)
    salts = []
    for pending, weight in ((first, 0.1), (first, 0.5), (other, 0.1)):
        transaction.share(released, pending, weight)
        found = rollout.read(rollout.rollout_path(released, "churn"))
        assert found is not None
        assert [(arm.name, arm.release, arm.weight) for arm in found.arms] == [
            ("champion", pending.champion_before, 1 - weight),
            ("canary", NEW, weight),
        ]
        salts.append(found.salt)
    assert salts[0] == salts[1] != salts[2]
    with pytest.raises(ReleaseError, match="no champion beside it"):
        transaction.share(released, replace(first, champion_before=None), 0.1)


@pytest.mark.parametrize(
    ("champion", "challenger", "expected"),
    [
        ("a", None, [("champion", "a", 1.0)]),
        ("a", "b", [("champion", "a", 1.0), ("challenger", "b", 0.0)]),
        (None, "b", [("challenger", "b", 0.0)]),
        ("a", "a", [("champion", "a", 1.0)]),
        (None, None, []),
    ],
)
def test_a_staged_release_answers_only_who_asks(
    champion: str | None, challenger: str | None, expected: list[tuple[str, str, float]]
) -> None:
    """The challenger stands beside the champion with weight 0, and never twice."""
    found = transaction.arms(champion, challenger).arms
    assert [(arm.name, arm.release, arm.weight) for arm in found] == expected


@pytest.mark.parametrize("stage", ON)
def test_a_completed_release_has_its_image(released: Path, stage: Stage) -> None:
    """The digest that was verified before the commit is on the version and in the history, however it was killed."""
    image = "localhost:5000/churn@sha256:" + "ab" * 32
    pending = replace(begun(released), image=image)
    transaction.write(released, pending)
    stage(released, pending)
    transaction.recover(released, "churn")
    assert registry.get("churn", "2").tags["image"] == image
    assert history.read(released, "churn")[-1]["image"] == image


@pytest.mark.parametrize("stage", BACK)
def test_a_reverted_release_has_no_image(released: Path, stage: Stage) -> None:
    """What was not verified is on no version."""
    pending = replace(begun(released), image="localhost:5000/churn@sha256:" + "ab" * 32)
    transaction.write(released, pending)
    stage(released, pending)
    transaction.recover(released, "churn")
    assert "image" not in registry.get("churn", "2").tags


@pytest.mark.parametrize("content", ['{"use_case": "chu', "[]", '{"use_case": "churn", "step": 1}'])
def test_a_corrupt_record_of_a_release_is_named(released: Path, content: str) -> None:
    """A file that does not say what is under way is an error with what to do, not a crash, and nothing is reverted."""
    before = old(released)
    file = transaction.path(released, "churn")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    for step in (transaction.read, transaction.recover):
        with pytest.raises(StoreError, match=r"pending\.json is .*remove it and run `bentoflow release` again"):
            step(released, "churn")
    assert old(released) == before
