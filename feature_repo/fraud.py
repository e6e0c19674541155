"""What is known about a card and a terminal at midnight: one row per card, one per terminal, every day."""

import os
from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64

HOME = Path(os.environ.get("BENTOFLOW_HOME") or Path(__file__).resolve().parents[1] / ".bentoflow")
OWNER = "payments@example.com"
WINDOWS = (1, 7, 30)

CARD = {
    **{f"card_count_{d}d": f"payments with the card in the last {d} days" for d in WINDOWS},
    **{f"card_amount_{d}d": f"mean amount of those of the last {d} days, dollars" for d in WINDOWS},
}
TERMINAL = {
    **{f"terminal_count_{d}d": f"payments at the terminal in the last {d} days" for d in WINDOWS},
    **{f"terminal_risk_{d}d": f"share of fraud in the {d} days that ended a week ago" for d in WINDOWS},
}


def fields(descriptions: dict[str, str]) -> list[Field]:
    """Float64 fields with their descriptions."""
    return [
        Field(name=name, dtype=Float64, description=text, tags={"owner": OWNER}) for name, text in descriptions.items()
    ]


card = Entity(name="card", join_keys=["card_id"], value_type=ValueType.INT64, description="a payment card", owner=OWNER)
terminal = Entity(
    name="terminal",
    join_keys=["terminal_id"],
    value_type=ValueType.INT64,
    description="a merchant's payment terminal",
    owner=OWNER,
)


def daily(name: str, entity: Entity, folder: Path, features: dict[str, str], description: str) -> FeatureView:
    """A view over the files that the prepare flow writes, one a day; what is two days old counts as missing."""
    source = FileSource(
        name=name,
        path=str(folder / "*.parquet"),
        timestamp_field="event_timestamp",
        description="written by the prepare flow, one file per day",
        owner=OWNER,
    )
    return FeatureView(
        name=name,
        entities=[entity],
        ttl=timedelta(days=2),
        schema=fields(features),
        source=source,
        online=True,
        description=description,
        owner=OWNER,
    )


FILES = HOME / "features" / "fraud"
card_behaviour = daily(
    "fraud_card_behaviour", card, FILES, CARD, "how the card was used up to, and without, the day of the row"
)
terminal_risk = daily(
    "fraud_terminal_risk",
    terminal,
    FILES / "terminal_id",
    TERMINAL,
    "how busy the terminal is, and how often fraud was confirmed there a week and more ago",
)

fraud_v1 = FeatureService(
    name="fraud_v1",
    features=[card_behaviour, terminal_risk],
    description="stored inputs of the fraud model, in order; amount and hour come with the request",
    owner=OWNER,
)
