"""The rollout and its watcher."""

import json
import math
import threading

import pytest

from bentos.runtime.rollouts import rollout
from bentos.runtime.rollouts.rollout import Arm, Rollout, RolloutError
from bentos.runtime.rollouts.watcher import Watcher

from .conftest import wait_for

V = Arm("champion", "a:1", 1.0)
V1 = Rollout((Arm("champion", "churn:v1", 1.0),))
V2 = Rollout((Arm("champion", "churn:v2", 1.0), Arm("challenger", "churn:v1", 0.0)))


def test_a_rollout_is_read_back_as_written(tmp_path):
    """What is written is what every service reads; no file is no rollout."""
    path = rollout.rollout_path(tmp_path, "churn")
    assert rollout.read(path) is None
    rollout.write(path, V2)
    assert rollout.read(path) == V2
    assert [p.name for p in path.parent.iterdir()] == ["churn.json"]


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        (
            [Arm("blue", "churn:v1", 0.1)],
            "no arm is called 'blue'; known: champion, challenger, canary, shadow, canary-",
        ),
        ([Arm("champion-2", "a:1", 1.0)], "no arm is called 'champion-2'"),
        ([V, Arm("canary", "a:2", -0.1)], "canary's weight is a share from 0 to 1, not -0.1"),
        ([V, Arm("canary", "a:2", 1.1)], "canary's weight is a share from 0 to 1, not 1.1"),
        ([V, Arm("canary", "a:2", math.nan)], "canary's weight is a share from 0 to 1, not nan"),
        ([V, Arm("canary", "a:2", 0.6), Arm("canary-b", "a:3", 0.6)], "weights add up to 1.2, more than 1"),
        ([V, Arm("canary", "a:2", 0.3)], "champion's weight is 0.7, what the canaries' 0.3 leave, not 1.0"),
        ([Arm("canary", "a:2", 0.3)], "a canary needs a champion beside it"),
        ([V, Arm("canary", "a:2", 0.0)], "a canary needs a salt of 1 to 64 bytes beside the arms"),
        ([V, Arm("shadow", "a:2", 0.5)], "shadow's weight is 0, not 0.5"),
        ([V, Arm("shadow", "a:2", 0.0), Arm("shadow", "a:3", 0.0)], "has one shadow, this has 2"),
        ([Arm("champion", "a:1", 1.0), Arm("champion", "a:2", 1.0)], "has one champion, this has 2"),
        ([Arm("champion", "a:1", 0.5)], "champion's weight is 1, not 0.5"),
        ([Arm("challenger", "a:1", 1.0)], "challenger's weight is 0"),
        ([Arm("champion", "", 1.0)], "names no release"),
    ],
)
def test_impossible_arms_are_refused(arms, message):
    """Each broken rule is named."""
    with pytest.raises(RolloutError, match=message):
        Rollout(tuple(arms))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"arms": [{"name": "champion"}]}', '{"arms": 3}'])
def test_a_broken_file_is_named(tmp_path, text):
    """A file that is no rollout is an error with its path, never an empty rollout."""
    (tmp_path / "churn.json").write_text(text)
    with pytest.raises(RolloutError, match=r"churn\.json"):
        rollout.read(tmp_path / "churn.json")


def test_a_file_without_salt_or_canaries_is_read_as_ever(tmp_path):
    """What was written before there were canaries still stands, and reads back equal to what is written today."""
    path = tmp_path / "churn.json"
    path.write_text(
        '{"arms": [{"name": "champion", "release": "a:1", "weight": 1.0},'
        ' {"name": "challenger", "release": "a:2", "weight": 0.0}]}'
    )
    assert rollout.read(path) == Rollout((V, Arm("challenger", "a:2", 0.0)))


def test_canaries_shadows_and_salt_are_read_back_as_written(tmp_path):
    """A rollout with every kind of arm survives its file; a salt of more bytes than the hash takes is refused."""
    arms = (
        Arm("champion", "a:1", 0.65),
        Arm("canary", "a:2", 0.25),
        Arm("canary-b", "a:3", 0.1),
        Arm("challenger", "a:4", 0.0),
        Arm("shadow", "a:5", 0.0),
        Arm("shadow-b", "a:6", 0.0),
    )
    path = tmp_path / "churn.json"
    rollout.write(path, Rollout(arms, "s"))
    assert rollout.read(path) == Rollout(arms, "s")
    assert [arm.kind for arm in arms] == ["champion", "canary", "canary", "challenger", "shadow", "shadow"]
    with pytest.raises(RolloutError, match="salt of 1 to 64 bytes"):
        Rollout(arms, "s" * 65)


def test_a_reader_never_sees_half_a_file(tmp_path):
    """While the file is replaced again and again, every read finds one of the written rollouts."""
    path, stop, seen = tmp_path / "churn.json", threading.Event(), set()
    rollout.write(path, V1)
    reader = threading.Thread(target=lambda: [seen.add(rollout.read(path)) for _ in iter(stop.is_set, True)])
    reader.start()
    for i in range(100):
        rollout.write(path, V2 if i % 2 else V1)
    stop.set()
    reader.join()
    assert seen <= {V1, V2}


def test_a_failed_replacement_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch):
    """A crash before the replacement changes nothing."""
    path = tmp_path / "churn.json"
    rollout.write(path, V1)
    monkeypatch.setattr("bentos.runtime.home.os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        rollout.write(path, V2)
    assert rollout.read(path) == V1
    assert len(list(tmp_path.iterdir())) == 1


def test_the_watcher_follows_the_file_and_loads_each_release_once(tmp_path):
    """A changed file swaps the bundle; a release that stays in is not loaded again."""
    before = set(threading.enumerate())
    path, loaded = tmp_path / "churn.json", []
    watcher = Watcher(path, lambda tag: loaded.append(tag) or tag, interval_s=0.02)
    watcher.start()
    try:
        assert watcher.bundle is None
        rollout.write(path, V1)
        wait_for(lambda: watcher.bundle is not None, what="first rollout")
        rollout.write(path, V2)
        wait_for(lambda: watcher.bundle.rollout == V2, what="second rollout")
        assert dict(watcher.bundle.arms) == {"champion": "churn:v2", "challenger": "churn:v1"}
        assert loaded == ["churn:v1", "churn:v2"]
    finally:
        watcher.stop()
    assert set(threading.enumerate()) <= before


def test_a_new_release_that_fails_keeps_the_old_bundle_and_is_tried_again(tmp_path):
    """The old bundle answers on, `.problem` says why, and the new one comes in when it loads."""
    path, broken = tmp_path / "churn.json", [True]

    def load(tag: str) -> str:
        if tag == "churn:v2" and broken[0]:
            raise ValueError("model.onnx was altered")
        return tag

    watcher = Watcher(path, load, retry_s=0.0)
    rollout.write(path, V1)
    watcher.poll()
    old = watcher.bundle
    rollout.write(path, V2)
    watcher.poll()
    assert watcher.bundle is old
    assert watcher.problem == "ValueError: model.onnx was altered"
    broken[0] = False
    watcher.poll()
    assert watcher.bundle.rollout == V2
    assert watcher.problem is None


def test_a_broken_or_vanished_file_keeps_the_old_bundle(tmp_path):
    """Neither garbage nor deletion takes the service out."""
    path = tmp_path / "churn.json"
    watcher = Watcher(path, str)
    rollout.write(path, V1)
    watcher.poll()
    path.write_text(json.dumps({"arms": "x"}))
    watcher.poll()
    assert (watcher.bundle.rollout, bool(watcher.problem)) == (V1, True)
    path.unlink()
    watcher.poll()
    assert watcher.bundle.rollout == V1
    assert "is gone" in watcher.problem


def test_the_fallback_is_in_charge_only_until_there_is_a_file(tmp_path):
    """A container's own release answers without a rollout file; a file wins."""
    path = tmp_path / "churn.json"
    watcher = Watcher(path, str, fallback=V1)
    watcher.poll()
    assert watcher.bundle.rollout == V1
    rollout.write(path, V2)
    watcher.poll()
    assert watcher.bundle.rollout == V2


def failing(*broken: str):
    """A loader that fails on some tags."""

    def load(tag: str) -> str:
        if tag in broken:
            raise ValueError(f"{tag} is broken")
        return tag

    return load


def test_a_server_that_starts_beside_a_broken_canary_answers_without_it(tmp_path):
    """The champion has the broken canary's entities, the problem names it, and it comes in once it loads."""
    path, broken = tmp_path / "churn.json", ["a:2"]
    both = Rollout((Arm("champion", "a:1", 0.0), Arm("canary", "a:2", 1.0)), "s")
    rollout.write(path, both)
    watcher = Watcher(path, lambda tag: failing(*broken)(tag), retry_s=0.0)
    for _ in range(2):
        watcher.poll()
        assert dict(watcher.bundle.arms) == {"champion": "a:1"}
        assert watcher.problem == "without the canary: ValueError: a:2 is broken"
        assert watcher.bundle.split.arm_of(17) == "champion"
    broken.clear()
    watcher.poll()
    assert (watcher.problem, watcher.bundle.split.arm_of(17)) == (None, "canary")


def test_a_broken_canary_keeps_a_running_server_at_its_last_rollout(tmp_path):
    """Where something answers already a rollout is followed whole or not at all."""
    path = tmp_path / "churn.json"
    watcher = Watcher(path, failing("a:2"), retry_s=0.0)
    rollout.write(path, Rollout((V,)))
    watcher.poll()
    rollout.write(path, Rollout((Arm("champion", "a:1", 0.5), Arm("canary", "a:2", 0.5)), "s"))
    watcher.poll()
    assert (watcher.bundle.rollout, watcher.problem) == (Rollout((V,)), "ValueError: a:2 is broken")


def test_a_broken_champion_is_never_left_out(tmp_path):
    """A canary alone does not make a service ready."""
    path = tmp_path / "churn.json"
    rollout.write(path, Rollout((Arm("champion", "a:1", 0.5), Arm("canary", "a:2", 0.5)), "s"))
    watcher = Watcher(path, failing("a:1"))
    watcher.poll()
    assert (watcher.bundle, watcher.problem) == (None, "ValueError: a:1 is broken")


def test_a_shadow_is_not_loaded_by_the_service(tmp_path):
    """A shadow that cannot be loaded is no problem of those who answer."""
    path = tmp_path / "churn.json"
    rollout.write(path, Rollout((V, Arm("shadow", "a:2", 0.0))))
    watcher = Watcher(path, failing("a:2"))
    watcher.poll()
    assert (dict(watcher.bundle.arms), watcher.problem, watcher.bundle.split) == ({"champion": "a:1"}, None, None)
