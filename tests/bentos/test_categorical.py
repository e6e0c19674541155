"""Categorical features in a real service: every route and protocol, stored and given, answered as the batch does."""

import json
import re
import warnings
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from bentos.protocols.columns import Layout, Refused
from bentos.runtime import clock, journal
from bentos.runtime.answers import Answer, RowError
from bentos.runtime.features import online
from bentos.runtime.features.cache import CachedReader
from bentos.runtime.features.joined import open_reader
from bentos.runtime.features.online import FeatureReader
from bentos.runtime.features.store import OnlineError
from bentos.runtime.rollouts import rollout
from bentos.runtime.rollouts.rollout import Arm, Rollout
from bentos.runtime.scoring.categories import MAX_TEXT, raw_values
from bentos.runtime.scoring.decisions import Decider
from bentos.runtime.scoring.manifest import GOLDEN, MANIFEST, MODEL, Manifest, sha256
from bentos.runtime.scoring.release import Release, load_release
from bentos.runtime.scoring.scorer import Scorer
from bentos.runtime.scoring.table import gaps
from bentos.runtime.scoring.wire import assembled, order
from flows.score import score_frame
from tests import servers
from tests.flows.steps.test_categorical import NAMES, NUMBERS, TEXTS, exported, rows

from .conftest import NOW, answers, make_release, records, save_release, serving, wait_for

integration = [pytest.mark.integration, pytest.mark.timeout(300)]
STREAM = "application/vnd.apache.arrow.stream"
OLD, NOBODY = 1, 10**9  # an entity whose features are expired, and one that is in no view
ODD = {"country": 'Ünseen, "quoted"\n%s %b \x00', "device": "", "plan": None}


def frame(n: int = 300, seed: int = 21) -> pd.DataFrame:
    """Keys and features, gaps and a few categories never seen among them."""
    table = pd.DataFrame(rows(n, seed)[0], columns=list(NAMES)).astype(dict.fromkeys(NUMBERS, "float64"))
    table.loc[::17, "country"] = "never seen"
    table.loc[5::17, "device"] = None
    return table.assign(user_id=np.arange(n))


def as_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A table as /predict takes it."""
    values = table[list(NAMES)].astype(object).where(table[list(NAMES)].notna(), None).to_dict(orient="records")
    return [{"user_id": int(key), "features": given} for key, given in zip(table["user_id"], values, strict=True)]


def expected(scorer: Scorer, table: pd.DataFrame) -> list[float]:
    """What batch scoring gives."""
    scores: list[float] = score_frame(scorer, table)["score"].tolist()
    return scores


def make(folder: Path) -> Path:
    """A release of boosted trees over eight numbers and three texts; its golden scores are the fitted pipeline's."""
    fitted, scorer, model = exported("hist_gradient_boosting")
    make_release(folder)
    golden = frame(40, 3)
    values = [row["features"] for row in as_rows(golden)]
    scores = fitted.predict_proba(raw_values(golden, NAMES, TEXTS))[:, 1].tolist()
    (folder / MODEL).write_bytes(model)
    (folder / GOLDEN).write_text(json.dumps({"rows": values, "scores": scores}))
    files = {name: sha256(folder / name) for name in (MODEL, GOLDEN)}
    manifest = replace(scorer.manifest, use_case="shop", feature_service="shop_v1", files=files)
    (folder / MANIFEST).write_text(manifest.dump())
    return folder


def fill(home: Path, *, types: dict[str, Any] | None = None) -> None:
    """Two views, of numbers and of texts, materialised; OLD's rows are expired."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType
        from feast.types import Float64, String

        from bentos.runtime.features.online import repo_config

        home.mkdir(parents=True, exist_ok=True)
        table = frame()
        day = pd.Timestamp(NOW) - pd.Timedelta(days=1)
        table["event_timestamp"] = [day - pd.Timedelta(days=100) if key == OLD else day for key in table["user_id"]]
        user = Entity(name="customer", join_keys=["user_id"], value_type=ValueType.INT64)
        views = []
        for name, columns, kind, days in (("numbers", NUMBERS, Float64, 30), ("texts", TEXTS, String, 60)):
            path = str(home / f"{name}.parquet")
            table[["user_id", "event_timestamp", *columns]].to_parquet(path, coerce_timestamps="us")
            views.append(
                FeatureView(
                    name=f"shop_{name}",
                    entities=[user],
                    ttl=timedelta(days=days),
                    schema=[Field(name=column, dtype=(types or {}).get(column, kind)) for column in columns],
                    source=FileSource(path=path, timestamp_field="event_timestamp"),
                )
            )
        (home / "feast").mkdir(exist_ok=True)
        store = FeatureStore(config=repo_config(home))
        store.apply([user, *views, FeatureService(name="shop_v1", features=views)])
        store.materialize(NOW - timedelta(days=300), NOW)


class Nothing:
    """Stands in for a feature store that nobody asks."""

    local = True

    def read(self, ids: Any, now: Any) -> Any:
        raise AssertionError("asked")


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The release, loaded as the service does."""
    return load_release(make(tmp_path_factory.mktemp("release") / "v1"), "shop", lambda manifest: Nothing())  # type: ignore[return-value,arg-type]


def decided(served: Release, given: list[Any]) -> tuple[list[Answer | RowError], list[Any]]:
    results = Decider("champion", served).decide(given, [False] * len(given), NOW)
    return list(results), records(results)


def test_answers_and_journal_have_the_texts_and_the_batchs_scores(release: Release) -> None:
    """Any batch gives the batch scores' bits; what is answered and journalled is what was given, unseen ones too."""
    table = frame()
    given = as_rows(table)
    given[3]["features"] |= ODD
    table.loc[3, list(ODD)] = list(ODD.values())
    results, lines = decided(release, given)
    assert [a.probability for a in results if isinstance(a, Answer)] == expected(release.scorer, table)
    for row, answer, line in zip(given, results, lines, strict=True):
        assert isinstance(answer, Answer)
        assert answer.features == line["features"] == row["features"]
    alone = [decided(release, [row])[0][0] for row in given[:40]]
    assert [a.probability for a in alone] == [a.probability for a in results[:40]]  # type: ignore[union-attr]
    by_loop = decided(release, [*given, {"user_id": "x", "features": {}}])[0]  # a bad row: the others one by one
    assert [a.probability for a in by_loop[:-1]] == [a.probability for a in results]  # type: ignore[union-attr]


WRONG = (
    ("country", 3, "feature country is 3; give a text"),
    ("country", True, "feature country is True; give a text"),
    ("plan", "x" * (MAX_TEXT + 1), r"feature plan is too long \(1001 characters"),
    ("device", "\ud800", "feature device is no valid Unicode"),
    ("number_2", "12.5", "feature number_2 is '12.5'; give a number"),
    ("number_2", False, "feature number_2 is False; give a number"),
    ("number_5", 1e300, "feature number_5 is 1e.300: too large for the model"),
    ("number_5", 10**400, "feature number_5 is too large"),
    ("number_0", float("nan"), "feature number_0 is nan; give a number"),
)
# what the wire keeps out is left out: test_wire shows that it does
VOUCHED = [case for case in WRONG if not isinstance(case[1], bool) and str(case[1]) not in ("12.5", "nan")]


@pytest.mark.parametrize(
    ("wired", "name", "value", "says"),
    [*((False, *case) for case in WRONG), *((True, *case) for case in VOUCHED)],
)
def test_a_value_of_the_wrong_kind_is_its_rows_own_error(
    release: Release, wired: bool, name: str, value: Any, says: str
) -> None:
    """A 422 that names the field; the neighbours are answered with their own scores."""
    table = frame(5)
    given = as_rows(table)
    given[2]["features"][name] = value
    if wired:
        features = [[row["features"][n] for n in release.manifest.names] for row in given]
        given = assembled("user_id", [row["user_id"] for row in given], order(release.manifest), features)
    results, lines = decided(release, given)
    bad = results.pop(2)
    assert isinstance(bad, RowError)
    assert (bad.status, bad.detail) == (422, {"field": f"features.{name}"})
    assert re.search(says, bad.error), bad.error
    assert [a.probability for a in results if isinstance(a, Answer)] == expected(release.scorer, table.drop(2))
    assert len(lines) == 4


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A home with materialised features in either online store."""
    home = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("BENTOFLOW_ONLINE_STORE", raising=False)
        if request.param == "sqlite":
            fill(home)
            yield home
            return
        with servers.redis() as url:
            patch.setenv("BENTOFLOW_ONLINE_STORE", url)
            fill(home)
            yield home


@pytest.mark.parametrize("age", [0, 28, 30, 58, 60])
def test_stored_texts_are_feasts_own_packed_or_not(stored: Path, release: Release, age: int) -> None:
    """Packed or asked of Feast, of any age: the same texts and numbers, expired ones missing; Feast is not asked."""
    moment, table = NOW + timedelta(days=age), frame()
    manifest = release.manifest
    reader = open_reader(stored, manifest)
    assert isinstance(reader, FeatureReader)
    keys = [*table["user_id"].tolist(), NOBODY]
    asked = FeatureReader(reader._store, reader._service, entity="user_id", names=reader.names, views=reader.views)
    asked._pack = None
    theirs = asked.read(keys, moment)
    packed = online.pack(stored, entity="user_id", feature_service="shop_v1", ids=keys)
    assert packed == len(table)
    reader._ask = lambda ids: FeatureReader._ask(reader, ids) if ids == [NOBODY] else pytest.fail("Feast was asked")  # type: ignore[method-assign]
    ours = reader.read(keys, moment)
    kept = CachedReader(reader, seconds=60.0, use_case="shop")
    for found in (ours, kept.read(keys[:5], moment) and kept.read(keys, moment), kept.read(keys, moment)):
        np.testing.assert_array_equal(found.values, theirs.values)
        for name in TEXTS:
            np.testing.assert_array_equal(found.texts[name], theirs.texts[name])
    assert (kept.hits, kept.misses) == (5 + len(keys), len(keys))
    young = table["user_id"] != OLD
    gone = age >= 60  # a day old at NOW, kept for 60 days
    wanted = [value if known and not gone else None for value, known in zip(table["country"], young, strict=True)]
    assert ours.texts["country"].tolist() == [*wanted, None]


def test_stored_rows_score_as_the_batch(stored: Path, release: Release) -> None:
    """The service on the online store gives the bits of the batch on the same table; expired texts count as missing."""
    table = frame()
    served = replace(release, reader=open_reader(stored, release.manifest))
    results, lines = decided(served, [{"user_id": key} for key in table["user_id"].tolist()])
    table.loc[table["user_id"] == OLD, list(NAMES)] = np.nan
    assert [a.probability for a in results if isinstance(a, Answer)] == expected(release.scorer, table)
    plain = as_rows(table)
    assert [line["features"] for line in lines] == [row["features"] for row in plain]
    assert lines[OLD]["state"] == "expired"


def test_a_release_that_takes_a_number_for_a_text_is_not_opened(tmp_path: Path, release: Release) -> None:
    """Whose feature changed its type in the store, the one or the other way, is told so when it is loaded."""
    from feast.types import String

    fill(tmp_path / "home")
    numbers = tuple(replace(f, categories=(), rest=False) for f in release.manifest.features)
    with pytest.raises(OnlineError, match="'country' is a text in the feature store, and a number to the release"):
        open_reader(tmp_path / "home", replace(release.manifest, features=numbers))
    fill(tmp_path / "other", types={"number_3": String})
    with pytest.raises(OnlineError, match="'number_3' is a text in the feature store, and a number to the release"):
        open_reader(tmp_path / "other", release.manifest)


def test_columns_of_a_protocol_are_checked_by_kind() -> None:
    """Texts where texts are wanted, numbers where numbers are; the first wrong value is named."""
    layout = Layout("user_id", ("a", "b"), None, ("b",))  # type: ignore[arg-type]
    for columns, says in (
        ({"a": [1.0], "b": [2]}, "row 0, b: 2 is not a text"),
        ({"a": ["x"], "b": ["y"]}, "row 0, a: 'x' is not a number"),
        ({"a": [1.0, 2.0], "b": ["y", True]}, "row 1, b: True is not a text"),
    ):
        with pytest.raises(Refused, match=says):
            list(layout._values(columns))
    numbers, words = layout._values({"a": [1.0, None], "b": ["x", float("nan")]})
    assert (gaps(np.asarray(numbers)), list(words)) == ([1.0, None], ["x", None])


@dataclass(frozen=True)
class Shop:
    """The running service, the table that is sent, and what the batch gives for it."""

    url: str
    home: Path
    table: pd.DataFrame
    scores: list[float]
    manifest: Manifest

    def post(self, path: str, **request: Any) -> httpx.Response:
        return httpx.post(self.url + path, timeout=60, **request)

    def journalled(self) -> dict[str, dict[str, Any]]:
        return {r["request_id"]: r for r in journal.scan(self.home / "journal" / "shop", include_smoke=True)}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, release: Release) -> Any:
    """A real server on a real feature store."""
    folder = tmp_path_factory.mktemp("shop")
    home, table = folder / "home", frame()
    fill(home)
    online.pack(home, entity="user_id", feature_service="shop_v1", ids=table["user_id"].tolist())
    clock.write(home, "shop", NOW)
    tag = save_release(folder / "bentoml", make(folder / "v1"), "shop:v1")
    rollout.write(rollout.rollout_path(home, "shop"), Rollout((Arm("champion", tag, 1.0),)))
    with serving(home, folder / "bentoml", log=folder / "log", service="tests.bentos.shop:Shop") as server:
        wait_for(lambda: answers(server.url, "/readyz") and httpx.get(server.url + "/readyz").is_success, what="ready")
        yield Shop(server.url, home, table, expected(release.scorer, table), release.manifest)


class TestServed:
    """Through the real server."""

    pytestmark = integration

    def test_predict_given_and_stored(self, shop: Shop) -> None:
        """One row, many rows and keys alone: the batch's scores, the texts in answer and journal."""
        given = as_rows(shop.table)
        many = shop.post("/predict", json=given)
        assert many.status_code == 200, many.text
        assert [row["probability"] for row in many.json()] == shop.scores
        assert [row["features"] for row in many.json()] == [row["features"] for row in given]
        one = shop.post("/predict", json={"user_id": 7, "features": given[7]["features"] | ODD}).json()
        assert {name: one["features"][name] for name in ODD} == ODD
        assert shop.journalled()[one["request_id"]]["features"] == one["features"]
        stored = shop.post("/predict", json=[{"user_id": int(key)} for key in shop.table["user_id"]]).json()
        same = [i for i in range(len(given)) if i != OLD]
        assert [stored[i]["probability"] for i in same] == [shop.scores[i] for i in same]
        assert [stored[i]["features"] for i in same] == [given[i]["features"] for i in same]

    @pytest.mark.parametrize("many", [False, True])
    def test_a_wrong_kind_is_a_4xx_that_names_the_field(self, shop: Shop, many: bool) -> None:
        """A number for a text and a text for a number, alone or in a list."""
        good = as_rows(shop.table)[2]
        for name, value in (("country", 5), ("number_1", "5")):
            bad = {"user_id": 2, "features": good["features"] | {name: value}}
            response = shop.post("/predict", json=[good, bad] if many else bad)
            error = response.json()[1] if many else response.json()
            assert response.status_code == (207 if many else 422)
            assert error["field"] == f"features.{name}"
            assert name in error["error"]

    def test_the_document_shows_texts(self, shop: Shop) -> None:
        """/docs.json says that features may be texts."""
        document = httpx.get(shop.url + "/docs.json", timeout=30).json()
        features = document["components"]["schemas"]["ShopRequest"]["properties"]["features"]
        assert {"type": "string"} in features["anyOf"][0]["additionalProperties"]["anyOf"]

    def test_mlflows_client(self, shop: Shop) -> None:
        """A frame with gaps, and the other forms: the same bits."""
        from mlflow.pyfunc.scoring_server.client import ScoringServerClient

        host, port = shop.url.removeprefix("http://").split(":")
        found = ScoringServerClient(host, int(port)).invoke(shop.table).get_predictions()
        assert found["probability"].tolist() == shop.scores
        records = [row["features"] for row in as_rows(shop.table)]
        columns = {name: [row[name] for row in records] for name in NAMES}
        for body in ({"dataframe_records": records}, {"inputs": columns}, {"instances": records}):
            answered = shop.post("/invocations", json=body).json()["predictions"]
            assert [row["probability"] for row in answered] == shop.scores
        refused = shop.post("/invocations", json={"dataframe_records": [records[0] | {"plan": 3}]})
        assert refused.status_code == 400
        assert refused.json()["error_code"] == "BAD_REQUEST"
        assert "row 0, plan: 3 is not a text" in refused.json()["message"]

    def test_csv_and_parquet(self, shop: Shop) -> None:
        """As pandas writes them."""
        csv = shop.post("/invocations", content=shop.table.to_csv(index=False), headers={"content-type": "text/csv"})
        table = shop.table.replace({"device": {"": None}})
        assert [row["probability"] for row in csv.json()["predictions"]] == shop.scores, csv.text[:500]
        kind = {"content-type": "application/vnd.apache.parquet"}
        parquet = shop.post("/invocations", content=table.to_parquet(), headers=kind)
        assert [row["probability"] for row in parquet.json()["predictions"]] == shop.scores, parquet.text[:500]
        keys = table[["user_id"]].head(3).to_parquet()  # no column of texts at all
        stored = shop.post("/invocations", content=keys, headers=kind)
        assert len(stored.json()["predictions"]) == 3, stored.text[:500]

    @pytest.mark.parametrize("binary", [True, False])
    def test_tritons_client(self, shop: Shop, binary: bool) -> None:
        """BYTES tensors, binary and as JSON strings; the metadata says so."""
        import tritonclient.http as triton

        table = shop.table.dropna() if binary else shop.table.dropna(subset=list(NUMBERS)).dropna()
        with triton.InferenceServerClient(shop.url.removeprefix("http://"), network_timeout=60) as client:
            inputs = []
            for name in NAMES:
                given = triton.InferInput(name, [len(table)], "BYTES" if name in TEXTS else "FP64")
                values = table[name].to_numpy(dtype=object if name in TEXTS else np.float64)
                given.set_data_from_numpy(values, binary_data=binary)
                inputs.append(given)
            found = client.infer("shop", inputs).as_numpy("probability").tolist()
            kinds = {one["name"]: one["datatype"] for one in client.get_model_metadata("shop")["inputs"]}
        assert found == [shop.scores[i] for i in table.index]
        assert {name for name, kind in kinds.items() if kind == "BYTES"} == set(TEXTS)

    def test_open_inference_with_null_and_errors(self, shop: Shop) -> None:
        """null is a missing text; a number tensor for a text and a text tensor for a number are 400 with the name."""
        row = as_rows(shop.table)[4]["features"]
        kinds = {name: "BYTES" if name in TEXTS else "FP64" for name in NAMES}

        def body(**changed: Any) -> dict[str, Any]:
            datatypes = kinds | {name: datatype for name, (datatype, _) in changed.items()}
            data = row | {name: value for name, (_, value) in changed.items()}
            return {"inputs": [{"name": n, "shape": [1], "datatype": datatypes[n], "data": [data[n]]} for n in NAMES]}

        path = "/v2/models/shop/infer"
        ok = shop.post(path, json=body(plan=("BYTES", None)))
        assert ok.status_code == 200, ok.text
        for changed in ({"plan": ("FP64", 1.0)}, {"number_0": ("BYTES", "1.0")}):
            refused = shop.post(path, json=body(**changed))
            assert refused.status_code == 400
            assert next(iter(changed)) in refused.json()["error"]

    def test_tensorflow_serving(self, shop: Shop) -> None:
        """Objects, and lists in the model's order."""
        records = [row["features"] for row in as_rows(shop.table)]
        for instances in (records, [[row[name] for name in NAMES] for row in records]):
            found = shop.post("/v1/models/shop:predict", json={"instances": instances}).json()
            assert found["predictions"] == shop.scores
        refused = shop.post("/v1/models/shop:predict", json={"instances": [records[0] | {"device": 1}]})
        assert (refused.status_code, "device" in refused.json()["error"]) == (400, True)

    @pytest.mark.parametrize("kind", ["string", "large_string", "dictionary"])
    def test_arrow(self, shop: Shop, kind: str) -> None:
        """utf8, large utf8 and dictionary columns, as pyarrow and pandas' categories write them."""
        table = pa.Table.from_pandas(shop.table, preserve_index=False)
        for name in TEXTS:
            column = table[name].dictionary_encode() if kind == "dictionary" else table[name].cast(getattr(pa, kind)())
            table = table.set_column(table.column_names.index(name), name, column)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        response = shop.post("/predict", content=bytes(sink.getvalue()), headers={"content-type": STREAM})
        assert response.status_code == 200, response.text
        assert pa.ipc.open_stream(response.content).read_all()["probability"].to_pylist() == shop.scores
