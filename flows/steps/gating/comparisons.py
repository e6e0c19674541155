"""The gates that compare: with the dummy, between slices and groups, and with the champion on the same rows.

Intervals are percentile bootstraps with the rules' `confidence` and number of resamples, seeded by the evidence.
A gate may raise: `gates.judge` counts that as failed.
"""

from typing import Any

import numpy as np

from flows.steps.gating.evidence import Evidence, GateResult
from flows.steps.training.metrics import MIN_CLASS_ROWS, Interval, bootstrap, paired_gain, slice_table
from flows.steps.training.resampling import Floats
from flows.usecases.spec import GateRules

COIN_BRIER = 0.25
MIN_DUMMY_GAIN = 0.01


def better_than_dummy(e: Evidence, rules: GateRules) -> GateResult:
    """Better than the dummy beyond noise: the interval of Brier skill gained is above 0.01, of ROC AUC above 0.5.

    Above 0 would not do: a linear model of shuffled labels points in some direction, and where that is right by luck
    it surely gains a little, up to 2 sqrt(k R2 / n) for k features and n training rows. A use case with less skill to
    be had declares a smaller positive `min_brier_skill`, which then is the limit.
    """
    limit = min(MIN_DUMMY_GAIN, rules.min_brier_skill) if rules.min_brier_skill > 0 else MIN_DUMMY_GAIN
    gain = _gain(e, rules, e.dummy_scores)
    reason = f"Brier skill against the dummy is {_shown(gain)}; an interval above {limit:.4f} is required"
    if not gain.low > limit:
        return GateResult("better_than_dummy", False, "REJECT", gain.low, limit, reason)
    auc = bootstrap(
        e.y,
        e.scores,
        e.threshold,
        metrics=("roc_auc",),
        n=rules.bootstrap,
        confidence=rules.confidence,
        seed=e.seed,
        groups=e.entities,
    )["roc_auc"]
    reason = f"ROC AUC is {_shown(auc)}; an interval above 0.5 is required; {reason}"
    return GateResult("better_than_dummy", auc.low > 0.5, "REJECT", auc.low, 0.5, reason)


def worst_slice(e: Evidence, rules: GateRules) -> GateResult:
    """No slice is ruined; judged are slices with `min_slice_rows` rows.

    A slice is ruined when the upper bound of its ROC AUC is below `min_slice_auc`, or when the whole paired interval
    of its loss against the champion is above `max_slice_loss` (the whole, because many slices are looked at). Where a
    class has fewer than 10 rows, ROC AUC means nothing: there Brier must not be above 0.25, a coin's.
    """
    table = slice_table(
        e.y,
        e.scores,
        e.threshold,
        e.slices,
        e.champion_scores,
        min_rows=rules.min_slice_rows,
        n=rules.bootstrap,
        confidence=rules.confidence,
        seed=e.seed,
        groups=e.entities,
    )
    judged = [row for row in table if row["judged"]]
    if not judged:
        reason = f"none of {len(table)} slices has the {rules.min_slice_rows} rows to be judged"
        return GateResult("worst_slice", True, "REJECT", None, rules.min_slice_auc, reason)
    found = [_slice_result(row, rules) for row in judged]
    ruined = [result for result in found if not result.passed]
    return min(ruined or found, key=lambda result: _margin(result))


def _slice_result(row: dict[str, Any], rules: GateRules) -> GateResult:
    where = f"slice '{row['slice']}' ({row['rows']} rows)"
    if row["roc_auc"] is None:
        reason = (
            f"{where} has fewer than {MIN_CLASS_ROWS} rows of a class and Brier {row['brier']:.4f}, "
            f"at most {COIN_BRIER} is allowed"
        )
        return GateResult("worst_slice", row["brier"] <= COIN_BRIER, "REJECT", row["brier"], COIN_BRIER, reason)
    if row["loss"] is not None and row["loss_low"] > rules.max_slice_loss:
        reason = (
            f"{where} lost {row['loss']:.4f} of ROC AUC against the champion, surely {row['loss_low']:.4f}; "
            f"at most {rules.max_slice_loss:.4f} is allowed"
        )
        return GateResult("worst_slice", False, "REJECT", row["loss_low"], rules.max_slice_loss, reason)
    high, limit = row["roc_auc_high"], rules.min_slice_auc
    reason = f"{where} has ROC AUC {row['roc_auc']:.4f}, at best {high:.4f}; at least {limit:.4f} is required"
    return GateResult("worst_slice", high >= limit, "REJECT", high, limit, reason)


def _margin(result: GateResult) -> float:
    """Distance from value to limit: the smallest belongs to the slice that is closest to ruin."""
    assert result.value is not None
    assert result.limit is not None
    return abs(result.value - result.limit) * (1 if result.passed else -1)


def group_gap(e: Evidence, rules: GateRules) -> GateResult:
    """Groups of the sensitive column are answered with 1 about equally often; judged are groups with enough rows."""
    limit = rules.max_group_gap
    if e.group is None:
        return GateResult("group_gap", True, "REJECT", None, limit, "no sensitive column is declared")
    if len(e.group) != len(e.scores):
        raise ValueError(f"{len(e.group)} group values for {len(e.scores)} scores; give one per row")
    names, counts = np.unique(e.group, return_counts=True)
    answered = e.scores >= e.threshold
    rates = {str(name): float(answered[e.group == name].mean()) for name in names[counts >= rules.min_slice_rows]}
    if len(rates) < 2:
        reason = f"{len(rates)} groups have the {rules.min_slice_rows} rows to be compared"
        return GateResult("group_gap", True, "REJECT", None, limit, reason)
    low, high = min(rates, key=lambda key: rates[key]), max(rates, key=lambda key: rates[key])
    gap = rates[high] - rates[low]
    reason = (
        f"'{high}' is answered with 1 in {rates[high]:.4f} of rows, '{low}' in {rates[low]:.4f}: "
        f"a gap of {gap:.4f}, at most {limit:.4f} is allowed"
    )
    return GateResult("group_gap", gap <= limit, "REJECT", gap, limit, reason)


def champion_not_worse(e: Evidence, rules: GateRules) -> GateResult:
    """The candidate is not worse than the champion by the paired interval of Brier skill on the same rows.

    Rejected when it is surely worse (upper bound below 0) and the loss may exceed `max_loss` (lower bound below
    -max_loss). A wide interval around 0 is ignorance, not harm, and a sure loss within max_loss is harmless: neither
    rejects, and neither is promoted, since `champion_gain` asks for a lower bound above 0.
    """
    limit = -rules.max_loss
    champion = _champion(e)
    if champion is None:
        return GateResult("champion_not_worse", True, "REJECT", None, limit, "first version: no champion to lose to")
    gain = _gain(e, rules, champion)
    reason = (
        f"Brier skill against the champion is {_shown(gain)}; an interval that is all below 0 and reaches below "
        f"{limit:.4f} is rejected"
    )
    return GateResult("champion_not_worse", gain.high >= 0 or gain.low >= limit, "REJECT", gain.low, limit, reason)


def champion_gain(e: Evidence, rules: GateRules) -> GateResult:
    """The candidate beats the champion beyond noise and by enough; else the champion stays (HOLD)."""
    limit = rules.min_gain
    champion = _champion(e)
    if champion is None:
        return GateResult("champion_gain", True, "HOLD", None, limit, "first version: no champion to beat")
    gain = _gain(e, rules, champion)
    reason = (
        f"Brier skill against the champion is {_shown(gain)}; a gain of {limit:.4f} and an interval above 0 are "
        "required"
    )
    return GateResult("champion_gain", gain.low > 0 and gain.value >= limit, "HOLD", gain.value, limit, reason)


def _champion(e: Evidence) -> Floats | None:
    if e.champion_scores is None and e.champion_threshold is not None:
        raise ValueError(f"a champion with threshold {e.champion_threshold} but no scores; score it on the test rows")
    return e.champion_scores


def _gain(e: Evidence, rules: GateRules, other: Floats) -> Interval:
    return paired_gain(
        e.y, e.scores, other, n=rules.bootstrap, confidence=rules.confidence, seed=e.seed, groups=e.entities
    )


def _shown(i: Interval) -> str:
    return f"{i.value:+.4f} ({i.low:+.4f} to {i.high:+.4f})"
