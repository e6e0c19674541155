"""shadow: a promoted version beside the others by one command, in a real service, and off again."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from bentos.runtime import journal
from bentos.runtime.rollouts import rollout
from bentos.runtime.rollouts.rollout import Arm, Rollout, RolloutError
from flows import cli
from flows.errors import BentoflowError, GateError, ReleaseError, StoreError
from flows.release import release
from flows.settings import settings
from flows.shadow import shadow
from flows.status import status
from flows.stores import history, locks, transaction
from flows.targets import local
from tests.flows import test_walk
from tests.flows.test_release import another
from tests.flows.test_walk import until

home = test_walk.home  # version 1 is champion, with a real service
rows = test_walk.rows


def arms(at: Path) -> dict[str, str]:
    """Release of each arm in the rollout file."""
    found = rollout.read(rollout.rollout_path(at, "churn"))
    return {} if found is None else {arm.name: arm.release for arm in found.arms}


def lines(at: Path) -> list[tuple[str, str, str]]:
    """Action, arm and version of every line of history about a shadow."""
    found = [line for line in history.read(at, "churn") if line["action"].startswith("shadow")]
    return [(line["action"], line["arm"], line["version"]) for line in found]


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_a_running_service_takes_a_shadow_up_within_seconds_and_lets_go_of_it(home, rows):
    """By the command line: scoring when it returns, lines with arm=shadow in the journal, and none once it is off."""
    number = another().number
    url = local.ensure(settings(), "churn").url
    first = arms(home)["champion"]

    def said(*words: str) -> str:
        done = CliRunner().invoke(cli.app, list(words), catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    def written(arm: str) -> dict[str, str]:
        scanned = journal.scan(home / "journal" / "churn")
        return {r["request_id"]: r["release"] for r in scanned if r["arm"] == arm}

    said_on = said("shadow", "--version", number, "--reason", "a look")
    tag = arms(home)["shadow"]
    assert tag.startswith(f"churn:v{number}-")
    assert [line.split()[-1] for line in said_on.splitlines()] == ["churn", "on", "shadow", tag, "scoring"]
    assert status(settings(), "churn")["rollout"] == {"champion": f"{first}, answers", "shadow": f"{tag}, scoring"}
    answers = httpx.post(f"{url}/predict", json=rows[:50], timeout=30).json()
    assert {answer["release"] for answer in answers} == {first}
    ids = {answer["request_id"] for answer in answers}
    until(lambda: ids <= set(written("shadow")), 30)
    assert set(written("shadow").values()) == {tag}
    assert "unchanged" in said("shadow", "--version", number)
    assert said("shadow", "--off").splitlines()[-1].split() == ["state", "off"]
    before = len(written("shadow"))
    httpx.post(f"{url}/predict", json=rows[:50], timeout=30).raise_for_status()
    assert len(written("shadow")) == before
    assert arms(home) == {"champion": first}
    assert lines(home) == [("shadow on", "shadow", number), ("shadow off", "shadow", number)]
    assert history.read(home, "churn")[-2]["reason"] == "a look"


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        (lambda: {"version": "99"}, StoreError, "no version '99' of churn"),
        (dict, ReleaseError, "no challenger"),
        (lambda: {"version": another(verdict="HOLD").number}, GateError, "its verdict is HOLD"),
        (lambda: {"version": another(verdict=None).number}, GateError, "its verdict is missing"),
        (lambda: {"version": another(drill="shuffled_labels").number}, GateError, "planted fault"),
        (lambda: {"version": another(manifest_sha256="0").number}, GateError, "not the ones that its gates judged"),
        (lambda: {"version": "1"}, ReleaseError, "is the champion already"),
        (lambda: {"version": another().number, "arm": "champion"}, ReleaseError, "is called shadow or shadow-<name>"),
        (lambda: {"version": another().number, "arm": "shadow-A B"}, RolloutError, "no arm is called 'shadow-A B'"),
        (lambda: {"off": True, "arm": "champion"}, ReleaseError, "not 'champion'"),
        (lambda: {"off": True, "version": "1"}, ReleaseError, "do not name a version"),
    ],
)
def test_what_cannot_be_a_shadow_is_refused_and_nothing_changes(
    released: Path, asked: Callable[[], dict[str, Any]], error: type[Exception], message: str
) -> None:
    """Unknown versions, those without a PROMOTE, the champion itself and other arms: an error that says so."""
    how, before = asked(), arms(released)
    with pytest.raises(error, match=message):
        shadow("churn", **how)
    assert arms(released) == before
    assert lines(released) == []


def test_without_a_champion_there_is_nothing_to_be_beside(prepared: Path) -> None:
    """Before the first release the error says what to run, and no rollout file appears."""
    with pytest.raises(ReleaseError, match=r"has no champion .* run `bentoflow release` first"):
        shadow("churn", "1")
    assert not rollout.rollout_path(prepared, "churn").exists()


def test_while_a_release_is_under_way_it_waits_its_turn(released: Path) -> None:
    """A release holds the rollout file; the command is refused and changes nothing."""
    number, before = another().number, arms(released)
    with locks.held(released, "release-churn"), pytest.raises(BentoflowError, match="another release of churn"):
        shadow("churn", number)
    assert arms(released) == before


def test_the_other_arms_their_shares_and_the_salt_stay(released: Path) -> None:
    """A canary and another shadow, put there by somebody else, are as they were, after on and after off."""
    champion = arms(released)["champion"]
    others = (Arm("champion", champion, 0.75), Arm("canary", "churn:v7", 0.25), Arm("shadow-b", "churn:v8", 0.0))
    found = Rollout(others, salt="drawn once")
    rollout.write(rollout.rollout_path(released, "churn"), found)
    done = shadow("churn", another().number)
    assert done["state"] == "the service is not running; it will follow when it starts"
    now = rollout.read(rollout.rollout_path(released, "churn"))
    assert now is not None
    assert asdict(now) == asdict(Rollout((*others, Arm("shadow", done["release"], 0.0)), salt="drawn once"))
    with pytest.raises(ReleaseError, match="is the shadow already"):
        shadow("churn", "2", arm="shadow-c")
    shadow("churn", off=True)
    assert rollout.read(rollout.rollout_path(released, "churn")) == found


def test_doing_it_twice_changes_nothing_and_completes_what_was_killed(released: Path) -> None:
    """The second time says unchanged; a command killed before its line of history is completed by the next."""
    number = another().number
    assert shadow("churn", number)["action"] == "shadow on"
    written = rollout.rollout_path(released, "churn").stat().st_mtime_ns
    assert shadow("churn", number)["action"] == "unchanged"
    assert rollout.rollout_path(released, "churn").stat().st_mtime_ns == written
    assert lines(released) == [("shadow on", "shadow", number)]
    rollout.write(rollout.rollout_path(released, "churn"), transaction.arms(arms(released)["champion"]))
    assert shadow("churn", off=True)["action"] == "unchanged"
    assert lines(released) == [("shadow on", "shadow", number), ("shadow off", "shadow", number)]
    assert shadow("churn", off=True)["action"] == "unchanged"
    assert len(lines(released)) == 2


def test_a_release_keeps_the_shadows_but_the_one_that_becomes_champion(
    released: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed release leaves them as they were; a good one takes its own off and leaves the other on."""
    second, third = another().number, another().number
    on = {name: shadow("churn", n, arm=name)["release"] for name, n in (("shadow", second), ("shadow-b", third))}
    before = arms(released)
    assert before == {"champion": before["champion"], **on}
    with monkeypatch.context() as patch:
        patch.setattr(local, "smoke", lambda *a, **k: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            release("churn", second)
    assert arms(released) == before
    release("churn", second)
    assert arms(released) == {"champion": on["shadow"], "shadow-b": on["shadow-b"]}
