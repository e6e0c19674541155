"""Alerts: what is wrong now, read from a use case's history, and what of it each channel has still to be told.

Nothing is remembered in a process: what was not sent, because it was killed or its channel was down, is still wrong in
the history when the next run looks.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from flows.steps.data import quarantine
from flows.steps.monitoring import policy
from flows.usecases.spec import UseCase

Level = Literal["failure", "warning", "success"]
State = Literal["opened", "reminder", "resolved"]
RECENT = timedelta(days=7)  # after which a release that failed is news to nobody
REACHED = ("promoted", "rolled back", "imaged")
ENDED = (*REACHED, "reverted", "release failed")
Line = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Alert:
    """One incident under its own key; a `lasting` one is reminded of and resolved, another is told once."""

    kind: str
    key: str
    title: str
    evidence: str
    verdict: str
    loop: str  # what the loop does about it by itself
    command: str
    report: str = ""
    level: Level = "failure"
    lasting: bool = True

    def body(self) -> str:
        """The message below the title."""
        report = f"Report: {self.report}\n" if self.report else ""
        verdict = f"Verdict: {self.verdict}\nThe loop: {self.loop}"
        return f"{self.evidence}\n\n{verdict}\n{report}Run: {self.command}"


@dataclass(frozen=True, kw_only=True)
class Message:
    """What one channel has to be told."""

    state: State
    kind: str
    key: str
    title: str
    body: str
    level: Level
    lasting: bool


def wrong(history: Sequence[Line], case: UseCase, now: datetime) -> tuple[Alert, ...]:
    """Every incident that the history shows to be open; `now` is wall time."""
    looks: tuple[Callable[[Sequence[Line], UseCase, datetime], Alert | None], ...] = (
        _drift,
        _degraded,
        _question,
        _breaker,
        _unfollowed,
        _released,
    )
    return tuple(alert for look in looks if (alert := look(history, case, now)) is not None)


def due(
    alerts: Iterable[Alert], told: Iterable[Line], channel: str, now: datetime, reminder_hours: float
) -> list[Message]:
    """What a channel has to be told: what is new to it, what lasts, and what of the things it knows is over."""
    newest = {line["key"]: line for line in told if line["channel"] == channel and line["action"] != "failed"}
    current, found = {alert.key: alert for alert in alerts}, []
    for key, alert in current.items():
        line = newest.get(key)
        if line is None or line["action"] == "resolved":
            found.append(_message(alert, "opened", alert.title))
        elif alert.lasting and 0 < reminder_hours <= _hours(line, now):
            found.append(_message(alert, "reminder", f"Still: {alert.title}"))
    for key, line in newest.items():
        if key not in current and line["lasting"] and line["action"] != "resolved":
            told_at = f"{datetime.fromisoformat(line['wall']):%Y-%m-%d %H:%M} UTC"
            over = Message(
                state="resolved",
                kind=line["kind"],
                key=key,
                title=f"Resolved: {line['title'].removeprefix('Still: ')}",
                body=f"The newest look at it does not find it any more. It was told last at {told_at}.",
                level="success",
                lasting=True,
            )
            found.append(over)
    return found


def _message(alert: Alert, state: State, title: str) -> Message:
    return Message(
        state=state,
        kind=alert.kind,
        key=alert.key,
        title=title,
        body=alert.body(),
        level=alert.level,
        lasting=alert.lasting,
    )


def _hours(line: Line, now: datetime) -> float:
    return (now - datetime.fromisoformat(line["wall"])).total_seconds() / 3_600


def _drift(history: Sequence[Line], case: UseCase, now: datetime) -> Alert | None:
    """Broken data or harm: an incident is an unbroken row of such checks of a release, too few rows not counted."""
    checks = [
        line
        for line in history
        if str(line["action"]).startswith("drift: ") and line["action"] != "drift: not_enough_data"
    ]
    if not checks or checks[-1]["action"] not in (policy.BROKEN, "drift: harmful"):
        return None
    newest, first = checks[-1], checks[-1]
    for line in reversed(checks):
        if (line["action"], line.get("release")) != (newest["action"], newest.get("release")):
            break
        first = line
    kind = str(newest["action"]).removeprefix("drift: ")
    span = f"{str(newest.get('since', ''))[:16]} to {str(newest.get('until', ''))[:16]}"
    broken = kind == "data_bug"
    return Alert(
        kind=kind,
        key=f"{kind}|{newest.get('release')}|{first.get('key')}",
        title=f"{case.title}: {'broken data' if broken else 'harmful drift'}",
        evidence=str(newest.get("reason", "")),
        verdict=f"{kind} in {newest.get('rows')} answers of {newest.get('release')}, {span}",
        loop=_isolates(history) if broken else _trains(newest, case),
        command=f"bentoflow {'quarantine' if broken else 'train'} --use-case {case.name}",
        report=str(newest.get("report", "")),
    )


def _isolates(history: Sequence[Line]) -> str:
    ids = ", ".join(period.id for period in quarantine.holding(history)) or "none"
    return f"no automatic training until a check finds it mended; left out of every training: quarantine {ids}"


def _trains(line: Line, case: UseCase) -> str:
    """What follows from a measurement that asks for a training."""
    if line.get("waits"):
        return f"no training now: {line['waits']}"
    if not line.get("event"):
        return "no training was asked for"
    does = {"auto": "trains", "ask": "asks a person first", "never": "only records it"}[case.retraining.policy]
    return f"an event asked for a training; the policy {case.retraining.policy} {does}"


def _degraded(history: Sequence[Line], case: UseCase, now: datetime) -> Alert | None:
    """Measured quality below the promise, as the newest feedback has it."""
    runs = [line for line in history if line["action"] == "feedback"]
    found = [line for line in history if str(line["action"]).startswith("degraded: ")]
    if not found or not runs or not runs[-1].get("degraded"):
        return None
    line = found[-1]
    return Alert(
        kind="degradation",
        key=f"degradation|{line.get('release')}|{line.get('month')}|{line.get('severity')}",
        title=f"{case.title}: live quality fell, severity {line.get('severity')}",
        evidence=str(line.get("reason", "")),
        verdict=f"measured by labels of {line.get('month')}, {line.get('release')}",
        loop=_trains(line, case),
        command=f"bentoflow train --use-case {case.name}",
    )


def _question(history: Sequence[Line], case: UseCase, now: datetime) -> Alert | None:
    text = policy.open_question(history, now)
    if text is None:
        return None
    line = [line for line in history if line["action"] == policy.ASKED][-1]
    return Alert(
        kind="question",
        key=f"question|{line['run_id']}",
        title=f"{case.title}: train again? An answer is needed until {str(line['until'])[:16]} UTC",
        evidence=str(line.get("question", "")),
        verdict=f"asked for by {line.get('reason')}",
        loop=f"{text}. Silence is a no",
        command=f"prefect flow-run inspect {line['run_id']}",
        level="warning",
    )


def _breaker(history: Sequence[Line], case: UseCase, now: datetime) -> Alert | None:
    text = policy.breaker(history, case.retraining)
    if text is None:
        return None
    judged = [line for line in history if str(line["action"]).startswith("trained: ") and not line.get("drill")]
    sound = [i for i, line in enumerate(judged) if line["action"] != "trained: REJECT"]
    first = judged[sound[-1] + 1 if sound else 0]
    return Alert(
        kind="breaker",
        key=f"breaker|{first.get('version')}",
        title=f"{case.title}: automatic trainings stopped by the breaker",
        evidence=" ".join(map(str, judged[-1].get("reasons", ()))) or text,
        verdict=text,
        loop="no automatic training until a candidate that a person trained is not rejected",
        command=f"bentoflow train --use-case {case.name}",
    )


def _unfollowed(history: Sequence[Line], case: UseCase, now: datetime) -> Alert | None:
    text = policy.unfollowed(history, now, case.retraining.notice_minutes)
    if text is None:
        return None
    asked = [
        line for line in history if line.get("event") and str(line["action"]).startswith(("drift: ", "degraded: "))
    ]
    return Alert(
        kind="automation",
        key=f"automation|{asked[-1]['event']}",
        title=f"{case.title}: a training was asked for and did not start",
        evidence=text,
        verdict="an event that no run followed",
        loop="nothing until the automation works again; the next event is a new try",
        command=f"bentoflow train --use-case {case.name}",
    )


def _released(history: Sequence[Line], case: UseCase, now: datetime) -> Alert | None:
    """A release that did not come to its end, told once; a later one that did makes it old."""
    ends = [line for line in history if line["action"] in ENDED]
    if not ends or ends[-1]["action"] in REACHED:
        return None
    line = ends[-1]
    if now - datetime.fromisoformat(line["wall"]) > RECENT:
        return None
    mark = line.get("transaction")
    walked = any(mark and past.get("walk") == mark and str(past["action"]).endswith("stopped") for past in history)
    return Alert(
        kind="canary" if walked else "release",
        key=f"release|{mark or line['wall']}",
        title=f"{case.title}: {'a canary was reverted' if walked else 'a release failed'}",
        evidence=str(line.get("reason", "")),
        verdict=f"version {line.get('version')}, {line.get('release')}: {line['action']}",
        loop="the champion of before answers all" if mark else "nothing was changed",
        command=f"bentoflow status --use-case {case.name}",
        lasting=False,
    )
