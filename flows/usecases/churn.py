"""Customer churn on the CDNOW purchase log: who will not buy in the next 90 days?

Data: purchases of 23,570 customers of the online music shop CDNOW who first bought in the first quarter of 1997, up to
June 1998. Fader, P. S. and Hardie, B. G. S. (2001), "Forecasting repeat sales at CDNOW: a case study", Interfaces
31(3), S94-S107. The file is read from the MIT-licensed wheel `lifetimes`.
"""

import numpy as np
import pandas as pd

from flows.usecases.spec import Column, Contract, DriftRules, GateRules, PathSource, Slice, UseCase

HORIZON_DAYS = 90
DAYS_PER_MONTH = 365.25 / 12


def build_features(events: pd.DataFrame, as_of: pd.Timestamp) -> pd.DataFrame:
    """Purchase behaviour of every customer known before `as_of`; amounts in dollars, times in days or months."""
    past = events[events["purchased_at"] < as_of]
    recent = past[past["purchased_at"] >= as_of - pd.Timedelta(days=HORIZON_DAYS)].groupby("user_id")
    by_user = past.groupby("user_id")
    first, last = by_user["purchased_at"].min(), by_user["purchased_at"].max()
    count = by_user.size().astype("float64")
    tenure = (as_of - first).dt.total_seconds() / 86_400 / DAYS_PER_MONTH
    return pd.DataFrame(
        {
            "total_purchases": count,
            "avg_purchase_amount": by_user["amount"].mean(),
            "avg_items": by_user["items"].mean(),
            "tenure_months": tenure,
            "recency_days": (as_of - last).dt.total_seconds() / 86_400,
            "purchase_frequency": count / np.maximum(tenure, 1.0),
            "purchases_90d": recent.size().reindex(count.index, fill_value=0).astype("float64"),
            "spend_90d": recent["amount"].sum().reindex(count.index, fill_value=0.0),
        }
    ).reset_index()


def build_labels(events: pd.DataFrame, entities: pd.Series, cutoff: pd.Timestamp) -> pd.Series:
    """1 where the customer buys nothing in the 90 days from the cut-off on, else 0."""
    end = cutoff + pd.Timedelta(days=HORIZON_DAYS)
    window = events[(events["purchased_at"] >= cutoff) & (events["purchased_at"] < end)]
    return (~entities.isin(window["user_id"])).astype("int64")


USE_CASE = UseCase(
    name="churn",
    title="Customer churn",
    source=PathSource(
        url="package://lifetimes/datasets/CDNOW_master.txt",
        format="text",
        names=("user_id", "purchased_at", "items", "amount"),
        skip_rows=1,
        time_format="%Y%m%d",
    ),
    contract=Contract(
        columns=(
            Column(name="user_id", kind="int", minimum=1),
            Column(name="purchased_at", kind="time"),
            Column(name="items", kind="int", minimum=1, maximum=200),
            Column(name="amount", kind="float", minimum=0.0, maximum=1_500.0),
        ),
        min_rows=1_000,
    ),
    entity="user_id",
    time="purchased_at",
    clock="data",
    feature_service="churn_v1",
    build_features=build_features,
    build_labels=build_labels,
    label="churned",
    horizon_days=HORIZON_DAYS,
    first_cutoff="1997-04-01",
    log_features=(
        "total_purchases",
        "avg_purchase_amount",
        "avg_items",
        "tenure_months",
        "recency_days",
        "purchase_frequency",
        "purchases_90d",
        "spend_90d",
    ),
    gates=GateRules(min_roc_auc=0.75, min_average_precision=0.90, min_precision=0.85, min_recall=0.90),
    # nobody joins, so tenure and recency must move: three benign months ask for a refresh once new labels are there
    drift=DriftRules(cooldown_days=HORIZON_DAYS, refresh_windows=3),
    slices=(
        Slice(feature="total_purchases", edges=(1, 2, 4)),
        Slice(feature="tenure_months", edges=(0, 6, 8)),
    ),
    stale="flag",
)
