"""Seeded scenarios of what happens to a model's inputs, each with the kind of drift that it is.

The world is a table of known law, the model its true probability, so what quality does is known too.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bentos.runtime.monitoring import calibration, drift, signatures, sketches
from flows.steps.monitoring import estimates, kinds, windows
from flows.steps.training import metrics
from flows.usecases.spec import DriftRules

RULES = DriftRules()
REFERENCE_ROWS = 8_000
COUNTRIES, SHARES = np.array(["GB", "FR", "DE", "IS"]), (0.6, 0.25, 0.13, 0.02)
EFFECTS = {"GB": 0.0, "FR": 0.4, "DE": -0.3, "IS": 0.0, "PT": 0.2}
Change = Callable[[np.random.Generator, pd.DataFrame], pd.DataFrame]


def world(rng: np.random.Generator, n: int) -> pd.DataFrame:
    """Inputs as they are: n rows."""
    return pd.DataFrame(
        {
            "strength": rng.normal(size=n),
            "mood": rng.normal(5, 2, n),
            "amount": rng.lognormal(3, 0.8, n),
            "age_hours": rng.exponential(20, n),
            "visits": rng.poisson(3, n).astype(float),
            "flag": (rng.random(n) < 0.3).astype(float),
            "country": rng.choice(COUNTRIES, n, p=SHARES),
        }
    )


def score(x: pd.DataFrame, strength: float = 1.4) -> np.ndarray:
    """Probability of the label given the inputs [n], which is what the model answers; a missing one is usual."""
    amount = np.log(np.clip(x["amount"].fillna(20.0).to_numpy(), 1e-3, None)) - 3
    effect = x["country"].map(EFFECTS).fillna(0.0).to_numpy()
    z = strength * x["strength"].to_numpy() + 0.5 * amount + 0.1 * (x["mood"].to_numpy() - 5) + effect
    z = z - 0.02 * (x["age_hours"].fillna(20.0).to_numpy() - 20) + 0.4 * x["flag"].to_numpy() - 0.3
    return 1 / (1 + np.exp(-z))


@dataclass(frozen=True)
class Scenario:
    """What happens, and its kind: `change` is made to the inputs, or by `broken` only to what the model sees of them.

    With `concept` the label no longer depends on the inputs as it did; with `labelled` labels are in.
    """

    name: str
    kind: kinds.Kind
    rows: int = 3_000
    change: Change = lambda rng, x: x
    broken: Change = lambda rng, x: x
    concept: float = 1.4
    labelled: bool = False


def _swap(rng: np.random.Generator, x: pd.DataFrame) -> pd.DataFrame:
    return x.assign(mood=x["age_hours"], age_hours=x["mood"])


def _relabelled(rng: np.random.Generator, x: pd.DataFrame) -> pd.DataFrame:
    """Label shift: positives are several times as frequent as they were, each class looks as it did."""
    many = world(rng, 8 * len(x))
    weight = np.where(rng.random(len(many)) < score(many), 10.0, 1.0)
    return many.iloc[rng.choice(len(many), len(x), replace=False, p=weight / weight.sum())].reset_index(drop=True)


def _slow(rng: np.random.Generator, x: pd.DataFrame) -> pd.DataFrame:
    """The mean moves from where it was to two deviations above within the window."""
    return x.assign(mood=x["mood"] + np.linspace(0, 4, len(x)))


SCENARIOS = (
    *(Scenario(f"no drift, {n:,} rows", "none", n) for n in (500, 1_000, 2_000, 5_000, 20_000)),
    Scenario("no drift, labelled", "none", labelled=True),
    Scenario("too few rows", "not_enough_data", 300, broken=lambda rng, x: x.assign(amount=x["amount"] * 100)),
    Scenario("mean, sudden", "benign", change=lambda rng, x: x.assign(mood=x["mood"] + 1.6)),
    Scenario("mean, slow", "benign", change=_slow),
    Scenario("variance", "benign", change=lambda rng, x: x.assign(mood=5 + 2.5 * (x["mood"] - 5))),
    Scenario(
        "category mix",
        "benign",
        change=lambda rng, x: x.assign(country=rng.choice(COUNTRIES, len(x), p=(0.2, 0.6, 0.15, 0.05))),
    ),
    Scenario(
        "new category",
        "benign",
        change=lambda rng, x: x.assign(country=x["country"].where(rng.random(len(x)) > 0.15, "PT")),
    ),
    Scenario(
        "covariates only",
        "benign",
        change=lambda rng, x: x.assign(strength=x["strength"] * 1.6, visits=x["visits"] + rng.poisson(2, len(x))),
    ),
    Scenario("covariates only, labelled", "benign", change=lambda rng, x: x.assign(mood=x["mood"] + 2), labelled=True),
    Scenario("label shift", "benign", change=_relabelled),
    Scenario("less to tell apart", "harmful", change=lambda rng, x: x.assign(strength=x["strength"] * 0.3)),
    Scenario("concept only, labelled", "harmful", concept=0.4, labelled=True),
    Scenario("concept only, unlabelled", "none", concept=0.4),  # cannot be seen without labels
    Scenario("cents for dollars", "data_bug", broken=lambda rng, x: x.assign(amount=x["amount"] * 100)),
    Scenario("thousands", "data_bug", broken=lambda rng, x: x.assign(amount=x["amount"] / 1_000)),
    Scenario("hours as minutes", "data_bug", broken=lambda rng, x: x.assign(age_hours=x["age_hours"] * 60)),
    Scenario(
        "nulls", "data_bug", broken=lambda rng, x: x.assign(amount=x["amount"].where(rng.random(len(x)) > 0.2))
    ),
    Scenario("column gone", "data_bug", broken=lambda rng, x: x.assign(age_hours=np.nan)),
    Scenario("constant", "data_bug", broken=lambda rng, x: x.assign(mood=0.0)),
    Scenario("swapped columns", "data_bug", broken=_swap),
    Scenario("encoding", "data_bug", broken=lambda rng, x: x.assign(country=x["country"].replace("GB", "UK"))),
    Scenario("flag as 1 and 2", "data_bug", broken=lambda rng, x: x.assign(flag=x["flag"] + 1)),
    Scenario(
        "duplicated rows",
        "data_bug",
        broken=lambda rng, x: pd.concat([x, x.sample(frac=0.5, random_state=1)], ignore_index=True),
    ),
    Scenario("clock skew", "data_bug", broken=lambda rng, x: x.assign(age_hours=x["age_hours"] - 6)),
)  # fmt: skip


def judged(scenario: Scenario, seed: int) -> kinds.Judgement:
    """What the product's steps say of the scenario's window, from a labelled reference of the same world."""
    rng = np.random.default_rng([seed, SCENARIOS.index(scenario)])
    x = world(rng, REFERENCE_ROWS)
    s = score(x)
    then = sketches.reference(x.assign(score=s), bins=RULES.bins)
    quality = estimates.recalibrate(rng.random(len(x)) < s, s, 0.5)
    assert quality is not None
    inputs = scenario.change(rng, world(rng, scenario.rows))
    y = (rng.random(len(inputs)) < score(inputs, scenario.concept)).astype(int)
    seen = scenario.broken(rng, inputs)
    answers = seen.assign(score=score(seen))
    now = windows.count(answers, then)
    known = calibration.calibrate(then, RULES, sizes=(len(answers),), check=False)
    verdict = drift.compare(then, now.sketches, RULES, known)
    value = estimates.estimate(quality, estimates.count(s))["roc_auc"]["value"]
    promised = kinds.Promise(value=value, low=value, high=value, since="1998-01-01")
    estimated = kinds.level("estimated", estimates.estimate(quality, now.scores), promised)
    measured = None
    if scenario.labelled:
        found = metrics.bootstrap(y, answers["score"].to_numpy(), 0.5, metrics=("roc_auc",), n=200, confidence=0.95)
        measured = kinds.level("measured", {k: vars(v) for k, v in found.items()}, promised)
    return kinds.judge(verdict, signatures.find(then, now.sketches, now.copies, RULES), estimated, measured)


def confusion(seeds: Iterable[int]) -> pd.DataFrame:
    """How often each scenario was called what: scenarios with their kind as rows, kinds as columns."""
    found = [(s.name, s.kind, judged(s, seed).kind) for seed in seeds for s in SCENARIOS]
    frame = pd.DataFrame(found, columns=["scenario", "kind", "called"])
    return frame.value_counts().unstack("called", fill_value=0)
