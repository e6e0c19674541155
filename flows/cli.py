"""The `bentoflow` command: thin, each verb calls the flow or the function of that name."""

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.errors import BentoflowError
from flows.servers import blamed
from flows.settings import Target, settings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A closed-loop MLOps stack: prepare, train, release, serve, watch, retrain, roll back.",
)

UseCase = Annotated[str, typer.Option("--use-case", "-u", envvar="BENTOFLOW_USE_CASE", help="which use case")]
AsOf = Annotated[datetime | None, typer.Option(help="as it was known then, UTC (default: now)")]
Reason = Annotated[str, typer.Option(help="why; kept in the history")]


def show(result: dict[str, Any]) -> None:
    """A result as readable lines on standard output."""
    width = max(map(len, result), default=0)
    for key, value in result.items():
        if isinstance(value, list) and value and not isinstance(value[0], dict):
            typer.echo(f"{key:<{width}}  {value[0]}")
            for item in value[1:]:
                typer.echo(f"{'':<{width}}  {item}")
        else:
            typer.echo(f"{key:<{width}}  {json.dumps(value) if isinstance(value, dict | list) else value}")


@app.command()
def demo(
    customers: Annotated[int, typer.Option(min=600, help="customers replayed per month, or payments per day")] = 2_500,
    reset: Annotated[bool, typer.Option(help="start over even if the home holds other work")] = False,
    use_case: UseCase = "churn",
) -> None:
    """Run the whole closed loop on real purchases, or on another use case's data; ends with a page."""
    from flows.demos.loop import demo as run

    run(settings(), customers=customers, reset=reset, say=typer.echo, use_case=use_case)


@app.command()
def prepare(
    use_case: UseCase = "churn",
    as_of: AsOf = None,
    source: Annotated[str | None, typer.Option(help="another location of a file source, for this run")] = None,
) -> None:
    """Source, contract, snapshot, feature tables, online store."""
    from flows.prepare import prepare as run

    kind = "parquet" if source and not source.endswith(".csv") else "csv"
    show(run(use_case, as_of, {"url": source, "format": kind} if source else None))


@app.command()
def train(
    use_case: UseCase = "churn",
    as_of: AsOf = None,
    reason: Reason = "manual",
    drill: Annotated[str | None, typer.Option(help="plant a fault that the gates must refuse: shuffled_labels")] = None,
) -> None:
    """Train a candidate, judge it, register it with its verdict."""
    from flows.train import train as run

    result = run(use_case, as_of, reason, drill)  # type: ignore[arg-type]
    show({k: v for k, v in result.items() if k not in {"metrics", "dummy"}})


@app.command()
def release(
    use_case: UseCase = "churn",
    version: Annotated[str | None, typer.Option(help="default: the challenger")] = None,
    reason: Reason = "manual",
    canary: Annotated[
        str, typer.Option(help="percentages of entities to answer first, judged one by one: 1,10,50,100")
    ] = "",
    min_answers: Annotated[int, typer.Option(min=1, help="rows that each step of the canary waits for")] = 200,
    step_minutes: Annotated[float, typer.Option(min=0, help="how long a step waits for them at most")] = 60.0,
    labels: Annotated[str | None, typer.Option(help="parquet with request_id and label, for early quality")] = None,
    target: Annotated[Target | None, typer.Option(help="default: BENTOFLOW_TARGET, else local")] = None,
) -> None:
    """Release a version whose gates said PROMOTE, at once or as a canary that is judged step by step."""
    from flows.release import release as run
    from flows.walk import parsed

    waits = {"min_answers": min_answers, "step_minutes": step_minutes}
    show(run(use_case, version, target=target, reason=reason, steps=parsed(canary), labels=labels, **waits))


@app.command()
def rollback(use_case: UseCase = "churn", reason: Reason = "manual") -> None:
    """Back to the previous release: model, threshold, features and reference."""
    from flows.rollback import rollback as run

    show(run(use_case, reason))


@app.command()
def shadow(
    use_case: UseCase = "churn",
    version: Annotated[str | None, typer.Option(help="default: the challenger")] = None,
    off: Annotated[bool, typer.Option("--off", help="take the shadow off")] = False,
    arm: Annotated[str, typer.Option(help="shadow-<name> for a second one")] = "shadow",
    reason: Reason = "manual",
) -> None:
    """Let a promoted version score what is answered, journalled apart and answering nobody; or take it off."""
    from flows.shadow import shadow as run

    show(run(use_case, version, off, arm, reason))


@app.command("check-drift")
def check_drift(use_case: UseCase = "churn", since: AsOf = None, until: AsOf = None) -> None:
    """Compare the champion's answers of a window with its reference; report, and event on drift."""
    from flows.check_drift import check_drift as run

    show(run(use_case, since, until))


@app.command()
def score(
    use_case: UseCase = "churn",
    table: Annotated[str | None, typer.Argument(help="parquet or csv; default: all known")] = None,
    out: Annotated[str | None, typer.Option(help="folder of the result")] = None,
    as_of: AsOf = None,
) -> None:
    """Score a table with the champion, to parquet."""
    from flows.score import score as run

    show(run(use_case, table, out, as_of))


@app.command()
def feedback(
    use_case: UseCase = "churn",
    as_of: AsOf = None,
    labels: Annotated[
        str | None, typer.Option(help="parquet with request_id and label; default: from the prepared events")
    ] = None,
) -> None:
    """Join mature labels to the journal and measure live quality."""
    from flows.feedback import feedback as run

    show(run(use_case, as_of, labels))


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


@app.command()
def backtest(
    use_case: UseCase = "churn",
    since: Annotated[
        datetime | None, typer.Option(help="first moment of the replay, UTC (default: as early as can be)")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(help="as it was known then, UTC (default: the newest prepare)")
    ] = None,
    step_days: Annotated[int | None, typer.Option(min=1, help="days between decisions, where rows are events")] = None,
    search: Annotated[bool, typer.Option(help="search at every training, or only at the first one")] = True,
    gates: Annotated[bool, typer.Option(help="whether the gates decide if a new model answers")] = True,
) -> None:
    """Replay the prepared history under retraining policies: quality against compute, and a recommendation."""
    from flows.backtest import backtest as run

    result = run(use_case, since, until, step_days, search, gates)
    from flows.steps.pages.backtest import summary

    show(summary(result))


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
def up(use_case: UseCase = "churn") -> None:
    """Start Prefect, a worker with every deployment, MLflow and the service."""
    from flows.stack import up as run

    run(settings(), use_case, typer.echo)


@app.command()
def down() -> None:
    """Stop what `up` or a demo started."""
    from flows.stack import down as run

    run(settings(), typer.echo)


@app.command()
def exporter() -> None:
    """Serve the loop's state at /metrics for Prometheus, until Ctrl-C; BENTOFLOW_EXPORTER_PORT, 9105."""
    from flows.exporter import serve

    serve(settings(), typer.echo)


@app.command()
def home() -> None:
    """Print where all state lies."""
    typer.echo(Path(settings().home))


def main() -> None:
    """Entry point: an error of ours, or of a server that a setting names, is one line and exit code 1.

    PREFECT_LOGGING_LEVEL=INFO shows the flows' log.
    """
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    try:
        app()
    except Exception as raised:
        error = blamed(raised) or raised
        if not isinstance(error, BentoflowError) and not type(error).__module__.startswith("bentos."):
            raise
        typer.secho(f"{type(error).__name__}: {error}", fg=typer.colors.RED, err=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
