"""What is known about a customer: purchase behaviour, one row per customer and month."""

import os
from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64

HOME = Path(os.environ.get("BENTOFLOW_HOME") or Path(__file__).resolve().parents[1] / ".bentoflow")
OWNER = "crm@example.com"

DESCRIPTIONS = {
    "total_purchases": "purchases ever",
    "avg_purchase_amount": "mean amount of a purchase, dollars",
    "avg_items": "mean number of items in a purchase",
    "tenure_months": "months since the first purchase",
    "recency_days": "days since the last purchase",
    "purchase_frequency": "purchases per month of tenure, at least one month",
    "purchases_90d": "purchases in the last 90 days",
    "spend_90d": "amount of the purchases in the last 90 days, dollars",
}

customer = Entity(
    name="customer",
    join_keys=["user_id"],
    value_type=ValueType.INT64,
    description="a customer of the shop",
    owner=OWNER,
)

purchases = FileSource(
    name="churn_purchase_behaviour",
    path=str(HOME / "features" / "churn" / "*.parquet"),
    timestamp_field="event_timestamp",
    description="written by the prepare flow, one file per month",
    owner=OWNER,
)

purchase_behaviour = FeatureView(
    name="churn_purchase_behaviour",
    entities=[customer],
    ttl=timedelta(days=45),
    schema=[
        Field(name=name, dtype=Float64, description=text, tags={"owner": OWNER}) for name, text in DESCRIPTIONS.items()
    ],
    source=purchases,
    online=True,
    description="purchase behaviour up to, and without, the day of the row",
    owner=OWNER,
)

churn_v1 = FeatureService(
    name="churn_v1",
    features=[purchase_behaviour],
    description="inputs of the churn model, in order",
    owner=OWNER,
)
