"""The demo, and the processes of the whole stack."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import UseCase
from flows.settings import settings

app = typer.Typer()


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
