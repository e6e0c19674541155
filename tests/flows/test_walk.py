"""The canary walk through a real service under load: good releases arrive, bad ones are stopped and reverted."""

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pandas as pd
import pytest
from prefect.settings import PREFECT_API_URL

from bentos.runtime.rollouts import rollout
from bentos.runtime.rollouts.split import place
from bentos.runtime.scoring import manifest
from bentos.runtime.scoring.categories import rows_to_raw
from bentos.runtime.scoring.scorer import Scorer
from flows import walk
from flows.errors import ReleaseError
from flows.release import release, settle
from flows.settings import settings
from flows.steps.rollouts import tenure
from flows.stores import bentos, features, history, registry, transaction
from flows.targets import local
from flows.targets.local import ensure, smoke  # as they are before other tests' fixtures stand in for them
from tests.flows.conftest import Bases, at_home, copied, holdout, use
from tests.flows.test_release import another, state

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

ENTITIES = 5_000
QUICK: dict[str, Any] = {"min_answers": 150, "step_minutes": 3.0}


@dataclass
class Load:
    """Posts rows of many entities without pause; keeps who answered whom, and whatever was no answer."""

    url: str
    rows: list[dict[str, Any]]
    arms: dict[int, list[str]] = field(default_factory=dict)
    versions: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)
    on_answers: Callable[[list[dict[str, Any]]], None] = lambda answers: None

    def __enter__(self) -> "Load":
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._post)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _post(self) -> None:
        size, at = 250, 0
        with httpx.Client(timeout=30) as client:
            while not self._stop.is_set():
                part = self.rows[at : at + size]
                at = (at + size) % len(self.rows)
                response = client.post(f"{self.url}/predict", json=part)
                if response.status_code != 200:
                    self.failures.append(response.text)
                    continue
                for answer in response.json():
                    self.arms.setdefault(answer["user_id"], []).append(answer["arm"])
                    self.versions[answer["model_version"]] += 1
                self.on_answers(response.json())
                self._stop.wait(0.02)


@pytest.fixture(scope="module")
def rows(bases: Bases) -> list[dict[str, Any]]:
    """Requests of 5,000 entities, who share the features of the holdout's customers."""
    names = manifest.load(next((bases.released / "bentoml" / "models" / "churn").glob("*/"))).names
    frame = holdout(bases)[names].astype("float64")
    values: list[dict[str, float | None]] = [
        {k: None if pd.isna(v) else v for k, v in row.items()} for row in frame.to_dict("records")
    ]
    return [{"user_id": i, "features": values[i % len(values)]} for i in range(1, ENTITIES + 1)]


@pytest.fixture
def home(bases: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home whose version 1 is champion, with a real service."""
    monkeypatch.setattr(local, "ensure", ensure)
    monkeypatch.setattr(local, "smoke", smoke)
    with at_home(copied(bases.released, tmp_path / "walk", bases.origin)) as found:
        use(monkeypatch)
        features.apply(features.open_store(found))
        try:
            local.ensure(settings(), "churn")
            yield found
        finally:
            local.stop(settings(), "churn")


@pytest.fixture
def load(home: Path, rows: list[dict[str, Any]]) -> Load:
    return Load(local.ensure(settings(), "churn").url, rows)


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for a condition; fails the test if it never holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.02)


def altered(home: Path, change: Callable[[onnx.ModelProto], None]) -> registry.Version:
    """A second version whose model was changed and whose gates were fooled: golden scores, hashes and verdict agree."""
    version = registry.get("churn", "1")
    folder = home / "mlflow" / "artifacts" / "churn" / version.run_id / "artifacts" / "release"
    found, golden = manifest.load(folder), json.loads((folder / manifest.GOLDEN).read_text())
    model = onnx.load(folder / manifest.MODEL)
    change(model)
    (folder / manifest.MODEL).write_bytes(model.SerializeToString())
    x = rows_to_raw(golden["rows"], found)
    golden["scores"] = Scorer(found, (folder / manifest.MODEL).read_bytes()).score(x).tolist()
    (folder / manifest.GOLDEN).write_text(json.dumps(golden))
    files = {**found.files, **{n: manifest.sha256(folder / n) for n in (manifest.MODEL, manifest.GOLDEN)}}
    (folder / manifest.MANIFEST).write_text(replace(found, files=files).dump())
    return another(manifest_sha256=manifest.load(folder).digest())


def probability(model: onnx.ModelProto) -> str:
    """Name of the model's output of probabilities."""
    return str(next(o.name for o in model.graph.output if "prob" in o.name))


def rename_output(model: onnx.ModelProto, name: str) -> None:
    """Let the node that gives the probabilities give another name, so that a further node can stand in between."""
    wanted = probability(model)
    for node in model.graph.node:
        for i, output in enumerate(node.output):
            if output == wanted:
                node.output[i] = name


def invert(model: onnx.ModelProto) -> None:
    """Swap the columns P(0) and P(1)."""
    rename_output(model, "upright")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 0]), "swapped"))
    model.graph.node.append(onnx.helper.make_node("Gather", ["upright", "swapped"], [probability(model)], axis=1))


def actions(home: Path) -> list[str]:
    return [line["action"] for line in history.read(home, "churn")]


def test_an_equal_release_walks_all_steps_and_becomes_champion(home: Path, load: Load) -> None:
    """A/A under load: every step passes, no request fails, no entity goes back, and the new release answers all."""
    version = another()
    with load:
        done = release("churn", version.number, reason="better", steps=(1, 10, 50, 100), **QUICK)
        swapped: list[dict[str, Any]] = []
        load.on_answers = swapped.extend
        url = load.url
        until(lambda: local.health(url)["release"] == done["release"] and len(swapped) >= 500)
        swapped.clear()
        until(lambda: len(swapped) >= 1_000)
    assert load.failures == []
    assert done["action"] == "promoted"
    assert actions(home)[-5:] == [*[f"canary at {share}%: passed" for share in (1, 10, 50, 100)], "promoted"]
    assert {a["arm"] for a in swapped} == {"champion"}
    assert {a["model_version"] for a in swapped} == {"2"}
    for arms in load.arms.values():
        first = arms.index("canary") if "canary" in arms else len(arms)
        assert "canary" not in arms[:first]
        back = arms[first:]
        promoted = back.index("champion") if "champion" in back else len(back)
        assert set(back[promoted:]) <= {"champion"}
    reasons = next(line for line in history.read(home, "churn") if line["action"] == "canary at 10%: passed")["reasons"]
    assert [reason.partition(":")[0] for reason in reasons] == [
        "errors",
        "latency",
        "distribution",
        "agreement",
        "labels",
    ]
    assert state(home)["aliases"] == {"champion": "2", "previous": "1"}


def test_a_release_with_inverted_scores_is_stopped_and_reverted(home: Path, load: Load) -> None:
    """It answers its first step only, everything is as before, and the history says why."""
    registry.set_aliases("churn", {"challenger": altered(home, invert).number})
    before = state(home)
    salts: set[str] = set()
    load.on_answers = lambda _: salts.add(getattr(rollout.read(rollout.rollout_path(home, "churn")), "salt", ""))
    with load:
        with pytest.raises(ReleaseError, match=r"stopped at 10 %.*agreement: rank correlation .* -1\.00"):
            release("churn", steps=(10, 50, 100), **QUICK)
        until(lambda: set(local.health(load.url)["arms"]) == {"champion"})
        after: list[dict[str, Any]] = []
        load.on_answers = after.extend
        until(lambda: len(after) >= 500)
    assert load.failures == []
    assert {a["model_version"] for a in after[250:]} == {"1"}
    assert state(home) == before
    assert actions(home)[-2:] == ["canary at 10%: stopped", "reverted"]
    assert "agreement" in history.read(home, "churn")[-1]["reason"]
    assert tenure.stack(history.read(home, "churn")) == ["1"]
    (salt,) = salts - {""}
    saw = {entity for entity, arms in load.arms.items() if "canary" in arms}
    assert saw
    assert saw <= {i for i in range(1, ENTITIES + 1) if place(salt, i) < 0.1}, "only the step's entities ever saw it"


def ruin_above(limit: float) -> Callable[[onnx.ModelProto], None]:
    """Every score above the limit becomes 2, which is no probability."""

    def ruin(model: onnx.ModelProto) -> None:
        rename_output(model, "right")
        for name, value in (("limit", limit), ("two", 2.0)):
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, dtype=np.float32), name))
        model.graph.node.append(onnx.helper.make_node("Greater", ["right", "limit"], ["above"]))
        model.graph.node.append(onnx.helper.make_node("Where", ["above", "two", "right"], [probability(model)]))

    return ruin


def test_a_release_that_fails_on_its_requests_is_stopped(home: Path, load: Load) -> None:
    """A model that answers its golden rows, but no number for a quarter of the customers, is stopped by its errors."""
    folder = bentos.model_folder(str(transaction.champion_release(home, "churn")))
    limit = max(json.loads((folder / manifest.GOLDEN).read_text())["scores"]) + 1e-6
    features = [row["features"] for row in load.rows]
    high = Scorer.load(folder).score(rows_to_raw(features, manifest.load(folder))) > limit
    above, below = (
        [f for f, is_high in zip(features, high, strict=True) if bool(is_high) is wanted] for wanted in (True, False)
    )
    load.rows = [
        {"user_id": i, "features": (below if i % 4 else above)[i % len(below if i % 4 else above)]}
        for i in range(ENTITIES)
    ]
    version = altered(home, ruin_above(limit))
    with load, pytest.raises(ReleaseError, match=r"stopped at 50 %.*errors: "):
        release("churn", version.number, steps=(50, 100), **QUICK)
    assert actions(home)[-2:] == ["canary at 50%: stopped", "reverted"]
    assert load.failures
    assert all("is no probability" in text for text in load.failures)


def test_a_step_without_enough_answers_is_not_passed(home: Path, load: Load) -> None:
    """Without traffic the canary is reverted when its time is up, and the reason says what to change."""
    version = another()
    with pytest.raises(ReleaseError, match=r"0 rows of 0 entities within 0\.02 minutes; 150 of 10 are needed"):
        release("churn", version.number, steps=(50,), min_answers=150, step_minutes=0.02)
    assert state(home)["arms"][0]["weight"] == 1.0
    assert actions(home)[-1] == "reverted"


def test_early_labels_stop_a_worse_release(home: Path, load: Load, tmp_path: Path) -> None:
    """Labels that come in while the step runs are joined by request id; the equal release they are against passes."""
    version = another()
    table = tmp_path / "labels.parquet"
    pd.DataFrame({"request_id": ["none"], "label": [1]}).to_parquet(table)
    given: list[dict[str, Any]] = []

    def keep(answers: list[dict[str, Any]]) -> None:
        given.extend({"request_id": a["request_id"], "label": int(a["probability"] > 0.5)} for a in answers)
        pd.DataFrame(given).to_parquet(part := tmp_path / "part.parquet")
        os.replace(part, table)

    load.on_answers = keep
    with load:
        release("churn", version.number, steps=(50,), labels=str(table), **QUICK)
    line = next(line for line in history.read(home, "churn") if line["action"] == "canary at 50%: passed")
    assert any(reason.startswith("labels: Brier skill against the champion on ") for reason in line["reasons"])


def test_a_walk_killed_between_two_steps_is_reverted_by_the_next_start(home: Path, load: Load) -> None:
    """Killed right after the second step's rollout was written: the canary answers on until the next start ends it."""
    before = state(home)
    version = another()
    with load:
        done = subprocess.run(
            [
                *(str(Path(sys.executable).with_name("bentoflow")), "release", "--version", version.number),
                *("--canary", "10,50,100", "--min-answers", "50"),
            ],
            env={**os.environ, "BENTOFLOW_KILL_AFTER": "canary_50", "PREFECT_API_URL": str(PREFECT_API_URL.value())},
            stdout=subprocess.DEVNULL,
            timeout=120,
        )
        assert done.returncode == 137
        found = rollout.read(rollout.rollout_path(home, "churn"))
        assert found is not None
        assert [(arm.name, arm.weight) for arm in found.arms] == [("champion", 0.5), ("canary", 0.5)]
        assert (settle(home, "churn") or "").startswith("reverted")
    assert load.failures == []
    assert state(home) == before
    assert actions(home)[-2:] == ["canary at 10%: passed", "reverted"]


@pytest.mark.parametrize("text", ["x", "10,5", "0,10", "10,200"])
def test_impossible_steps_are_refused_before_anything_happens(text: str) -> None:
    """What is no list of rising percentages is named."""
    with pytest.raises(ReleaseError, match=f"--canary {text}"):
        walk.parsed(text)


def test_steps_are_read_as_a_command_line_gives_them() -> None:
    """Percent signs and spaces are allowed; nothing is no steps."""
    assert walk.parsed("1%, 10, 50,100") == (1, 10, 50, 100)
    assert walk.parsed("") == ()
