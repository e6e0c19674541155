"""check_drift: a pure function of the journal; one event per release and window, and none within the cooldown."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bentos.runtime import clock
from bentos.runtime.monitoring import calibration
from flows.check_drift import check_drift
from flows.steps.monitoring import estimates, policy
from flows.steps.pages import plots
from flows.stores import history
from flows.train import train
from tests.flows.conftest import SMALL, Bases, answers_of, champion, holdout, journalled, use

WITHIN = datetime(1998, 2, 1, tzinfo=UTC)  # the cooldown ends 90 days after the training of 1998-01-01
AFTER = datetime(1998, 5, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def picture() -> bytes:
    """One picture, drawn once."""
    return plots.drift_bars(["a"], [0.1], 0.2)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The events that are told, kept here instead of sent: tests/flows/test_killed_checks.py sends them."""
    found: list[dict[str, Any]] = []

    def tell(event: str, **more: Any) -> bool:
        found.append({"event": event, **more})
        return True

    monkeypatch.setattr("flows.retraining.events.tell", tell)
    return found


@pytest.fixture
def events(drawn: list[dict[str, Any]], picture: bytes, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """As `drawn`, with the same picture everywhere in the reports, since drawing takes most of the time."""
    monkeypatch.setattr(plots, "compare_bins", lambda *args: picture)
    monkeypatch.setattr(plots, "drift_bars", lambda *args: picture)
    monkeypatch.setattr(plots, "quality_over_time", lambda *args, **more: picture)
    return drawn


def check(moment: datetime = AFTER, **more: Any) -> dict[str, Any]:
    return check_drift("churn", since=moment - timedelta(days=1), until=moment + timedelta(days=1), **more)


def fill(
    home: Path,
    bases: Bases,
    *,
    rows: int = 2_000,
    factor: float = 1.0,
    older: float = 0.0,
    moment: datetime = AFTER,
    seed: int = 3,
    **more: Any,
) -> None:
    """Journal the held-out rows as answers of that moment, amounts multiplied, tenure longer by some months."""
    chosen = holdout(bases).sample(rows, random_state=seed)
    money = ["avg_purchase_amount", "spend_90d"]
    shifted = chosen.assign(**(chosen[money] * factor), tenure_months=chosen["tenure_months"] + older)
    journalled(home, answers_of(champion(home), shifted, moment, **more), segments=3)


def lines(home: Path) -> list[dict[str, Any]]:
    return [line for line in history.read(home, "churn") if line["action"].startswith("drift")]


def test_without_a_champion_there_is_nothing_to_check(prepared: Path, events: list[Any]) -> None:
    """Before the first release the flow says so and leaves no trace."""
    assert check_drift("churn")["state"] == "no_release"
    assert lines(prepared) == []


def test_an_empty_journal_is_not_enough_data(released: Path, events: list[Any]) -> None:
    """Without a single answer the verdict is not_enough_data, and a report says so."""
    found = check()
    assert (found["state"], found["rows"], found["event"]) == ("not_enough_data", 0, None)
    assert Path(found["report"]).exists()


def test_too_few_answers_are_not_enough_data(released: Path, bases: Bases, events: list[Any]) -> None:
    """Fewer rows than the rules ask for decide nothing, however far they have moved."""
    fill(released, bases, rows=499, factor=100)
    found = check()
    assert (found["state"], found["rows"], found["event"]) == ("not_enough_data", 499, None)
    assert events == []


def test_the_reference_itself_does_not_drift(released: Path, bases: Bases, events: list[Any]) -> None:
    """The held-out rows, answered by the service, are exactly what they are compared with: PSI 0, verdict none."""
    fill(released, bases)
    found = check()
    assert (found["state"], found["kind"], found["rows"], found["drifted"]) == ("none", "none", 2_000, [])
    assert max(found["psi"].values()) == pytest.approx(0, abs=1e-9)
    assert "tenure_months [6, 8)" in [segment["name"] for segment in found["segments"]]
    for segment in found["segments"]:
        assert segment["share"][0] == segment["share"][1]
        assert segment["psi"] == pytest.approx(0, abs=1e-9)
    assert "Scores by segment" in Path(found["report"]).read_text()
    assert events == []


def test_amounts_in_cents_are_broken_data_with_one_alert_and_a_report(
    released: Path, bases: Bases, drawn: list[Any]
) -> None:
    """Amounts in cents: the verdict names columns and factor, one alert carries it, and no training is asked for."""
    fill(released, bases, factor=100)
    found = check()
    assert (found["state"], found["kind"], found["asks"], found["event"]) == ("drift", "data_bug", "", None)
    assert {"avg_purchase_amount", "spend_90d"} <= set(found["drifted"])
    assert "tenure_months" not in found["drifted"]
    assert {(s["name"], s["column"]) for s in found["signatures"]} >= {("scale", "avg_purchase_amount")}
    assert "Column avg_purchase_amount: values are 100 times what they were" in found["why"]
    (event,) = drawn
    assert event["id"] == found["alert"]
    assert (event["event"], event["use_case"]) == ("bentoflow.data_bug.detected", "churn")
    assert (event["payload"]["rows"], event["payload"]["kind"]) == (2_000, "data_bug")
    html = Path(found["report"]).read_text()
    assert "Broken data" in html
    assert "avg_purchase_amount" in html
    assert "Called drifted" in html
    assert html.rstrip().endswith("</html>")
    assert lines(released)[-1]["action"] == "drift: data_bug"
    assert lines(released)[-1]["alert"] == found["alert"]


def test_moved_inputs_with_held_quality_are_benign_and_ask_for_nothing(
    released: Path, bases: Bases, events: list[Any]
) -> None:
    """Customers who are a year older: benign, with the estimated quality in the sentence, and no event."""
    fill(released, bases, older=12)
    found = check()
    assert (found["state"], found["kind"], found["asks"], events) == ("drift", "benign", "", [])
    assert found["why"].startswith("Inputs moved (tenure_months")
    assert "quality did not fall: estimated ROC AUC" in found["why"]
    assert found["quality"]["estimated"]["promised"] == pytest.approx(
        bases.train["metrics"]["roc_auc"]["value"], abs=0.03
    )


def test_benign_drift_in_three_windows_in_a_row_asks_for_a_refresh(
    released: Path, bases: Bases, events: list[Any]
) -> None:
    """The use case declares three windows: the third one emits the event, checked again it emits none."""
    for week in range(3):
        fill(released, bases, rows=700, older=12, moment=AFTER + timedelta(days=7 * week), seed=week)
    kinds = [check(AFTER + timedelta(days=7 * week)) for week in range(3)]
    assert [(c["kind"], bool(c["event"])) for c in kinds] == [("benign", False), ("benign", False), ("benign", True)]
    assert "benign drift in 3 windows in a row" in kinds[-1]["asks"]
    (event,) = events
    assert (event["event"], event["payload"]["kind"]) == ("bentoflow.drift.detected", "benign")
    assert check(AFTER + timedelta(days=14)) == kinds[-1]
    assert len(events) == 1


def worse(home: Path, release: str, value: float) -> None:
    """A month of mature labels that measured this ROC AUC for the release."""
    auc = {"value": value, "low": value - 0.02, "high": value + 0.02}
    months = [{"month": "1998-04", "labels": 900, "releases": [release], "roc_auc": auc}]
    (home / "feedback").mkdir(exist_ok=True)
    (home / "feedback" / "churn.json").write_text(json.dumps({"months": months}))


def test_measured_quality_that_fell_is_harmful_and_asks_for_a_training(
    released: Path, bases: Bases, drawn: list[Any]
) -> None:
    """Labels say that the release ranks worse than promised: one event, although no input moved."""
    fill(released, bases)
    worse(released, bases.release["release"], 0.60)
    found = check()
    assert (found["state"], found["kind"], found["asks"]) == ("none", "harmful", "quality fell")
    assert "measured ROC AUC 0.600" in found["why"]
    (event,) = drawn
    assert (event["id"], event["event"]) == (found["event"], "bentoflow.drift.detected")
    assert "Harmful drift" in Path(found["report"]).read_text()


def test_drift_that_must_persist_waits_for_the_next_window(
    released: Path, bases: Bases, events: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two of two windows needed the first is none, with its reason, and the second is drift."""
    use(monkeypatch, drift=replace(SMALL.drift, persist=2, persist_of=2))
    for week in range(2):
        fill(released, bases, rows=700, older=12, moment=AFTER + timedelta(days=7 * week), seed=week)
    first, second = check(), check(AFTER + timedelta(days=7))
    assert (first["state"], first["kind"], second["state"], second["kind"]) == ("none", "none", "drift", "benign")
    assert first["reasons"][0] == "1 of the last 1 windows drifted, 2 of 2 are needed"


def test_broken_data_stop_trainings_that_nobody_asked_for(released: Path, bases: Bases, events: list[Any]) -> None:
    """After a data bug neither drift nor the schedule trains, until a later check finds the data mended."""
    fill(released, bases, factor=100)
    assert check()["kind"] == "data_bug"
    clock.write(released, "churn", AFTER)
    for reason in ("drift", "schedule"):
        assert "found broken data" in train("churn", reason=reason)["skipped"]
    fill(released, bases, moment=AFTER + timedelta(days=7))
    assert check(AFTER + timedelta(days=7))["kind"] == "none"
    assert policy.broken(history.read(released, "churn"), AFTER + timedelta(days=8)) is None


def test_a_release_without_calibration_is_calibrated_at_the_check(
    released: Path, bases: Bases, events: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release of before calibrations and qualities were kept is judged too, and its page says so."""
    fill(released, bases, older=12)
    monkeypatch.setattr(calibration, "FILE", "none.json")
    monkeypatch.setattr(estimates, "FILE", "none.json")
    found = check()
    assert (found["kind"], found["quality"]) == ("benign", {})
    assert "The release kept no calibration" in Path(found["report"]).read_text()


def test_a_second_run_emits_nothing_new(released: Path, bases: Bases, events: list[Any]) -> None:
    """Over the same answers the result is the same, alert included; no event and no line of history are added."""
    fill(released, bases, factor=100)
    first = check()
    assert first["alert"]
    told = lines(released)
    assert check() == first
    assert len(events) == 1
    assert lines(released) == told


def test_more_answers_in_the_window_are_another_verdict(released: Path, bases: Bases, events: list[Any]) -> None:
    """New answers in the same window are judged again, with one more line, but the window asks for one training."""
    fill(released, bases)
    worse(released, bases.release["release"], 0.60)
    first = check()
    fill(released, bases, rows=600)
    second = check()
    assert second["rows"] == first["rows"] + 600
    assert first["event"]
    assert second["event"] == first["event"]
    assert (len(events), len(lines(released))) == (1, 2)


def test_within_the_cooldown_no_event_is_emitted(released: Path, bases: Bases, events: list[Any]) -> None:
    """Harm shortly after a training is reported with why it waits, and emits nothing."""
    fill(released, bases, older=12, moment=WITHIN)
    worse(released, bases.release["release"], 0.60)
    found = check(WITHIN)
    assert (found["state"], found["kind"], found["event"]) == ("drift", "harmful", None)
    assert "in cooldown until 1998-04-01" in found["waits"]
    assert events == []
    assert lines(released)[-1]["waits"] == found["waits"]


def test_emit_false_only_looks(released: Path, bases: Bases, events: list[Any]) -> None:
    """With emit=False the verdict is the same and no event leaves; a later run with it still emits one."""
    fill(released, bases, factor=100)
    looked = check(emit=False)
    assert (looked["state"], looked["alert"], events) == ("drift", None, [])
    assert check()["alert"] == events[0]["id"]


def test_a_killed_run_is_finished_with_the_same_verdict(released: Path, bases: Bases, events: list[Any]) -> None:
    """With half of the profiles there, and neither report nor verdict, the next run ends with the same result."""
    fill(released, bases, factor=100)
    first = check()
    folder = released / "profiles" / "churn"
    kept = {p.name: p.read_bytes() for p in folder.iterdir()}
    (folder / f"{first['profiles'][0]}.json").unlink()
    for suffix in ("json", "bin"):
        (folder / f"{first['profiles'][1]}.{suffix}").unlink()
    for path in (released / "reports").rglob("*.*"):
        path.unlink()
    history.path(released, "churn").write_text("".join(f"{line}\n" for line in _before_drift(released)))
    assert check() == first
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "window.bin"} == {
        k: v for k, v in kept.items() if k != "window.bin"
    }
    assert {e["id"] for e in events} == {first["alert"]}
    assert len(lines(released)) == 1


def test_a_run_killed_before_its_verdict_was_kept_tells_the_history_once(
    released: Path, bases: Bases, events: list[Any]
) -> None:
    """Killed between the history's line and the verdict's file, the next run adds no second line."""
    fill(released, bases, factor=100)
    first = check()
    Path(first["report"]).with_suffix(".json").unlink()
    assert check() == first
    assert len(lines(released)) == 1
    assert Path(first["report"]).with_suffix(".json").exists()


def test_a_check_does_not_wait_for_the_training_that_it_started(
    released: Path, bases: Bases, events: list[Any]
) -> None:
    """Killed after its event, which started a training, the next run has the same verdict; a later window waits."""
    fill(released, bases)
    worse(released, bases.release["release"], 0.60)
    first = check()
    Path(first["report"]).with_suffix(".json").unlink()
    history.append(released, "churn", "trained: HOLD", at=AFTER, reason="drift", version="2")
    assert first["event"]
    assert check() == first
    assert [line["event"] for line in lines(released)] == [first["event"]]
    later = check_drift("churn", since=AFTER - timedelta(days=1), until=AFTER + timedelta(days=2))
    assert (later["kind"], later["event"]) == ("harmful", None)
    assert "in cooldown until 1998-07-30" in later["waits"]


def test_what_the_server_did_not_get_is_told_by_the_next_check(
    released: Path, bases: Bases, events: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The history says that a training was asked for, the verdict does not, and no second line is written."""
    fill(released, bases)
    worse(released, bases.release["release"], 0.60)
    with monkeypatch.context() as patch:
        patch.setattr("flows.retraining.events.tell", lambda event, **more: False)
        first = check()
    assert (first["asks"], first["event"], events) == ("quality fell", None, [])
    second = check()
    assert second == first | {"event": lines(released)[0]["event"]}
    assert [event["id"] for event in events] == [second["event"]]
    assert check() == second
    assert (len(events), len(lines(released))) == (1, 1)


def _before_drift(home: Path) -> list[str]:
    return [line for line in history.path(home, "churn").read_text().splitlines() if '"drift' not in line]


def test_smoke_answers_do_not_count(released: Path, bases: Bases, events: list[Any]) -> None:
    """Golden rows that a release was tried with are left out, so that they cannot make or hide drift."""
    fill(released, bases)
    fill(released, bases, factor=100, smoke=True)
    found = check()
    assert (found["state"], found["rows"]) == ("none", 2_000)


def test_answers_outside_the_window_or_of_another_release_do_not_count(
    released: Path, bases: Bases, events: list[Any]
) -> None:
    """The window is half open, and another release's answers belong to its own reference."""
    fill(released, bases, rows=700)
    served = champion(released)
    rows = holdout(bases)
    for at in (AFTER - timedelta(days=1, seconds=1), AFTER + timedelta(days=1)):
        journalled(released, answers_of(served, rows, at))
    journalled(released, [r | {"release": "churn:v0-00000000"} for r in answers_of(served, rows, AFTER)])
    assert check()["rows"] == 700


def test_missing_values_are_drift_of_the_column(released: Path, bases: Bases, events: list[Any]) -> None:
    """A feature that stops arriving is named, although its remaining values look as ever."""
    rows = holdout(bases)
    gaps = rows.assign(recency_days=rows["recency_days"].where(rows["user_id"] % 3 != 0))
    journalled(released, answers_of(champion(released), gaps, AFTER))
    found = check()
    assert (found["state"], found["kind"]) == ("drift", "data_bug")
    assert "recency_days" in found["drifted"]
    assert [(s["name"], s["column"]) for s in found["signatures"]] == [("nulls", "recency_days")]
