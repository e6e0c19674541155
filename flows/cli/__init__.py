"""The `bentoflow` command: thin, each verb calls the flow or the function of that name."""

import os

import typer

from flows.cli import records, stack, verbs
from flows.errors import BentoflowError
from flows.servers import blamed

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A closed-loop MLOps stack: prepare, train, release, serve, watch, retrain, roll back.",
)
for group in (verbs, records, stack):
    app.add_typer(group.app)


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
