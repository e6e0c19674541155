"""What is known about a customer of a made-up shop: two numbers and three texts, one row per customer and month."""

import os
from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int64, String

customer = Entity(name="shop_customer", join_keys=["user_id"], value_type=ValueType.INT64)
orders = FileSource(
    name="shop_orders",
    path=str(Path(os.environ["BENTOFLOW_HOME"]) / "features" / "shop" / "*.parquet"),
    timestamp_field="event_timestamp",
)
behaviour = FeatureView(
    name="shop_behaviour",
    entities=[customer],
    ttl=timedelta(days=45),
    schema=[
        Field(name="country", dtype=String),
        Field(name="orders", dtype=Int64),
        Field(name="mean_amount", dtype=Float64),
        Field(name="channel", dtype=String),
        Field(name="coupon", dtype=String),
        Field(name="recency_days", dtype=Float64),
    ],
    source=orders,
    online=True,
)
shop_v1 = FeatureService(name="shop_v1", features=[behaviour])
