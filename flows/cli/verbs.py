"""The flows, by their verbs."""

from datetime import datetime
from typing import Annotated

import typer

from flows.cli.options import AsOf, Reason, UseCase, show
from flows.settings import Drill, Target

app = typer.Typer()


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
    drill: Annotated[Drill | None, typer.Option(help="plant a fault that the gates must refuse")] = None,
) -> None:
    """Train a candidate, judge it, register it with its verdict."""
    from flows.train import train as run

    result = run(use_case, as_of, reason, drill)
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
