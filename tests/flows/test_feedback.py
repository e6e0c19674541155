"""feedback: mature labels only, joined by request id or by entity and time, and measured once there are enough."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from flows.check_drift import check_drift
from flows.errors import ContractError
from flows.feedback import feedback, groups
from flows.steps.monitoring import kinds
from flows.stores import history, registry, tables
from flows.stores import labels as label_store
from flows.stores import prepared as pointer
from flows.usecases import churn
from tests.flows.conftest import AS_OF, Bases, answers_of, champion, journalled

MATURE = (datetime(1997, 8, 1, tzinfo=UTC), datetime(1997, 9, 1, tzinfo=UTC))
DAY = timedelta(days=1)
IMMATURE = datetime(1997, 12, 1, tzinfo=UTC)


def answered(home: Path, bases: Bases, moment: datetime, n: int, **more: Any) -> list[dict[str, Any]]:
    """Journal `n` customers' answers of a moment, on the features that they had then."""
    rows = pd.read_parquet(home / "features" / "churn" / f"as_of={moment:%Y-%m-%d}.parquet").head(n)
    records = answers_of(champion(home), rows, moment, **more)
    journalled(home, records)
    return records


def events_of(home: Path) -> pd.DataFrame:
    return tables.read_snapshot(home / "snapshots" / "churn", pointer.latest(home, "churn")[0])


def test_an_empty_journal_measures_nothing(released: Path) -> None:
    """Without answers the flow says so and writes nothing."""
    assert feedback("churn", AS_OF) == {"use_case": "churn", "months": []}
    assert not (released / "feedback").exists()


def test_labels_come_from_the_events_by_entity_and_time(released: Path, bases: Bases) -> None:
    """Each month's figures are those of labels counted by hand in the 90 days after each answer."""
    answers = {f"{m:%Y-%m}": answered(released, bases, m, 600) for m in MATURE}
    found = feedback("churn", AS_OF)
    assert (found["answers"], found["labels"]) == (1_200, 1_200)
    assert [m["month"] for m in found["months"]] == ["1997-08", "1997-09"]
    events = events_of(released)
    for month, moment in zip(found["months"], MATURE, strict=True):
        records = answers[month["month"]]
        inside = events[
            (events["purchased_at"] >= moment) & (events["purchased_at"] < pd.Timestamp(moment) + pd.Timedelta(days=90))
        ]
        bought = set(inside["user_id"])
        labels = [int(r["entity"] not in bought) for r in records]
        assert month["base_rate"] == pytest.approx(np.mean(labels))
        assert month["roc_auc"]["value"] == pytest.approx(roc_auc_score(labels, [r["score"] for r in records]))
        assert month["roc_auc"]["low"] < month["roc_auc"]["value"] < month["roc_auc"]["high"]
        assert month["releases"] == [champion(released).release]


def test_live_quality_is_kept_in_file_history_and_mlflow(released: Path, bases: Bases) -> None:
    """What was measured can be read from the home, the history and the experiment."""
    answered(released, bases, MATURE[0], 600)
    found = feedback("churn", AS_OF)
    assert json.loads((released / "feedback" / "churn.json").read_text()) == found
    value = found["months"][0]["roc_auc"]["value"]
    assert history.read(released, "churn")[-1]["months"] == {"1997-08": round(value, 4)}
    runs = registry.client().search_runs([registry.connect("churn", released)], "tags.kind = 'feedback'")
    assert runs[0].data.metrics["live_1997-08_roc_auc"] == pytest.approx(value)


def test_estimates_stand_beside_what_labels_measured_on_the_same_rows(released: Path, bases: Bases) -> None:
    """A checked window is measured on its own rows once they are labelled; both pages show it beside its estimate."""
    records = answered(released, bases, MATURE[0], 900)
    answered(released, bases, IMMATURE, 900)
    checks = [check_drift("churn", since=m - DAY, until=m + DAY, emit=False) for m in (MATURE[0], IMMATURE)]
    found = feedback("churn", AS_OF)
    (window,) = found["windows"]
    assert (window["since"], window["labels"]) == (checks[0]["since"], 900)
    assert window["roc_auc"] == pytest.approx(found["months"][0]["roc_auc"]["value"])
    promised = bases.train["metrics"]["roc_auc"]
    said = f"ROC AUC {promised['value']:.3f} ({promised['low']:.3f} to {promised['high']:.3f}), measured by the gates"
    assert all(check["promised"].startswith(said) for check in checks)
    assert {found["months"][0]["promised"], *(check["quality"]["estimated"]["promised"] for check in checks)} == {
        promised["value"]
    }
    estimated = checks[0]["quality"]["estimated"]
    inside = estimated["low"] <= window["roc_auc"] <= estimated["high"]
    again = check_drift("churn", since=MATURE[0] - DAY, until=MATURE[0] + DAY, emit=False)
    for path in (released / "reports" / "churn" / f"feedback-{AS_OF:%Y-%m-%d}.html", Path(again["report"])):
        html = path.read_text()
        assert said in html
        assert f"interval: {int(inside)} of 1 windows with labels" in html
        assert kinds.BLIND in html
    assert len(records) == 900


def test_a_window_is_measured_when_nearly_all_of_it_is_labelled(released: Path, bases: Bases, tmp_path: Path) -> None:
    """Labels for nine in ten of a window's answers say nothing of the window yet; for all but twenty they do."""
    records = answered(released, bases, MATURE[0], 600)
    check_drift("churn", since=MATURE[0] - DAY, until=MATURE[0] + DAY, emit=False)
    rng = np.random.default_rng(1)
    labels = pd.DataFrame({"request_id": [r["request_id"] for r in records], "label": rng.integers(0, 2, 600)})
    for few, windows in ((540, 0), (580, 1)):
        labels.head(few).to_parquet(tmp_path / "labels.parquet")
        assert len(feedback("churn", AS_OF, labels=str(tmp_path / "labels.parquet"))["windows"]) == windows


def test_labels_by_request_id_from_a_table(released: Path, bases: Bases, tmp_path: Path) -> None:
    """Labels that a team collected itself are joined by request id; answers without one are left out."""
    records = answered(released, bases, IMMATURE, 500)
    rng = np.random.default_rng(1)
    labels = pd.DataFrame({"request_id": [r["request_id"] for r in records], "label": rng.integers(0, 2, 500)})
    table = tmp_path / "labels.parquet"
    labels.sample(300, random_state=1).to_parquet(table)
    found = feedback("churn", AS_OF, labels=str(table))
    chosen = labels.sample(300, random_state=1).set_index("request_id")["label"]
    scores = {r["request_id"]: r["score"] for r in records}
    assert (found["answers"], found["labels"]) == (500, 300)
    expected = roc_auc_score(chosen, [scores[i] for i in chosen.index])
    assert found["months"][0]["roc_auc"]["value"] == pytest.approx(expected)


def test_answers_that_name_no_entity_are_labelled_by_request_id_only(
    released: Path, bases: Bases, tmp_path: Path
) -> None:
    """Labels from events pass over such answers and find the others as ever; a table of labels finds all of them."""
    rows = pd.read_parquet(released / "features" / "churn" / f"as_of={MATURE[0]:%Y-%m-%d}.parquet").head(600)
    records = answers_of(champion(released), rows, MATURE[0])
    journalled(released, records[:400])
    known = feedback("churn", AS_OF)
    journalled(released, [{**r, "entity": None} for r in records[400:]])
    found = feedback("churn", AS_OF)
    assert (known["answers"], known["labels"]) == (400, 400)
    assert (found["answers"], found["labels"], found["months"]) == (600, 400, known["months"])
    rng = np.random.default_rng(1)
    labels = pd.DataFrame({"request_id": [r["request_id"] for r in records], "label": rng.integers(0, 2, 600)})
    labels.to_parquet(tmp_path / "labels.parquet")
    found = feedback("churn", AS_OF, labels=str(tmp_path / "labels.parquet"))
    assert (found["labels"], found["months"][0]["labels"]) == (600, 600)
    expected = roc_auc_score(labels["label"], [r["score"] for r in records])
    assert found["months"][0]["roc_auc"]["value"] == pytest.approx(expected)


def test_rows_without_an_entity_are_groups_of_their_own() -> None:
    """Intervals resample entities: rows of one stay together, rows of nobody stand alone; large keys stay exact."""
    entities = pd.Series([7, None, 2**60 + 1, 7, None, 2**60], dtype=object)
    assert groups(entities).tolist() == [0, 3, 2, 0, 4, 1]
    assert groups(pd.Series([5, 3, 5])).tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"request": ["a"], "label": [1]}, "has no request_id; it has request, label"),
        ({"request_id": ["a", "b", "a"], "label": [1, 0, 1]}, "1 request ids more than once, such as a"),
        ({"request_id": ["a", "b"], "label": [1.0, None]}, "1 labels that are not 0 or 1, such as nan"),
        ({"request_id": ["a", "b"], "label": ["yes", "0"]}, "1 labels that are not 0 or 1, such as yes"),
    ],
)
def test_a_table_of_labels_that_cannot_be_joined_is_refused(
    tmp_path: Path, table: dict[str, list[object]], said: str
) -> None:
    """A missing column, a request labelled twice and a label that is none are named, with what to look for."""
    path = tmp_path / "labels.parquet"
    pd.DataFrame(table).to_parquet(path)
    with pytest.raises(ContractError, match=re.escape(said)):
        label_store.table(str(path))


def test_a_month_with_too_few_labels_is_left_out(released: Path, bases: Bases) -> None:
    """Below the minimum a month is not measured, the others are."""
    answered(released, bases, MATURE[0], 199)
    answered(released, bases, MATURE[1], 200)
    found = feedback("churn", AS_OF)
    assert found["labels"] == 399
    assert [m["month"] for m in found["months"]] == ["1997-09"]
    assert [m["month"] for m in feedback("churn", AS_OF, min_labels=100)["months"]] == ["1997-08", "1997-09"]


def test_a_month_of_one_class_is_left_out(released: Path, bases: Bases, tmp_path: Path) -> None:
    """Where every label is the same there is no ROC AUC, and none is made up."""
    records = answered(released, bases, MATURE[0], 300)
    table = tmp_path / "labels.parquet"
    pd.DataFrame({"request_id": [r["request_id"] for r in records], "label": 1}).to_parquet(table)
    found = feedback("churn", AS_OF, labels=str(table))
    assert (found["labels"], found["months"]) == (300, [])


def test_immature_answers_are_not_labelled(released: Path, bases: Bases) -> None:
    """An answer whose 90 days are not over has no label: neither yes nor no is known."""
    answered(released, bases, IMMATURE, 300)
    answered(released, bases, MATURE[0], 300)
    found = feedback("churn", AS_OF)
    assert (found["answers"], found["labels"]) == (600, 300)
    assert [m["month"] for m in found["months"]] == ["1997-08"]


def test_an_answer_matures_on_the_day_that_its_horizon_ends(released: Path, bases: Bases) -> None:
    """Exactly 90 days after the answer its label counts, one second earlier it does not."""
    answered(released, bases, datetime(1997, 10, 1, tzinfo=UTC), 300)
    due = datetime(1997, 12, 30, tzinfo=UTC)
    assert feedback("churn", due)["labels"] == 300
    assert feedback("churn", datetime(1997, 12, 29, 23, 59, 59, tzinfo=UTC))["labels"] == 0


def test_what_was_not_prepared_cannot_mature(released: Path, bases: Bases) -> None:
    """Asked for a later day than the data was prepared for, silence in the missing days is not taken for churn."""
    answered(released, bases, IMMATURE, 300)
    found = feedback("churn", datetime(1998, 6, 1, tzinfo=UTC))
    assert found["labels"] == 0


def test_smoke_answers_are_not_measured(released: Path, bases: Bases) -> None:
    """Golden rows that a release was tried with are no live answers."""
    answered(released, bases, MATURE[0], 300)
    answered(released, bases, MATURE[0], 300, smoke=True)
    assert feedback("churn", AS_OF)["answers"] == 300


def test_each_arm_is_measured_apart_and_shadows_are_no_answers(released: Path, bases: Bases) -> None:
    """A canary's answers have months of their own; what a shadow scored or who named an arm asked is left out."""
    mine = answered(released, bases, MATURE[0], 300)
    canaries = answered(released, bases, MATURE[1], 250, arm="canary")
    before = feedback("churn", AS_OF)
    journalled(released, [{**record, "arm": "shadow", "release": "churn:v2"} for record in mine])
    journalled(released, [{**record, "arm": "shadow-b"} for record in canaries])
    answered(released, bases, MATURE[0], 300, arm="challenger")
    found = feedback("churn", AS_OF)
    assert found == before
    assert (found["answers"], found["labels"]) == (550, 550)
    assert [(m["month"], m["labels"]) for m in found["months"]] == [("1997-08", 300)]
    assert [(m["month"], m["labels"]) for m in found["canaries"]["canary"]] == [("1997-09", 250)]
    page = (released / "reports" / "churn" / f"feedback-{AS_OF:%Y-%m-%d}.html").read_text()
    assert 'id="canary"' in page


def test_the_horizon_is_the_use_cases() -> None:
    """The days that these tests count with are the ones that the use case declares."""
    assert churn.USE_CASE.horizon_days == 90
