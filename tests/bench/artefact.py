"""One small pipeline for every server: fitted by sklearn, exported for ours, pickled for the others."""

import json
import warnings
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bentos.runtime.features import online
from bentos.runtime.features.online import repo_config
from bentos.runtime.rollouts import rollout
from bentos.runtime.rollouts.rollout import Arm, Rollout
from bentos.runtime.scoring.manifest import GOLDEN, MANIFEST, sha256
from flows.steps.export import preprocessing
from tests.bentos.conftest import NOW, make_manifest, make_release, save_release, set_clock, to_onnx

NAMES = [f"feature_{i:02d}" for i in range(11)]
USERS = 2_000


def data(rows: int, seed: int) -> tuple[pd.DataFrame, "np.ndarray[Any, np.dtype[np.int64]]"]:
    """Features with a few values missing, and labels that depend on them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, len(NAMES))) * np.linspace(1, 30, len(NAMES)) + 5
    y = (x[:, 0] - 5 + 0.05 * (x[:, 5] - 5) * (x[:, 7] - 5) / 10 + rng.normal(size=rows) > 0).astype(np.int64)
    x[rng.random(x.shape) < 0.03] = np.nan
    return pd.DataFrame(x.round(4), columns=NAMES), y


def fit() -> Any:
    """Imputer, scaler and 100 gradient-boosted trees."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    steps = [
        ("impute", SimpleImputer(strategy="median")),
        ("scale", StandardScaler()),
        ("model", HistGradientBoostingClassifier(max_iter=100, early_stopping=False, random_state=0)),
    ]
    return Pipeline(steps).fit(*data(5_000, 0))


def build(home: Path, bentoml_home: Path) -> None:
    """A home with clock, materialised features and a champion; pipeline.joblib for the baselines."""
    import joblib

    fitted = fit()
    home.mkdir(parents=True, exist_ok=True)
    joblib.dump(fitted, home / "pipeline.joblib")
    features = preprocessing(fitted, NAMES, ())
    changes = {"features": features, "feature_service": "bench_v1", "estimator": "hist_gradient_boosting"}
    folder = _release(home / "release", to_onnx(fitted["model"], len(NAMES)), changes, fitted)
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
    """Two thousand users in the embedded online store, by Feast's own materialisation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType
        from feast.types import Float64

        frame, _ = data(USERS, 2)
        frame.insert(0, "user_id", range(USERS))
        frame["event_timestamp"] = pd.Timestamp(NOW) - pd.Timedelta(days=1)
        frame.to_parquet(home / "bench.parquet", coerce_timestamps="us")
        user = Entity(name="customer", join_keys=["user_id"], value_type=ValueType.INT64)
        view = FeatureView(
            name="bench",
            entities=[user],
            ttl=timedelta(days=30),
            schema=[Field(name=name, dtype=Float64) for name in NAMES],
            source=FileSource(path=str(home / "bench.parquet"), timestamp_field="event_timestamp"),
        )
        (home / "feast").mkdir(exist_ok=True)
        store = FeatureStore(config=repo_config(home))
        store.apply([user, view, FeatureService(name="bench_v1", features=[view])])
        store.materialize(NOW - timedelta(days=10), NOW)
    online.pack(home, entity="user_id", feature_service="bench_v1", ids=range(USERS))


def bodies(folder: Path) -> dict[str, Path]:
    """Files of request bodies, one a line: ours with features, theirs, by user, and of a thousand rows."""
    rows, _ = data(1_000, 3)
    records = [{k: None if v != v else v for k, v in row.items()} for row in rows.to_dict("records")]
    ours = [{"user_id": i, "features": row} for i, row in enumerate(records)]
    v2 = [
        {
            "inputs": [
                {"name": "x", "shape": [1, len(NAMES)], "datatype": "FP64", "data": [v or 0.0 for v in row.values()]}
            ]
        }
        for row in records
    ]
    frames = [{"dataframe_records": [row]} for row in records]
    lines: dict[str, list[Any]] = {
        "row": ours,
        "v2": v2,
        "mlflow": frames,
        "user": [{"user_id": i} for i in range(0, USERS, 2)],
        "bulk": [[*ours[i:], *ours[:i]] for i in range(0, 1_000, 100)],
    }
    paths = {}
    for name, values in lines.items():
        paths[name] = folder / f"{name}.jsonl"
        paths[name].write_text("\n".join(json.dumps(value, separators=(",", ":")) for value in values) + "\n")
    return paths
