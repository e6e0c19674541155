"""Card fraud on SIMULATED payments: is this payment fraudulent? None of it happened.

No open log has card numbers, times and labels. The payments are made up by the rules that chapter 3 of Le Borgne,
Y.-A., Siblini, W., Lebichot, B. and Bontempi, G. (2022), "Reproducible machine learning for credit card fraud
detection: practical handbook" publishes: an amount above 220 is fraud; a compromised terminal sees only fraud for 28
days; of a compromised card one payment in three is fraud for 14 days, with five times the amount. Labels are known 7
days later.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flows.usecases.spec import (
    Column,
    Contract,
    Costs,
    DriftRules,
    FeatureTable,
    GateRules,
    RequestFeature,
    SimulatedSource,
    Slice,
    UseCase,
)

START, DELAY_DAYS = pd.Timestamp("2024-01-01", tz="UTC"), 7
WINDOWS = (1, 7, 30)  # days
SQUARE, REACH = 100.0, 5.0  # cards and terminals lie in a square; a card is used within reach of its home
LARGE, TERMINAL_DAYS, CARD_DAYS = 220.0, 28, 14
NOON_S, SPREAD_S, DAY_S = 43_200.0, 20_000.0, 86_400


def payments(
    *,
    cards: float = 1_000,
    terminals: float = 2_000,
    days: float = 91,
    seed: float = 7,
    terminals_a_day: float = 2,
    cards_a_day: float = 3,
    factor: float = 5.0,
) -> pd.DataFrame:
    """Payments in the order of their times: transaction_id, card_id, terminal_id, time, amount (dollars), fraud (0/1).

    `terminals_a_day` and `cards_a_day` are newly compromised every day; `factor` multiplies a stolen card's amounts.
    """
    rng = np.random.default_rng(int(seed))
    n, m, d = int(cards), int(terminals), int(days)
    mean, rate = rng.uniform(5.0, 100.0, n), rng.uniform(0.0, 4.0, n)
    near = within_reach(rng.uniform(0.0, SQUARE, (n, 2)), rng.uniform(0.0, SQUARE, (m, 2)))
    counts = rng.poisson(rate[:, None] * np.array([len(found) > 0 for found in near])[:, None], (n, d))
    card = np.repeat(np.repeat(np.arange(n), d), counts.ravel())
    day = np.repeat(np.tile(np.arange(d), n), counts.ravel())
    second = rng.normal(NOON_S, SPREAD_S, len(card)).astype(np.int64)
    amount = rng.normal(mean[card], mean[card] / 2)
    amount = np.where(amount < 0, rng.uniform(0.0, 2 * mean[card]), amount)
    place = rng.uniform(0.0, 1.0, len(card))
    terminal = np.array([near[c][int(u * len(near[c]))] for c, u in zip(card, place, strict=True)], dtype=np.int64)
    stolen = compromised(rng, n, d, int(cards_a_day), CARD_DAYS)[card, day] & (rng.uniform(0, 1, len(card)) < 1 / 3)
    tampered = compromised(rng, m, d, int(terminals_a_day), TERMINAL_DAYS)[terminal, day]
    fraud = (amount > LARGE) | tampered | stolen
    frame = pd.DataFrame(
        {
            "card_id": card,
            "terminal_id": terminal,
            "time": START + pd.to_timedelta(day * DAY_S + second, unit="s"),
            "amount": np.round(np.where(stolen, amount * factor, amount), 2),
            "fraud": fraud.astype(np.int64),
        }
    )[(second >= 0) & (second < DAY_S)]
    frame = frame.sort_values(["time", "card_id"], kind="stable", ignore_index=True)
    frame.insert(0, "transaction_id", np.arange(1, len(frame) + 1))
    return frame


def within_reach(homes: NDArray[np.float64], places: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    """Positions of the places within reach of each home; both are points [n, 2] in the square."""
    return [np.flatnonzero(((places - home) ** 2).sum(axis=1) < REACH**2) for home in homes]


def compromised(rng: np.random.Generator, n: int, days: int, daily: int, lasting: int) -> NDArray[np.bool_]:
    """Which of n things are compromised on which day, bool [n, days]: every day `daily` more, for `lasting` days."""
    found = np.zeros((n, days), dtype=bool)
    for day in range(days):
        found[rng.integers(0, n, daily), day : day + lasting] = True
    return found


def card_features(events: pd.DataFrame, as_of: pd.Timestamp) -> pd.DataFrame:
    """How each card was used in the last 1, 7 and 30 days: number of payments, and their mean amount in dollars."""
    past = events[events["time"] < as_of]
    known = pd.Index(np.sort(past["card_id"].unique()), name="card_id")
    counts, amounts = {}, {}
    for days in WINDOWS:
        by_card = past[past["time"] >= as_of - pd.Timedelta(days=days)].groupby("card_id")["amount"]
        counts[f"card_count_{days}d"] = by_card.size().reindex(known, fill_value=0).astype("float64")
        amounts[f"card_amount_{days}d"] = by_card.mean().reindex(known)
    return pd.DataFrame({**counts, **amounts}, index=known).reset_index()


def terminal_features(events: pd.DataFrame, as_of: pd.Timestamp) -> pd.DataFrame:
    """How busy each terminal was in the last 1, 7 and 30 days, and its share of fraud in as many days up to a week ago.

    The week is the label's delay: a younger payment's label is not known yet. Missing where there was no payment.
    """
    past = events[events["time"] < as_of]
    known = pd.Index(np.sort(past["terminal_id"].unique()), name="terminal_id")
    settled = as_of - pd.Timedelta(days=DELAY_DAYS)
    counts, risks = {}, {}
    for days in WINDOWS:
        recent = past[past["time"] >= as_of - pd.Timedelta(days=days)].groupby("terminal_id")
        counts[f"terminal_count_{days}d"] = recent.size().reindex(known, fill_value=0).astype("float64")
        labelled = past[(past["time"] >= settled - pd.Timedelta(days=days)) & (past["time"] < settled)]
        fraud = pd.Series(labelled["fraud"].to_numpy(dtype="float64", na_value=np.nan), index=labelled["terminal_id"])
        risks[f"terminal_risk_{days}d"] = fraud.groupby(level=0).mean().reindex(known)
    return pd.DataFrame({**counts, **risks}, index=known).reset_index()


USE_CASE = UseCase(
    name="fraud",
    title="Card fraud (simulated payments)",
    source=SimulatedSource(simulate=payments),
    contract=Contract(
        columns=(
            Column(name="transaction_id", kind="int", minimum=1),
            Column(name="card_id", kind="int", minimum=0),
            Column(name="terminal_id", kind="int", minimum=0),
            Column(name="time", kind="time"),
            Column(name="amount", kind="float", minimum=0.0, maximum=10_000.0),
            Column(name="fraud", kind="int", allowed=(0, 1), nullable=True, delay_days=DELAY_DAYS),
        ),
        min_rows=1_000,
        unique=("transaction_id",),
    ),
    entity="card_id",
    time="time",
    clock="data",
    feature_service="fraud_v1",
    build_features=card_features,
    further=(FeatureTable(entity="terminal_id", build=terminal_features),),
    request=(
        RequestFeature(name="amount", minimum=0.0, maximum=10_000.0),
        RequestFeature(name="hour", kind="hour", minimum=0.0, maximum=24.0),
    ),
    label="fraud",
    horizon_days=DELAY_DAYS,
    first_cutoff="2024-01-16",
    grid="D",
    train_days=28,
    test_days=7,
    log_features=("amount", *(f"card_amount_{d}d" for d in WINDOWS)),
    estimators=("logistic_regression", "hist_gradient_boosting"),
    trials=4,
    max_search_rows=24_000,
    # a missed fraud costs its amount; a question to the card's holder 2 dollars, a blocked card and a call 20
    costs=Costs(miss="amount", alarms=(2.0, 20.0)),
    risks=("LOW", "MEDIUM", "HIGH"),
    gates=GateRules(
        min_roc_auc=0.80, min_average_precision=0.55, min_precision=0.60, min_recall=0.45, min_brier_skill=0.3
    ),
    drift=DriftRules(cooldown_days=DELAY_DAYS),
    slices=(Slice(feature="amount", edges=(0, 50, 100)), Slice(feature="hour", edges=(0, 12))),
)
