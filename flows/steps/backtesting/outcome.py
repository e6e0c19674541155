"""The outcome of a backtest as plain facts, as it is kept and shown."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from flows.steps.backtesting.past import Past
from flows.steps.backtesting.policies import ORACLE
from flows.steps.backtesting.replay import Run
from flows.steps.backtesting.work import SHOWN


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is replayed how: from when, `step_days` of event rows, a `search` at every training, gates that decide."""

    since: pd.Timestamp | None
    step_days: int | None
    search: bool
    gated: bool


def replayed(past: Past, options: Options, moments: Sequence[pd.Timestamp]) -> dict[str, Any]:
    """What was replayed, and the command that does it again."""
    case = past.case
    command = f"bentoflow backtest --use-case {case.name} --until {past.until.date()}"
    command += f" --since {options.since.date()}" if options.since is not None else ""
    command += f" --step-days {options.step_days}" if options.step_days else ""
    command += ("" if options.search else " --no-search") + ("" if options.gated else " --no-gates")
    return {
        "use_case": case.name,
        "since": moments[0].isoformat(),
        "until": past.until.isoformat(),
        "step": past.step,
        "windows": len(moments),
        "search": options.search,
        "gated": options.gated,
        "command": command,
    }


def facts(run: Run) -> dict[str, Any]:
    """A policy's run: sums, means over the windows, and its steps; CPU seconds."""
    means = {name: float(np.nanmean(run.values(name))) for name in SHOWN}
    return {
        "name": run.policy.name,
        "says": run.policy.says,
        "mean": means,
        "trainings": run.trainings,
        "promoted": None if run.policy is ORACLE else sum(step.outcome == "PROMOTE" for step in run.steps),
        "training_s": sum(step.training_s for step in run.steps),
        "watching_s": sum(step.watching_s for step in run.steps),
        "rows_fitted": sum(step.fitted for step in run.steps),
        "steps": [asdict(step) for step in run.steps],
    }
