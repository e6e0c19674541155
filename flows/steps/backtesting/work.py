"""The work of a replay: what policies ask to be done, each piece once whoever asks, with what it cost."""

from collections.abc import Callable, Hashable
from typing import Any, cast

import pandas as pd

from flows.steps.backtesting import past as pasts
from flows.steps.backtesting import watching
from flows.steps.backtesting.past import Past
from flows.steps.backtesting.trained import Costed, Trained, costed
from flows.steps.gating.gates import Verdict
from flows.steps.monitoring.kinds import Level
from flows.steps.training import metrics
from flows.steps.training.arrays import Table
from flows.steps.training.prospect import Prospect
from flows.steps.training.resampling import Floats

METRIC = "brier_skill"  # what policies are compared by: the gates' own measure of a gain
SHOWN = (METRIC, "roc_auc")
DRAWS = 200  # resamples of a window for the interval that is shown

Train = Callable[[pd.Timestamp], Costed[Trained]]
Judge = Callable[[Trained, Trained | None], Costed[Verdict]]
Quality = dict[str, dict[str, float]]


class Work:
    """Pieces of work, each done once and billed to everybody who asks at what it cost then."""

    def __init__(self, past: Past, train: Train, judge: Judge) -> None:
        self.past, self.trained = past, train
        self._judge = judge
        self._done: dict[Hashable, Any] = {}

    def judged(self, made: Trained, champion: Trained | None) -> Costed[Verdict]:
        """What the gates say of a training beside the model in charge."""
        key = ("judged", made.name, champion and champion.name)
        return cast(Costed[Verdict], self._once(key, lambda: self._judge(made, champion)))

    def seen(self, model: Trained, start: pd.Timestamp) -> Costed[watching.Sight]:
        """The model's answers from a moment to the next one, against its reference."""
        rows = pasts.answered(self.past, start)
        key = ("seen", model.name, start)
        return cast(
            Costed[watching.Sight],
            self._once(key, lambda: costed(lambda: watching.look(self.past.case, model, rows))),
        )

    def measured(self, model: Trained, before: pd.Timestamp, moment: pd.Timestamp) -> Costed[Level | None]:
        """What the labels that matured between two moments say of the model's own answers."""
        everything = self.past.rows
        new = pasts.mature(self.past, everything, moment) & ~pasts.mature(self.past, everything, before)
        key = ("measured", model.name, moment)
        return cast(
            Costed[Level | None],
            self._once(key, lambda: costed(lambda: watching.measured(self.past.case, model, everything.part(new)))),
        )

    def prospect(self, model: Trained, moment: pd.Timestamp) -> Costed[Prospect]:
        """Whether a training at a moment would help, by a quick fit."""
        tables = pasts.examples(self.past, moment)
        key = ("prospect", model.name, moment)
        return cast(
            Costed[Prospect],
            self._once(key, lambda: costed(lambda: watching.quick_fit(self.past.case, model, tables))),
        )

    def quality(self, model: Trained, moment: pd.Timestamp) -> tuple[int, Quality]:
        """How many rows came next, and how well the model answers them; the backtest's own cost, nobody's bill."""
        rows = pasts.answered(self.past, moment)
        key = ("quality", model.name, moment)
        scores = self._once(("scores", model.name, moment), lambda: model.scorer.score(rows.x))
        return len(rows.y), cast(Quality, self._once(key, lambda: _quality(rows, scores, self.past.case.seed)))

    def scores(self, model: str, moment: pd.Timestamp) -> Floats:
        """The scores [n] that a model, by its name, gave the rows that came next; KeyError if it was not asked."""
        return cast(Floats, self._done["scores", model, moment])

    def _once(self, key: Hashable, work: Callable[[], Any]) -> Any:
        if key not in self._done:
            self._done[key] = work()
        return self._done[key]


def _quality(rows: Table, scores: Floats, seed: int) -> Quality:
    """The shown metrics with intervals; {} where the rows have one class, or hardly a row of one."""
    groups = rows.entities if rows.grouped else None
    try:
        found = metrics.bootstrap(rows.y, scores, 0.5, metrics=SHOWN, n=DRAWS, seed=seed, groups=groups)
    except ValueError:
        return {}
    return {name: {"value": i.value, "low": i.low, "high": i.high} for name, i in found.items()}
