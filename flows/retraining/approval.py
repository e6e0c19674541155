"""Approval: a run of `train` pauses until a person has said whether to train; silence is a no.

The run pauses and is not suspended: a pause also works for a run without a deployment, and the run itself sees that
nobody answered and records it, where a suspended one would only be noticed by the next check. A pause frees the
deployment's concurrency slot, so that a person's own training can start meanwhile, but keeps its place in the worker.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.events import emit_event
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.states import Running

from bentos.runtime import clock
from flows.alerts import outbox
from flows.steps.monitoring import policy
from flows.steps.monitoring.triggers import Cause
from flows.stores import history
from flows.usecases.spec import UseCase

POLL_S = 5
EVENT = "bentoflow.training.asked"  # for an automation that notifies somebody


class Answer(RunInput):
    """What a person answers. Resuming the run without an answer is a no."""

    train: bool = False
    by: str = ""


def ask(case: UseCase, cause: Cause, evidence: str, home: Path) -> tuple[bool, str]:
    """Pause this flow run until a person answers, `answer_hours` at most; the answer and who gave it."""
    run = FlowRunContext.get().flow_run
    until = datetime.now(UTC) + timedelta(hours=case.retraining.answer_hours)
    history.append(
        home,
        case.name,
        policy.ASKED,
        at=clock.now(home, case.name),
        reason=cause.trigger,
        cause=cause.facts(),
        run=run.name,
        run_id=str(run.id),
        until=until.isoformat(),
        question=evidence,
    )
    outbox.tell(case, home, get_run_logger())
    resource = {"prefect.resource.id": f"bentoflow.{case.name}"}
    asked: dict[str, Any] = {"run": run.name, "run_id": str(run.id), "until": until.isoformat(), "question": evidence}
    emit_event(event=EVENT, resource=resource, payload=asked)
    try:
        answer = pause_flow_run(
            wait_for_input=Answer.with_initial_data(description=evidence),
            timeout=case.retraining.answer_hours * 3_600,  # type: ignore[arg-type]  # seconds, parts of them too
            poll_interval=POLL_S,
        )
    except FlowPauseTimeout:
        with get_client(sync_client=True) as client:  # else the server makes a Failed of a pause that ran out
            client.set_flow_run_state(run.id, Running(message="nobody answered"), force=True)
        return False, "silence"
    return answer.train, answer.by or "a person"


def question(case: UseCase, cause: Cause, prospect: object) -> str:
    """What the person reads: what asks for a training, on what evidence, and whether it would help."""
    return (
        f"### Train {case.title} again?\n\n"
        f"**Asked for by** {cause.trigger}, severity {cause.severity}{f', {cause.kind}' if cause.kind else ''}.\n\n"
        f"{cause.evidence}\n\n"
        f"**Would it help?** {prospect or 'Not tried.'}\n\n"
        f"Without an answer within {case.retraining.answer_hours:g} hours nothing is trained."
    )
