"""The course of quality: window by window and release by release, what was estimated beside what labels measured."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flows.steps.monitoring.kinds import METRIC


@dataclass(frozen=True)
class Span:
    """A figure with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Point:
    """ROC AUC of one release in one month: estimated for the window whose middle lies in it, and measured.

    `inside` says whether what was measured on the window's own rows lies within the estimate's interval; None while
    their labels are not in.
    """

    month: str
    release: str
    promised: float | None = None
    estimated: Span | None = None
    measured: Span | None = None
    inside: bool | None = None


def course(verdicts: Iterable[Mapping[str, Any]], feedback: Mapping[str, Any]) -> tuple[Point, ...]:
    """The points in order, from the verdicts of drift checks and what `feedback` kept: `months` and `windows`.

    Of several windows in a month the one that ends last counts; broken data are no window of the model's.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    on_rows = {(w["release"], w["since"], w["until"]): w[METRIC] for w in feedback.get("windows", ())}
    for verdict in sorted(verdicts, key=lambda v: datetime.fromisoformat(v["until"])):
        level = verdict.get("quality", {}).get("estimated")
        if level is None or verdict.get("kind") == "data_bug":
            continue
        truth = on_rows.get((verdict["release"], verdict["since"], verdict["until"]))
        found[_month(verdict), verdict["release"]] = {
            "promised": level["promised"],
            "estimated": _span(level),
            "inside": None if truth is None else bool(level["low"] <= truth <= level["high"]),
        }
    for month in feedback.get("months", ()):
        at = found.setdefault((month["month"], ", ".join(month["releases"])), {})
        at["measured"] = _span(month[METRIC])
        at.setdefault("promised", month.get("promised"))
    return tuple(Point(month=month, release=release, **more) for (month, release), more in sorted(found.items()))


def kept(points: Iterable[Point]) -> tuple[int, int]:
    """How many windows were within the estimate's interval, and how many have their labels."""
    known = [point.inside for point in points if point.inside is not None]
    return sum(known), len(known)


def _month(verdict: Mapping[str, Any]) -> str:
    start, end = (datetime.fromisoformat(verdict[name]) for name in ("since", "until"))
    return f"{start + (end - start) / 2:%Y-%m}"


def _span(found: Mapping[str, float]) -> Span:
    return Span(found["value"], found["low"], found["high"])
