"""What is known of models, answers, alerts and broken data."""

from typing import Annotated

import typer

from flows.cli.options import UseCase, show
from flows.settings import settings

app = typer.Typer()


@app.command()
def status(use_case: UseCase = "churn") -> None:
    """What is champion, since when and why; the last verdicts; the journal's size."""
    from flows.status import status as run

    show(run(settings(), use_case))


@app.command()
def explain(request_id: str, use_case: UseCase = "churn") -> None:
    """Where an answer came from; recomputes its score and says equal or not."""
    from flows.explain import explain as run

    found = run(request_id, use_case)
    show(found)
    if not found["equal"]:
        raise typer.Exit(1)


@app.command()
def reproduce(version: str, use_case: UseCase = "churn") -> None:
    """Retrain a version from its snapshot, parameters and seed, and compare."""
    from flows.explain import reproduce as run

    found = run(use_case, version)
    show(found)
    if not found["equal"]:
        raise typer.Exit(1)


@app.command()
def card(version: str, use_case: UseCase = "churn") -> None:
    """A version's model card, Markdown."""
    from flows.stores import registry

    typer.echo(registry.card(registry.get(use_case, version)))


@app.command()
def alerts(
    use_case: UseCase = "churn",
    test: Annotated[
        bool, typer.Option("--test", help="send a test message to every channel of BENTOFLOW_ALERTS")
    ] = False,
) -> None:
    """What was told to whom, oldest first; or try every channel."""
    from flows.alerts import outbox

    if not test:
        for line in outbox.listed(use_case, settings().home) or ["no alert was ever told"]:
            typer.echo(line)
        return
    found = outbox.tried()
    show(found or {"BENTOFLOW_ALERTS": "names no channel: alerts go to the history and the log only"})
    if any(said != "sent" for said in found.values()):
        raise typer.Exit(1)


@app.command()
def quarantine(
    use_case: UseCase = "churn",
    lift: Annotated[str | None, typer.Option(help="id of a period whose data may be trained on again")] = None,
    reason: Annotated[str, typer.Option(help="why it is lifted; kept in the history")] = "",
) -> None:
    """Periods of broken data, which are left out of trainings until a person or a prepare lifts them."""
    from flows.retraining import isolation

    if lift is not None:
        typer.echo(f"lifted {isolation.lift(use_case, lift, reason, settings().home)}")
    for line in isolation.listed(use_case, settings().home) or ["nothing was ever quarantined"]:
        typer.echo(line)
