"""Kinds of drift: whether inputs moved, whether that hurts, and whether the world changed or the pipe broke."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bentos.runtime.monitoring.drift import Verdict
from bentos.runtime.monitoring.signatures import Signature
from flows.usecases.spec import DriftRules

Kind = Literal["none", "benign", "harmful", "data_bug", "not_enough_data"]
METRIC = "roc_auc"
BLIND = "Estimates come from the scores alone: a changed relation between inputs and label shows once labels are in."


@dataclass(frozen=True, kw_only=True)
class Promise:
    """ROC AUC that the gates measured for a release on the rows held out `since` a date: windows are held to it."""

    value: float
    low: float
    high: float
    since: str

    def __str__(self) -> str:
        interval = f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"
        return f"ROC AUC {interval}, measured by the gates on the rows held out from {self.since} on"


@dataclass(frozen=True, kw_only=True)
class Level:
    """ROC AUC of a window beside the value of the release's promise; `how` it is known."""

    how: Literal["estimated", "measured"]
    value: float
    low: float
    high: float
    promised: float

    def fell(self, rules: DriftRules) -> bool:
        """Whether it is below the promise by more than its interval and by more than the stated share."""
        return self.high < self.promised and self.value < self.promised * (1 - rules.max_quality_loss)

    def __str__(self) -> str:
        return f"{self.how} ROC AUC {self.value:.3f} ({self.low:.3f} to {self.high:.3f}), promised {self.promised:.3f}"


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The kind of a window, the sentence that says why, and the evidence for it."""

    kind: Kind
    why: str
    signatures: tuple[Signature, ...] = ()
    levels: tuple[Level, ...] = ()


def level(how: Literal["estimated", "measured"], found: Mapping[str, Any], promise: Promise | None) -> Level | None:
    """The window's level from `{metric: {value, low, high}}` and the promise; None where either is unknown."""
    if METRIC not in found or promise is None:
        return None
    return Level(how=how, promised=promise.value, **{k: float(found[METRIC][k]) for k in ("value", "low", "high")})


def judge(
    verdict: Verdict,
    signatures: tuple[Signature, ...],
    estimated: Level | None = None,
    measured: Level | None = None,
) -> Judgement:
    """The kind of a window from its drift verdict, the signs of a broken pipe, and its quality.

    A broken pipe comes first: what was learned from such a window would be wrong, whatever quality says. Measured
    quality needs no moved input, estimated quality does. Whether `benign` may start a refresh is the use case's policy.
    """
    levels = tuple(found for found in (estimated, measured) if found is not None)
    moved = [column.name for column in verdict.columns if column.drifted]
    listed = ", ".join(moved[:3]) + (" and more" if len(moved) > 3 else "")
    if verdict.state == "not_enough_data":
        kind: Kind = "not_enough_data"
        why = verdict.reasons[0]
    elif signatures:
        kind, told = "data_bug", [f"column {s.column}: {s.text}" if s.column else s.text for s in signatures]
        why = f"{'; '.join(told[:3])}. A model trained on this would learn the mistake"
    elif measured is not None and measured.fell(verdict.rules):
        kind, why = "harmful", f"quality fell: {measured}"
    elif verdict.state == "drift" and estimated is not None and estimated.fell(verdict.rules):
        kind, why = "harmful", f"inputs moved ({listed}) and quality fell: {estimated}"
    elif verdict.state == "drift":
        held = f"quality did not fall: {'; '.join(map(str, levels))}" if levels else "nothing is known of quality"
        kind, why = "benign", f"inputs moved ({listed}), {held}"
    else:
        kind, why = "none", f"none of {len(verdict.columns)} columns moved beyond its limits"
    return Judgement(kind=kind, why=f"{why[:1].upper()}{why[1:]}.", signatures=signatures, levels=levels)
