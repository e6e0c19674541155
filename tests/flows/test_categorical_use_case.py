"""A use case with texts from its three files to a release: prepare, train, release, score, answer, explain, drift."""

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bentos.runtime.features.joined import open_reader
from bentos.runtime.journal import Journal
from bentos.runtime.monitoring import sketches
from bentos.runtime.rollouts import rollout
from bentos.runtime.scoring.manifest import GOLDEN, REFERENCE
from bentos.runtime.scoring.release import Release, load_release
from bentos.runtime.scoring.scorer import ScorerError
from flows import usecases
from flows.check_drift import check_drift
from flows.errors import StoreError
from flows.explain import explain, reproduce
from flows.prepare import prepare
from flows.release import release
from flows.score import score
from flows.steps.training import arrays
from flows.stores import bentos, features, registry, tables
from flows.train import train
from tests.bentos import shop as service

from . import shop
from .conftest import at_home, decided, without_servers

REPO = Path(__file__).parent / "shop_repo"
TEXTS = ("country", "channel", "coupon")


@dataclass(frozen=True)
class Shop:
    """A home in which the shop has a champion, and what training and release said."""

    home: Path
    trained: dict[str, Any]
    served: Release
    now: Any


def declared(patch: pytest.MonkeyPatch, repo: Path = REPO, **changes: Any) -> None:
    """The shop is one of the declared use cases."""
    real, case = usecases.load, replace(shop.USE_CASE, **changes)
    patch.setattr(usecases, "load", lambda name: case if name == "shop" else real(name))
    patch.setattr(features, "apply", partial(features.apply, repo=repo))
    patch.setitem(sys.modules, "bentos.shop", service)  # what a bento is built from
    without_servers(patch)


@pytest.fixture(scope="module")
def ran(prefect_api: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Prepared, trained and released."""
    with at_home(tmp_path_factory.mktemp("shop") / "home") as home, pytest.MonkeyPatch.context() as patch:
        declared(patch)
        prepared = prepare("shop")
        trained = train("shop", reason="first version")
        assert trained["verdict"] == "PROMOTE", trained["reasons"]
        release("shop", reason="first version")
        found = rollout.read(rollout.rollout_path(home, "shop"))
        assert found is not None
        folder = bentos.model_folder(found.arms[0].release)
        served = load_release(folder, "shop", lambda manifest: open_reader(home, manifest))
        yield Shop(home, trained, served, pd.Timestamp(prepared["as_of"]).to_pydatetime())


def test_the_types_in_feast_say_what_is_a_category(ran: Shop) -> None:
    """String fields become categories learnt from training rows, with gaps and rare ones as declared."""
    found = {f.name: f for f in ran.served.manifest.features}
    assert tuple(name for name, f in found.items() if f.categories) == TEXTS == ran.served.manifest.categorical
    assert found["country"].categories == (*shop.COUNTRIES, None)
    assert set(found["coupon"].categories) == {"50 %", 'SPRING, "24"', None}
    assert len(found["channel"].categories) == 5
    assert found["channel"].rest
    folder = bentos.model_folder(ran.served.release)
    golden = json.loads((folder / GOLDEN).read_text())
    assert {type(row["country"]) for row in golden["rows"]} == {str, type(None)}
    kinds = {s.name: s.kind for s in sketches.from_json((folder / REFERENCE).read_text())}
    assert {name for name, kind in kinds.items() if kind == "categorical"} == set(TEXTS)
    sliced = json.loads((folder / "training.json").read_text())["slices"]
    assert {"country AT", "country FR", "country missing"} <= {row["slice"] for row in sliced}


def test_the_batch_gives_what_the_service_gives(ran: Shop) -> None:
    """Every customer's batch score and decision are the service's on the online features, bit for bit."""
    done = score("shop", partition_rows=400)
    found = pd.concat([pd.read_parquet(Path(done["out"]) / name) for name in done["files"]], ignore_index=True)
    answers = decided(ran.served, [{"user_id": int(i)} for i in found["user_id"]], ran.now)
    assert [r["score"] for r in answers] == found["score"].tolist()
    assert [r["decision"] for r in answers] == found["decision"].tolist()
    assert {r["state"] for r in answers} == {"ok"}
    newest = max((ran.home / "features" / "shop").glob("as_of=*.parquet"))
    stored = pd.read_parquet(newest).set_index("user_id").loc[found["user_id"]]
    for name in TEXTS:
        assert [r["features"][name] for r in answers] == stored[name].where(stored[name].notna(), None).tolist()


def test_the_registered_model_takes_a_frame_with_texts(ran: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's flavour scores as the release does, from its own signature's columns."""
    import mlflow

    version = registry.get("shop", ran.trained["version"])
    source = registry.client().get_model_version("shop", version.number).source
    golden = json.loads((bentos.model_folder(ran.served.release) / GOLDEN).read_text())
    monkeypatch.setattr(sys, "path", list(sys.path))  # MLflow puts the version's own code first, for good
    model = mlflow.pyfunc.load_model(source)
    frame = pd.DataFrame(golden["rows"]).astype({"recency_days": float, "orders": float, "mean_amount": float})
    assert model.predict(frame)["probability"].tolist() == golden["scores"]


def test_an_answer_explains_itself_and_a_version_is_reproduced(ran: Shop) -> None:
    """Text features score the same again; the version trains again to the same scores."""
    unseen = {"country": "XX", "orders": 3, "mean_amount": 20.0, "channel": None, "coupon": "", "recency_days": 9.0}
    lines = decided(ran.served, [{"user_id": 5, "features": unseen}, {"user_id": 7}], ran.now)
    log = Journal(ran.home / "journal" / "shop")
    log.append(lines)
    log.close()
    for line in lines:
        found = explain(line["request_id"], "shop")
        assert found["equal"]
        assert found["features"] == line["features"]
    assert lines[0]["features"] == unseen
    again = reproduce("shop", ran.trained["version"])
    assert again["equal"], again


def test_drift_sees_a_new_category(ran: Shop) -> None:
    """Stored answers do not drift; with a country that training never saw they do, and the column is named."""
    newest = max((ran.home / "features" / "shop").glob("as_of=*.parquet"))
    ids = [int(i) for i in pd.read_parquet(newest, columns=["user_id"])["user_id"]]
    plain = decided(ran.served, [{"user_id": i} for i in ids], ran.now)
    folder = ran.home / "journal" / "shop"
    try:
        for moved, drifted in ((False, False), (True, True)):
            shutil.rmtree(folder, ignore_errors=True)
            given = [r["features"] | ({"country": "Ö"} if moved and i % 3 else {}) for i, r in enumerate(plain)]
            rows = [{"user_id": i, "features": one} for i, one in zip(ids, given, strict=True)]
            log = Journal(folder)
            log.append(decided(ran.served, rows, ran.now))
            log.close()
            result = check_drift("shop", emit=False)
            assert ("country" in result["drifted"]) is drifted, result["reasons"]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def assembled(ran: Shop) -> None:
    """What training reads before it searches."""
    case, store = usecases.load("shop"), features.open_store(ran.home)
    categorical = features.categorical_names(store, case)
    events = tables.read_snapshot(ran.home / "snapshots" / "shop", ran.served.manifest.snapshot)
    joined = features.training_frame(store, case, events, pd.Timestamp(ran.now))
    arrays.table(case, joined, features.input_names(store, case), categorical)


@pytest.mark.parametrize(
    ("change", "changes", "says"),
    [
        ((), {"log_features": ("country",)}, "'country' of shop is a String in Feast, but log_features or costs name"),
        (('"coupon", dtype=String', '"coupon", dtype=Array(String)'), {}, "'coupon' of shop_v1 is of Feast's type"),
        (
            ('"channel", dtype=String', '"channel", dtype=Float64'),
            {},
            "feature channel is 'channel .*'; it takes numbers",
        ),
    ],
    ids=["logged text", "a list", "a text declared as a number"],
)
def test_what_no_model_takes_is_refused_before_training(
    ran: Shop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: tuple[str, ...],
    changes: dict[str, Any],
    says: str,
) -> None:
    """A text where a number is declared, and types that are neither, end the training with the feature's name."""
    repo = tmp_path / "repo"
    repo.mkdir()
    text = (REPO / "shop.py").read_text().replace("import Float64,", "import Array, Float64,")
    (repo / "shop.py").write_text(text.replace(*change) if change else text)
    with pytest.MonkeyPatch.context() as patch:
        declared(patch, repo, **changes)
        features.apply(features.open_store(ran.home))
        with pytest.raises((StoreError, ScorerError), match=says):
            assembled(ran)
    with pytest.MonkeyPatch.context() as patch:
        declared(patch)
        features.apply(features.open_store(ran.home))
