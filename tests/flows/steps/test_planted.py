"""Bad models, really trained or really broken, are each rejected by the gate that is named for what is wrong."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from flows.steps.gating import gates
from flows.steps.gating.evidence import Evidence, GateResult
from flows.steps.training import metrics
from flows.usecases.spec import GateRules, Slice

NAMES = ("total_purchases", "average_amount", "tenure_days", "recency_days")
RULES = GateRules(min_roc_auc=0.7, min_average_precision=0.85, min_precision=0.82, min_recall=0.9, bootstrap=200)
SLICES = (Slice(feature="total_purchases", edges=(1, 2, 4)),)


@dataclass(frozen=True)
class World:
    """Skewed counts and amounts, about 82 % of labels 1, a ROC AUC near .78 within reach."""

    train_x: np.ndarray
    train_y: np.ndarray
    x: np.ndarray
    y: np.ndarray
    model: Pipeline


def table(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    buys = rng.geometric(0.45, n).astype(float)
    amount = rng.lognormal(3.3, 0.7, n)
    tenure = rng.uniform(90, 365, n)
    recency = tenure * rng.beta(1.5 / np.sqrt(buys), 1, n)
    logit = 3.3 - 1.2 * np.log(buys) + 1.1 * (recency - 150) / 80 - 0.35 * (np.log(amount) - 3.3)
    y = (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(np.int64)
    return np.column_stack([buys, amount, tenure, recency]), y


def fitted(x: np.ndarray, y: np.ndarray, **options: object) -> Pipeline:
    model = make_pipeline(FunctionTransformer(np.log1p), StandardScaler(), LogisticRegression(**options))
    return model.fit(x, y)


def proba(model: Pipeline | DummyClassifier, x: np.ndarray) -> np.ndarray:
    return np.asarray(model.predict_proba(x)[:, 1], dtype=np.float64)


@pytest.fixture(scope="module")
def world() -> World:
    rng = np.random.default_rng(11)
    (train_x, train_y), (x, y) = table(rng, 20_000), table(rng, 6_000)
    return World(train_x, train_y, x, y, fitted(train_x, train_y))


def evidence(w: World, scores: np.ndarray, **changes: object) -> Evidence:
    trained = proba(w.model, w.train_x)
    whole = Evidence(
        y=w.y,
        scores=scores,
        dummy_scores=np.full(len(w.y), w.train_y.mean()),
        threshold=metrics.best_threshold(w.train_y, trained),
        x=w.x,
        names=NAMES,
        exported_names=NAMES,
        parity=1e-7,
        latency_us=60.0,
        test_age_days=95,
        slices=metrics.slice_masks(w.x, NAMES, SLICES),
    )
    return replace(whole, **changes)


def healthy(w: World) -> Evidence:
    return evidence(w, proba(w.model, w.x))


def shuffled_labels(w: World) -> Evidence:
    y = np.random.default_rng(2).permutation(w.train_y)
    return evidence(w, proba(fitted(w.train_x, y), w.x))


def leaked_column(w: World) -> Evidence:
    rng = np.random.default_rng(3)
    train, test = (
        np.column_stack([x, np.exp(y + rng.normal(0, 0.25, len(y)))]) for x, y in ((w.train_x, w.train_y), (w.x, w.y))
    )
    names = (*NAMES, "refunds_next_month")
    return evidence(w, proba(fitted(train, w.train_y), test), x=test, names=names, exported_names=names)


def inverted_scores(w: World) -> Evidence:
    return evidence(w, proba(fitted(w.train_x, 1 - w.train_y), w.x))


def nan_output(w: World) -> Evidence:
    x = w.x.copy()
    x[17, 3] = np.nan  # an exported model lets a gap through as NaN
    logit = np.log1p(x) @ w.model[-1].coef_[0]
    return evidence(w, 1 / (1 + np.exp(-logit)))


def constant_output(w: World) -> Evidence:
    return evidence(w, proba(DummyClassifier(strategy="prior").fit(w.train_x, w.train_y), w.x))


def wrong_feature_order(w: World) -> Evidence:
    order = [0, 1, 3, 2]
    return evidence(w, proba(w.model, w.x[:, order]), exported_names=tuple(NAMES[i] for i in order))


def stale_data(w: World) -> Evidence:
    return replace(healthy(w), test_age_days=RULES.max_test_age_days + 1)


def too_slow(w: World) -> Evidence:
    return replace(healthy(w), latency_us=RULES.max_latency_us * 1.01)


def ruined_slice(w: World) -> Evidence:
    broken = w.x.copy()
    twice = (w.x[:, 0] >= 2) & (w.x[:, 0] < 4)
    broken[twice, 3] = w.x[twice, 2] - w.x[twice, 3]  # recency counted from the wrong end
    return evidence(w, proba(w.model, broken))


def slice_worse_than_champion(w: World) -> Evidence:
    blurred = w.x.copy()
    once = w.x[:, 0] < 2
    blurred[once, 3] = np.random.default_rng(4).permutation(w.x[once, 3]) * 0.9 + w.x[once, 3] * 0.1
    champion = healthy(w)
    return evidence(w, proba(w.model, blurred), champion_scores=champion.scores, champion_threshold=champion.threshold)


def uncalibrated(w: World) -> Evidence:
    threshold = metrics.best_threshold(w.train_y, proba(w.model, w.train_x) ** 2)
    return evidence(w, proba(w.model, w.x) ** 2, threshold=threshold)


def worse_than_champion(w: World) -> Evidence:
    poorer = fitted(w.train_x[:, [2, 3]], w.train_y)
    champion = healthy(w)
    return evidence(
        w,
        proba(poorer, w.x[:, [2, 3]]),
        champion_scores=champion.scores,
        champion_threshold=champion.threshold,
        slices={},
    )


def broken_export(w: World) -> Evidence:
    scores = proba(w.model, w.x)
    exported = proba(w.model, np.round(w.x))  # the export rounds its inputs
    return evidence(w, exported, parity=float(np.abs(exported - scores).max()))


PLANTED: dict[Callable[[World], Evidence], str] = {
    shuffled_labels: "better_than_dummy",
    leaked_column: "leakage",
    inverted_scores: "score_direction",
    nan_output: "score_sanity",
    constant_output: "score_sanity",
    wrong_feature_order: "feature_order",
    stale_data: "freshness",
    too_slow: "latency",
    ruined_slice: "worst_slice",
    uncalibrated: "calibration",
    worse_than_champion: "champion_not_worse",
    broken_export: "parity",
}


def failed(verdict: gates.Verdict) -> list[str]:
    return [result.name for result in verdict.results if not result.passed]


def blinded(name: str) -> tuple[gates.Gate, ...]:
    """The gates, the named one replaced by one that always passes under its name."""

    def always(e: Evidence, rules: GateRules) -> GateResult:
        return GateResult(name, True, "REJECT", 0.0, 0.0, "never looks")

    always.__name__ = name
    return tuple(always if gate.__name__ == name else gate for gate in gates.GATES)


def test_the_problem_is_realistic(world: World) -> None:
    """About 82 % of labels are 1 and the honest model reaches a ROC AUC near .78: there is room for every fault."""
    measured = metrics.classification(world.y, proba(world.model, world.x), 0.5)
    assert 0.79 <= measured["base_rate"] <= 0.85
    assert 0.75 <= measured["roc_auc"] <= 0.82


def test_the_honest_model_is_promoted(world: World) -> None:
    """Without a fault every gate passes, so it is the fault that the others are rejected for."""
    verdict = gates.judge(healthy(world), RULES)
    assert failed(verdict) == []
    assert verdict.verdict == "PROMOTE"


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_the_named_gate_rejects(world: World, plant: Callable[[World], Evidence]) -> None:
    """The gate named for the fault is the first that fails, and says so in a sentence."""
    verdict = gates.judge(plant(world), RULES)
    assert verdict.verdict == "REJECT"
    assert failed(verdict)[0] == PLANTED[plant]
    assert verdict.reasons[0].startswith(f"{PLANTED[plant]}: ")


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_blind_gate_is_noticed(world: World, plant: Callable[[World], Evidence]) -> None:
    """Replaced by one that always passes, the named gate no longer fails: it was this gate that caught the fault."""
    assert PLANTED[plant] not in failed(gates.judge(plant(world), RULES, gates=blinded(PLANTED[plant])))


@pytest.mark.parametrize(
    "plant",
    [
        leaked_column,
        wrong_feature_order,
        stale_data,
        too_slow,
        ruined_slice,
        uncalibrated,
        worse_than_champion,
        broken_export,
    ],
)
def test_some_faults_are_seen_by_their_gate_alone(world: World, plant: Callable[[World], Evidence]) -> None:
    """With its gate blind the fault is not rejected at all, so no other gate stands in for it."""
    assert gates.judge(plant(world), RULES, gates=blinded(PLANTED[plant])).verdict != "REJECT"


@pytest.mark.parametrize("gate", gates.GATES, ids=lambda gate: gate.__name__)
def test_a_dropped_gate_is_noticed(world: World, gate: gates.Gate) -> None:
    """Deleting any gate from the list rejects even the honest model, by the name of the missing gate."""
    verdict = gates.judge(healthy(world), RULES, gates=[other for other in gates.GATES if other is not gate])
    assert verdict.verdict == "REJECT"
    assert failed(verdict) == [gate.__name__]


def test_leakage_names_the_column(world: World) -> None:
    """The reason names the column that tells the label."""
    assert "'refunds_next_month'" in gates.judge(leaked_column(world), RULES).reasons[0]


def test_feature_order_names_the_position(world: World) -> None:
    """The reason names the first position that differs and both names."""
    reason = gates.judge(wrong_feature_order(world), RULES).reasons[0]
    assert "first position 2: 'tenure_days' is exported as 'recency_days'" in reason


def test_worst_slice_names_the_slice(world: World) -> None:
    """The reason names the ruined slice, not a healthy one."""
    assert "slice 'total_purchases [2, 4)'" in gates.judge(ruined_slice(world), RULES).reasons[0]


def test_unjudged_gates_say_why(world: World) -> None:
    """After NaN scores the gates that need scores fail as not judged, and name the gate to look at."""
    results = {r.name: r for r in gates.judge(nan_output(world), RULES).results}
    assert results["calibration"].reason == "not judged: score_sanity failed"
    assert results["latency"].passed


def test_a_slice_that_lost_against_the_champion_is_named(world: World) -> None:
    """A slice still above the floor, but surely worse there than the champion, is rejected by name."""
    verdict = gates.judge(slice_worse_than_champion(world), RULES)
    reason = next(r.reason for r in verdict.results if r.name == "worst_slice" and not r.passed)
    assert reason.startswith("slice 'total_purchases [1, 2)'")
    assert "against the champion" in reason


def test_lucky_shuffled_labels_are_no_skill(world: World) -> None:
    """Of 25 models of shuffled labels some rank well by luck, and still none is better than the dummy."""
    blind = [gate for gate in gates.GATES if gate.__name__ == "better_than_dummy"]
    luckiest = 0.0
    for seed in range(25):
        y = np.random.default_rng(seed).permutation(world.train_y)
        shown = evidence(world, proba(fitted(world.train_x, y), world.x), slices={})
        luckiest = max(luckiest, metrics.classification(world.y, shown.scores, 0.5)["roc_auc"])
        assert not gates.judge(shown, RULES, gates=blind).results[0].passed
    assert luckiest > 0.7
