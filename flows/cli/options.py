"""Options that several commands share, and how a result is shown."""

import json
from datetime import datetime
from typing import Annotated, Any

import typer

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
