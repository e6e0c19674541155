"""One small pipeline for every server: fitted by sklearn, exported for ours, pickled for the others."""

import json
import warnings
from contextlib import redirect_stdout
from dataclasses import replace
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bentos.runtime.features import online
from bentos.runtime.features.online import repo_config
from bentos.runtime.rollouts import rollout
from bentos.runtime.rollouts.rollout import Arm, Rollout
from bentos.runtime.scoring.manifest import GOLDEN, MANIFEST, sha256
from flows.steps.training.export import preprocessing
from tests.bentos.conftest import NOW, make_manifest, make_release, save_release, set_clock, to_onnx

NAMES = [f"feature_{i:02d}" for i in range(11)]
# Inputs that are categories, with their values; all others are numbers. Data, pipeline, feature view, request bodies
# and the servers' settings follow this table.
CATEGORIES: dict[str, tuple[str, ...]] = {
    "feature_03": ("a", "b", "c"),
    "feature_06": tuple("klmnop"),
    "feature_09": ("x", "y"),
}
USERS = 2_000


def numbers() -> list[str]:
    """The inputs that are numbers."""
    return [name for name in NAMES if name not in CATEGORIES]


def data(rows: int, seed: int) -> tuple[pd.DataFrame, "np.ndarray[Any, np.dtype[np.int64]]"]:
    """Features with a few values missing, and labels that depend on them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, len(NAMES))) * np.linspace(1, 30, len(NAMES)) + 5
    y = (x[:, 0] - 5 + 0.05 * (x[:, 5] - 5) * (x[:, 7] - 5) / 10 + rng.normal(size=rows) > 0).astype(np.int64)
    frame = pd.DataFrame(np.where(rng.random(x.shape) < 0.03, np.nan, x).round(4), columns=NAMES)
    for name, values in CATEGORIES.items():  # equal parts of the number's range, none missing
        ranks = pd.Series(x[:, NAMES.index(name)]).rank(pct=True)
        places = (ranks * len(values)).astype(int).clip(upper=len(values) - 1)
        frame[name] = np.array(values, dtype=object)[places]
    return frame, y


def fit(trees: int = 100) -> Any:
    """Imputer, scaler, one-hot encoder where there are categories, and gradient-boosted trees."""
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler
    from threadpoolctl import threadpool_limits

    prepared: list[tuple[str, Any]] = [("impute", SimpleImputer(strategy="median")), ("scale", StandardScaler())]
    if CATEGORIES:  # by position, as the training flow has it
        texts = [NAMES.index(name) for name in CATEGORIES]
        encoder = OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=20, sparse_output=False)
        rest = [i for i in range(len(NAMES)) if i not in texts]
        parts = [("numbers", Pipeline(prepared), rest), ("categories", encoder, texts)]
        prepared = [("columns", ColumnTransformer(parts))]
    model = HistGradientBoostingClassifier(max_iter=trees, early_stopping=False, random_state=0)
    with threadpool_limits(1):
        return Pipeline([*prepared, ("model", model)]).fit(*data(5_000, 0))


def build(home: Path, bentoml_home: Path) -> None:
    """A home with clock, materialised features and a champion; pipeline.joblib for the baselines."""
    import joblib

    fitted = fit()
    home.mkdir(parents=True, exist_ok=True)
    joblib.dump(fitted, home / "pipeline.joblib")
    features = preprocessing(fitted, NAMES, ())
    width = sum(getattr(feature, "width", 1) for feature in features)
    changes = {"features": features, "feature_service": "bench_v1", "estimator": "hist_gradient_boosting"}
    folder = _release(home / "release", to_onnx(fitted["model"], width), changes, fitted)
    rollout.write(
        rollout.rollout_path(home, "churn"),
        Rollout((Arm("champion", save_release(bentoml_home, folder, "churn:bench"), 1.0),)),
    )
    set_clock(home)
    store_features(home)


def _release(folder: Path, model: bytes, changes: dict[str, Any], fitted: Any) -> Path:
    """A release whose golden scores are the fitted pipeline's own, so that loading it proves parity."""
    small = make_release(folder.with_name("small"))  # of other features; only its side files are used
    folder.mkdir(exist_ok=True)
    for path in small.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    rows, _ = data(200, 1)
    (folder / "model.onnx").write_bytes(model)
    values = [{k: None if v != v else v for k, v in row.items()} for row in rows.to_dict("records")]
    (folder / GOLDEN).write_text(json.dumps({"rows": values, "scores": fitted.predict_proba(rows)[:, 1].tolist()}))
    manifest = make_manifest(**changes)
    files = {name: sha256(folder / name) for name in ("model.onnx", GOLDEN, "reference.json", "reference.bin")}
    (folder / MANIFEST).write_text(replace(manifest, files=files).dump())
    return folder


def store_features(home: Path) -> None:
    """Two thousand users in the online store that the environment names, by Feast's own materialisation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType
        from feast.types import Float64, String

        frame, _ = data(USERS, 2)
        frame.insert(0, "user_id", range(USERS))
        frame["event_timestamp"] = pd.Timestamp(NOW) - pd.Timedelta(days=1)
        frame.to_parquet(home / "bench.parquet", coerce_timestamps="us")
        user = Entity(name="customer", join_keys=["user_id"], value_type=ValueType.INT64)
        view = FeatureView(
            name="bench",
            entities=[user],
            ttl=timedelta(days=30),
            schema=[Field(name=name, dtype=String if name in CATEGORIES else Float64) for name in NAMES],
            source=FileSource(path=str(home / "bench.parquet"), timestamp_field="event_timestamp"),
        )
        (home / "feast").mkdir(exist_ok=True)
        store = FeatureStore(config=repo_config(home))
        store.apply([user, view, FeatureService(name="bench_v1", features=[view])])
        with redirect_stdout(StringIO()):  # where it tells its progress
            store.materialize(NOW - timedelta(days=10), NOW)
    online.pack(home, entity="user_id", feature_service="bench_v1", ids=range(USERS))
