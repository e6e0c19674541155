"""A made-up shop as a use case with categorical features: will this customer order nothing in the next 30 days?"""

import numpy as np
import pandas as pd

from flows.usecases.spec import Column, Contract, GateRules, SimulatedSource, Slice, UseCase

START, DAYS, HORIZON = pd.Timestamp("2024-01-01", tz="UTC"), 215, 30
COUNTRIES, CHANNELS = ("AT", "CH", "DE", "FR"), tuple(f"channel {i}" for i in range(12))


def simulated(*, customers: float = 900, seed: float = 3) -> pd.DataFrame:
    """Orders: who orders how often depends on country and channel; some have no coupon, a few no country."""
    rng = np.random.default_rng(int(seed))
    n = int(customers)
    country, channel = rng.integers(0, 4, n), np.minimum(rng.geometric(0.3, n) - 1, 11)
    days = np.array([4.0, 14.0, 45.0, 150.0])[country] * np.where(channel % 2, 0.7, 1.5)
    counts = 1 + rng.poisson(DAYS / days)
    user = np.repeat(np.arange(1, n + 1), counts)
    place = user - 1
    frame = pd.DataFrame(
        {
            "user_id": user,
            "ordered_at": START + pd.to_timedelta((rng.uniform(0, DAYS, len(user)) * 86_400).astype(int), unit="s"),
            "amount": np.round(rng.lognormal(3, 0.5, len(user)), 2),
            "country": np.array(COUNTRIES, dtype=object)[country[place]],
            "channel": np.array(CHANNELS, dtype=object)[channel[place]],
            "coupon": np.array([None, 'SPRING, "24"', "50 %"], dtype=object)[rng.integers(0, 3, len(user))],
        }
    )
    frame.loc[user % 97 == 0, "country"] = None
    return frame.sort_values(["ordered_at", "user_id"], ignore_index=True)


def build_features(events: pd.DataFrame, as_of: pd.Timestamp) -> pd.DataFrame:
    """Behaviour of every customer known before `as_of`."""
    past = events[events["ordered_at"] < as_of]
    by_user = past.groupby("user_id")
    latest = past.drop_duplicates("user_id", keep="last").set_index("user_id").sort_index()
    texts = {name: latest[name].astype(object).where(latest[name].notna(), None) for name in ("country", "channel")}
    coupon = latest["coupon"].astype(object).where(latest["coupon"].notna(), None)
    return pd.DataFrame(
        {
            "country": texts["country"],
            "orders": by_user.size().astype("int64"),
            "mean_amount": by_user["amount"].mean(),
            "channel": texts["channel"],
            "coupon": coupon,
            "recency_days": (as_of - by_user["ordered_at"].max()).dt.total_seconds() / 86_400,
        }
    ).reset_index()


def build_labels(events: pd.DataFrame, entities: pd.Series, cutoff: pd.Timestamp) -> pd.Series:
    """1 where the customer orders nothing in the 30 days from the cut-off on."""
    end = cutoff + pd.Timedelta(days=HORIZON)
    window = events[(events["ordered_at"] >= cutoff) & (events["ordered_at"] < end)]
    return (~entities.isin(window["user_id"])).astype("int64")


USE_CASE = UseCase(
    name="shop",
    title="Made-up shop",
    source=SimulatedSource(simulate=simulated),
    contract=Contract(
        columns=(
            Column(name="user_id", kind="int", minimum=1),
            Column(name="ordered_at", kind="time"),
            Column(name="amount", kind="float", minimum=0.0),
            Column(name="country", kind="str", nullable=True, allowed=COUNTRIES),
            Column(name="channel", kind="str"),
            Column(name="coupon", kind="str", nullable=True),
        ),
        min_rows=500,
    ),
    entity="user_id",
    time="ordered_at",
    clock="data",
    feature_service="shop_v1",
    build_features=build_features,
    build_labels=build_labels,
    label="gone",
    horizon_days=HORIZON,
    first_cutoff="2024-03-01",
    log_features=("orders",),
    trials=3,
    max_categories=6,
    max_search_rows=3_000,
    gates=GateRules(
        min_roc_auc=0.7,
        min_average_precision=0.5,
        min_precision=0.5,
        min_recall=0.5,
        max_calibration_error=0.1,
        bootstrap=100,
    ),
    slices=(Slice(feature="country", values=("AT", "FR")), Slice(feature="orders", edges=(1, 5))),
)
