"""Mending: whether the prepared data of a quarantined period still show signs of a broken pipe."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from bentos.runtime.monitoring import signatures, sketches
from bentos.runtime.monitoring.measures import Sketch
from flows.steps.data.quarantine import Period
from flows.usecases.spec import DriftRules, UseCase


@dataclass(frozen=True, kw_only=True)
class Review:
    """What prepared data say of a period: mended or not, why, and whether its source is broken, so that later rows
    look back on it."""

    mended: bool
    why: str
    onwards: bool = False


def source_columns(case: UseCase) -> list[str]:
    """The columns of a source whose values can be compared over time: no keys, times, masks or late labels."""
    return [
        c.name
        for c in case.contract.columns
        if c.kind != "time" and c.pii == "no" and not c.delay_days and c.name not in {*case.keys, case.label}
    ]


def review(
    case: UseCase,
    period: Period,
    events: pd.DataFrame,
    features: Sequence[pd.DataFrame],
    reference: tuple[Sketch, ...],
) -> Review:
    """Compare the period's rows of the source with those before it, and its features with the release's reference.

    `events` are prepared to the period's end at least, `features` the tables of its moments. Fails closed: what cannot
    be told, because rows are too few or a column that showed the signs is not prepared, is not mended.
    """
    rules, names, at = case.drift, source_columns(case), events[case.time]
    then, now = events[at < period.since][names], events[(at >= period.since) & (at < period.until)][names]
    if min(len(then), len(now)) < rules.min_rows:
        return Review(mended=False, why=f"fewer than {rules.min_rows} prepared rows to tell by")
    if told := _signs(sketches.reference(then, bins=rules.bins), now, rules):
        return Review(mended=False, onwards=True, why=f"the prepared rows show it too: {told}")
    if any(len(frame) < rules.min_rows for frame in features):
        return Review(mended=False, why=f"fewer than {rules.min_rows} rows of prepared features to tell by")
    if told := "; ".join(filter(None, (_signs(reference, frame, rules) for frame in features))):
        return Review(mended=False, why=f"the prepared features show it too: {told}")
    seen = {*names, *(column for frame in features for column in frame)}
    if features and (hidden := [column or "whole rows" for column in period.columns if column not in seen]):
        return Review(mended=False, why=f"what it was seen in ({', '.join(hidden)}) is not among the prepared data")
    return Review(mended=True, why="no sign of it in the prepared rows and features of the period")


def _signs(reference: Iterable[Sketch], frame: pd.DataFrame, rules: DriftRules) -> str:
    """The signs of a broken pipe in a frame, of the columns that it has; "" for none."""
    shared = tuple(sketch for sketch in reference if sketch.name in frame)
    found = signatures.find(shared, sketches.bin_counts(frame, shared), (), rules)
    return "; ".join(f"column {sign.column}: {sign.text}" for sign in found)
