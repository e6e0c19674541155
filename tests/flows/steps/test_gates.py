import json
from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
import pytest

from flows.steps.gating import gates
from flows.steps.gating.evidence import Evidence, GateResult
from flows.steps.training import metrics
from flows.usecases.spec import GateRules

RULES = GateRules(min_roc_auc=0.7, min_average_precision=0.5, min_precision=0.5, min_recall=0.5, bootstrap=80)


def healthy() -> Evidence:
    """2,000 calibrated scores, a champion that is a little worse, slices and groups large enough to be judged."""
    rng = np.random.default_rng(1)
    z = rng.normal(0.5, 1.6, 2_000)
    scores = 1 / (1 + np.exp(-z))
    y = (rng.random(2_000) < scores).astype(np.int64)
    champion = 1 / (1 + np.exp(-(z * 0.7 + rng.normal(0, 0.9, 2_000))))
    first = np.arange(2_000) < 900
    return Evidence(
        y=y,
        scores=scores,
        dummy_scores=np.full(2_000, y.mean()),
        threshold=0.5,
        x=np.column_stack([z + rng.normal(0, 2, 2_000), rng.normal(size=2_000)]),
        names=("a", "b"),
        exported_names=("a", "b"),
        parity=1e-8,
        latency_us=50.0,
        test_age_days=100,
        champion_scores=champion,
        champion_threshold=0.5,
        slices={"first": first, "rest": ~first},
        group=np.where(np.arange(2_000) % 2 == 0, "even", "odd"),
    )


HEALTHY = healthy()


def with_scores(scores: np.ndarray) -> Evidence:
    return replace(HEALTHY, scores=scores)


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(HEALTHY.scores)


def in_first(scores: np.ndarray) -> np.ndarray:
    return np.where(HEALTHY.slices["first"], scores, HEALTHY.scores)


FAULTS: dict[str, Evidence] = {
    "rows_scored": replace(HEALTHY, scores=HEALTHY.scores[:-1]),
    "score_sanity": with_scores(np.where(np.arange(2_000) == 3, np.nan, HEALTHY.scores)),
    "feature_order": replace(HEALTHY, exported_names=("b", "a")),
    "parity": replace(HEALTHY, parity=1e-3),
    "latency": replace(HEALTHY, latency_us=9_000.0),
    "freshness": replace(HEALTHY, test_age_days=365),
    "leakage": replace(HEALTHY, x=np.column_stack([HEALTHY.x[:, 0], HEALTHY.y])),
    "score_direction": with_scores(1 - HEALTHY.scores),
    "better_than_dummy": with_scores(noise()),
    "calibration": with_scores(HEALTHY.scores**2),
    "worst_slice": with_scores(in_first(noise())),
    "group_gap": replace(HEALTHY, group=np.where(HEALTHY.scores > 0.6, "high", "low")),
    "floor_roc_auc": with_scores(noise()),
    "floor_average_precision": replace(HEALTHY, y=1 - HEALTHY.y),
    "floor_precision": replace(HEALTHY, y=1 - HEALTHY.y),
    "floor_recall": replace(HEALTHY, threshold=0.99),
    "accuracy_above_trivial": replace(HEALTHY, threshold=0.99),
    "brier_skill": with_scores(noise()),
    "champion_not_worse": with_scores(noise()),
    "champion_gain": replace(HEALTHY, champion_scores=HEALTHY.scores),
}

# The rule behind each limit, and whether values must stay below (max) or above (min) it.
LIMITS = {
    "parity": ("max_parity", "max"),
    "latency": ("max_latency_us", "max"),
    "freshness": ("max_test_age_days", "max"),
    "calibration": ("max_calibration_error", "max"),
    "worst_slice": ("min_slice_auc", "min"),
    "group_gap": ("max_group_gap", "max"),
    "floor_roc_auc": ("min_roc_auc", "min"),
    "floor_average_precision": ("min_average_precision", "min"),
    "floor_precision": ("min_precision", "min"),
    "floor_recall": ("min_recall", "min"),
    "brier_skill": ("min_brier_skill", "min"),
    "leakage": ("max_roc_auc", "max"),
    "champion_gain": ("min_gain", "min"),
}


def alone(gate: gates.Gate, evidence: Evidence, rules: GateRules = RULES) -> GateResult:
    return gates.judge(evidence, rules, gates=[gate]).results[0]


def named(name: str) -> gates.Gate:
    return next(gate for gate in gates.GATES if gate.__name__ == name)


def made(name: str, body: Callable[[Evidence, GateRules], GateResult]) -> tuple[gates.Gate, ...]:
    """Gates that all pass, but for the one with the given body."""

    def gate(other: str) -> gates.Gate:
        def run(e: Evidence, rules: GateRules) -> GateResult:
            return body(e, rules) if other == name else GateResult(other, True, "REJECT", 0.0, 0.0, "ok")

        run.__name__ = other
        return run

    return tuple(gate(other) for other in gates.REQUIRED)


def test_every_gate_is_covered_here() -> None:
    """Required names, gates and planted faults are the same list."""
    assert tuple(gate.__name__ for gate in gates.GATES) == gates.REQUIRED
    assert set(FAULTS) == set(gates.REQUIRED)


def test_healthy_evidence_is_promoted() -> None:
    """All gates pass on the healthy candidate, and the reasons carry its gain."""
    verdict = gates.judge(HEALTHY, RULES)
    assert [r.name for r in verdict.results if not r.passed] == []
    assert verdict.verdict == "PROMOTE"
    assert verdict.reasons[-1].startswith("champion_gain: Brier skill against the champion is +")


@pytest.mark.parametrize("name", gates.REQUIRED)
def test_gate_fails_on_its_fault(name: str) -> None:
    """Each gate passes on healthy evidence and fails on its own fault, with a sentence that holds numbers."""
    assert alone(named(name), HEALTHY).passed
    result = alone(named(name), FAULTS[name])
    assert not result.passed
    assert result.name == name
    assert result.value is not None
    assert any(digit in result.reason for digit in "0123456789")
    assert result.on_fail == ("HOLD" if name == "champion_gain" else "REJECT")


@pytest.mark.parametrize("name", gates.REQUIRED)
def test_fault_is_not_promoted(name: str) -> None:
    """The whole list rejects every fault, and only holds a candidate that merely does not gain."""
    verdict = gates.judge(FAULTS[name], RULES)
    assert verdict.verdict == ("HOLD" if name == "champion_gain" else "REJECT")
    assert any(reason.startswith(f"{name}: ") for reason in verdict.reasons)


@pytest.mark.parametrize("name", LIMITS)
def test_the_limit_itself_passes(name: str) -> None:
    """A value exactly at its limit passes, and the smallest step beyond fails."""
    rule, side = LIMITS[name]
    value = alone(named(name), HEALTHY).value
    assert value is not None
    beyond = value - 1 if name == "freshness" else float(np.nextafter(value, -np.inf if side == "max" else np.inf))
    assert alone(named(name), HEALTHY, replace(RULES, **{rule: value})).passed
    assert not alone(named(name), HEALTHY, replace(RULES, **{rule: beyond})).passed


@pytest.mark.parametrize("name", gates.REQUIRED)
def test_a_gate_that_raises_rejects(name: str) -> None:
    """An exception inside a gate is a failure with its text, whatever the gate does on failing."""

    def boom(e: Evidence, rules: GateRules) -> GateResult:
        raise RuntimeError("no such file")

    verdict = gates.judge(HEALTHY, RULES, gates=made(name, boom))
    assert verdict.verdict == "REJECT"
    assert f"{name}: raised RuntimeError: no such file" in verdict.reasons


@pytest.mark.parametrize("name", gates.REQUIRED)
@pytest.mark.parametrize("number", [float("nan"), float("inf"), np.float64("nan")])
def test_a_value_or_limit_that_is_no_number_rejects(name: str, number: float) -> None:
    """A gate that says passed with a NaN or infinite value or limit has failed."""
    for value, limit in ((number, 0.0), (0.0, number)):
        verdict = gates.judge(
            HEALTHY, RULES, gates=made(name, lambda e, r, v=value, m=limit: GateResult(name, True, "HOLD", v, m, "ok"))
        )
        assert verdict.verdict == "REJECT"
        assert verdict.reasons[0].startswith(f"{name}: the ")


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("parity", "parity"),
        ("latency_us", "latency"),
        ("test_age_days", "freshness"),
        ("threshold", "floor_recall"),
    ],
)
def test_nan_evidence_rejects(field: str, name: str) -> None:
    """NaN in any single figure of the evidence fails the gate that reads it."""
    verdict = gates.judge(replace(HEALTHY, **{field: float("nan")}), RULES)
    assert verdict.verdict == "REJECT"
    assert name in [r.name for r in verdict.results if not r.passed]


@pytest.mark.parametrize(
    "rule",
    [
        "max_parity",
        "max_latency_us",
        "max_test_age_days",
        "max_calibration_error",
        "min_slice_auc",
        "max_group_gap",
        "min_roc_auc",
        "min_average_precision",
        "min_precision",
        "min_recall",
        "min_brier_skill",
        "max_roc_auc",
        "min_gain",
        "max_loss",
        "max_single_feature_auc",
        "confidence",
    ],
)
def test_nan_rule_rejects(rule: str) -> None:
    """A rule that is NaN never lets a candidate through."""
    assert gates.judge(HEALTHY, replace(RULES, **{rule: float("nan")})).verdict == "REJECT"


@pytest.mark.parametrize(
    ("field", "value", "name"),
    [
        ("parity", -1.0, "parity"),
        ("latency_us", 0.0, "latency"),
        ("test_age_days", -1, "freshness"),
        ("exported_names", (), "feature_order"),
        ("exported_names", ("a", "b", "c"), "feature_order"),
        ("scores", np.full(2_000, 0.5), "score_sanity"),
        ("scores", HEALTHY.scores * 1.2, "score_sanity"),
        ("y", np.ones(2_000, dtype=np.int64), "rows_scored"),
        ("y", HEALTHY.y * 2, "rows_scored"),
        ("champion_scores", HEALTHY.scores[:5], "rows_scored"),
        ("group", np.array(["x"]), "group_gap"),
        ("champion_scores", None, "champion_not_worse"),
        ("dummy_scores", HEALTHY.scores * np.nan, "better_than_dummy"),
        ("slices", {"short": np.array([True])}, "worst_slice"),
        ("names", (), "feature_order"),
    ],
)
def test_impossible_evidence_rejects(field: str, value: object, name: str) -> None:
    """What was not measured, or cannot be, fails the gate that looks at it: half a champion, no rows, other lengths."""
    verdict = gates.judge(replace(HEALTHY, **{field: value}), RULES)
    assert verdict.verdict == "REJECT"
    assert name in [r.name for r in verdict.results if not r.passed]


def test_empty_evidence_rejects() -> None:
    """No rows at all are rejected by rows_scored, and nothing else is judged on scores."""
    none = np.array([])
    verdict = gates.judge(
        replace(
            HEALTHY,
            y=none.astype(np.int64),
            scores=none,
            dummy_scores=none,
            champion_scores=none,
            x=np.empty((0, 2)),
            slices={},
            group=None,
        ),
        RULES,
    )
    assert verdict.reasons[0].startswith("rows_scored: 0 labels")
    assert verdict.verdict == "REJECT"


def test_gates_that_all_pass_promote() -> None:
    """The stand-ins of the tests around here promote unless the one gate under test fails."""
    fine = made("parity", lambda e, r: GateResult("parity", True, "REJECT", 0.0, 0.0, "ok"))
    assert gates.judge(HEALTHY, RULES, gates=fine).verdict == "PROMOTE"


def test_no_gates_reject() -> None:
    """An empty list of gates promotes nobody, and names every gate that is missing."""
    verdict = gates.judge(HEALTHY, RULES, gates=[])
    assert verdict.verdict == "REJECT"
    assert [r.name for r in verdict.results] == list(gates.REQUIRED)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        "passed",
        GateResult("another", True, "REJECT", 0.0, 0.0, "ok"),
        (True, 1.0),
        GateResult("parity", True, "REJECT", "1", "x", "ok"),  # type: ignore[arg-type]
    ],
)
def test_an_answer_that_is_no_result_rejects(answer: object) -> None:
    """A gate that answers with something else, or under another's name, has failed."""
    assert gates.judge(HEALTHY, RULES, gates=made("parity", lambda e, r: answer)).verdict == "REJECT"  # type: ignore


def test_an_answer_under_another_name_counts_as_the_gates_own_failure() -> None:
    """A gate that answers for another one is named itself, and does not stand in for the other."""
    other = GateResult("latency", True, "REJECT", 0.0, 0.0, "ok")
    result = gates.judge(HEALTHY, RULES, gates=made("parity", lambda e, r: other)).results[3]
    assert (result.name, result.passed) == ("parity", False)
    assert result.reason == "the gate answered under the name 'latency'"


def test_an_unknown_consequence_rejects() -> None:
    """A failed gate whose consequence is not HOLD rejects."""
    odd = GateResult("parity", False, "WARN", 1.0, 0.0, "odd")  # type: ignore[arg-type]
    assert gates.judge(HEALTHY, RULES, gates=made("parity", lambda e, r: odd)).verdict == "REJECT"


def test_first_version_needs_no_champion() -> None:
    """Without a champion both champion gates pass and say that it is the first version."""
    verdict = gates.judge(replace(HEALTHY, champion_scores=None, champion_threshold=None), RULES)
    assert verdict.verdict == "PROMOTE"
    assert [r.reason.split(":")[0] for r in verdict.results if r.name.startswith("champion")] == ["first version"] * 2


def test_small_sure_loss_holds_but_does_not_reject() -> None:
    """Surely worse by less than max_loss is held; surely worse and perhaps by more is rejected."""
    blurred = np.clip(HEALTHY.scores + np.random.default_rng(5).normal(0, 0.1, 2_000), 0, 1)
    worse = replace(HEALTHY, scores=blurred, champion_scores=HEALTHY.scores)
    assert gates.judge(worse, replace(RULES, max_loss=0.2)).verdict == "HOLD"
    assert gates.judge(worse, replace(RULES, max_loss=0.01)).verdict == "REJECT"


def test_slices_without_both_classes_are_judged_by_brier() -> None:
    """In a slice of one class a score worse than a coin's is ruin, a good one passes, a small slice is not judged."""
    ones = HEALTHY.y == 1
    gate = named("worst_slice")
    bad = with_scores(np.where(ones, 0.4, HEALTHY.scores))
    assert alone(gate, replace(HEALTHY, slices={"ones": ones})).passed
    assert "Brier 0.36" in alone(gate, replace(bad, slices={"ones": ones})).reason
    few = ones & (np.cumsum(ones) <= RULES.min_slice_rows - 1)
    assert alone(gate, replace(bad, slices={"few": few})).value is None


def test_groups_that_are_too_small_are_not_compared() -> None:
    """A group below the minimum of rows neither fails nor hides a gap between large ones."""
    group = np.where(np.arange(2_000) < 100, "few", "many")
    assert alone(named("group_gap"), replace(HEALTHY, group=group)).value is None
    assert alone(named("group_gap"), replace(HEALTHY, group=None)).passed


def test_too_good_to_be_true_is_a_leak() -> None:
    """A ROC AUC above the believable is rejected even when no single column tells the label."""
    perfect = with_scores(np.clip(HEALTHY.y * 0.9 + HEALTHY.scores * 0.1, 0, 1))
    assert "too good to be true" in alone(named("leakage"), perfect).reason


def test_verdict_survives_json() -> None:
    """A verdict with failures, missing values and reasons comes back equal from JSON."""
    for evidence in (HEALTHY, FAULTS["score_sanity"], FAULTS["champion_gain"]):
        verdict = gates.judge(evidence, RULES)
        assert gates.from_dict(json.loads(json.dumps(gates.to_dict(verdict), allow_nan=False))) == verdict


def test_a_stored_verdict_that_its_gates_contradict_is_refused() -> None:
    """Writing PROMOTE over a rejected version does not make it one."""
    stored = gates.to_dict(gates.judge(FAULTS["parity"], RULES))
    with pytest.raises(ValueError, match=r"stored verdict 'PROMOTE', but its 20 gates say 'REJECT'"):
        gates.from_dict(stored | {"verdict": "PROMOTE"})
    with pytest.raises(ValueError, match="its 0 gates say 'REJECT'"):
        gates.from_dict({"verdict": "PROMOTE", "results": [], "reasons": []})


def test_markdown_shows_failures_first() -> None:
    """The table starts with what failed, and has a line per gate."""
    text = gates.as_markdown(gates.judge(FAULTS["parity"], RULES))
    lines = text.splitlines()
    assert lines[0] == "**REJECT**: 19 of 20 gates passed."
    assert lines[4].startswith("| parity | REJECT | 0.001 | 1e-05 |")
    assert len(lines) == 4 + len(gates.REQUIRED)


def test_results_are_plain_python() -> None:
    """No numpy type leaks into the stored results."""
    for result in gates.judge(HEALTHY, RULES).results:
        assert {type(v) for v in asdict(result).values()} <= {str, bool, float, type(None)}


def champions(e: Evidence) -> bool:
    """Whether both champion gates let the candidate through."""
    return all(named(name)(e, RULES).passed for name in ("champion_gain", "champion_not_worse"))


def rivals(seed: int, candidate_noise: float, champion_noise: float, shared: float = 0.0) -> Evidence:
    """1,000 rows scored by two models that see the truth through noise, part of which they may share."""
    rng = np.random.default_rng(seed)
    z = rng.normal(1.5, 1.2, 1_000)
    y = (rng.random(1_000) < 1 / (1 + np.exp(-z))).astype(np.int64)
    blur = z + rng.normal(0, shared, 1_000)
    candidate, champion = (
        1 / (1 + np.exp(-(blur + rng.normal(0, sd, 1_000)))) for sd in (candidate_noise, champion_noise)
    )
    return replace(HEALTHY, y=y, scores=candidate, champion_scores=champion, slices={}, group=None, seed=seed)


@pytest.mark.parametrize(("sd", "shared"), [(0.02, 0.5), (0.5, 0.0)], ids=["tiny noise", "different models"])
def test_an_equal_model_is_hardly_ever_promoted(sd: float, shared: float) -> None:
    """A/A: of 200 candidates as good as the champion at most 5 % are promoted."""
    assert np.mean([champions(rivals(seed, sd, sd, shared)) for seed in range(200)]) <= 0.05


def test_a_clearly_better_model_is_promoted() -> None:
    """Of 200 candidates with a true gain at least 90 % are promoted."""
    gains = [rivals(seed, 0.2, 0.75) for seed in range(200)]
    assert np.mean([champions(e) for e in gains]) >= 0.9


def test_a_clearly_worse_model_is_rejected() -> None:
    """Of 100 candidates with a true loss at least 90 % are rejected, not held."""
    worse = [rivals(seed, 1.0, 0.2) for seed in range(100)]
    assert np.mean([not named("champion_not_worse")(e, RULES).passed for e in worse]) >= 0.9


def test_ignorance_does_not_reject() -> None:
    """An interval around 0 that reaches beyond max_loss on either side is held, not rejected."""
    result = alone(named("champion_not_worse"), rivals(1, 0.5, 0.5))
    assert result.value is not None
    assert result.value < -RULES.max_loss
    assert result.passed
    assert not alone(named("champion_gain"), rivals(1, 0.5, 0.5)).passed


def test_entities_widen_the_interval() -> None:
    """Rows copied per entity do not make a gain look surer when the entities are named."""
    e = rivals(3, 0.4, 0.5)
    fourfold = {name: np.repeat(getattr(e, name), 4) for name in ("y", "scores", "champion_scores")}
    copied = replace(e, **fourfold)
    known = replace(copied, entities=np.repeat(np.arange(1_000), 4))
    low_copied, low_known = (alone(named("champion_not_worse"), x).value for x in (copied, known))
    assert low_known is not None
    assert low_copied is not None
    assert low_known < low_copied
    assert metrics.paired_gain(e.y, e.scores, e.champion_scores, n=100).low == pytest.approx(low_known, abs=0.02)
