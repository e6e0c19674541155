"""The `bentoflow` command: thin, each verb calls the flow or the function of that name."""

import errno
import os

import typer
from pydantic import ValidationError

from flows.cli import records, stack, verbs
from flows.errors import BentoflowError
from flows.servers import blamed, chain

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A closed-loop MLOps stack: prepare, train, release, serve, watch, retrain, roll back.",
)
for group in (verbs, records, stack):
    app.add_typer(group.app)


def unwritable(error: BaseException) -> str | None:
    """What to do where a disk is full or cannot be written; None for any other error."""
    found, home = None, os.environ.get("BENTOFLOW_HOME", "the home")
    for cause in chain(error):
        if isinstance(cause, OSError) and cause.errno in FULL:
            found = f"{cause.filename or home}: {cause.strerror}"
        elif "database or disk is full" in str(cause):  # SQLite
            found = f"a database below {home}: the disk is full"
    return found and f"cannot write {found}. Free space, or name another folder in BENTOFLOW_HOME, and run it again"


def unset(error: BaseException) -> str | None:
    """Which setting cannot be what the environment says, its value left out; None for any other error."""
    if not isinstance(error, ValidationError) or error.title != "Settings":
        return None
    wrong = [f"BENTOFLOW_{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors(include_input=False)]
    return f"the environment is wrong: {'; '.join(wrong)}. Correct or unset it; flows/settings.py says what can be set"


def main() -> None:
    """Entry point: an error of ours, or of a server that a setting names, is one line and exit code 1.

    PREFECT_LOGGING_LEVEL=INFO shows the flows' log.
    """
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    try:
        app()
    except Exception as raised:
        error = blamed(raised) or raised
        ours = isinstance(error, BentoflowError) or type(error).__module__.startswith("bentos.")
        said = f"{type(error).__name__}: {error}" if ours else unwritable(raised) or unset(raised)
        if said is None:
            raise
        typer.secho(said, fg=typer.colors.RED, err=True)
        raise SystemExit(1) from None
