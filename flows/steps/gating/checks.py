"""The gates that measure the candidate on its own, each one thing against one limit of the rules.

A gate may raise: `gates.judge` counts that as failed.
"""

import numpy as np

from flows.steps.gating.evidence import Evidence, GateResult
from flows.steps.training.metrics import classification, column_auc
from flows.usecases.spec import GateRules

MIN_DISTINCT = 3
MIN_SD = 1e-6


def rows_scored(e: Evidence, rules: GateRules) -> GateResult:
    """Every test row has a candidate's and a dummy's score, and both classes occur; the value is rows of the rarer."""
    rows = {"labels": len(e.y), "scores": len(e.scores), "dummy scores": len(e.dummy_scores), "feature rows": len(e.x)}
    if e.champion_scores is not None:
        rows["champion scores"] = len(e.champion_scores)
    negatives, positives = int(np.sum(e.y == 0)), int(np.sum(e.y == 1))
    rarer = min(negatives, positives)
    passed = set(rows.values()) == {negatives + positives} and rarer >= 1
    counted = ", ".join(f"{count} {what}" for what, count in rows.items())
    reason = f"{counted}, all the same is required; {rarer} rows of the rarer class, at least 1 is required"
    return GateResult("rows_scored", passed, "REJECT", rarer, 1, reason)


def score_sanity(e: Evidence, rules: GateRules) -> GateResult:
    """Scores are numbers within 0..1 that differ: at least 3 distinct ones, standard deviation at least 1e-6."""
    bad = np.flatnonzero(~((e.scores >= 0) & (e.scores <= 1)))
    if len(bad):
        reason = f"{len(bad)} scores are not within 0..1, first {e.scores[bad[0]]} in row {bad[0]}; 0 are allowed"
        return GateResult("score_sanity", False, "REJECT", len(bad), 0, reason)
    distinct, sd = len(np.unique(e.scores)), float(np.std(e.scores))
    passed = distinct >= MIN_DISTINCT and sd >= MIN_SD
    reason = f"{distinct} distinct scores, deviation {sd:.3g}; at least {MIN_DISTINCT} and {MIN_SD:g} are required"
    return GateResult("score_sanity", passed, "REJECT", distinct, MIN_DISTINCT, reason)


def feature_order(e: Evidence, rules: GateRules) -> GateResult:
    """The exported model's inputs are the features, in their order; the value counts positions that differ."""
    length = max(len(e.names), len(e.exported_names), e.x.shape[1])
    given, exported = ((*names, *["nothing"] * (length - len(names))) for names in (e.names, e.exported_names))
    wrong = [i for i in range(length) if given[i] != exported[i] or given[i] == "nothing"]
    where = f", first position {wrong[0]}: '{given[wrong[0]]}' is exported as '{exported[wrong[0]]}'" if wrong else ""
    reason = f"{len(wrong)} of {length} positions differ{where}; 0 are allowed"
    return GateResult("feature_order", length > 0 and not wrong, "REJECT", len(wrong), 0, reason)


def parity(e: Evidence, rules: GateRules) -> GateResult:
    """The exported model scores like the fitted one; a negative difference is no measurement and fails."""
    limit = rules.max_parity
    reason = f"exported and fitted scores differ by up to {e.parity:.3g}, at most {limit:.3g} is allowed"
    return GateResult("parity", 0 <= e.parity <= limit, "REJECT", e.parity, limit, reason)


def latency(e: Evidence, rules: GateRules) -> GateResult:
    """A single row is scored fast enough; 0 or less is no measurement and fails."""
    limit = rules.max_latency_us
    reason = f"one row takes {e.latency_us:.6g} us, at most {limit:.6g} us is allowed"
    return GateResult("latency", 0 < e.latency_us <= limit, "REJECT", e.latency_us, limit, reason)


def freshness(e: Evidence, rules: GateRules) -> GateResult:
    """The test rows are recent; a test cut-off in the future fails too."""
    limit = rules.max_test_age_days
    reason = f"the test cut-off is {e.test_age_days} days old, 0 to {limit} days are allowed"
    reason += f"; {e.left_out} rows of quarantined periods are left out" if e.left_out else ""
    return GateResult("freshness", 0 <= e.test_age_days <= limit, "REJECT", e.test_age_days, limit, reason)


def leakage(e: Evidence, rules: GateRules) -> GateResult:
    """No column alone tells the label, and the model is not too good to be true."""
    single = {name: column_auc(e.y, e.x[:, i]) for i, name in enumerate(e.names)}
    name = max(single, key=lambda key: single[key])
    highest, limit = single[name], rules.max_single_feature_auc
    alone = f"column '{name}' alone has ROC AUC {highest:.4f}, at most {limit:.4f} is allowed"
    if not highest <= limit:
        return GateResult("leakage", False, "REJECT", highest, limit, alone)
    auc, limit = _measured(e)["roc_auc"], rules.max_roc_auc
    reason = f"test ROC AUC is {auc:.4f}, above {limit:.4f} it is too good to be true; {alone}"
    return GateResult("leakage", auc <= limit, "REJECT", auc, limit, reason)


def score_direction(e: Evidence, rules: GateRules) -> GateResult:
    """Higher scores mean label 1: ROC AUC is at least 0.5."""
    auc = _measured(e)["roc_auc"]
    reason = f"ROC AUC is {auc:.4f}, below 0.5 the scores are inverted"
    return GateResult("score_direction", auc >= 0.5, "REJECT", auc, 0.5, reason)


def floor_roc_auc(e: Evidence, rules: GateRules) -> GateResult:
    """ROC AUC reaches its floor."""
    return _floor("floor_roc_auc", _measured(e)["roc_auc"], rules.min_roc_auc, "ROC AUC")


def floor_average_precision(e: Evidence, rules: GateRules) -> GateResult:
    """Average precision reaches its floor."""
    value = _measured(e)["average_precision"]
    return _floor("floor_average_precision", value, rules.min_average_precision, "average precision")


def floor_precision(e: Evidence, rules: GateRules) -> GateResult:
    """Precision at the decision threshold reaches its floor."""
    value = _measured(e)["precision"]
    return _floor("floor_precision", value, rules.min_precision, f"precision at threshold {e.threshold:.4g}")


def floor_recall(e: Evidence, rules: GateRules) -> GateResult:
    """Recall at the decision threshold reaches its floor."""
    value = _measured(e)["recall"]
    return _floor("floor_recall", value, rules.min_recall, f"recall at threshold {e.threshold:.4g}")


def accuracy_above_trivial(e: Evidence, rules: GateRules) -> GateResult:
    """More rows are answered rightly than by giving everybody the majority class."""
    measured = _measured(e)
    value, limit = measured["accuracy"], measured["trivial_accuracy"]
    reason = f"accuracy is {value:.4f}, more than the {limit:.4f} of always answering the majority class is required"
    return GateResult("accuracy_above_trivial", value > limit, "REJECT", value, limit, reason)


def brier_skill(e: Evidence, rules: GateRules) -> GateResult:
    """Brier skill against the base rate reaches its floor."""
    return _floor("brier_skill", _measured(e)["brier_skill"], rules.min_brier_skill, "Brier skill")


def calibration(e: Evidence, rules: GateRules) -> GateResult:
    """Scores mean what they say: the expected calibration error is small."""
    value, limit = _measured(e)["calibration_error"], rules.max_calibration_error
    reason = f"calibration error is {value:.4f}, at most {limit:.4f} is allowed"
    return GateResult("calibration", value <= limit, "REJECT", value, limit, reason)


def _measured(e: Evidence) -> dict[str, float]:
    return classification(e.y, e.scores, e.threshold)


def _floor(name: str, value: float, limit: float, what: str) -> GateResult:
    reason = f"{what} is {value:.4f}, at least {limit:.4f} is required"
    return GateResult(name, value >= limit, "REJECT", value, limit, reason)
