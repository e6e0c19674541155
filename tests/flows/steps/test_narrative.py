"""Narrative: the demo's page tells what the evidence says, also where something did not happen."""

from pathlib import Path
from typing import Any

import pytest

from bentos.runtime.scoring.manifest import Manifest
from flows.steps.gating import gates
from flows.steps.pages import model_plots, narrative
from flows.steps.pages.page import Event, render
from tests.flows.steps.test_candidate import DRAFT, built
from tests.flows.steps.test_dossier import outcome

INTERVAL = {"value": 0.801, "low": 0.78, "high": 0.82}
HOME = Path("/home/of/the/demo")


def interval(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.02, "high": value + 0.02}


def month(name: str, value: float) -> dict[str, Any]:
    return {
        "month": name,
        "labels": 700,
        "base_rate": 0.83,
        "releases": ["churn:v1-aa"],
        **{k: interval(value) for k in ("roc_auc", "average_precision", "brier_skill")},
    }


def check(name: str, kind: str, **changes: Any) -> dict[str, Any]:
    moved = kind in ("benign", "harmful", "data_bug")
    given = {
        "month": name,
        "injected": False,
        "release": "churn:v1-aa",
        "since": f"{name}-01T00:00:00+00:00",
        "until": f"{name}-02T00:00:00+00:00",
        "rows": 700,
        "kind": kind,
        "drifted": ["recency_days"] if moved else [],
        "quality": {"estimated": {**interval(0.82), "promised": 0.8}} if moved else {},
        "asks": "quality fell" if kind == "harmful" else "",
        "event": "e1" if kind == "harmful" else None,
        "alert": "a1" if kind == "data_bug" else None,
        "waits": None,
        "max_psi": 0.15,
        "psi": {"recency_days": 0.4, "score": 0.05},
        "report": str(HOME / "reports" / f"{name}.html"),
    }
    return given | changes


def facts(**changes: Any) -> dict[str, Any]:
    done = outcome()
    manifest: Manifest = DRAFT
    results = gates.to_dict(done.verdict)["results"]
    metrics = {k: {"value": i.value, "low": i.low, "high": i.high} for k, i in built().intervals.items()}
    given = {
        "events": (Event("1998-01-01", "train", "version 1"),),
        "first": {"version": "1", "verdict": "PROMOTE", "metrics": metrics, "dummy": built().dummy,
                  "test_cutoff": "1997-10-01T00:00:00"},
        "training": {"choice": "the only one", "gates": gates.to_dict(done.verdict)},
        "manifest": manifest,
        "drift": [check("1998-01", "benign"), check("1998-04", "harmful")],
        "retrained": [
            {"version": "2", "verdict": "PROMOTE", "moment": "1998-04-01", "metrics": {"roc_auc": 0.812},
             "reasons": [], "run": "swift-owl", "state": "Completed", "gates": results}
        ],
        "drill": {"version": "3", "verdict": "REJECT", "failed": ["better_than_dummy"],
                  "reasons": ["better_than_dummy: ROC AUC is 0.52: no better than the dummy"],
                  "refused": "its verdict is REJECT. better_than_dummy: ROC AUC is 0.52"},
        "feedback": {"months": [month("1998-01", 0.79), month("1998-02", 0.81)]},
        "rollback": {"release": "churn:v1-aa"},
        "explained": {
            "equal": True, "score_again": 0.8, "request_id": "r" * 32, "entity": 17, "time": "1998-01-01", "score": 0.8,
            "decision": "High", "threshold": 0.5, "release": "churn:v1-aa", "snapshot": "ab12", "commit": "c0ffee",
            "run_id": "run", "features": {"recency_days": 3.0, "spend_90d": None},
        },
        "example": {"request_id": "r" * 32},
        "history": [{"at": "1998-01-01T00:00:00", "action": "promoted", "version": "1", "reason": "first version"}],
        "journal": 1_400,
        "segments": 2,
        "pictures": {"roc.png": model_plots.roc(built().evidence.y, built().test_scores)},
    }  # fmt: skip
    return given | changes


def test_the_page_tells_the_whole_loop() -> None:
    """Live quality, gates, drift, retraining, refusal, an explained answer and the history are on one page."""
    html = render(narrative.page(facts(), HOME))
    for part in (
        "Loop closed",
        "0.790, 0.810",
        "better_than_dummy",
        "1998-04",
        "an event asks for a training: quality fell",
        "nothing to do",
        "0.820 (0.800 to 0.840)",
        "swift-owl",
        "Version 3 was trained on shuffled labels",
        "its verdict is REJECT.",
        "ROC AUC is 0.52: no better than the dummy",
        "Scored again from its journalled features: 0.800000",
        "first version",
        "bentoflow reproduce 1",
    ):
        assert part in html, part


def test_links_lead_from_the_page_to_the_reports() -> None:
    """The page lies in `demo`, the reports beside it, so the links are relative."""
    html = render(narrative.page(facts(), HOME))
    assert 'href="../reports/1998-04.html"' in html


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"feedback": {"months": []}}, "No month had enough mature labels."),
        ({"retrained": []}, "No drift verdict asked for a training."),
        ({"rollback": None}, "Loop ran"),
    ],
)
def test_what_did_not_happen_is_said(changes: dict[str, Any], said: str) -> None:
    """A loop without labels, without a retraining or without a rollback claims none."""
    html = render(narrative.page(facts(**changes), HOME))
    assert said in html
    assert ("Loop closed" in html) == ("feedback" in changes)


def test_injected_drift_is_called_injected() -> None:
    """What was done to the data on purpose is marked in the table, the picture and the link."""
    html = render(narrative.page(facts(drift=[check("1998-05", "data_bug", injected=True)]), HOME))
    assert html.count("injected") >= 3
    assert "an alert is sent; nothing is trained on this" in html


def test_a_month_without_answers_has_no_picture() -> None:
    """A check of an empty window is a line of the table only."""
    html = render(narrative.page(facts(drift=[check("1998-06", "not_enough_data", rows=0, psi={})]), HOME))
    assert "not_enough_data" in html
    assert "PSI per column in 1998-06" not in html


def test_an_answer_that_is_not_equal_is_shown_as_such() -> None:
    """A score that cannot be repeated is not hidden."""
    broken = facts()["explained"] | {"equal": False}
    assert "Not equal" in render(narrative.page(facts(explained=broken), HOME))
