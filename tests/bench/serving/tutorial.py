"""The service that a tutorial shows: FastAPI, pydantic, a pandas frame and the pickled pipeline; Feast per request."""

import os
import warnings
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
from fastapi import FastAPI
from pydantic import BaseModel

from tests.bench.serving.artefact import CATEGORIES, NAMES, numbers

HOME = Path(os.environ["BENTOFLOW_HOME"])
app = FastAPI()
pipeline = joblib.load(HOME / "pipeline.joblib")


Value = float | str | None if CATEGORIES else float | None


class Row(BaseModel):
    """One customer."""

    user_id: int
    features: dict[str, Value] | None = None


def framed(rows: list[Row]) -> pd.DataFrame:
    """The features of rows."""
    features = [row.features for row in rows]
    if not CATEGORIES:
        return pd.DataFrame(features, columns=NAMES, dtype=float)
    return pd.DataFrame(features, columns=NAMES).astype(dict.fromkeys(numbers(), float))


def answer(frame: pd.DataFrame, users: list[int]) -> list[dict[str, Any]]:
    """Probability and risk of each row."""
    scores = pipeline.predict_proba(frame[NAMES])[:, 1]
    return [
        {"user_id": u, "probability": float(s), "risk": "High" if s >= 0.5 else "Low"}
        for u, s in zip(users, scores, strict=True)
    ]


@app.post("/predict")
def predict(row: Row) -> dict[str, Any]:
    """Features in the request."""
    return answer(framed([row]), [row.user_id])[0]


@app.post("/predict/bulk")
def bulk(rows: list[Row]) -> list[dict[str, Any]]:
    """Many rows with their features."""
    return answer(framed(rows), [row.user_id for row in rows])


if os.environ.get("BENCH_FEAST"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from feast import FeatureStore

        from bentos.runtime.features.online import repo_config

        store = FeatureStore(config=repo_config(HOME))
        service = store.get_feature_service("bench_v1")

    @app.post("/predict/user")
    def by_user(row: Row) -> dict[str, Any]:
        """Features from the online store."""
        found = store.get_online_features(features=service, entity_rows=[{"user_id": row.user_id}]).to_df()
        return answer(found, [row.user_id])[0]
