"""Alerts: what is wrong is read from the history, told once per incident and channel, reminded of, and resolved."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flows.steps.monitoring import alerts
from flows.usecases import churn

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CASE = churn.USE_CASE


def line(action: str, minutes_ago: float = 5, **facts: Any) -> dict[str, Any]:
    at = (NOW - timedelta(minutes=minutes_ago)).isoformat()
    return {"action": action, "at": at, "wall": at, **facts}


def check(kind: str, key: str, **facts: Any) -> dict[str, Any]:
    span = {"since": "2026-02-01T00:00:00+00:00", "until": "2026-03-01T00:00:00+00:00"}
    found = {"release": "r1", "rows": 900, "reason": f"Why {key}.", "report": f"/reports/{key}.html", "key": key}
    return line(f"drift: {kind}", **{**found, **span, **facts})


def wrong(*lines: dict[str, Any]) -> tuple[alerts.Alert, ...]:
    return alerts.wrong(lines, CASE, NOW)


def told(message: alerts.Message, hours_ago: float, channel: str = "hook", action: str = "") -> dict[str, Any]:
    """The line that is kept of a message."""
    kept = {name: getattr(message, name) for name in ("kind", "key", "title", "lasting")}
    return line(action or message.state, hours_ago * 60, channel=channel, **kept)


def due(lines: tuple[dict[str, Any], ...], before: list[dict[str, Any]], hours: float = 24) -> list[alerts.Message]:
    return alerts.due(wrong(*lines), before, "hook", NOW, hours)


REVERTED = line("reverted", transaction="t1", version="2", release="r2", reason="ReleaseError: errors at 10 %")
REJECTS = [line("trained: REJECT", version=str(n), reasons=["too weak"]) for n in (4, 5, 6)]
ASKED = line("training asked", run="otter", run_id="u1", until="2026-03-01T18:00:00+00:00", question="Train?")
DEGRADED = line("degraded: high", reason="in 2026-02 it fell", release="r1", month="2026-02", severity="high")


@pytest.mark.parametrize(
    ("lines", "kind", "says"),
    [
        ([check("data_bug", "a")], "data_bug", ["Why a.", "no automatic training", "left out", "bentoflow quarantine"]),
        ([check("harmful", "a", event="e")], "harmful", ["policy auto trains", "bentoflow train", "/reports/a.html"]),
        ([check("harmful", "a", waits="in cooldown")], "harmful", ["no training now: in cooldown"]),
        ([DEGRADED, line("feedback", degraded="high")], "degradation", ["in 2026-02 it fell", "bentoflow train"]),
        ([ASKED], "question", ["Train?", "run 'otter' asks", "Silence is a no", "prefect flow-run inspect u1"]),
        (REJECTS, "breaker", ["too weak", "versions 4, 5, 6", "until a candidate that a person trained"]),
        ([check("harmful", "a", event="e") | line("drift: harmful", 99)], "automation", ["no run followed"]),
        ([REVERTED], "release", ["errors at 10 %", "the champion of before answers all", "bentoflow status"]),
        ([line("canary at 10%: stopped", walk="t1"), REVERTED], "canary", ["version 2, r2: reverted"]),
        ([line("release failed", reason="no disk")], "release", ["no disk", "nothing was changed"]),
    ],
)
def test_each_incident_says_evidence_verdict_and_command(
    lines: list[dict[str, Any]], kind: str, says: list[str]
) -> None:
    """One title, and below it what was seen, what it is taken for, what the loop does, and what to run."""
    found = {alert.kind: alert for alert in wrong(*lines)}[kind]
    assert found.title.startswith("Customer churn: ")
    assert "\n" not in found.title
    for text in (*says, "Verdict: ", "Run: "):
        assert text in found.body()


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [check("data_bug", "a"), check("none", "b")],
        [check("benign", "a")],
        [DEGRADED, line("feedback", degraded="high"), line("feedback", degraded=None)],
        [ASKED, line("training declined", by="Ann")],
        [ASKED | {"until": "2026-03-01T11:00:00+00:00"}],
        [*REJECTS, line("trained: HOLD", version="7")],
        [check("harmful", "a", event="e") | line("drift: harmful", 99), line("training held")],
        [REVERTED, line("promoted", version="3")],
        [REVERTED, line("imaged", version="3")],
        [REVERTED | line("reverted", 8 * 24 * 60)],
    ],
    ids=[
        "nothing",
        "mended",
        "benign",
        "recovered",
        "answered",
        "silence",
        "closed",
        "held",
        "released",
        "brought",
        "old",
    ],
)
def test_what_is_over_is_not_wrong(lines: list[dict[str, Any]]) -> None:
    """What a later line ended, and what never hurt, is no incident."""
    assert {alert.kind for alert in wrong(*lines)} - {"harmful"} == set()


def test_windows_of_one_incident_have_one_key() -> None:
    """Every further window that is broken too, with too few rows between, is the same; after a sound one it is new."""
    bug = [check("data_bug", key) for key in "abc"]
    keys = [wrong(*bug[:n])[0].key for n in (1, 2, 3)]
    assert len(set(keys)) == 1
    assert wrong(bug[0], check("not_enough_data", "x"), bug[1])[0].key == keys[0]
    assert wrong(bug[0], check("none", "x"), bug[1])[0].key != keys[0]
    assert wrong(bug[0], check("data_bug", "b", release="r2"))[0].key != keys[0]


def test_an_incident_is_told_once_then_reminded_of_and_resolved() -> None:
    """Not again before the reminder's time, with 0 never; when it is over its channel hears that, once."""
    bug = (check("data_bug", "a"),)
    (first,) = due(bug, [])
    assert (first.state, first.level) == ("opened", "failure")
    assert due(bug, [told(first, 23.9)]) == []
    (again,) = due(bug, [told(first, 24)])
    assert (again.state, again.title) == ("reminder", f"Still: {first.title}")
    assert due(bug, [told(first, 99)], hours=0) == []
    mended = (*bug, check("none", "b"))
    (over,) = due(mended, [told(first, 48), told(again, 24)])
    assert (over.state, over.title, over.level) == ("resolved", f"Resolved: {first.title}", "success")
    assert due(mended, [told(first, 48), told(over, 1)]) == []
    assert due(mended, []) == []


def test_a_channel_that_failed_is_told_again_and_others_are_not() -> None:
    """A failed attempt counts for nothing, and what another channel took counts for that one alone."""
    bug = (check("data_bug", "a"),)
    (first,) = due(bug, [])
    (again,) = due(bug, [told(first, 1, action="failed"), told(first, 1, channel="mail")])
    assert again == first


def test_a_failed_release_is_told_once_and_never_resolved() -> None:
    """It does not last: no reminder, and no message when the next release succeeds."""
    (first,) = due((REVERTED,), [])
    assert due((REVERTED,), [told(first, 100)]) == []
    assert due((REVERTED, line("promoted", version="3")), [told(first, 100)]) == []
