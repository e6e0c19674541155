"""The service over HTTP, in this process: shapes, statuses and headers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bentos.runtime import journal, metrics

from .conftest import FRESH, GIVEN, OLD, ROOT, UNKNOWN, server_env


def test_one_object_in_is_one_object_out(http):
    """A single row comes back as a single answer whose id is the response's request id."""
    response = http.post("/predict", json={"user_id": FRESH})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"] == response.json()["request_id"]
    assert response.json()["user_id"] == FRESH


def test_a_list_in_is_a_list_out_with_the_same_scores(http):
    """A list is answered in order, each row exactly as it would be alone, each with its own id."""
    alone = http.post("/predict", json={"user_id": FRESH}).json()
    response = http.post("/predict", json=[{"user_id": OLD}, {"user_id": FRESH}, {"user_id": 8, "features": GIVEN}])
    old, fresh, given = response.json()
    assert response.status_code == 200
    assert (old["stale"], fresh["stale"]) == (True, False)
    assert fresh["probability"] == given["probability"] == alone["probability"]
    assert len({old["request_id"], fresh["request_id"], given["request_id"]}) == 3
    assert http.post("/predict", json=[]).json() == []


def test_a_single_bad_row_has_its_own_status_and_a_json_object(http):
    """An unknown customer is a 404 that names them."""
    response = http.post("/predict", json={"user_id": UNKNOWN})
    assert response.status_code == 404
    assert response.json() == {"error": "no user_id 999 in the feature store", "user_id": 999}


def test_a_mixed_list_is_207_with_errors_in_place(http):
    """Good rows are answered, bad ones carry status, reason and field, the malformed ones too."""
    response = http.post(
        "/predict",
        json=[
            {"user_id": FRESH},
            {"user_id": "x"},
            {"user_id": UNKNOWN},
            7,
            {"user_id": 1, "features": {**GIVEN, "visits": "3"}},
            {"user_id": OLD},
        ],
    )
    assert response.status_code == 207
    first, text, unknown, number, feature, last = response.json()
    assert first["risk"] in ("Low", "High")
    assert text == {"status": 400, "error": "user_id: Input should be a valid integer", "field": "user_id"}
    assert unknown["status"] == 404
    assert number["status"] == 400
    assert (feature["status"], feature["field"]) == (400, "features.visits")
    assert "probability" in last


@pytest.mark.parametrize(
    ("rows", "status"),
    [([{"user_id": UNKNOWN}, {"user_id": "x"}], 404), ([{"user_id": "x"}, {"user_id": UNKNOWN}], 400)],
)
def test_a_list_without_a_good_row_has_the_first_rows_status(http, rows, status):
    """If every row fails the reply is an error as a whole."""
    response = http.post("/predict", json=rows)
    assert response.status_code == status
    assert [set(r) >= {"status", "error"} for r in response.json()] == [True, True]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ("{}", "user_id"),
        ('{"user_id": "17"}', "user_id"),
        ('{"user_id": true}', "user_id"),
        ('{"user_id": -1}', "user_id"),
        ('{"user_id": 1.5}', "user_id"),
        ('{"user_id": null}', "user_id"),
        ('{"user_id": 99999999999999999999}', "user_id"),
        ('{"user_id": 1, "usr": 2}', "usr"),
        ('{"user_id": 1, "features": {"visits": "a"}}', "visits"),
        ('{"user_id": 1, "features": {"visits": true}}', "visits"),
        ('{"user_id": 1, "features": 3}', "features"),
    ],
)
def test_a_malformed_body_is_a_400_that_names_the_field(http, body, field):
    """Validation errors say where."""
    response = http.post("/predict", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert field in response.json()["detail"][0]["loc"]


@pytest.mark.parametrize("body", ["nope", "{", '"x"', "5", "[{]"])
def test_a_body_that_is_no_json_or_no_row_is_a_400(http, body):
    """Garbage never becomes a 500."""
    response = http.post("/predict", content=body, headers={"content-type": "application/json"})
    assert (response.status_code, "error" in response.json()) == (400, True)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 400])
def test_a_number_that_is_none_is_a_422_that_names_the_feature(http, value):
    """NaN, infinities and numbers beyond float64 are refused; missing is null."""
    content = json.dumps({"user_id": 1, "features": GIVEN}).replace("80.0", value)
    response = http.post("/predict", content=content, headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["field"]) == (422, "features.spend")


def test_more_than_ten_thousand_rows_are_refused(http):
    """The bound on a list is stated in the schema and kept; the bound itself is answered."""
    assert http.post("/predict", json=[{"user_id": FRESH}] * 10_001).status_code == 400
    response = http.post("/predict", json=[{"user_id": FRESH}] * 10_000)
    assert response.status_code == 200
    assert len({(a["probability"], a["user_id"]) for a in response.json()}) == 1
    assert len({a["request_id"] for a in response.json()}) == 10_000


def test_an_overloaded_service_is_a_503_with_retry_after(http, monkeypatch):
    """A request that does not fit into the queue is told when to come back."""
    import bentoml

    monkeypatch.setattr(bentoml.get_current_service().predictor._batcher, "_max_queued", 1)
    response = http.post("/predict", json=[{"user_id": FRESH}] * 2)
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert "rows wait already" in response.json()["error"]


def test_a_smoke_test_is_marked_in_the_journal(http, site):
    """x-bentoflow-smoke: 1 keeps an answer out of what drift and feedback read."""
    answer = http.post("/predict", json={"user_id": FRESH}, headers={"x-bentoflow-smoke": "1"}).json()
    folder = site / "journal" / "churn"
    assert answer["request_id"] not in {r["request_id"] for r in journal.scan(folder)}
    assert answer["request_id"] in {r["request_id"] for r in journal.scan(folder, include_smoke=True)}


def test_an_arm_that_is_not_there_is_a_400(http):
    """x-bentoflow-arm must name an arm of the rollout."""
    response = http.post("/predict", json={"user_id": FRESH}, headers={"x-bentoflow-arm": "challenger"})
    assert (response.status_code, response.json()["field"]) == (400, "x-bentoflow-arm")


def test_health_and_readiness(http):
    """/health names the release in charge; /readyz and /livez are 200."""
    health = http.get("/health").json()
    assert (health["status"], health["version"], health["release"]) == ("ok", "1", "v1-v1")
    assert health["uptime_s"] > 0
    assert (http.get("/readyz").status_code, http.get("/livez").status_code) == (200, 200)


def test_the_documentation_describes_the_rows_and_its_sample_is_a_request(http):
    """/docs.json has a sample that the service takes, and describes both shapes of body and answer."""
    spec = http.get("/docs.json").json()
    schema = spec["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["oneOf"][0]["$ref"] == "#/components/schemas/ChurnRequest"
    assert "ChurnAnswer" in spec["components"]["schemas"]
    assert http.post("/predict", json=schema["example"]).status_code in (200, 404)


def test_importing_the_service_loads_no_training_tool_and_no_feature_store():
    """A serving process never imports prefect, mlflow, whylogs, flows or feature_repo; feast only when it starts."""
    code = (
        "import sys; before = set(sys.modules); import bentos.service; import json; "
        "print(json.dumps(sorted({m.split('.')[0] for m in set(sys.modules) - before})))"
    )
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    loaded = set(json.loads(out.stdout.splitlines()[-1]))
    assert "bentoml" in loaded
    assert not loaded & {"prefect", "mlflow", "whylogs", "flows", "feature_repo", "feast", "sklearn", "pickle5"}


def test_only_the_right_modules_import_bentoml_and_feast():
    """bentoml stays out of bentos/runtime, feast in online.py; nothing generic mentions a use case."""
    for path in (ROOT / "bentos").rglob("*.py"):
        text = path.read_text()
        if path.parent.name == "runtime":
            assert "import bentoml" not in text, path
        if path.name != "online.py":
            assert "import feast" not in text.replace("bentos", ""), path
            assert "from feast" not in text, path
        if path.name not in ("churn.py", "fraud.py", "service.py"):
            assert "churn" not in text, path
            assert "fraud" not in text, path
        for word in ("prefect", "mlflow", "whylogs", "flows"):
            assert f"import {word}" not in text, path
            assert f"from {word}" not in text, path


def test_an_unknown_use_case_says_which_file_to_write(tmp_path):
    """BENTOFLOW_USE_CASE of something that is not there names the file that is missing."""
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "import bentos.service"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=server_env(tmp_path, tmp_path / "b") | {"BENTOFLOW_USE_CASE": "froud"},
    )
    assert "BENTOFLOW_USE_CASE is 'froud', but there is no bentos/froud.py" in out.stderr


def test_metrics_count_answers_errors_and_the_release(http):
    """The metrics that the alerts use are there under their names."""
    from prometheus_client import REGISTRY

    http.post("/predict", json=[{"user_id": FRESH}, {"user_id": UNKNOWN}])
    names = {sample.name for metric in REGISTRY.collect() for sample in metric.samples}
    names |= {line.split("{")[0] for line in http.get("/metrics").text.splitlines() if not line.startswith("#")}
    assert names >= {
        "bentoflow_predictions_total",
        "bentoflow_prediction_errors_total",
        "bentoflow_request_seconds_count",
        "bentoflow_score_bucket",
        "bentoflow_batch_rows_count",
        "bentoflow_release_info",
        "bentoflow_rollout_problem",
    }


def refused(status: int) -> float:
    """Rows that were counted without an answer so far, by status."""
    from prometheus_client import REGISTRY

    metrics.export()
    return (
        REGISTRY.get_sample_value("bentoflow_prediction_errors_total", {"use_case": "churn", "status": str(status)})
        or 0.0
    )


@pytest.mark.parametrize(
    ("body", "status", "rows"),
    [
        ({"user_id": "x"}, 400, 1),
        ([{"user_id": "x"}, {"user_id": "y"}], 400, 2),
        ([{"user_id": "x"}, {"user_id": FRESH}], 207, 1),
        ("nothing of the kind", 400, 1),
        ({"user_id": FRESH}, 200, 0),
    ],
)
def test_each_row_without_an_answer_is_counted_once(http, body, status, rows):
    """Whoever refuses it, BentoML's validation or a route of ours."""
    before = refused(400)
    assert http.post("/predict", json=body).status_code == status
    assert refused(400) == before + rows


def test_the_bento_lists_only_what_serving_needs():
    """bentofile.yaml packs the service and the feature store's description, with the locked versions."""
    import yaml

    file = yaml.safe_load((ROOT / "bentofile.yaml").read_text())
    assert file["include"] == ["bentos/**", "feature_repo/feature_store.yaml"]
    locked = (ROOT / "requirements.lock").read_text()
    for package in file["python"]["packages"]:
        name, version = package.split("==")
        assert f"\n{name.split('[')[0]}=={version}" in "\n" + locked.replace("[redis]", ""), package
    assert Path(ROOT / "bentos/service.py").is_file()
