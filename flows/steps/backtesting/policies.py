"""Retraining policies that a backtest compares: never, by schedule, and by what is measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

Watch = Literal["drift", "degradation"]
PERIODS = (("daily", "D", 1), ("weekly", "W", 7), ("monthly", "M", 28), ("quarterly", "Q", 90))  # name, pandas, days
NEVER = "never"


@dataclass(frozen=True, kw_only=True)
class Policy:
    """When to train again: at each new `period` of the calendar, or when one of `watches` asks for it."""

    name: str
    says: str
    period: str = ""
    watches: tuple[Watch, ...] = ()

    def due(self, moment: pd.Timestamp, last: pd.Timestamp) -> bool:
        """Whether a new period began since the last training of the schedule."""
        now, then = (m.tz_localize(None) for m in (moment, last))
        return bool(self.period) and now.to_period(self.period) != then.to_period(self.period)


def choices(moments: Sequence[pd.Timestamp], step_days: float) -> tuple[Policy, ...]:
    """The policies worth comparing: schedules no finer than the step, each with at least one training in the past."""
    span = (moments[-1] - moments[0]).days if len(moments) else 0
    scheduled = [
        Policy(name=name, says=f"trains {name}", period=code)
        for name, code, days in PERIODS
        if step_days <= days + 3 and days <= span  # a month of 31 days is one
    ]
    return (
        Policy(name=NEVER, says="keeps the first model"),
        *scheduled,
        Policy(name="drift", says="trains when answers, without labels, ask for it", watches=("drift",)),
        Policy(name="performance", says="trains when mature labels show a loss", watches=("degradation",)),
        Policy(
            name="drift and performance",
            says="trains when either asks, as the closed loop does",
            watches=("drift", "degradation"),
        ),
    )


ORACLE = Policy(name="oracle", says="trains at every step and knows beforehand which model will do best")
