"""Shadows beside a real server: scored and journalled apart, and never in the way, whatever they do."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

from bentos.runtime import journal
from bentos.runtime.rollouts import rollout
from bentos.runtime.rollouts.rollout import Arm, Rollout

from .conftest import (
    FRESH,
    GIVEN,
    UNKNOWN,
    Server,
    fill_store,
    fit,
    make_release,
    save_release,
    serving,
    set_clock,
    wait_for,
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def graph(nodes: list[Any], constants: dict[str, np.ndarray]) -> bytes:
    """An ONNX model from x [n, 3] to probability [n, 1]."""
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 3])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def slow(layers: int = 100, width: int = 512) -> bytes:
    """A deep net whose layers share their weights: a small file that takes a good part of a second for a batch."""
    rng = np.random.default_rng(0)
    names = [f"h{i}" for i in range(layers + 1)]
    nodes = [helper.make_node("MatMul", ["x", "first"], [names[0]])]
    for a, b in pairwise(names):
        nodes += [helper.make_node("MatMul", [a, "middle"], [f"{b}z"]), helper.make_node("Tanh", [f"{b}z"], [b])]
    nodes += [
        helper.make_node("MatMul", [names[-1], "last"], ["z"]),
        helper.make_node("Sigmoid", ["z"], ["probability"]),
    ]
    scale = 1 / np.sqrt(width)
    return graph(
        nodes,
        {
            "first": rng.normal(size=(3, width)).astype(np.float32),
            "middle": (rng.normal(size=(width, width)) * scale).astype(np.float32),
            "last": (rng.normal(size=(width, 1)) * scale).astype(np.float32),
        },
    )


def raising() -> bytes:
    """Looks its first input up in a table of -20 to 20: beyond that ONNX Runtime raises."""
    nodes = [
        helper.make_node("Slice", ["x", "from", "to", "axis"], ["first"]),
        helper.make_node("Cast", ["first"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Add", ["whole", "middle"], ["index"]),
        helper.make_node("Gather", ["table", "index"], ["probability"]),
    ]
    constants = {"from": [0], "to": [1], "axis": [1], "middle": [20]}
    return graph(
        nodes,
        {name: np.array(value, dtype=np.int64) for name, value in constants.items()}
        | {"table": np.linspace(0, 1, 41, dtype=np.float32)},
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A BentoML home with a champion and one release of every bad habit."""
    folder = tmp_path_factory.mktemp("models")
    home = folder / "bentoml"
    contents = {"v1": fit(), "v2": fit(seed=4), "slow": slow(), "raising": raising()}
    for i, (tag, content) in enumerate(contents.items(), 1):
        save_release(home, make_release(folder / tag, version=str(i), model=content), f"churn:{tag}")
    save_release(home, make_release(folder / "bad", verdict="REJECT", reasons=("too_slow",)), "churn:bad")
    return home


@pytest.fixture(scope="module")
def server(models, tmp_path_factory):
    """A server with a materialised feature store and a champion."""
    home = tmp_path_factory.mktemp("stored")
    fill_store(home)
    set_clock(home)
    put(home)
    with serving(home, models, log=home / "log") as found:
        yield found


def put(home: Path, **shadows: str) -> None:
    """The champion v1 and shadows by name."""
    arms = [Arm(name, f"churn:{tag}", 0.0) for name, tag in shadows.items()]
    rollout.write(rollout.rollout_path(home, "churn"), Rollout((Arm("champion", "churn:v1", 1.0), *arms)))


UNDERSTUDY = "bentos.runtime.rollouts.understudy"


def state(server: Server, arm: str = "shadow") -> str:
    """How a shadow does, by /health; "" while there is none."""
    arms = httpx.get(server.url + "/health", timeout=30).json()["arms"]
    return str(arms.get(arm, {}).get("state", ""))


def shadow_rows(server: Server, outcome: str, arm: str = "shadow") -> float:
    """Rows of a shadow with an outcome, by /metrics."""
    start = f'bentoflow_shadow_rows_total{{arm="{arm}",outcome="{outcome}",use_case="churn"}} '
    lines = httpx.get(server.url + "/metrics", timeout=30).text.splitlines()
    return sum(float(line.removeprefix(start)) for line in lines if line.startswith(start))


def asked(server: Server, row: dict[str, Any], n: int = 200) -> set[tuple[int, float]]:
    """The different statuses and probabilities of the answers to a row."""
    with httpx.Client(timeout=30) as client:
        responses = [client.post(server.url + "/predict", json=row) for _ in range(n)]
    return {(response.status_code, response.json()["probability"]) for response in responses}


def records(server: Server, arm: str) -> list[dict[str, Any]]:
    return [r for r in journal.scan(server.home / "journal" / "churn") if r["arm"] == arm]


@pytest.fixture(autouse=True)
def _alone(server):
    """Each test begins and ends without a shadow."""
    yield
    put(server.home)
    wait_for(lambda: not state(server), what="the end of the shadow")


def test_a_shadow_scores_what_was_answered_under_the_same_request_id(server):
    """Every answered row is journalled once more with the shadow's release and its own score; refusals are not."""
    put(server.home, shadow="v2")
    wait_for(lambda: state(server) == "scoring", what="the shadow")
    rows = [{"user_id": FRESH}, {"user_id": UNKNOWN}, {"user_id": 5, "features": GIVEN}]
    headers = {"x-bentoflow-smoke": "1"}
    hidden = httpx.post(server.url + "/predict", json={"user_id": FRESH}, headers=headers, timeout=30).json()
    answers = httpx.post(server.url + "/predict", json=rows, timeout=30).json()
    ids = {a["request_id"]: a for a in answers if "request_id" in a}
    wait_for(lambda: {r["request_id"] for r in records(server, "shadow")} >= set(ids), what="the shadow's lines")
    found = [r for r in records(server, "shadow") if r["request_id"] in ids]
    assert len(found) == len(ids) == 2
    for record in found:
        answer = ids[record["request_id"]]
        assert (answer["arm"], answer["model_version"]) == ("champion", "1")
        assert (record["model_version"], record["features"]) == ("2", answer["features"])
        assert record["score"] != answer["probability"]
    assert hidden["request_id"] not in {r["request_id"] for r in records(server, "shadow")}
    assert wait_for(lambda: shadow_rows(server, "scored") == 2, what="the count") < 5
    assert shadow_rows(server, "failed") == 0


def test_two_shadows_score_side_by_side(server):
    """Each has a process, a name in the journal and counts of its own."""
    put(server.home, shadow="v2", **{"shadow-b": "raising"})
    wait_for(lambda: {state(server), state(server, "shadow-b")} == {"scoring"}, what="both shadows")
    answer = httpx.post(server.url + "/predict", json={"user_id": FRESH}, timeout=30).json()
    for arm in ("shadow", "shadow-b"):
        wait_for(lambda arm=arm: answer["request_id"] in {r["request_id"] for r in records(server, arm)}, what=arm)


@pytest.mark.parametrize(
    ("tag", "row", "outcome"),
    [
        ("slow", {"user_id": FRESH}, "scored"),
        ("raising", {"user_id": 5, "features": {**GIVEN, "recency": 100_000.0}}, "failed"),
    ],
)
def test_a_bad_shadow_changes_no_answer(server, tag, row, outcome):
    """Beside a shadow that takes its time, or raises on every row, answers are the same."""
    alone = asked(server, row)
    counted = shadow_rows(server, outcome)
    put(server.home, shadow=tag)
    wait_for(lambda: state(server) == "scoring", what="the shadow")
    beside = asked(server, row)
    assert beside == alone
    assert len(alone) == 1
    wait_for(lambda: shadow_rows(server, outcome) > counted, what="rows that the shadow took")
    assert state(server) == "scoring", "an error does not end it"


def test_answers_do_not_wait_for_a_shadow_that_stands_still(server):
    """A stopped process takes nothing: everything is answered all the same, and scored once it goes on."""
    put(server.home, shadow="v2")
    wait_for(lambda: state(server) == "scoring", what="the shadow")
    counted = shadow_rows(server, "scored")
    wait_for(lambda: len(understudies(server)) == 1, what="no process of an earlier one")
    [understudy] = understudies(server)
    understudy.suspend()
    found = asked(server, {"user_id": FRESH}, 50)
    understudy.resume()
    assert {status for status, _ in found} == {200}
    wait_for(lambda: shadow_rows(server, "scored") == counted + 50, what="its rows")


def test_a_shadow_that_cannot_follow_drops_rows_and_counts_them(server):
    """Beyond the bounded queue rows are dropped: nothing waits for a slow shadow, and memory does not grow."""
    put(server.home, shadow="slow")
    wait_for(lambda: state(server) == "scoring", what="the shadow")
    rows = [{"user_id": i, "features": GIVEN} for i in range(10_000)]
    statuses = {httpx.post(server.url + "/predict", json=rows, timeout=60).status_code for _ in range(4)}
    assert statuses == {200}
    wait_for(lambda: shadow_rows(server, "dropped") > 0, what="dropped rows")


@pytest.mark.parametrize("unread", [False, True], ids=["idle", "with-rows-unread"])
def test_a_shadow_that_is_killed_changes_nothing_and_comes_back(server, unread):
    """SIGKILL of its process: requests go on, /health says so, and a new process takes over."""
    put(server.home, shadow="v2")
    wait_for(lambda: state(server) == "scoring", what="the shadow")
    wait_for(lambda: len(understudies(server)) == 1, what="no process of an earlier one")
    [understudy] = understudies(server)
    if unread:
        understudy.suspend()
        asked(server, {"user_id": FRESH}, 50)
    understudy.kill()
    found = asked(server, {"user_id": FRESH}, 50)
    assert {status for status, _ in found} == {200}
    wait_for(lambda: "its process ended" in state(server), what="the reason")
    wait_for(lambda: state(server) == "scoring", what="another process")
    put(server.home)
    wait_for(lambda: not state(server), what="the end of the shadow")
    wait_for(lambda: not understudies(server), what="no process left")


def understudies(server):
    """The processes of the service that score for shadows."""
    return [p for p in server.family() if UNDERSTUDY in _command(p)]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def test_a_shadow_that_cannot_be_loaded_is_told_and_answers_go_on(server):
    """A refused release and one that is not there are named in /health; the service follows its rollout."""
    put(server.home, shadow="bad", **{"shadow-b": "absent"})
    wait_for(lambda: "only PROMOTE may answer" in state(server), what="the refusal")
    wait_for(lambda: "NotFound" in state(server, "shadow-b"), what="the missing tag")
    ready = httpx.get(server.url + "/readyz", timeout=30)
    assert (ready.status_code, ready.json()["problem"]) == (200, None)
    assert {status for status, _ in asked(server, {"user_id": FRESH}, 5)} == {200}
