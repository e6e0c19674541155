"""The rollout and its watcher."""

import json
import threading

import pytest

from bentos.runtime import rollout
from bentos.runtime.rollout import Arm, Rollout, RolloutError, Watcher

from .conftest import wait_for

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
        ([Arm("canary", "churn:v1", 0.1)], "no arm is called 'canary'"),
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
