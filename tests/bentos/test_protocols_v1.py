"""The v1 protocol of TensorFlow Serving and KServe, with the bodies that both document."""

import httpx
import pytest

from .conftest import FRESH, GIVEN, NAMES, UNKNOWN, as_rows, sample

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
PREDICT = "/v1/models/churn:predict"


def instances(frame, *, keys=True):
    """A table as objects by name, null where there is a gap."""
    rows = as_rows(frame)
    return [row["features"] | ({"user_id": row["user_id"]} if keys else {}) for row in rows]


def predicted(spoken, body, path=PREDICT, **more):
    """The predictions of a body."""
    response = httpx.post(spoken.url + path, json=body, timeout=60, **more)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    found = response.json()
    assert found.keys() <= {"predictions", "outputs"}
    return next(iter(found.values()))


def test_instances_get_predicts_scores_and_are_journalled(spoken):
    """Objects by name, with keys and without, and lists in the model's order, score as /predict does."""
    before = spoken.journalled().keys()
    assert predicted(spoken, {"instances": instances(spoken.frame)}) == spoken.scores
    new = [r for i, r in spoken.journalled().items() if i not in before]
    assert [r["score"] for r in new] == spoken.scores
    assert [r["entity"] for r in new] == spoken.frame["user_id"].tolist()
    assert predicted(spoken, {"instances": instances(spoken.frame, keys=False)}) == spoken.scores
    lists = [[row[name] for name in NAMES] for row in instances(spoken.frame)]
    assert predicted(spoken, {"instances": lists, "signature_name": "serving_default"}) == spoken.scores


def test_inputs_by_column_are_outputs(spoken):
    """TensorFlow Serving's columnar form: inputs in, outputs out."""
    rows = instances(spoken.frame)
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    assert predicted(spoken, {"inputs": columns}) == spoken.scores
    assert predicted(spoken, {"inputs": {name: [[v] for v in c] for name, c in columns.items()}}) == spoken.scores


def test_keys_alone_are_looked_up(spoken):
    """Instances with the entity's key only are answered from the online store."""
    rows = [{"user_id": key} for key in (FRESH, 7, 8)]
    own = httpx.post(spoken.url + "/predict", json=rows, timeout=30).json()
    assert predicted(spoken, {"instances": rows}) == [row["probability"] for row in own]


def test_ten_thousand_instances_are_one_call(spoken):
    """The bound on a call is answered whole; one more is refused."""
    frame = sample(10_000, seed=8)
    own = httpx.post(spoken.url + "/predict", json=as_rows(frame), timeout=60).json()
    before = len(spoken.journalled())
    assert predicted(spoken, {"instances": instances(frame)}) == [row["probability"] for row in own]
    assert len(spoken.journalled()) == before + 10_000
    found = spoken.refuses(PREDICT, 400, json={"instances": instances(sample(10_001))})
    assert found == {"error": "10001 rows are more than the 10000 of one call; send them in several"}


def test_a_version_in_the_path_picks_the_arm_that_has_it(spoken):
    """Version 2 is the challenger's; an unknown one is a 404."""
    body = {"instances": instances(spoken.frame.head(5))}
    assert predicted(spoken, body, "/v1/models/churn/versions/1:predict") == spoken.scores[:5]
    challenger = predicted(spoken, body, "/v1/models/churn/versions/2:predict")
    assert challenger == predicted(spoken, body, headers={"x-bentoflow-arm": "challenger"}) != spoken.scores[:5]
    assert "no version '9'" in spoken.refuses("/v1/models/churn/versions/9:predict", 404, json=body)["error"]


def test_a_models_state_is_kserves_and_tensorflow_servings(spoken):
    """The list of models, readiness as KServe asks for it and the version's status as TensorFlow Serving does."""
    assert httpx.get(spoken.url + "/v1/models", timeout=30).json() == {"models": ["churn"]}
    found = httpx.get(spoken.url + "/v1/models/churn", timeout=30).json()
    assert (found["name"], found["ready"]) == ("churn", True)
    available = {"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert found["model_version_status"] == [{"version": "1"} | available]
    found = httpx.get(spoken.url + "/v1/models/churn/versions/2", timeout=30).json()
    assert found["model_version_status"] == [{"version": "2"} | available]
    missing = httpx.get(spoken.url + "/v1/models/other", timeout=30)
    assert (missing.status_code, missing.json()) == (404, {"error": "no model 'other' here; there is 'churn'"})


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ([], 'either "instances" or "inputs"'),
        ({}, 'either "instances" or "inputs"'),
        ({"instances": [GIVEN], "inputs": {}}, 'either "instances" or "inputs"'),
        ({"instances": GIVEN}, '"instances" must be a list'),
        ({"instances": None}, '"instances" must be a list'),
        ({"inputs": 3}, "give a list of objects, not a number"),
        ({"instances": [GIVEN, {"user_id": 1}]}, "row 1, recency: missing"),
        ({"instances": [GIVEN, {**GIVEN, "age": 1}]}, "row 1, age: row 0 has none"),
        ({"instances": [{**GIVEN, "age": 1}]}, "age: unknown; there are user_id, recency, spend, visits"),
        ({"instances": [[12.0, 80.0, 3.0], [12.0, 80.0]]}, "row 1: has 2 values; it must have 3"),
        ({"instances": [[12.0, 80.0, 3.0], GIVEN]}, "row 1: is an object"),
        ({"instances": [GIVEN, {**GIVEN, "spend": "80"}]}, "row 1, spend: '80' is not a number"),
        ({"instances": [{"user_id": FRESH}, {"user_id": UNKNOWN}]}, "row 1, user_id: no user_id 999 in the feature"),
        ({"inputs": {"user_id": [[FRESH], [1, 2]]}}, "row 1, user_id: must be one value in a list"),
    ],
)
def test_a_bad_call_is_a_400_with_an_error_and_nothing_is_journalled(spoken, body, says):
    """Row and field are named in the one error that the protocol has."""
    found = spoken.refuses(PREDICT, 400, json=body)
    assert found.keys() == {"error"}
    assert says in found["error"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b'{"instances": [NaN'])
def test_what_is_no_json_is_a_400(spoken, content):
    """Garbage and nesting without end never become a 500."""
    assert spoken.refuses(PREDICT, 400, content=content)["error"].startswith("the body is not JSON")


def test_compressed_bodies_and_wrong_methods_are_refused(spoken):
    """A content encoding is a 415 that says so, GET on :predict a 405."""
    found = spoken.refuses(PREDICT, 415, content=b"x", headers={"content-encoding": "gzip"})
    assert "content encoding" in found["error"]
    wrong = httpx.get(spoken.url + PREDICT, timeout=30)
    assert (wrong.status_code, wrong.json()) == (405, {"error": "GET is not what this route takes; send POST"})
