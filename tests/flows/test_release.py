"""release: only what the gates promoted, whole or not at all, one at a time."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import bentoml
import pytest

from bentos.runtime.rollouts import rollout
from bentos.runtime.scoring import manifest
from bentos.runtime.scoring.release import ReleaseRefused, load_release
from flows.errors import GateError, ImageError, ReleaseError, StackError
from flows.release import release
from flows.rollback import rollback
from flows.settings import Target, settings
from flows.status import status
from flows.steps.rollouts import tenure
from flows.stores import bentos, history, images, locks, registry, transaction
from flows.targets import local, placement
from flows.targets import registry as remote
from flows.walk import Plan
from tests.flows.conftest import Bases, at_home, champion, copied


def another(**changes: str | None) -> registry.Version:
    """A second version with the files of the first, judged against it; `changes` are tags, None leaves one out."""
    first = registry.get("churn", "1")
    tags: Mapping[str, str | None] = {**first.tags, "judged_against": "1", "release": None, "bento": None, **changes}
    kept = {k: v for k, v in tags.items() if v is not None}
    source = registry.client().get_model_version("churn", "1").source
    return registry.register(str(source), "churn", first.run_id, kept)


def state(home: Path) -> dict[str, Any]:
    """What must change together: aliases, rollout file, and nothing under way."""
    found = rollout.read(rollout.rollout_path(home, "churn"))
    return {
        "aliases": registry.aliases("churn"),
        "arms": None if found is None else asdict(found)["arms"],
        "pending": transaction.read(home, "churn"),
    }


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"verdict": None}, "its verdict is missing"),
        ({"verdict": "HOLD"}, "its verdict is HOLD"),
        ({"verdict": "REJECT"}, "its verdict is REJECT"),
        ({"verdict": "promote"}, "its verdict is promote"),
        ({"judged_against": "7"}, "was judged against 7, but 1 is in charge now"),
        ({"judged_against": ""}, "was judged against no champion, but 1 is in charge now"),
        ({"drill": "shuffled_labels"}, "planted fault"),
        ({"manifest_sha256": "0" * 64}, "not the ones that its gates judged"),
        ({"manifest_sha256": None}, "not the ones that its gates judged"),
    ],
)
def test_what_the_gates_did_not_promote_is_not_released(released: Path, tags: dict[str, Any], message: str) -> None:
    """No verdict, another verdict, another rival, or other files than were judged: GateError, and nothing moves."""
    before = state(released)
    version = another(**tags)
    with pytest.raises(GateError, match=message):
        release("churn", version.number)
    assert state(released) == before


def test_the_alias_challenger_does_not_replace_a_verdict(released: Path) -> None:
    """A version that somebody made challenger by hand is judged by its verdict all the same."""
    registry.set_aliases("churn", {"challenger": another(verdict="REJECT").number})
    with pytest.raises(GateError, match="REJECT"):
        release("churn")


@pytest.mark.parametrize(
    "change",
    [
        lambda found: replace(found, threshold=0.01),
        lambda found: replace(found, verdict="HOLD"),
        lambda found: replace(found, files={k: v for k, v in found.files.items() if k != "golden.json"}),
    ],
    ids=["threshold", "verdict", "file list"],
)
def test_an_altered_manifest_is_not_released(released: Path, change: Any) -> None:
    """A manifest that was changed after the verdict has another digest than the version's tag: GateError."""
    version = another()
    folder = released / "mlflow" / "artifacts" / "churn" / version.run_id / "artifacts" / "release"
    (folder / "manifest.json").write_text(change(manifest.load(folder)).dump())
    before = state(released)
    with pytest.raises(GateError, match="not the ones that its gates judged"):
        release("churn", version.number)
    assert state(released) == before


def test_an_altered_model_is_not_released(released: Path) -> None:
    """A model file that was changed after the verdict does not match its hash in the manifest."""
    version = another()
    model = released / "mlflow" / "artifacts" / "churn" / version.run_id / "artifacts" / "release" / "model.onnx"
    model.write_bytes(model.read_bytes() + b"\0")
    before = state(released)
    with pytest.raises(manifest.ManifestError, match="it was altered"):
        release("churn", version.number)
    assert state(released) == before


@pytest.mark.parametrize("verdict", ["HOLD", "REJECT", ""])
def test_the_service_refuses_what_is_not_promoted(released: Path, tmp_path: Path, verdict: str) -> None:
    """A release folder whose manifest does not say PROMOTE is not loaded, whoever put it there."""
    served = champion(released)
    folder = tmp_path / "altered"
    copied(bentos.model_folder(served.release), folder, released)
    (folder / "manifest.json").write_text(replace(served.manifest, verdict=verdict).dump())
    with pytest.raises(ReleaseRefused, match="only PROMOTE may answer"):
        load_release(folder, "churn", lambda found: served.reader)


def test_a_better_version_becomes_champion(released: Path) -> None:
    """Aliases, rollout file, history and bento name the new release, and the old one is kept as previous."""
    done = release("churn", another().number, reason="better")
    assert done["release"].startswith("churn:v2-")
    assert state(released) == {
        "aliases": {"champion": "2", "previous": "1"},
        "arms": ({"name": "champion", "release": done["release"], "weight": 1.0},),
        "pending": None,
    }
    line = history.read(released, "churn")[-1]
    assert (line["action"], line["version"], line["reason"]) == ("promoted", "2", "better")
    assert registry.get("churn", "2").tags["release"] == champion(released).release == done["release"]


def test_releasing_the_champion_again_changes_nothing(released: Path) -> None:
    """A second release of the version in charge says so and adds no line of history."""
    before, lines = state(released), history.read(released, "churn")
    assert release("churn", "1")["action"] == "unchanged"
    assert (state(released), history.read(released, "churn")) == (before, lines)


def test_without_a_challenger_there_is_nothing_to_release(released: Path) -> None:
    """Without a version and without a challenger the error says what to do."""
    with pytest.raises(ReleaseError, match="has no challenger: run `bentoflow train`"):
        release("churn")


def test_a_failing_smoke_test_reverts_everything(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a golden row is answered differently, rollout file and aliases are as before and history says why."""
    version = another()
    registry.set_aliases("churn", {"challenger": version.number})
    before = state(released)
    staged: list[Any] = []

    def differs(*args: Any, **more: Any) -> int:
        staged.append(state(released)["arms"])
        raise ReleaseError("golden row 3: the service answers 0.4, training said 0.5")

    monkeypatch.setattr(local, "smoke", differs)
    with pytest.raises(ReleaseError, match="golden row 3"):
        release("churn")
    assert [arm["name"] for arm in staged[0]] == ["champion", "challenger"]
    assert state(released) == before
    line = history.read(released, "churn")[-1]
    assert (line["action"], line["version"]) == ("reverted", "2")
    assert "golden row 3" in line["reason"]


def test_a_failing_first_release_leaves_no_champion(
    bases: Bases, tmp_path: Path, released: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing was in charge before, a failed smoke test leaves nothing in charge."""
    with at_home(copied(bases.released, tmp_path / "first", bases.origin)) as home:
        rollout.rollout_path(home, "churn").unlink()
        registry.set_aliases("churn", {"champion": None, "challenger": "1"})

        def differs(*args: Any, **more: Any) -> int:
            raise ReleaseError("no answer")

        monkeypatch.setattr(local, "smoke", differs)
        with pytest.raises(ReleaseError, match="no answer"):
            release("churn")
        assert state(home) == {"aliases": {"challenger": "1"}, "arms": None, "pending": None}


def test_of_two_releases_at_once_the_second_is_told_so(released: Path) -> None:
    """While another process releases, release and rollback raise an error that says so, and change nothing."""
    version, before = another(), state(released)
    with locks.held(released, "release-churn") as alone:
        assert alone
        for attempt in (lambda: release("churn", version.number), lambda: rollback("churn")):
            with pytest.raises(ReleaseError, match="another release of churn is under way"):
                attempt()
    assert state(released) == before


def test_rollback_restores_the_previous_release_whole(released: Path) -> None:
    """Promote and roll back: arms, aliases and the release tag are those of before."""
    before = state(released)
    release("churn", another().number)
    done = rollback("churn", reason="test")
    assert (done["action"], done["version"]) == ("rolled back", "1")
    assert state(released) == before
    with pytest.raises(ReleaseError, match="no previous release to go back to"):
        rollback("churn")


def test_promoting_again_after_a_rollback_counts_again(released: Path) -> None:
    """Promote, roll back, promote the same version, roll back: each is in the history, at one day of the clock too."""
    version = another()
    for _ in range(2):
        release("churn", version.number)
        assert tenure.stack(history.read(released, "churn")) == ["1", "2"]
        assert registry.aliases("churn")["champion"] == "2"
        rollback("churn")
        assert tenure.stack(history.read(released, "churn")) == ["1"]
        assert registry.aliases("churn")["champion"] == "1"


def test_rollback_fetches_a_release_that_the_model_store_lost(released: Path) -> None:
    """Where BentoML's store has no copy left, the files come from the registry under the same tag."""
    first = champion(released).release
    release("churn", another().number)
    bentoml.models.delete(first)
    assert rollback("churn")["release"] == first
    assert champion(released).release == first


def test_an_interrupted_release_is_settled_before_the_next(released: Path) -> None:
    """A transaction that a killed process left is reverted first, and then the next release goes through."""
    version = another()
    left = transaction.Transaction(
        use_case="churn",
        action="promoted",
        release="churn:v9-00000000",
        version="1",
        reason="killed",
        at="1998-01-01T00:00:00+00:00",
        aliases={"champion": "1"},
        aliases_before={"champion": "1", "challenger": None, "previous": None},
        champion_before=champion(released).release,
    )
    transaction.write(released, left)
    transaction.stage(released, left)
    release("churn", version.number)
    assert [line["action"] for line in history.read(released, "churn")][-2:] == ["reverted", "promoted"]
    assert state(released)["pending"] is None
    assert json.loads(rollout.rollout_path(released, "churn").read_text())["arms"][0]["release"].startswith("churn:v2")


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Images that were verified; nothing is built or pushed: `tests/container` does the real thing."""
    found: list[str] = []

    def verify(chosen: Any, image: images.ImageRef, folder: Path, release: str, **more: Any) -> str:
        found.append(str(image))
        return "fine"

    monkeypatch.setenv("BENTOFLOW_REGISTRY", "localhost:5000")
    monkeypatch.setattr(
        remote,
        "package",
        lambda chosen, use_case, bento, folder, **more: images.parsed(image_of(bento)),
    )
    monkeypatch.setattr(remote, "verify", verify)
    return found


def image_of(bento: str) -> str:
    """The image that a bento's would be."""
    return f"localhost:5000/churn@sha256:{bento.encode().hex():0<64.64}"


def test_a_release_to_a_registry_is_known_by_its_digest(released: Path, verified: list[str]) -> None:
    """The image that was verified is in the result, on the version and in the history."""
    done = release("churn", another().number, target="registry")
    assert [done["image"]] == verified == [image_of(done["bento"])]
    assert registry.get("churn", "2").tags["image"] == history.read(released, "churn")[-1]["image"] == done["image"]


def test_a_champion_without_an_image_gets_one(released: Path, verified: list[str]) -> None:
    """Released on this machine first, then to the registry: nothing else changes, and a second time nothing at all."""
    before = state(released)
    assert release("churn", "1", target="registry")["action"] == "imaged"
    assert release("churn", "1", target="registry")["action"] == "unchanged"
    assert state(released) == before
    assert [line["action"] for line in history.read(released, "churn")].count("imaged") == 1
    assert tenure.stack(history.read(released, "churn")) == ["1"]


def test_rollback_verifies_the_previous_image(released: Path, verified: list[str]) -> None:
    """Back to the digest that the earlier version was given, not to what its tag may have become."""
    first = release("churn", "1", target="registry")["image"]
    release("churn", another().number, target="registry")
    done = rollback("churn")
    assert done["image"] == first == verified[-1]
    assert registry.aliases("churn")["champion"] == "1"


def test_an_image_that_fails_is_not_released(
    released: Path, verified: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signature that is missing, a digest that is gone: everything reverts, and the version has no image."""

    def verify(*args: Any, **more: Any) -> str:
        raise ImageError("no matching signatures")

    monkeypatch.setattr(remote, "verify", verify)
    before, version = state(released), another()
    with pytest.raises(ImageError, match="no matching signatures"):
        release("churn", version.number, target="registry")
    assert state(released) == before
    assert "image" not in registry.get("churn", version.number).tags
    assert history.read(released, "churn")[-1]["action"] == "reverted"


def test_what_a_registry_cannot_do_is_refused_at_once(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No registry named, or a canary, which needs a service's answers: nothing is built."""
    version = another().number
    monkeypatch.setenv("BENTOFLOW_TARGET", "registry")
    with pytest.raises(ImageError, match="BENTOFLOW_REGISTRY is not set"):
        release("churn", version)
    monkeypatch.setenv("BENTOFLOW_REGISTRY", "localhost:5000")
    with pytest.raises(ReleaseError, match="a canary is judged by the answers of a service"):
        release("churn", version, steps=(10, 100))
    assert release("churn", version, target="local")["version"] == version


class Place:
    """A place for images that keeps what answers there, and fails where it is to; tests/container has a real one."""

    def __init__(self) -> None:
        self.answers, self.beside, self.fails = "", "", ""
        self.walked: list[tuple[tuple[int, ...], dict[str, str] | None]] = []

    def _try(self, step: str) -> None:
        if step == self.fails:
            raise StackError(f"no {step}")

    def check(self, chosen: Any, use_case: str, plan: Plan) -> dict[str, str] | None:
        """It is there, and says what it runs."""
        self._try("check")
        return {"image": self.answers}

    def runs(self, chosen: Any, pending: transaction.Transaction) -> bool:
        """By its image."""
        return self.answers == pending.image

    def stage(self, chosen: Any, pending: transaction.Transaction, folder: Path, **_: Any) -> str:
        """Beside what answers."""
        self.beside = pending.image
        self._try("stage")
        return "fine"

    def walk(self, chosen: Any, pending: transaction.Transaction, plan: Plan, **_: Any) -> None:
        """Its steps are kept, and what was before."""
        self.walked.append((plan.steps, pending.deployed_before))
        self._try("walk")

    def switch(self, chosen: Any, pending: transaction.Transaction, **_: Any) -> None:
        """In charge."""
        self._try("switch")
        self.answers, self.beside = pending.image, ""

    def revert(self, chosen: Any, pending: transaction.Transaction, **_: Any) -> None:
        """As before."""
        self._try("revert")
        self.beside = ""


@pytest.fixture
def place(released: Path, verified: list[str], monkeypatch: pytest.MonkeyPatch) -> Place:
    """The place that the target compose means; the champion of the home runs there."""
    found = Place()
    monkeypatch.setitem(placement.PLACES, "compose", found)
    assert release("churn", "1", target="compose")["action"] == "imaged"
    return found


def test_a_release_and_its_rollback_move_the_place(released: Path, place: Place) -> None:
    """Rollback names no target: it is where the champion runs, by the history."""
    first = place.answers
    done = release("churn", another().number, target="compose")
    assert place.answers == done["image"] != first
    assert history.read(released, "churn")[-1]["target"] == "compose"
    assert rollback("churn")["image"] == place.answers == first
    assert place.beside == ""


def test_what_runs_there_already_is_not_recorded_twice(released: Path, place: Place) -> None:
    """Nothing moved, so the history stays; a release to the registry alone does not make it forget the place."""
    before = history.read(released, "churn")
    assert release("churn", "1", target="compose")["action"] == "unchanged"
    assert release("churn", "1", target="registry")["action"] == "unchanged"
    assert history.read(released, "churn") == before
    assert tenure.target(before) == "compose"


@pytest.mark.parametrize("step", ["stage", "walk"])
def test_a_release_that_does_not_answer_leaves_all_as_it_was(released: Path, place: Place, step: str) -> None:
    """Place, aliases and rollout file are as before, and nothing is under way."""
    before, answers, version = state(released), place.answers, another().number
    place.fails = step
    with pytest.raises(StackError, match=f"no {step}"):
        release("churn", version, target="compose")
    assert (state(released), place.answers, place.beside) == (before, answers, "")


def test_a_place_that_fails_after_the_commit_is_completed_later(released: Path, place: Place) -> None:
    """From the commit on there is no way back: the next start puts the release in charge, and only then records it."""
    version = another().number
    place.fails = "switch"
    with pytest.raises(StackError, match="no switch"):
        release("churn", version, target="compose")
    assert registry.aliases("churn")["champion"] == "1"
    place.fails = ""
    assert release("churn")["action"].startswith("completed: promoted")
    assert place.answers == registry.get("churn", version).tags["image"]
    assert registry.aliases("churn")["champion"] == version


def test_a_place_that_cannot_be_cleared_is_cleared_at_the_next_start(released: Path, place: Place) -> None:
    """The transaction stays open until it is, so that nobody forgets the candidate."""
    before, version = state(released), another().number
    place.fails = "stage"

    def revert(*_: Any, **__: Any) -> None:
        raise StackError("no revert")

    place.revert = revert  # type: ignore[method-assign]
    with pytest.raises(StackError, match="no revert"):
        release("churn", version, target="compose")
    assert transaction.read(released, "churn") is not None
    del place.revert
    place.fails = ""
    assert release("churn")["action"].startswith("reverted")
    assert (state(released), place.beside) == (before, "")


def test_a_champion_without_an_image_is_no_way_back_for_a_place(released: Path, place: Place) -> None:
    """It says so, instead of answering with one thing here and another there."""
    release("churn", another().number, target="compose")
    registry.client().delete_model_version_tag("churn", "1", "image")
    with pytest.raises(ReleaseError, match="version 1 was champion before it had an image, and compose runs images"):
        rollback("churn")


def test_steps_are_taken_where_there_is_a_champion_to_compare_with(released: Path, place: Place) -> None:
    """Not where the champion itself is brought somewhere; each time the place's own word of before is kept for it."""
    first = place.answers
    release("churn", another().number, target="compose", steps=(10, 100))
    place.answers = ""
    assert release("churn", "2", target="compose", steps=(10, 100))["action"] == "imaged"
    assert place.walked == [((), {"image": ""}), ((10, 100), {"image": first}), ((), {"image": ""})]


def test_a_place_that_refuses_does_so_before_anything_is_built(
    released: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No bento, no image, no transaction."""

    def package(*_: Any, **__: Any) -> images.ImageRef:
        raise AssertionError("it was built")

    monkeypatch.setattr(remote, "package", package)
    before, lines, version = state(released), history.read(released, "churn"), another().number
    place.fails = "check"
    with pytest.raises(StackError, match="no check"):
        release("churn", version, target="compose")
    with pytest.raises(StackError, match="no check"):
        release("churn", "1", target="compose")
    assert (state(released), len(bentoml.bentos.list())) == (before, 1)
    assert [line["action"] for line in history.read(released, "churn")[len(lines) :]] == ["release failed"] * 2


def test_a_champion_that_was_killed_on_its_way_is_brought_later(released: Path, place: Place) -> None:
    """It is a transaction like any other: before the commit it reverts, after it is completed, and recorded once."""
    place.answers, place.fails = "", "switch"
    with pytest.raises(StackError, match="no switch"):
        release("churn", "1", target="compose")
    place.fails = ""
    assert release("churn")["action"].startswith("completed: imaged churn:v1-")
    assert place.answers == registry.get("churn", "1").tags["image"]
    assert registry.aliases("churn") == {"champion": "1"}
    assert [line["action"] for line in history.read(released, "churn")].count("imaged") == 2


def test_every_target_has_its_place() -> None:
    """What settings take can be released to; a follower of the rollout file is no target of the history."""
    assert list(placement.PLACES) == list(get_args(Target))
    assert [name for name in placement.PLACES if not placement.recorded(name)] == ["local", "registry"]
    assert [name for name in placement.PLACES if not placement.takes_image(name)] == ["local"]


@pytest.mark.parametrize("content", [None, "", '{"arms": [{"name": "cham', '{"arms": []}', "other"])
def test_a_lost_or_altered_rollout_file_is_written_anew(released: Path, content: str | None) -> None:
    """`bentoflow release`, which the error of such a file asks for, puts the champion back; status tells it before."""
    whole, file = state(released), rollout.rollout_path(released, "churn")
    text = file.read_text().replace("churn:v1-", "churn:v0-") if content == "other" else content
    file.unlink() if text is None else file.write_text(text)
    shown = status(settings(), "churn")["rollout"]
    assert shown != whole["arms"]
    done = release("churn")
    assert done["action"] == "mended"
    assert state(released) == whole
    assert history.read(released, "churn")[-1]["action"] == "rollout mended"
    with pytest.raises(ReleaseError, match="no challenger"):
        release("churn")


def test_a_corrupt_rollout_file_does_not_stop_a_release(released: Path) -> None:
    """A better version is released all the same, and a rollback goes back from it over another corrupt file."""
    number, file = another().number, rollout.rollout_path(released, "churn")
    file.write_text("{")
    assert release("churn", number)["version"] == number
    file.write_text("{")
    assert rollback("churn")["version"] == "1"
    assert [arm["name"] for arm in state(released)["arms"]] == ["champion"]
