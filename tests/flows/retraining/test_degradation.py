"""Degradation through `feedback`, on a real Prefect server: one event per release, month and severity, or why it waits.

Labels are a team's own table, drawn so that the scores reach a stated ROC AUC on them.
"""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from prefect.client.orchestration import get_client
from sklearn.metrics import roc_auc_score

from flows.feedback import feedback
from flows.retraining import events
from flows.stores import history, verdicts
from flows.stores import prepared as pointer
from tests.flows.conftest import AS_OF, Bases, answers_of, champion, journalled

MONTH = datetime(1997, 9, 1, tzinfo=UTC)
LATER = datetime(1998, 5, 1, tzinfo=UTC)  # the cooldown of the first training is over
ROWS = 1_900


def ranked(scores: NDArray[np.float64], auc: float) -> NDArray[np.int64]:
    """Labels, four in five of them 1, on which the scores reach a ROC AUC: the best by score and so much noise."""
    rng, (low, high) = np.random.default_rng(0), (0.0, 50.0)
    place, noise = np.argsort(np.argsort(scores)) / len(scores), rng.normal(size=len(scores))
    labels = np.zeros(len(scores), dtype=np.int64)
    for _ in range(40):
        mixed = place + (low + high) / 2 * noise
        labels = (mixed > np.quantile(mixed, 0.2)).astype(np.int64)
        low, high = ((low + high) / 2, high) if roc_auc_score(labels, scores) > auc else (low, (low + high) / 2)
    return labels


@pytest.fixture
def answered(released: Path, bases: Bases) -> list[dict[str, Any]]:
    """A month of answers, in a home whose data are known until the cooldown is over."""
    rows = pd.read_parquet(released / "features" / "churn" / f"as_of={MONTH:%Y-%m-%d}.parquet").head(ROWS)
    records = answers_of(champion(released), rows, MONTH)
    journalled(released, records)
    pointer.remember(released, "churn", pointer.latest(released, "churn")[0], pd.Timestamp(LATER), source_rows=1)
    return records


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The events that left, kept on their way to the server."""
    found: list[dict[str, Any]] = []
    real = events.tell

    def tell(event: str, **more: Any) -> bool:
        found.append(more)
        return real(event, **more)

    monkeypatch.setattr(events, "tell", tell)
    return found


def measured(
    home: Path, bases: Bases, records: list[dict[str, Any]], lost: float, as_of: datetime = LATER
) -> dict[str, Any]:
    """`feedback` with labels on which so much of the promised ROC AUC is gone."""
    promised = bases.train["metrics"]["roc_auc"]["value"]
    labels = ranked(np.array([r["score"] for r in records]), promised * (1 - lost))
    table = home / "labels.parquet"
    pd.DataFrame({"request_id": [r["request_id"] for r in records], "label": labels}).to_parquet(table)
    return feedback("churn", as_of, labels=str(table))


def degraded(home: Path) -> list[dict[str, Any]]:
    return [line for line in history.read(home, "churn") if line["action"].startswith("degraded")]


def arrived(event: str) -> dict[str, Any]:
    """The event of that id, once the server has kept it."""
    deadline = time.monotonic() + 60
    with get_client(sync_client=True) as client:
        while time.monotonic() < deadline:
            asked = {"filter": {"id": {"id": [event]}}, "limit": 10}
            found = client._client.post("/events/filter", json=asked).json()["events"]
            if found:
                (one,) = found
                return dict(one)
            time.sleep(0.2)
    pytest.fail(f"the server never kept the event {event}")


def test_a_fall_is_told_once_with_what_was_promised_and_again_when_it_is_worse(
    released: Path, bases: Bases, answered: list[dict[str, Any]], sent: list[dict[str, Any]]
) -> None:
    """7 % below the promise is medium, one event and one line however often; 15 % is high and a second of each."""
    first = measured(released, bases, answered, 0.07)["degraded"]
    assert (first["severity"], first["month"], first["waits"]) == ("medium", "1997-09", None)
    assert first["loss"] == pytest.approx(0.07, abs=0.003)
    assert f"promised {bases.train['metrics']['roc_auc']['value']:.3f}: " in first["reason"]
    kept = arrived(first["event"])
    assert kept["event"] == "bentoflow.quality.degraded"
    assert kept["resource"]["prefect.resource.id"] == "bentoflow.churn"
    assert first.items() <= kept["payload"].items()
    told = degraded(released)
    assert [(line["action"], line["event"], line["at"]) for line in told] == [
        ("degraded: medium", first["event"], LATER.isoformat())
    ]
    assert measured(released, bases, answered, 0.07)["degraded"] == first
    assert (len(sent), degraded(released)) == (1, told)
    assert verdicts.feedback(released, "churn")["degraded"] == first
    second = measured(released, bases, answered, 0.15)["degraded"]
    assert second["severity"] == "high"
    assert arrived(second["event"])["payload"]["reason"] == second["reason"]
    assert len({event["id"] for event in sent}) == len(sent) == 2
    assert [line["action"] for line in degraded(released)] == ["degraded: medium", "degraded: high"]


def test_in_the_cooldown_it_is_kept_and_told_when_it_is_over(
    released: Path, bases: Bases, answered: list[dict[str, Any]], sent: list[dict[str, Any]]
) -> None:
    """Shortly after a training the fall is a line that says until when; no event leaves before that day."""
    first = measured(released, bases, answered, 0.15, as_of=AS_OF)["degraded"]
    assert (first["severity"], first["event"]) == ("high", None)
    assert "in cooldown until 1998-04-01" in first["waits"]
    assert measured(released, bases, answered, 0.15, as_of=AS_OF)["degraded"] == first
    assert sent == []
    second = measured(released, bases, answered, 0.15)["degraded"]
    assert (second["waits"], sent[0]["id"], len(sent)) == (None, second["event"], 1)
    assert [line["event"] for line in degraded(released)] == [None, second["event"]]


@pytest.mark.parametrize(
    ("actions", "said"),
    [
        (["trained: REJECT"] * 3, "the last 3 candidates"),
        (["drift: data_bug"], "found broken data"),
    ],
)
def test_an_open_breaker_and_broken_data_hold_it(
    released: Path,
    bases: Bases,
    answered: list[dict[str, Any]],
    sent: list[dict[str, Any]],
    actions: list[str],
    said: str,
) -> None:
    """What must not start a training by itself is said in the line instead of the event."""
    for action in actions:
        history.append(released, "churn", action, at=LATER, version="9")
    found = measured(released, bases, answered, 0.15)["degraded"]
    assert said in found["waits"]
    assert (found["event"], sent) == (None, [])
    assert [line["waits"] for line in degraded(released)] == [found["waits"]]


def test_what_is_little_or_not_the_champions_own_is_not_told(
    released: Path, bases: Bases, answered: list[dict[str, Any]], sent: list[dict[str, Any]]
) -> None:
    """3 % below the promise is no degradation, nor is a month in which another release answered too."""
    assert measured(released, bases, answered, 0.03)["degraded"] is None
    others = [{**r, "release": "churn:v0-00000000", "request_id": f"{i:032x}"} for i, r in enumerate(answered[:50])]
    journalled(released, others)
    found = measured(released, bases, [*answered, *others], 0.15)
    assert (found["degraded"], found["months"][0]["promised"]) == (None, None)
    assert (sent, degraded(released)) == ([], [])
