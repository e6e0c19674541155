"""Outbox: after every flow each channel is told what is wrong and new to it, at least once, and kept is what it took.

Sent here and not by a notifying automation of prefect.yaml, because an automation knows no incident: it tells every
event again, reminds of nothing, sees no end, and where its own message fails only the server's log says so. The events
stay, for who wants automations of their own on the open-source server or on Cloud.

At least once: a message is sent, then recorded, so that a kill in between tells twice and never not at all. A channel
that fails is tried again by the next flow of the use case, and fails no flow.
"""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect.client.schemas.objects import FlowRun
from prefect.flows import Flow
from prefect.logging.loggers import flow_run_logger
from prefect.states import State

from bentos.runtime import clock
from flows import usecases
from flows.alerts import channels
from flows.errors import AlertError
from flows.settings import settings
from flows.steps.monitoring import alerts
from flows.steps.monitoring.alerts import Message
from flows.stores import history, locks
from flows.usecases.spec import UseCase

LOG = "log"  # the channel that is always there
Log = logging.Logger | logging.LoggerAdapter[logging.Logger]
Hook = Callable[[Flow[..., Any], FlowRun, State[Any]], None]
Failed = Callable[[str, FlowRun, object], None]


def tell(case: UseCase, home: Path, log: Log) -> None:
    """Tell every channel what it has still to be told; what goes wrong is logged and kept, never raised."""
    try:
        with locks.held(home, f"alerts-{case.name}", wait=True):
            _tell(case, home, log)
    except Exception:
        log.exception("alerts of %s could not be told; the next flow tries again", case.name)


def _tell(case: UseCase, home: Path, log: Log) -> None:
    now, chosen = datetime.now(UTC), settings()
    wrong = alerts.wrong(history.read(home, case.name), case, now)
    told = history.read(folder(home), case.name)
    if not wrong and not told:
        return
    for message in alerts.due(wrong, told, LOG, now, chosen.alert_reminder_hours):
        level = {"failure": logging.ERROR, "warning": logging.WARNING, "success": logging.INFO}[message.level]
        log.log(level, "%s\n%s", message.title, message.body)
        _keep(case.name, home, message, LOG)
    for channel in channels.configured(chosen.alerts.get_secret_value(), chosen.key()):
        for message in alerts.due(wrong, told, channel.name, now, chosen.alert_reminder_hours):
            try:
                channels.send(channel, message.title, message.body, message.level)
            except AlertError as error:
                log.error("an alert was not sent, the next flow tries again: %s", error)
                _keep(case.name, home, message, channel.name, error=str(error))
                break  # the channel is down: what else it has to be told waits too
            _keep(case.name, home, message, channel.name)


def _keep(use_case: str, home: Path, message: Message, channel: str, error: str = "") -> None:
    facts = {name: getattr(message, name) for name in ("kind", "key", "title", "lasting")}
    action = "failed" if error else message.state
    more = {"error": error} if error else {}
    history.append(folder(home), use_case, action, at=clock.now(home, use_case), channel=channel, **facts, **more)


def folder(home: Path) -> Path:
    """Below it lies what was told, a file of lines per use case."""
    return home / "alerts"


def listed(use_case: str, home: Path) -> list[str]:
    """What was told, oldest first, a line each."""
    return [
        f"{line['wall'][:16]} {line['action']:<8} {line['channel']}: {line['title']}"
        + (f" ({line['error']})" if "error" in line else "")
        for line in history.read(folder(home), use_case)
    ]


def tried() -> dict[str, str]:
    """A test message to every configured channel: what came back of each, "sent" or the error."""
    chosen, found = settings(), {}
    for channel in channels.configured(chosen.alerts.get_secret_value(), chosen.key()):
        try:
            channels.send(channel, "Bentoflow: a test", "Alerts of Bentoflow will arrive here.", "success")
            found[channel.name] = "sent"
        except AlertError as error:
            found[channel.name] = f"NOT SENT: {error}"
    return found


def hooks(failed: Failed | None = None) -> dict[str, list[Hook]]:
    """Hooks of a flow, after which its use case's channels are told, however the run ended.

    `failed` gets use case, run and error (None where the process was killed) of a run that failed, before that.
    """

    def ended(flow: Flow[..., Any], run: FlowRun, state: State[Any]) -> None:
        use_case = run.parameters.get("use_case") or "churn"
        if failed is not None and (state.is_failed() or state.is_crashed()):
            failed(use_case, run, state.data if isinstance(state.data, Exception) else _error(state))
        if run.parameters.get("emit", True):
            tell(usecases.load(use_case), settings().home, flow_run_logger(run, flow))

    return {end: [ended] for end in ("on_completion", "on_failure", "on_crashed", "on_cancellation")}


def _error(state: State[Any]) -> object:
    try:
        return state.result(raise_on_failure=False)
    except Exception:  # of a run in another process nothing is left but the state's message
        return None
