"""POST /drift-check on a real service: a table beside the champion's reference, read-only, for who has the token."""

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from bentos import comparison
from bentos.protocols.arrow import STREAM
from bentos.protocols.columns import Refused
from bentos.runtime.monitoring import calibration, drift, rules, sketches
from bentos.runtime.monitoring.rules import DriftRules
from bentos.runtime.predictor import Predictor
from bentos.runtime.rollouts import rollout
from bentos.runtime.rollouts.rollout import Arm, Rollout
from bentos.runtime.scoring import manifest
from bentos.runtime.scoring.manifest import MANIFEST, REFERENCE, sha256
from tests.bentos.conftest import (
    FRESH,
    Server,
    answers,
    fill_store,
    make_release,
    sample,
    save_release,
    serving,
    set_clock,
    wait_for,
)

RULES = DriftRules(min_rows=400, max_psi=0.2)
TOKEN = {"Authorization": "Bearer secret"}
COLUMNS = ["recency", "spend", "visits"]

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def table(rows: int, seed: int) -> pd.DataFrame:
    """Features as the reference has them, and a score."""
    frame = sample(rows, seed)[COLUMNS]
    return frame.assign(score=np.random.default_rng(seed).uniform(0.01, 0.99, rows))


REFERENCE_ROWS = table(5_000, 11)


def with_reference(folder: Path) -> Path:
    """A release that keeps a reference, its calibration and the rules, as training writes them."""
    reference = sketches.reference(REFERENCE_ROWS)
    known = calibration.calibrate(reference, RULES, sizes=(500, 2_000), check=False)
    (folder / REFERENCE).write_text(sketches.to_json(reference))
    (folder / calibration.FILE).write_text(calibration.to_json(known))
    (folder / rules.FILE).write_text(rules.to_json(RULES))
    found = manifest.parse((folder / MANIFEST).read_text())
    files = {name: sha256(folder / name) for name in (*found.files, calibration.FILE, rules.FILE)}
    (folder / MANIFEST).write_text(replace(found, files=files).dump())
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, model: bytes) -> Iterator[Server]:
    """A service whose champion keeps a reference; its token is set."""
    folder = tmp_path_factory.mktemp("compared")
    home = folder / "home"
    fill_store(home)
    set_clock(home)
    tag = save_release(folder / "bentoml", with_reference(make_release(folder / "v1", model=model)), "churn:v1")
    rollout.write(rollout.rollout_path(home, "churn"), Rollout((Arm("champion", tag, 1.0),)))
    env = {"BENTOFLOW_ADMIN_TOKEN": "secret"}
    with serving(home, folder / "bentoml", log=folder / "log", env=env) as running:
        wait_for(lambda: answers(running.url, "/readyz"), what="readiness")
        yield running


def posted(server: Server, frame: pd.DataFrame | list[Any], **more: Any) -> httpx.Response:
    rows = json.loads(frame.to_json(orient="records")) if isinstance(frame, pd.DataFrame) else frame
    return httpx.post(f"{server.url}/drift-check", json=rows, timeout=60, **{"headers": TOKEN, **more})


def in_form(server: Server, form: str, body: bytes, **headers: str) -> httpx.Response:
    headers = {**TOKEN, "content-type": form, **headers}
    return httpx.post(f"{server.url}/drift-check", content=body, headers=headers, timeout=60)


def stream(frame: pd.DataFrame) -> bytes:
    """A frame as an Arrow stream."""
    sink = pa.BufferOutputStream()
    batch = pa.RecordBatch.from_pandas(frame)
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def columns(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {column["name"]: column for column in found["columns"]}


def test_rows_like_the_reference_do_not_drift(server: Server) -> None:
    """The effect sizes are those of the drift verdict itself, with the use case's limits, and nothing drifted."""
    frame = table(2_000, 5)
    response = posted(server, frame)
    found = response.json()
    assert response.status_code == 200, response.text
    assert (found["state"], found["kind"], found["rows"], found["min_rows"]) == ("none", "none", 2_000, 400)
    assert (found["release"], found["model_version"], found["absent"]) == ("v1-v1", "1", [])
    reference = sketches.reference(REFERENCE_ROWS)
    known = calibration.calibrate(reference, RULES, sizes=(500, 2_000), check=False)
    wanted = drift.compare(reference, sketches.bin_counts(frame, reference), RULES, known)
    for column in wanted.columns:
        told = columns(found)[column.name]
        assert told["effects"]["psi"]["value"] == pytest.approx(column.psi)
        assert told["effects"]["shift"]["value"] == pytest.approx(column.shift, rel=1e-6)
        assert told["effects"]["psi"]["limit"] == pytest.approx(0.2 + column.psi_noise)
        assert not told["drifted"]


def test_another_unit_is_broken_data_and_a_shift_is_drift_of_unknown_kind(server: Server) -> None:
    """Amounts in cents are named as such; of rows that are only older nobody can tell whether it harms."""
    frame = table(2_000, 6)
    cents = posted(server, frame.assign(spend=frame["spend"] * 100)).json()
    assert (cents["state"], cents["kind"]) == ("drift", "data_bug")
    assert [(s["name"], s["column"]) for s in cents["signatures"]] == [("scale", "spend")]
    older = posted(server, frame.assign(recency=frame["recency"] + 90)[COLUMNS]).json()
    assert (older["state"], older["kind"], older["absent"]) == ("drift", None, ["score"])
    assert [name for name, column in columns(older).items() if column["drifted"]] == ["recency"]
    assert "standard deviations" in columns(older)["recency"]["reason"]


def test_texts_and_gaps_are_counted_and_few_rows_decide_nothing(server: Server) -> None:
    """Text in place of numbers is a sign of broken data, missing values are a change; 100 rows are not enough."""
    frame = table(1_000, 7).astype(object)
    frame.loc[: 500 - 1, "visits"] = "n/a"
    frame.loc[: 300 - 1, "spend"] = None
    found = posted(server, frame).json()
    assert found["kind"] == "data_bug"
    assert {(s["name"], s["column"]) for s in found["signatures"]} == {("type", "visits"), ("nulls", "spend")}
    few = posted(server, frame.head(100)).json()
    assert (few["state"], few["kind"]) == ("not_enough_data", "not_enough_data")


def test_csv_and_arrow_say_what_json_says(server: Server) -> None:
    """One table with gaps and cents in three forms, the index with it: the same verdict to the last digit."""
    frame = table(2_000, 9).iloc[::-1]
    frame["spend"] = (100 * frame["spend"]).where(frame.index % 50 > 0)
    rows = frame.astype(object).where(frame.notna(), None).to_dict(orient="records")
    wanted = posted(server, rows).raise_for_status().json()
    assert (wanted["state"], wanted["kind"], wanted["rows"]) == ("drift", "data_bug", 2_000)
    for form, body in (("text/csv; charset=utf-8", frame.to_csv().encode()), (STREAM, stream(frame))):
        assert in_form(server, form, body).raise_for_status().json() == wanted


@pytest.mark.parametrize(
    ("form", "body", "status", "told"),
    [
        ("text/csv", b"spend,colour\n1.5,2\n", 400, "colour: unknown; there are recency, spend, visits, score"),
        ("text/csv", b"spend,visits\n1.5\n", 400, "row 0: has 1 values; the header names 2"),
        ("text/csv", b"spend\n", 400, "the table has no rows"),
        ("text/csv", b"spend\n\xff\n", 400, "Failed to parse input as CSV"),
        ("text/csv", b"spend\n" + b"1\n" * 10_001, 400, "10001 rows are more than the 10000 of one call"),
        (STREAM, b"no stream", 400, "the body is not an Arrow stream"),
        ("application/vnd.apache.parquet", b"PAR1", 415, "send application/json, "),
    ],
)
def test_a_table_in_another_form_that_cannot_be_compared_is_refused(
    server: Server, form: str, body: bytes, status: int, told: str
) -> None:
    """As in JSON: the sentence says what, and where."""
    response = in_form(server, form, body)
    assert response.status_code == status, response.text
    assert told in response.json()["error"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ([{"spend": 1.0}, {"visits": 2.0}], "row 1, spend: missing"),
        ([{"colour": 1.0}], "colour: unknown; there are recency, spend, visits, score"),
        ([{}], "row 0: is an empty object"),
        ([], ""),
        ([{"spend": [1.0]}], ""),
        ({"spend": 1.0}, ""),
    ],
)
def test_a_table_that_cannot_be_compared_is_a_400(server: Server, body: Any, told: str) -> None:
    """The sentence names row and column."""
    response = posted(server, body)
    assert response.status_code == 400, response.text
    assert told in response.json()["error"]


def test_it_is_for_who_has_the_token(server: Server) -> None:
    """Without it 401, and nothing is compared."""
    assert posted(server, [{"spend": 1.0}], headers={}).status_code == 401
    assert posted(server, [{"spend": 1.0}], headers={"Authorization": "Bearer other"}).status_code == 401
    assert in_form(server, "text/csv", b"spend\n1\n", Authorization="").status_code == 401


def test_it_is_documented_with_an_example(server: Server) -> None:
    """/docs.json has the route, what it takes and answers, and no 202."""
    operation = httpx.get(f"{server.url}/docs.json", timeout=60).json()["paths"]["/drift-check"]["post"]
    assert {"200", "400", "401", "404", "413", "503"} <= set(operation["responses"])
    assert "202" not in operation["responses"]
    assert {"application/json", "text/csv", STREAM} == set(operation["requestBody"]["content"])
    assert '"score": 0.31' in json.dumps(operation["requestBody"]) or "Table" in json.dumps(operation["requestBody"])


def test_nothing_is_journalled_and_predictions_go_on_beside_it(server: Server) -> None:
    """While four tables are compared at once customers are answered, and the journal has those answers only."""
    frame = table(3_000, 8)
    with ThreadPoolExecutor(4) as pool:
        checks = [pool.submit(posted, server, frame) for _ in range(4)]
        answered = [httpx.post(f"{server.url}/predict", json={"user_id": FRESH}, timeout=60) for _ in range(20)]
        assert {check.result().status_code for check in checks} == {200}
    assert {response.status_code for response in answered} == {200}
    journal = server.home / "journal" / "churn"
    assert sum(len(path.read_bytes().splitlines()) for path in journal.iterdir()) == 20


def test_without_scipy_the_route_says_what_to_add(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image leaves it out: a clear refusal, and no other missing module is taken for it."""
    for name in [n for n in sys.modules if n.startswith(("scipy", "bentos.runtime.monitoring"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "scipy.special", None)
    with pytest.raises(Refused, match=r"add it to bentofile\.yaml") as refused:
        comparison._checked(cast(Predictor, None), lambda numbers: {"score": [0.1]})
    assert refused.value.status == 501
