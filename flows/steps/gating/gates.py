"""The gates: named checks that a candidate must pass, and the verdict that follows from them.

Fails closed: what raises, is missing, measures nothing finite or cannot be judged has failed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from flows.steps.gating.checks import (
    accuracy_above_trivial,
    brier_skill,
    calibration,
    feature_order,
    floor_average_precision,
    floor_precision,
    floor_recall,
    floor_roc_auc,
    freshness,
    latency,
    leakage,
    parity,
    rows_scored,
    score_direction,
    score_sanity,
)
from flows.steps.gating.comparisons import better_than_dummy, champion_gain, champion_not_worse, group_gap, worst_slice
from flows.steps.gating.evidence import Evidence, Floats, GateResult
from flows.usecases.spec import GateRules

__all__ = [
    "GATES",
    "REQUIRED",
    "Evidence",
    "Floats",
    "Gate",
    "GateResult",
    "Verdict",
    "as_markdown",
    "from_dict",
    "judge",
    "to_dict",
]

Gate = Callable[[Evidence, GateRules], GateResult]

# The most specific first: what stands above explains a failure of what stands below.
GATES: tuple[Gate, ...] = (
    rows_scored,
    score_sanity,
    feature_order,
    parity,
    latency,
    freshness,
    leakage,
    score_direction,
    better_than_dummy,
    calibration,
    worst_slice,
    group_gap,
    floor_roc_auc,
    floor_average_precision,
    floor_precision,
    floor_recall,
    accuracy_above_trivial,
    brier_skill,
    champion_not_worse,
    champion_gain,
)

# Written out, not derived from GATES: a gate that is dropped above is missed here.
REQUIRED = (
    "rows_scored",
    "score_sanity",
    "feature_order",
    "parity",
    "latency",
    "freshness",
    "leakage",
    "score_direction",
    "better_than_dummy",
    "calibration",
    "worst_slice",
    "group_gap",
    "floor_roc_auc",
    "floor_average_precision",
    "floor_precision",
    "floor_recall",
    "accuracy_above_trivial",
    "brier_skill",
    "champion_not_worse",
    "champion_gain",
)

# Judged whatever the scores are; every other gate needs rows_scored and score_sanity to have passed.
SCORELESS = ("rows_scored", "score_sanity", "feature_order", "parity", "latency", "freshness")


@dataclass(frozen=True)
class Verdict:
    """What becomes of a candidate, every gate's answer in order, and sentences that say why."""

    verdict: Literal["PROMOTE", "HOLD", "REJECT"]
    results: tuple[GateResult, ...]
    reasons: tuple[str, ...]


def judge(evidence: Evidence, rules: GateRules, *, gates: Sequence[Gate] = GATES) -> Verdict:
    """Run every gate: any failed REJECT gate rejects, else any failed HOLD gate holds, else the candidate is promoted.

    Never raises for what a gate does: a gate that raises, answers under another name, or reports a value or limit that
    is not finite has failed with REJECT, and so has every gate of REQUIRED that is not in the list.
    """
    results: list[GateResult] = []
    for gate in gates:
        name = getattr(gate, "__name__", repr(gate))
        blocker = next((r.name for r in results if r.name in ("rows_scored", "score_sanity") and not r.passed), None)
        if blocker is not None and name not in SCORELESS:
            results.append(_failed(name, f"not judged: {blocker} failed"))
        else:
            results.append(_run(name, gate, evidence, rules))
    judged = {result.name for result in results}
    results += [
        _failed(name, "required, but missing from the list of gates") for name in REQUIRED if name not in judged
    ]
    verdict = _verdict(results)
    failed = sorted((r for r in results if not r.passed), key=lambda r: r.on_fail == "HOLD")
    decisive = failed or [r for r in results if r.name in ("better_than_dummy", "champion_gain")]
    return Verdict(verdict, tuple(results), tuple(f"{r.name}: {r.reason}" for r in decisive))


def _run(name: str, gate: Gate, evidence: Evidence, rules: GateRules) -> GateResult:
    try:
        result = gate(evidence, rules)
        if result.name != name:
            return _failed(name, f"the gate answered under the name '{result.name}'")
        # A gate may have compared numpy values, whose True is not Python's.
        result = replace(
            result,
            passed=bool(result.passed),
            value=_plain(result.value),
            limit=_plain(result.limit),
            on_fail="HOLD" if result.on_fail == "HOLD" else "REJECT",
        )
    except Exception as error:
        return _failed(name, f"raised {type(error).__name__}: {error}")
    for what, number in (("value", result.value), ("limit", result.limit)):
        if number is not None and not math.isfinite(number):
            return _failed(name, f"the {what} is {number}, a finite number is required; {result.reason}")
    return result


def _plain(number: float | None) -> float | None:
    return None if number is None else float(number)


def _failed(name: str, reason: str) -> GateResult:
    return GateResult(name, False, "REJECT", None, None, reason)


def _verdict(results: Sequence[GateResult]) -> Literal["PROMOTE", "HOLD", "REJECT"]:
    failed = {result.on_fail for result in results if not result.passed}
    if failed - {"HOLD"} or not results:
        return "REJECT"
    return "HOLD" if failed else "PROMOTE"


def as_markdown(verdict: Verdict) -> str:
    """The verdict as a table for people, failed gates first."""
    passed = sum(result.passed for result in verdict.results)
    lines = [
        f"**{verdict.verdict}**: {passed} of {len(verdict.results)} gates passed.",
        "",
        "| gate | | value | limit | what it says |",
        "|---|---|---:|---:|---|",
    ]
    for r in sorted(verdict.results, key=lambda r: r.passed):
        shown = [("–" if number is None else f"{number:.5g}") for number in (r.value, r.limit)]
        said = r.reason.replace("|", "\\|").replace("\n", " ")
        lines.append(f"| {r.name} | {'passed' if r.passed else r.on_fail} | {shown[0]} | {shown[1]} | {said} |")
    return "\n".join(lines) + "\n"


def to_dict(verdict: Verdict) -> dict[str, Any]:
    """The verdict as JSON types."""
    return {
        "verdict": verdict.verdict,
        "results": [asdict(result) for result in verdict.results],
        "reasons": list(verdict.reasons),
    }


def from_dict(stored: Mapping[str, Any]) -> Verdict:
    """The verdict that `to_dict` stored; raises ValueError when it does not follow from its own results."""
    results = tuple(GateResult(**result) for result in stored["results"])
    verdict = _verdict(results)
    if stored["verdict"] != verdict:
        raise ValueError(
            f"stored verdict '{stored['verdict']}', but its {len(results)} gates say '{verdict}'; "
            "judge the version again"
        )
    return Verdict(verdict, results, tuple(stored["reasons"]))
