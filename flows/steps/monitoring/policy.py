"""What a check of drift leads to: whether it asks for a training, and whether one may start now."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from flows.steps.monitoring.triggers import AUTOMATIC, RANK, Cause
from flows.usecases.spec import DriftRules, Retraining

RETRY_DAYS = 1  # after a training that started and left no verdict
BLOCK_DAYS = 31  # that a broken pipe stops automatic trainings, unless a later check finds it mended
BUDGET_DAYS = 7
BROKEN = "drift: data_bug"
STARTED, ASKED, DECLINED, HELD = "training started", "training asked", "training declined", "training held"

Lines = Iterable[dict[str, Any]]


def asks(kind: str, earlier: Sequence[str], rules: DriftRules) -> str:
    """Why a window asks for a training, "" if it does not; `earlier` are the kinds of the windows before, newest last.

    Harm does. Benign drift does only where the use case declares it, after so many windows in a row; a broken pipe, too
    few rows and no drift never do.
    """
    if kind == "harmful":
        return "quality fell"
    needed = rules.refresh_windows
    row = [*earlier, kind][-needed:] if needed else []
    if needed and len(row) == needed and set(row) == {"benign"}:
        return f"benign drift in {needed} windows in a row: a refresh on newer labels"
    return ""


def held(history: Lines, now: datetime, cause: Cause, rules: Retraining, cooldown_days: int) -> str | None:
    """Why an automatic training must wait, or None: breaker, cooldown, an earlier no, budget; a person never waits.

    The cooldown and an earlier no hold up what was measured; a schedule has its own pace.
    """
    if not cause.automatic:
        return None
    lines = list(history)
    measured = cause.by_measurement
    return (
        breaker(lines, rules)
        or (cooldown(lines, now, cooldown_days) if measured else None)
        or (quiet(lines, now, cause, rules) if measured else None)
        or budget(lines, now, rules)
    )


def broken(history: Lines, now: datetime) -> str | None:
    """Why no automatic training may start, or None: the newest check of drift found a broken pipe, not long ago."""
    checks = [line for line in history if str(line["action"]).startswith("drift: ")]
    if not checks or checks[-1]["action"] != BROKEN:
        return None
    when = datetime.fromisoformat(checks[-1]["at"])
    if now >= when + timedelta(days=BLOCK_DAYS):
        return None
    return f"the drift check of {when.date()} found broken data; mend it and check again, or train by hand"


def breaker(history: Lines, rules: Retraining) -> str | None:
    """Why only a person may train, or None: so many candidates in a row were rejected; drills do not count.

    Any later candidate that is not rejected closes it, and since none is trained automatically, a person's does.
    """
    judged = [line for line in history if str(line["action"]).startswith("trained: ") and not line.get("drill")]
    row = judged[-rules.breaker :]
    if len(row) < rules.breaker or {line["action"] for line in row} != {"trained: REJECT"}:
        return None
    numbers = ", ".join(str(line.get("version", "?")) for line in row)
    return (
        f"the last {rules.breaker} candidates (versions {numbers}) were rejected; look at their gates, then train by "
        "hand: a candidate that is not rejected lets automatic trainings start again"
    )


def budget(history: Lines, now: datetime, rules: Retraining) -> str | None:
    """Why an automatic training must wait, or None: so many started in the last 7 days, on the use case's clock."""
    began = [
        when
        for line in history
        if line["action"] == STARTED and line.get("reason") in AUTOMATIC and not line.get("drill")
        for when in [datetime.fromisoformat(line["at"])]
        if now - timedelta(days=BUDGET_DAYS) < when <= now
    ]
    if len(began) < rules.budget:
        return None
    free = sorted(began)[-rules.budget] + timedelta(days=BUDGET_DAYS)
    return (
        f"the budget of {rules.budget} automatic trainings in {BUDGET_DAYS} days is used up until "
        f"{free:%Y-%m-%d %H:%M}; train by hand, or declare a larger one"
    )


def quiet(history: Lines, now: datetime, cause: Cause, rules: Retraining) -> str | None:
    """Why a trigger must wait, or None: as severe a one was declined less than `quiet_days` ago."""
    declined = [
        line
        for line in history
        if line["action"] == DECLINED
        and RANK[str((line.get("cause") or {}).get("severity", "low"))] >= RANK[cause.severity]
        and now < datetime.fromisoformat(line["at"]) + timedelta(days=rules.quiet_days)
    ]
    if not declined:
        return None
    when = datetime.fromisoformat(declined[-1]["at"])
    until = when + timedelta(days=rules.quiet_days)
    return f"declined on {when.date()} by {declined[-1].get('by', 'nobody')}: quiet until {until.date()}"


def cooldown(history: Lines, now: datetime, days: int) -> str | None:
    """Why a drift-triggered training must wait, or None: the last judged one is under `days` ago, or one just failed.

    Both times are on the use case's clock; drills do not count. Fewer days than the label's horizon bring no new
    labels to learn from.
    """
    lines = [line for line in history if _trained(str(line["action"])) and not line.get("drill")]
    waits = [
        (when + timedelta(days=wait), when, wait)
        for line in lines
        for when in [datetime.fromisoformat(line["at"])]
        for wait in [RETRY_DAYS if line["action"] == STARTED else days]
    ]
    if not waits or now >= max(waits)[0]:
        return None
    until, when, wait = max(waits)
    return f"in cooldown until {until.date()}: trained {when.date()}, {wait} days apart"


def _trained(action: str) -> bool:
    return action == STARTED or action.startswith("trained")


def unfollowed(history: Lines, now: datetime, minutes: float) -> str | None:
    """That an event asked for a training and no run of it followed in time, or None; `now` is wall time.

    A run leaves a line whatever it decides. An automation fails silently: its event was delivered, its run never made.
    """
    lines = list(history)
    asked = [line for line in lines if line.get("event") and str(line["action"]).startswith(("drift: ", "degraded: "))]
    if not asked:
        return None
    event = asked[-1]["event"]
    first = next(i for i, line in enumerate(lines) if line.get("event") == event)
    answers = (STARTED, ASKED, DECLINED, HELD)
    if any(line["action"] in answers and not line.get("drill") for line in lines[first + 1 :]):
        return None
    emitted = datetime.fromisoformat(lines[first]["wall"])
    if now < emitted + timedelta(minutes=minutes):
        return None
    return (
        f"an event asked for a training at {emitted:%Y-%m-%d %H:%M} UTC ({lines[first]['action']}) and no run followed "
        f"within {minutes:g} minutes: the automation, the worker or the run itself failed. See the server's events "
        "`prefect.automation.action.failed` and its late runs, `bentoflow up` starts the worker; or train by hand"
    )


def open_question(history: Lines, now: datetime) -> str | None:
    """The question whether to train that waits for an answer, or None; `now` is wall time."""
    asked = [line for line in history if line["action"] in (STARTED, ASKED, DECLINED)]
    if not asked or asked[-1]["action"] != ASKED or now >= datetime.fromisoformat(asked[-1]["until"]):
        return None
    line = asked[-1]
    return f"run '{line['run']}' asks whether to train, until {line['until'][:16]} UTC; answer on its page in Prefect"
